"""JSON Web Tokens (RFC 7519), checked as the best current practice has it (RFC 8725). Needs the extra ``jwt``."""

from __future__ import annotations

import inspect
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from forebay.http.jwks import JWKS, Document, KeysUnavailable, VerificationKey, joserfc, key_type_of, keys_of
from forebay.http.messages import Next, Request, Response
from forebay.http.middleware.bearer_auth import BearerFrame, scopes_of

__all__ = ["JWTAuth", "TokenIdentity"]

log = structlog.get_logger("forebay.http")

ALGORITHMS = (
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
    "EdDSA", "Ed25519",
)  # fmt: skip
"""Those of RFC 7518 section 3.1 and RFC 8037 that can be asked for: all but ``none``."""

_LEAST_SECRET = {"HS256": 32, "HS384": 48, "HS512": 64}  # bytes: RFC 7518 section 3.2
_LONGEST_HEADER = 2048  # characters
_MOST_TRIED = 4  # keys, for a token that names none
_PEM = re.compile(rb"-----BEGIN |ssh-|ecdsa-")
_SEGMENTS = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

Key = str | bytes | Document | JWKS


class TokenIdentity:
    """Who a token is from: its ``subject`` ("" without one), what it may do (``scopes``), and all of its ``claims``."""

    __slots__ = ("claims", "scopes", "subject")

    def __init__(self, claims: dict[str, Any]) -> None:
        self.claims = claims
        self.subject: str = claims.get("sub", "")
        self.scopes = _scopes(claims)

    def __repr__(self) -> str:
        return f"<TokenIdentity {self.subject}>"

    def __str__(self) -> str:
        return self.subject


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """``scope`` of RFC 8693 section 4.2; ``scp``, as some issuers call it."""
    found = claims.get("scope", claims.get("scp", ""))
    if isinstance(found, str):
        return frozenset(found.split())
    return frozenset(one for one in found if isinstance(one, str)) if isinstance(found, list) else frozenset()


class _Refused(Exception):
    """A token is none; says why, for the log."""


class JWTAuth:
    """Lets in who sends a token that was signed with one of the keys, for here, and is valid now; 401 for all others.

    The token is taken from ``authorization: Bearer ...`` only, and may have 8192 characters. What it is checked with is
    decided here and never by the token: the algorithms are listed, a key is only used for its own kind, and ``none`` is
    no algorithm. Tokens with critical extensions (``crit``) are refused, for none is known.

    :param key: a shared secret, of as many bytes as the algorithm's hash gives (HS...); a public key in PEM;
        a key or a set of keys as JSON Web Keys (a dict); or :class:`~forebay.http.jwks.JWKS`, which fetches them.
    :param algorithms: those that are accepted, such as ``["RS256"]``: HS256, HS384, HS512, RS..., PS..., ES256, ES384,
        ES512, Ed25519, EdDSA. Secrets (HS...) and public keys are never accepted side by side.
    :param issuer: what ``iss`` must be, or one of several; default: not looked at.
    :param audience: what ``aud`` must name, or one of several. Without, a token that is for somebody (has ``aud``) is
        refused (RFC 7519 section 4.1.3).
    :param leeway: seconds that clocks may differ by.
    :param required: claims that must be there, beside those of ``issuer`` and ``audience``.
    :param types: what ``typ`` may be, where the token says it: so that one made for something else is not taken.
    :param scopes: what the token must allow, by its ``scope`` or ``scp``; 403 for one that does not.
    :param identity: from the claims to ``request.identity``, plain or a coroutine function; None (or False)
        refuses. Default: :class:`TokenIdentity`.
    :param realm: what tells areas of one server apart.
    :param optional: let requests without a token pass too, with no identity. An invalid token is refused still.
    :param name: of the security scheme in the OpenAPI document.
    :param clock: seconds since the epoch.
    :raises ValueError: an algorithm, key or another parameter is not acceptable.
    :raises MissingExtra: joserfc is not installed.
    """

    __slots__ = (
        "_algorithms", "_audience", "_claims", "_deserialize", "_frame", "_identity", "_issuer", "_keys", "_leeway",
        "_name", "_registry", "_types",
    )  # fmt: skip

    def __init__(
        self,
        key: Key,
        *,
        algorithms: Sequence[str],
        issuer: str | Sequence[str] | None = None,
        audience: str | Sequence[str] | None = None,
        leeway: int = 30,
        required: Collection[str] = ("exp",),
        types: Collection[str] = ("JWT", "at+jwt"),
        scopes: Collection[str] = (),
        identity: Callable[[dict[str, Any]], Any] = TokenIdentity,
        realm: str = "restricted",
        optional: bool = False,
        name: str = "jwtAuth",
        clock: Callable[[], float] = time.time,
    ) -> None:
        _check_algorithms(algorithms)
        if not 0 <= leeway <= 600:
            raise ValueError(f"JWTAuth: leeway {leeway}: must be 0 to 600 seconds")
        if isinstance(required, str):
            raise ValueError(f"JWTAuth: required {required!r}: must be a list of claims")
        self._frame = BearerFrame("JWTAuth", realm, scopes, optional, ("unavailable",))
        self._algorithms = tuple(algorithms)
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway
        self._types = frozenset(one.lower() for one in types)
        self._identity = identity
        self._name = name
        jws, jwt = joserfc("jws"), joserfc("jwt")
        self._registry = jws.JWSRegistry(algorithms=list(algorithms), strict_check_header=False)
        self._registry.max_header_length = _LONGEST_HEADER
        self._registry.get_alg = {
            one: jws.JWSRegistry.algorithms[one] for one in algorithms
        }.__getitem__  # and no other
        self._deserialize = jws.deserialize_compact
        wanted: dict[str, Any] = {claim: {"essential": True} for claim in required}
        for claim, values in (("iss", issuer), ("aud", audience)):
            if values is not None:
                listed = [values] if isinstance(values, str) else list(values)
                if not listed or not all(isinstance(one, str) and one for one in listed):
                    raise ValueError(f"JWTAuth: {claim} {values!r}: must be one text or several")
                wanted[claim] = {"essential": True, "values": listed}
        self._claims = jwt.JWTClaimsRegistry(now=lambda: int(clock()), leeway=leeway, **wanted)
        self._keys: JWKS | list[VerificationKey] = key if isinstance(key, JWKS) else _given(key, algorithms)
        if isinstance(key, JWKS) and key_type_of(algorithms[0]) == "oct":
            raise ValueError("JWTAuth: a JWKS that is fetched has public keys, and HS... takes secrets")

    def __repr__(self) -> str:
        keys = repr(self._keys) if isinstance(self._keys, JWKS) else f"<{len(self._keys)} keys>"  # never a key itself
        return (
            f"JWTAuth({keys}, algorithms={list(self._algorithms)!r}, issuer={self._issuer!r}, "
            f"audience={self._audience!r}, leeway={self._leeway}, {self._frame.parameters()})"
        )

    async def __call__(self, request: Request, call_next: Next) -> Response:
        token = self._frame.token(request)
        if token is None:
            return await call_next(request)
        if isinstance(token, Response):
            return token
        try:
            claims = await self._read(token)
        except _Refused as error:
            log.debug("token refused", reason=str(error))
            return self._frame.invalid(request)
        except KeysUnavailable:
            detail = "tokens cannot be checked now"
            return self._frame.refusals.refuse(request, "unavailable", 503, detail, ("retry-after", "30"))
        identity = self._identity(claims)
        if inspect.isawaitable(identity):
            identity = await identity
        if identity is None or identity is False:
            return self._frame.invalid(request)
        granted = identity.scopes if isinstance(identity, TokenIdentity) else _scopes(claims) or scopes_of(identity)
        return await self._frame.admit(request, call_next, identity, granted)

    @property
    def optional(self) -> bool:
        """Whether requests without a token pass."""
        return self._frame.optional

    def security(self) -> tuple[str, dict[str, Any]]:
        """Name and security scheme, for OpenAPI 3.1."""
        return self._name, {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}

    def statistics(self) -> dict[str, int]:
        """Requests ``accepted``, and refused by reason, since the start."""
        return self._frame.refusals.statistics()

    async def _read(self, token: str) -> dict[str, Any]:
        """The claims of a token that is one.

        :raises KeysUnavailable: there are no keys to check it with.
        """
        algorithm, kid = self._header(token)
        for key in await self._candidates(algorithm, kid):
            try:
                payload = self._deserialize(token, key.key, registry=self._registry).payload
            except Exception as error:  # joserfc's, and those of what it uses: whatever it is, the token is not good
                log.debug("token does not fit key", kid=key.kid, reason=type(error).__name__)
            else:
                return self._checked(payload)
        raise _Refused(f"no key for {algorithm} and kid {kid!r:.80} fits its signature")

    def _header(self, token: str) -> tuple[str, str]:
        """The algorithm and the name of the key a token says it was signed with."""
        segments = _SEGMENTS.fullmatch(token)
        if segments is None or len(segments[1]) > _LONGEST_HEADER:
            raise _Refused("it is not three parts in base64url, the first of at most 2048 characters")
        try:
            header = msgspec.json.decode(urlsafe_b64decode(segments[1] + "=" * (-len(segments[1]) % 4)), type=_Header)
        except (ValueError, RecursionError) as error:
            raise _Refused(f"its header is malformed: {error}") from None
        if header.alg not in self._algorithms:
            raise _Refused(f"algorithm {header.alg!r:.40} is not one of {', '.join(self._algorithms)}")
        if header.crit is not msgspec.UNSET:
            raise _Refused("it has critical extensions")
        if header.typ and header.typ.lower().removeprefix("application/") not in self._types:
            raise _Refused(f"its type is {header.typ!r:.40}")
        return header.alg, header.kid

    async def _candidates(self, algorithm: str, kid: str) -> list[VerificationKey]:
        keys = self._keys
        if isinstance(keys, JWKS):
            keys = await (keys.keys_with(kid) if kid else keys.keys())
        elif kid and len(keys) > 1:
            keys = [key for key in keys if key.kid == kid]
        return [key for key in keys if key.fits(algorithm)][:_MOST_TRIED]

    def _checked(self, payload: bytes) -> dict[str, Any]:
        try:
            claims = msgspec.json.decode(payload, type=dict[str, Any])
            self._claims.validate(claims)
        except Exception as error:
            raise _Refused(str(error)) from None
        if self._audience is None and "aud" in claims:
            raise _Refused("it is for an audience, and JWTAuth was given none")
        return claims


class _Header(msgspec.Struct):
    """What is looked at of a token's header (RFC 7515 section 4.1). Where it names keys of its own, nobody listens."""

    alg: str
    kid: str = ""
    typ: str = ""
    crit: Any = msgspec.UNSET


def _check_algorithms(algorithms: Sequence[str]) -> None:
    if isinstance(algorithms, str) or not algorithms:
        raise ValueError(f"JWTAuth: algorithms {algorithms!r}: must be a list of at least one, as in ['RS256']")
    for algorithm in algorithms:
        if algorithm not in ALGORITHMS:
            raise ValueError(f"JWTAuth: algorithm {algorithm!r}: must be one of {', '.join(ALGORITHMS)}")
    if len({key_type_of(algorithm) == "oct" for algorithm in algorithms}) > 1:
        raise ValueError("JWTAuth: HS... and others together: a public key could be taken for a secret")


def _given(key: str | bytes | Document, algorithms: Sequence[str]) -> list[VerificationKey]:
    if isinstance(key, Mapping):
        document = key if "keys" in key else {"keys": [key]}
        try:
            keys = keys_of(document, secrets=True)
        except ValueError as error:
            raise ValueError(f"JWTAuth: {error}") from None
        if not any(one.fits(algorithm) for one in keys for algorithm in algorithms):
            raise ValueError(f"JWTAuth: none of the keys is for {', '.join(algorithms)}")
        for one in keys:
            if one.kind == "oct":
                _check_secret(one.key.raw_value, algorithms)
        return keys
    raw = key.encode() if isinstance(key, str) else bytes(key)
    kinds = {key_type_of(algorithm) for algorithm in algorithms}
    if kinds == {"oct"}:
        _check_secret(raw, algorithms)
        return [VerificationKey("", "oct", "", joserfc("jwk").import_key(raw, "oct"))]
    if len(kinds) > 1:
        raise ValueError(f"JWTAuth: one key cannot be for {', '.join(algorithms)}: give a set of keys")
    (kind,) = kinds
    try:
        found = joserfc("jwk").import_key(raw, kind)
    except Exception as error:
        raise ValueError(f"JWTAuth: the key must be a public {kind} key in PEM: {type(error).__name__}") from None
    if kind == "RSA" and found.public_key.key_size < 2048:
        raise ValueError(f"JWTAuth: an RSA key of {found.public_key.key_size} bits: must have at least 2048")
    return [VerificationKey("", kind, "", found)]


def _check_secret(secret: bytes, algorithms: Sequence[str]) -> None:
    if _PEM.match(secret.lstrip()):
        raise ValueError("JWTAuth: the key is a public or private key, and HS... takes a secret nobody else has")
    least = max(_LEAST_SECRET.get(algorithm, 0) for algorithm in algorithms)
    if len(secret) < least:
        raise ValueError(f"JWTAuth: a secret of {len(secret)} bytes: must have at least {least} (RFC 7518 section 3.2)")
