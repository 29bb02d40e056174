"""Requests that another site has had a user's browser send: cross-site request forgery."""

from __future__ import annotations

import inspect
import os
import re
import secrets
import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from forebay.http.encoding import parse_query
from forebay.http.messages import Next, Request, Response
from forebay.http.middleware.cors import check_origin
from forebay.http.problems import problem
from forebay.http.signing import Signer
from forebay.wire.http1 import decode_path

__all__ = ["CSRF"]

_SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))  # RFC 9110 section 9.2.1
_FORM = b"application/x-www-form-urlencoded"
_LARGEST_FORM = 65536  # bytes of a form that is read for its token
_LONGEST_TOKEN = 256  # characters

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD = re.compile(r"[A-Za-z0-9_.-]+")
_NONCE_BYTES = 16
_NONCE = re.compile(r"[A-Za-z0-9_-]{22}")

_SLASH = re.compile(rb"%2[Ff]")

_IN_SESSION = "_csrf"
_PURPOSE = "csrf "  # of the signatures, with the client's number


class CSRF:
    """Refuses requests that change something (all but GET, HEAD, OPTIONS, TRACE) and that another site may have caused,
    with 403. For applications whose users are known by cookies; an API that takes tokens in ``authorization`` needs
    none of it.

    Browsers say themselves where a request comes from, and what they say is looked at first:

    1. ``sec-fetch-site``: ``same-origin`` and ``none`` (the user, not a page) are let through, others refused;
    2. without it ``origin``: it must be this server, by ``request.scheme`` and ``request.host`` (behind proxies:
       ``TrustedProxies`` has to be further out);
    3. without either, or with the origin ``null`` alone, a token is demanded: in the header ``x-csrf-token``, or in the
       field ``csrf_token`` of an urlencoded form of at most 64 KiB. With multipart forms only the header counts, so
       that uploads are not held in memory.

    Templates get a token by ``request.state["csrf_token"]()``, and the whole hidden field by its method ``field()``;
    they need it for clients of the third kind: old browsers, and programs. It is a random text, signed for a
    number that only this client has: in its session, where the ``Sessions`` middleware is further out, else in a cookie
    that is set when the first token is made. So it looks different each time, and one of somebody else is worth
    nothing. Why a request was refused is noted in the access log, as ``csrf``.

    :param keys: secrets of at least 32 bytes, the first signs, all are accepted: see
        :class:`~forebay.http.signing.Signer`. They may be those of ``Sessions``.
    :param origins: other origins that may send such requests, such as ``https://login.example``.
    :param exempt: paths that are not looked at, ``/hooks/*`` for all below; or a plain function of the request that
        says whether it is not.
    :param header: the header with the token.
    :param field: the form's field with the token.
    :param cookie: the cookie's name; default ``__Host-csrf``, which no other host of the domain can set, or ``csrf``
        where ``secure`` is False.
    :param secure: the cookie is sent over https only. Default True; browsers make an exception for localhost.
    :raises ValueError: a key is too short, or something else is not valid; says what is.
    """

    __slots__ = (
        "_below", "_cookie", "_exempt", "_exempts", "_field", "_header", "_origins", "_paths", "_secure", "_signer",
    )  # fmt: skip

    def __init__(
        self,
        keys: str | bytes | Sequence[str | bytes],
        *,
        origins: Sequence[str] = (),
        exempt: Sequence[str] | Callable[[Request], bool] = (),
        header: str = "x-csrf-token",
        field: str = "csrf_token",
        cookie: str | None = None,
        secure: bool = True,
    ) -> None:
        self._signer = Signer(keys)
        if isinstance(origins, str):
            raise ValueError(f"CSRF: origins={origins!r} must be a list, such as [{origins!r}]")
        self._origins = frozenset(check_origin("CSRF", origin) for origin in origins)
        if "null" in self._origins:
            raise ValueError("CSRF: origins: 'null' is any sandboxed page of any site, and cannot be trusted")
        self._exempt = exempt
        self._exempts: Callable[[Request], bool] | None = None
        self._paths: frozenset[str] = frozenset()
        self._below: tuple[str, ...] = ()
        if callable(exempt):
            if inspect.iscoroutinefunction(exempt):
                raise ValueError("CSRF: exempt must be a plain function, not a coroutine function")
            self._exempts = exempt
        else:
            for path in [exempt] if isinstance(exempt, str) else exempt:
                if isinstance(exempt, str) or not path.startswith("/") or "*" in path.removesuffix("/*"):
                    raise ValueError(f"CSRF: exempt: {path!r}: must be a list of paths, such as /hook or /hooks/*")
            self._paths = frozenset(path for path in exempt if not path.endswith("/*"))
            self._below = tuple(path[:-1] for path in exempt if path.endswith("/*"))
        if not _NAME.fullmatch(header):
            raise ValueError(f"CSRF: header {header!r} must be a header's name, such as x-csrf-token")
        if not _FIELD.fullmatch(field):
            raise ValueError(f"CSRF: field {field!r} must have letters, digits, '_', '.' and '-' only")
        self._header = header.lower()
        self._field = field
        self._cookie = cookie if cookie is not None else "__Host-csrf" if secure else "csrf"
        self._secure = secure
        Response().set_cookie(self._cookie, secure=secure)  # raises ValueError where that cannot be

    def __repr__(self) -> str:
        exempt = getattr(self._exempt, "__qualname__", self._exempt) if self._exempts else repr(self._exempt)
        return (
            f"CSRF(..., origins={sorted(self._origins)}, exempt={exempt}, header={self._header!r}, "
            f"field={self._field!r}, cookie={self._cookie!r}, secure={self._secure})"
        )

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Refuse what is forged, and give tokens to the rest."""
        session: MutableMapping[str, Any] | None = request.state.get("session")
        token = _Tokens(self._signer, self._field, self._known(request, session), session)
        request.state["csrf_token"] = token
        if request.method not in _SAFE and not self._is_exempt(request):
            reason = await self._objection(request, token.nonce)
            if reason:
                request.note("csrf", reason)
                return Response.encoded(*problem(403, f"the request may have been caused by another site: {reason}"))
        response = await call_next(request)
        token.closed = True
        if token.used and response.status != 101:
            response = response.copy()  # the other may be sent to somebody else, who must not get this cookie
            response.headers.add_to_list("vary", "Cookie")
            if token.new and token.session is None:
                response.set_cookie(self._cookie, token.nonce, secure=self._secure)
        return response

    def _known(self, request: Request, session: MutableMapping[str, Any] | None) -> str:
        """The client's own number; empty when it has none yet."""
        found = request.cookies.get(self._cookie) if session is None else session.get(_IN_SESSION)
        return found if isinstance(found, str) and _NONCE.fullmatch(found) else ""

    def _is_exempt(self, request: Request) -> bool:
        if self._exempts is not None:
            return self._exempts(request)
        if not (self._paths or self._below):
            return False
        path = _path_of(request)
        return path in self._paths or path.startswith(self._below or ("\0",))

    async def _objection(self, request: Request, nonce: str) -> str:
        """Why the request is refused; empty when it is not."""
        headers = request.headers
        site = headers.get("sec-fetch-site")
        origin = headers.get("origin")
        if site in ("same-origin", "none"):
            return ""
        if origin is not None and origin in self._origins:
            return ""
        if site is not None:
            return "sec-fetch-site is neither same-origin nor none"
        if origin is not None and origin != "null":
            return "" if _is_own(request, origin) else "origin is another one"
        given = await self._given(request)
        if not given:
            return f"it says neither its origin nor a token (header {self._header}, or field {self._field} of a form)"
        if not nonce:
            return "there is a token, but no cookie that it belongs to"
        return "" if self._is_valid(given, nonce) else "the token is not valid"

    async def _given(self, request: Request) -> str:
        """The token of the request; empty without one."""
        given = request.headers.get(self._header, "")
        exchange = request.exchange
        if given or not exchange.has_body:
            return given
        kind = (exchange.header(b"content-type") or b"").partition(b";")[0].strip(b" \t").lower()
        size = exchange.content_length
        if size is None and exchange.body_complete:
            size = exchange.body_received
        if kind != _FORM or size is None or size > _LARGEST_FORM:
            return ""
        fields = parse_query(await request.body())
        return next((value for name, value in fields if name == self._field), "")

    def _is_valid(self, given: str, nonce: str) -> bool:
        if len(given) > _LONGEST_TOKEN:
            return False
        return self._signer.read(_PURPOSE + nonce, given, max_age=None, at=time.time()).payload is not None


class _Tokens:
    """Makes tokens for one request's page: call it for one, or its :meth:`field`.

    ``session`` is where the client's number is kept; None: in a cookie.
    """

    __slots__ = ("_field", "_signer", "closed", "new", "nonce", "session", "used")

    def __init__(self, signer: Signer, field: str, nonce: str, session: MutableMapping[str, Any] | None) -> None:
        self._signer = signer
        self._field = field
        self.session = session
        self.nonce = nonce
        self.new = False
        self.used = False
        self.closed = False

    def __call__(self) -> str:
        """A token.

        :raises RuntimeError: the response has left already, as in a stream, and the client has no number yet.
        """
        if not self.nonce:
            if self.closed:
                raise RuntimeError("the first CSRF token must be made before the response: its cookie cannot be set")
            self.new = True
            self.nonce = secrets.token_urlsafe(_NONCE_BYTES)
            if self.session is not None:
                self.session[_IN_SESSION] = self.nonce
        self.used = True
        return self._signer.sign(_PURPOSE + self.nonce, os.urandom(_NONCE_BYTES), time.time())

    def field(self) -> str:
        """The hidden field of a form, as HTML."""
        return f'<input type="hidden" name="{self._field}" value="{self()}">'


def _path_of(request: Request) -> str:
    """The path, with slashes that are data left encoded, as routes see them: ``/hooks%2Fa`` is not below ``/hooks``."""
    raw = request.raw_path
    return decode_path(_SLASH.sub(b"%252F", raw)) if b"%2" in raw else request.path


def _is_own(request: Request, origin: str) -> bool:
    """Whether ``origin`` is this server. Over plain http, https is as good: a proxy may have ended the TLS."""
    scheme, _, authority = origin.lower().partition("://")
    if scheme not in ("http", "https") or (scheme == "http" and request.scheme == "https"):
        return False
    port = ":443" if scheme == "https" else ":80"
    return bool(authority) and authority.removesuffix(port) == request.host.lower().removesuffix(port)
