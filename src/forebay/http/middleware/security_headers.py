"""Headers that have browsers be careful with this site's pages (HSTS, CSP, and the smaller ones)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from secrets import token_urlsafe

from forebay.http.headers import MutableHeaders
from forebay.http.messages import Request
from forebay.http.request_hook import RequestHook
from forebay.wire.http1 import encode_headers

__all__ = ["SecurityHeaders"]

_YEAR = 31_536_000
_NONCE = "'nonce'"
_NONCE_BYTES = 16

_REFERRER = (
    "no-referrer", "no-referrer-when-downgrade", "origin", "origin-when-cross-origin", "same-origin", "strict-origin",
    "strict-origin-when-cross-origin", "unsafe-url",
)  # fmt: skip
_OPENER = ("unsafe-none", "same-origin-allow-popups", "same-origin", "noopener-allow-popups")
_RESOURCE = ("same-site", "same-origin", "cross-origin")
_EMBEDDER = ("unsafe-none", "require-corp", "credentialless")

_DIRECTIVE = re.compile(r"[A-Za-z0-9-]+")
_SOURCE = re.compile(r"[!-+\--:<-~]+")  # printable, without blanks, commas and semicolons (CSP level 3, section 2.3)
_FEATURE = re.compile(r"[a-z][a-z0-9-]*")
_PRINTABLE = re.compile(r"[ -~]*")

Policy = str | Mapping[str, Sequence[str]]


def _one_of(name: str, value: str | None, valid: Sequence[str]) -> str | None:
    if value is not None and value not in valid:
        raise ValueError(f"SecurityHeaders: {name}={value!r} must be one of {', '.join(valid)}, or None")
    return value


def _csp(policy: Policy, frames: str) -> str:
    """The policy as it is sent; ``frames`` is added where it does not say who may frame the page."""
    if isinstance(policy, str):
        value = " ".join(policy.split()).rstrip("; ")
        if not value or not _PRINTABLE.fullmatch(value) or "," in value:
            raise ValueError(f"SecurityHeaders: csp {policy!r} must be printable ASCII, without commas, and not empty")
        parts = [part.strip() for part in value.split(";")]
    else:
        parts = []
        for directive, sources in policy.items():
            if isinstance(sources, str):
                raise ValueError(f"SecurityHeaders: csp {directive}: {sources!r} must be a list, such as [{sources!r}]")
            for source in sources:
                if not _SOURCE.fullmatch(source):
                    raise ValueError(
                        f"SecurityHeaders: csp {directive}: {source!r} must be one source: printable ASCII, without "
                        f"blanks, commas and semicolons"
                    )
            parts.append(" ".join([directive, *sources]))
    names = [part.split(" ")[0].lower() for part in parts] if isinstance(policy, str) else [*map(str.lower, policy)]
    for name in names:
        if not _DIRECTIVE.fullmatch(name):
            raise ValueError(f"SecurityHeaders: csp: {name!r} is no directive's name, such as default-src")
        if names.count(name) > 1:
            raise ValueError(f"SecurityHeaders: csp has {name} twice; browsers ignore the second")
    if frames and "frame-ancestors" not in names:
        parts.append(frames)
    return "; ".join(parts)


def _permissions(policy: Policy) -> str:
    """The policy as it is sent: ``camera=(), geolocation=(self "https://a.example")``."""
    if isinstance(policy, str):
        if not policy or not _PRINTABLE.fullmatch(policy):
            raise ValueError(f"SecurityHeaders: permissions {policy!r} must be printable ASCII, and not empty")
        return policy
    parts = []
    for feature, allowed in policy.items():
        if not _FEATURE.fullmatch(feature):
            raise ValueError(f"SecurityHeaders: permissions: {feature!r} is no feature's name, such as camera")
        if isinstance(allowed, str):
            raise ValueError(f"SecurityHeaders: permissions {feature}: {allowed!r} must be a list: [{allowed!r}]")
        for one in allowed:
            if one not in ("self", "src", "*") and not re.fullmatch(r"[a-z]+://[!#-\[\]-~]+", one):
                raise ValueError(f"SecurityHeaders: permissions {feature}: {one!r} must be self, * or an origin")
        inner = " ".join(one if one in ("self", "src", "*") else f'"{one}"' for one in allowed)
        parts.append(f"{feature}=*" if inner == "*" else f"{feature}=({inner})")
    return ", ".join(parts)


def _frames(frames: str | Sequence[str] | None) -> tuple[str, str]:
    """The directive of CSP, and the value of ``x-frame-options``, which cannot say all of it."""
    if frames is None:
        return "", ""
    if frames in ("none", "self"):
        return f"frame-ancestors '{frames}'", "DENY" if frames == "none" else "SAMEORIGIN"
    if isinstance(frames, str) or not frames or not all(map(_SOURCE.fullmatch, frames)):
        raise ValueError(f"SecurityHeaders: frames={frames!r} must be 'none', 'self', None, or a list of origins")
    return f"frame-ancestors {' '.join(frames)}", ""


class SecurityHeaders(RequestHook):
    """Adds the headers by which browsers defend a site's users. Those a handler has set itself are left as they are.

    They are on every answer, errors included, but for WebSockets. ``SecurityHeaders()`` suits a site that serves itself
    and an API; a ``csp`` suits one site only and has to be given.

    :param hsts: seconds for which browsers reach the host by https only (RFC 6797); sent over https only
        (``request.scheme``: see ``TrustedProxies``). Default a year; 0 has them forget it; None leaves it out.
    :param hsts_subdomains: the same for all subdomains. Default False.
    :param hsts_preload: ask to be on the browsers' own list, which is hard to undo; needs ``hsts_subdomains`` and a
        year.
    :param nosniff: ``x-content-type-options``: browsers believe the content type. Default True.
    :param frames: who may show a page in a frame: ``"none"`` (default), ``"self"``, a list of origins, None: anybody.
        Sent as CSP's ``frame-ancestors``, unless ``csp`` has it, and for old browsers as ``x-frame-options``.
    :param referrer: ``referrer-policy``; what other sites are told of where a link was. Default
        ``strict-origin-when-cross-origin``. Alternatives may be separated by commas, the best one last.
    :param permissions: ``permissions-policy``: as a text, or feature -> who may use it: ``{"camera": [],
        "geolocation": ["self", "https://a.example"]}``.
    :param opener: ``cross-origin-opener-policy``. Default ``same-origin``; pages that log in by another site's window
        need ``same-origin-allow-popups``.
    :param resource: ``cross-origin-resource-policy``: who may embed this site's answers without asking. Default
        ``same-origin``; images for other sites need ``cross-origin``. ``CORS`` is not concerned.
    :param embedder: ``cross-origin-embedder-policy``. Default None.
    :param csp: ``content-security-policy``: as a text, or directive -> sources: ``{"default-src": ["'self'"],
        "script-src": ["'self'", "'nonce'"]}``. For the word ``'nonce'`` each request gets its own nonce (128 random
        bits), which is ``request.state["csp_nonce"]`` for templates: ``<script nonce="...">``.
    :param csp_report_only: browsers only report what the ``csp`` would forbid. ``frames`` is in force all the same.
    :raises ValueError: a value is not valid; says what is.
    """

    __slots__ = ("_csp", "_hsts", "_names", "_nonce", "_plain", "_secure", "_shown", "words")

    def __init__(
        self,
        *,
        hsts: int | None = _YEAR,
        hsts_subdomains: bool = False,
        hsts_preload: bool = False,
        nosniff: bool = True,
        frames: str | Sequence[str] | None = "none",
        referrer: str | None = "strict-origin-when-cross-origin",
        permissions: Policy | None = None,
        opener: str | None = "same-origin",
        resource: str | None = "same-origin",
        embedder: str | None = None,
        csp: Policy | None = None,
        csp_report_only: bool = False,
    ) -> None:
        if hsts is not None and hsts < 0:
            raise ValueError(f"SecurityHeaders: hsts={hsts} must be 0 seconds or more, or None")
        if hsts_preload and not (hsts_subdomains and hsts is not None and hsts >= _YEAR):
            raise ValueError(f"SecurityHeaders: hsts_preload needs hsts_subdomains=True and hsts={_YEAR} or more")
        if csp_report_only and csp is None:
            raise ValueError("SecurityHeaders: csp_report_only needs a csp")
        for policy in (referrer or "").split(",") if referrer is not None else ():
            _one_of("referrer", policy.strip(), _REFERRER)
        framing, old_framing = _frames(frames)
        enforced = framing if csp is None or csp_report_only else _csp(csp, framing)
        values = {
            "x-content-type-options": "nosniff" if nosniff else None,
            "x-frame-options": old_framing,
            "referrer-policy": referrer,
            "permissions-policy": None if permissions is None else _permissions(permissions),
            "cross-origin-opener-policy": _one_of("opener", opener, _OPENER),
            "cross-origin-resource-policy": _one_of("resource", resource, _RESOURCE),
            "cross-origin-embedder-policy": _one_of("embedder", embedder, _EMBEDDER),
            "content-security-policy": enforced,
            "content-security-policy-report-only": _csp(csp, "") if csp is not None and csp_report_only else None,
        }
        pairs = [(name, value) for name, value in values.items() if value]
        self._nonce = any(_NONCE in value for _, value in pairs)
        self._plain = encode_headers([pair for pair in pairs if _NONCE not in pair[1]])
        self._csp = encode_headers([pair for pair in pairs if _NONCE in pair[1]])
        self._hsts = "" if hsts is None else f"max-age={hsts}"
        if self._hsts:
            self._hsts += "; includeSubDomains" * hsts_subdomains + "; preload" * hsts_preload
        hsts_line = encode_headers([("strict-transport-security", self._hsts)]) if self._hsts else b""
        self._secure = self._plain + hsts_line
        self._names = frozenset((*(name for name, _ in pairs), *(["strict-transport-security"] if self._hsts else ())))
        self.words = tuple(name.encode() for name in self._names)
        self._shown = (
            f"hsts={hsts}, hsts_subdomains={hsts_subdomains}, hsts_preload={hsts_preload}, nosniff={nosniff}, "
            f"frames={frames!r}, referrer={referrer!r}, permissions={permissions!r}, opener={opener!r}, "
            f"resource={resource!r}, embedder={embedder!r}, csp={csp!r}, csp_report_only={csp_report_only}"
        )

    def __repr__(self) -> str:
        return f"SecurityHeaders({self._shown})"

    def before(self, request: Request) -> bytes:
        """What is added."""
        lines = self._secure if request.scheme == "https" else self._plain
        if not self._nonce:
            return lines
        nonce = request.state["csp_nonce"] = token_urlsafe(_NONCE_BYTES)
        return lines + self._csp.replace(_NONCE.encode(), f"'nonce-{nonce}'".encode())

    def merge(self, headers: MutableHeaders, lines: bytes) -> None:
        """Add what is not there."""
        taken = self._names.intersection(headers)
        for line in lines.decode().split("\r\n"):
            name, _, value = line.partition(": ")
            if name and name not in taken:
                headers.add(name, value)
