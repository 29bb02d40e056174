"""Opaque tokens (RFC 6750): whoever has one is let in."""

from __future__ import annotations

import hmac
import inspect
import re
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from hashlib import sha256
from typing import Any

from forebay.http.challenges import Refusals, challenge, check_realm, credentials
from forebay.http.messages import Next, Request, Response

__all__ = ["BearerAuth", "BearerFrame", "scopes_of"]

LEAST_TOKEN = 16
"""Characters a token that is given as one of a list must have."""

LONGEST_TOKEN = 8192
"""Characters of a token that is looked at."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # b64token: RFC 6750 section 2.1
_SCOPE = re.compile(r"[!#-\[\]-~]+")  # scope-token: RFC 6749 section 3.3

BearerCheck = Callable[[str], Any | Awaitable[Any]]


def scopes_of(identity: Any) -> Collection[str]:
    """What ``identity`` may do: its ``scopes`` (or ``scope``), an attribute or the item of a mapping; a text is split
    at blanks. Empty without."""
    for name in ("scopes", "scope"):
        found = identity.get(name) if isinstance(identity, Mapping) else getattr(identity, name, None)
        if found is not None:
            return found.split() if isinstance(found, str) else found
    return ()


class BearerFrame:
    """What is the same for all bearer tokens: finding them, and refusing requests as RFC 6750 section 3 has it.

    :param owner: the middleware, for errors and logs.
    :param reasons: further ones that it refuses for.
    :raises ValueError: the realm or a scope cannot be sent.
    """

    __slots__ = ("_bare", "_invalid", "_malformed", "_scarce", "optional", "realm", "refusals", "scopes")

    def __init__(
        self, owner: str, realm: str, scopes: Collection[str], optional: bool, reasons: tuple[str, ...] = ()
    ) -> None:
        check_realm(owner, realm)
        if isinstance(scopes, str):
            raise ValueError(f"{owner}: scopes {scopes!r}: must be a list of them")
        for scope in scopes:
            if not _SCOPE.fullmatch(scope):
                raise ValueError(
                    f"{owner}: scope {scope!r}: must be printable ASCII without blanks, quotes, backslashes"
                )
        self.realm = realm
        self.scopes = tuple(scopes)
        self.optional = optional
        scope = " ".join(self.scopes)
        self._bare = ("www-authenticate", challenge("Bearer", realm=realm, scope=scope))
        self._invalid = ("www-authenticate", challenge("Bearer", realm=realm, error="invalid_token", scope=scope))
        self._malformed = ("www-authenticate", challenge("Bearer", realm=realm, error="invalid_request"))
        self._scarce = ("www-authenticate", challenge("Bearer", realm=realm, error="insufficient_scope", scope=scope))
        self.refusals = Refusals(owner, ("missing", "malformed", "invalid", "scope", *reasons))

    def parameters(self) -> str:
        """For ``repr``."""
        scopes = f", scopes={list(self.scopes)!r}" if self.scopes else ""
        return f"realm={self.realm!r}{scopes}{', optional=True' if self.optional else ''}"

    def token(self, request: Request) -> str | Response | None:
        """The token; the refusal where there is none; None: there is none, and need not be."""
        sent = credentials(request, "bearer")
        if sent is None:
            if self.optional:
                return None
            return self.refusals.refuse(request, "missing", 401, "this needs a bearer token", self._bare)
        if len(sent) > LONGEST_TOKEN:
            return self.invalid(request)
        if not _TOKEN.fullmatch(sent):
            detail = "the token is not as RFC 6750 has it"
            return self.refusals.refuse(request, "malformed", 400, detail, self._malformed)
        return sent

    def invalid(self, request: Request, reason: str = "invalid") -> Response:
        """The answer to a token that is none. The client is not told why, but what it may do: get another."""
        return self.refusals.refuse(request, reason, 401, "the token is invalid or has expired", self._invalid)

    async def admit(self, request: Request, call_next: Next, identity: Any, granted: Collection[str]) -> Response:
        """Go on as ``identity``, if it may do what is needed."""
        if self.scopes and not set(self.scopes) <= set(granted):
            return self.refusals.refuse(request, "scope", 403, "the token does not allow this", self._scarce)
        self.refusals.accepted += 1
        request.identity = identity
        return await call_next(request)


class BearerAuth:
    """Lets in who sends a token that ``check`` takes, and answers everybody else with 401.

    The token is taken from ``authorization: Bearer ...`` only: one in a URL ends up in logs and histories (RFC 6750
    section 5.3). ``request.identity`` becomes what ``check`` returns.

    :param check: ``check(token)``, plain or a coroutine function: the identity, or None (or False) to refuse. A plain
        one runs on the loop: it must not block. Or a mapping from tokens, of at least 16 characters, to identities:
        they are compared by their HMAC, with a key only this process has, so the time tells nothing about them.
    :param scopes: what the token must allow; 403 for one that does not.
    :param scopes_of: from the identity to what it may do; default: its ``scopes`` or ``scope``.
    :param realm: what tells areas of one server apart.
    :param optional: let requests without a token pass too, with no identity. An invalid token is refused still.
    :param name: of the security scheme in the OpenAPI document.
    :raises ValueError: a token is too short or cannot be sent, or the realm or a scope cannot.
    """

    __slots__ = ("_check", "_frame", "_name", "_scopes_of")

    def __init__(
        self,
        check: BearerCheck | Mapping[str, Any],
        *,
        scopes: Collection[str] = (),
        scopes_of: Callable[[Any], Collection[str]] = scopes_of,
        realm: str = "restricted",
        optional: bool = False,
        name: str = "bearerAuth",
    ) -> None:
        if not isinstance(check, Mapping) and not callable(check):
            raise ValueError(
                "BearerAuth: check must be callable, as check(token), or a mapping from tokens to identities"
            )
        self._frame = BearerFrame("BearerAuth", realm, scopes, optional)
        self._check: BearerCheck = _one_of(check) if isinstance(check, Mapping) else check
        self._scopes_of = scopes_of
        self._name = name

    def __repr__(self) -> str:
        return f"BearerAuth(..., {self._frame.parameters()})"

    async def __call__(self, request: Request, call_next: Next) -> Response:
        token = self._frame.token(request)
        if token is None:
            return await call_next(request)
        if isinstance(token, Response):
            return token
        found = self._check(token)
        if inspect.isawaitable(found):
            found = await found
        if found is None or found is False:
            return self._frame.invalid(request)
        return await self._frame.admit(request, call_next, found, self._scopes_of(found) if self._frame.scopes else ())

    @property
    def optional(self) -> bool:
        """Whether requests without a token pass."""
        return self._frame.optional

    def security(self) -> tuple[str, dict[str, Any]]:
        """Name and security scheme, for OpenAPI 3.1."""
        return self._name, {"type": "http", "scheme": "bearer"}

    def statistics(self) -> dict[str, int]:
        """Requests ``accepted``, and refused by reason, since the start."""
        return self._frame.refusals.statistics()


def _one_of(tokens: Mapping[str, Any]) -> BearerCheck:
    if not tokens:
        raise ValueError("BearerAuth: there must be at least one token")
    for place, (token, identity) in enumerate(tokens.items()):
        if len(token) < LEAST_TOKEN or not _TOKEN.fullmatch(token):
            raise ValueError(
                f"BearerAuth: token {place}: must have at least {LEAST_TOKEN} letters, digits and -._~+/, "
                "as secrets.token_urlsafe(32) makes them"
            )
        if identity is None or identity is False:
            raise ValueError(f"BearerAuth: token {place}: its identity is {identity}, which stands for nobody")
    secret = secrets.token_bytes(32)

    def digest(token: str) -> bytes:
        return hmac.digest(secret, token.encode(), sha256)

    known = {digest(token): identity for token, identity in tokens.items()}
    return lambda token: known.get(digest(token))
