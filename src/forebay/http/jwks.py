"""Keys that JSON Web Tokens are checked with: given, or fetched as a set (JWKS, RFC 7517) and kept up to date.

Needs the extra ``jwt``.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import structlog

from forebay.engine.loop import now, timeout
from forebay.engine.tasks import Tasks
from forebay.errors import MissingExtra

__all__ = ["JWKS", "KeysUnavailable", "VerificationKey", "joserfc", "key_type_of", "keys_of"]

log = structlog.get_logger("forebay.http")

LARGEST_DOCUMENT = 256 * 1024
"""Bytes of a JWKS document."""

MOST_KEYS = 100
"""Keys of a JWKS document that are looked at."""

_LEAST_RSA = 2048  # bits: RFC 7518 section 3.3
_KINDS = {"HS": "oct", "RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}

Document = Mapping[str, Any]
Fetch = Callable[[], Awaitable[bytes | str | Document]]


def joserfc(module: str) -> Any:
    """A module of joserfc.

    :raises MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(f"joserfc.{module}")
    except ImportError:
        raise MissingExtra("jwt", "JWTAuth") from None


def key_type_of(algorithm: str) -> str:
    """The ``kty`` that ``algorithm`` takes (RFC 7518 section 6): ``oct``, ``RSA``, ``EC`` or ``OKP``."""
    return _KINDS[algorithm[:2]]


class VerificationKey(NamedTuple):
    """A key, and what it may be used for. Empty: not said."""

    kid: str
    kind: str
    algorithm: str
    key: Any

    def fits(self, algorithm: str) -> bool:
        """Whether it may check what was signed with ``algorithm``: a public key is never taken for a secret."""
        return self.kind == key_type_of(algorithm) and self.algorithm in ("", algorithm)


def keys_of(document: Document, *, secrets: bool) -> list[VerificationKey]:
    """The keys of a JWKS document that can check signatures; those for other uses, or of unknown kinds, are left out
    (RFC 7517 section 5).

    :param secrets: take symmetric keys too, which a document that everybody can read must not have.
    :raises ValueError: it is no such document, or has no key that can be used.
    """
    listed = document.get("keys")
    if not isinstance(listed, list):
        raise ValueError('a JWKS document must have "keys", a list (RFC 7517 section 5)')
    found = []
    for place, jwk in enumerate(listed[:MOST_KEYS]):
        try:
            key = _read_key(jwk, secrets)
        except Exception as error:  # of whatever library reads it; the others may be good
            log.warning("key left out", place=place, reason=type(error).__name__)
            continue
        if key is not None:
            found.append(key)
    if not found:
        raise ValueError(f"a JWKS document of {len(listed)} keys has none that checks signatures")
    return found


def _read_key(jwk: Any, secrets: bool) -> VerificationKey | None:
    kind, use, operations = jwk.get("kty"), jwk.get("use"), jwk.get("key_ops")
    if kind not in _KINDS.values() or (kind == "oct" and not secrets) or use not in (None, "sig"):
        return None
    if operations is not None and "verify" not in operations:
        return None
    kid, algorithm = jwk.get("kid", ""), jwk.get("alg", "")
    if not isinstance(kid, str) or not isinstance(algorithm, str):
        raise ValueError("kid and alg must be texts")
    public = {name: value for name, value in jwk.items() if name != "key_ops"}
    key = joserfc("jwk").import_key(public, kind)
    if kind == "RSA" and key.public_key.key_size < _LEAST_RSA:
        raise ValueError(f"an RSA key must have {_LEAST_RSA} bits")
    return VerificationKey(kid, kind, algorithm, key)


class KeysUnavailable(Exception):
    """There are no keys, and none can be had now."""


class JWKS:
    """The keys of an issuer, fetched when they are needed, and again now and then.

    Past ``refresh`` they are fetched again in the background, while the old ones are used. A token that names an
    unknown key has them fetched at once, for the issuer may have begun to use a new one; but nobody can have that done
    more often than every ``pause`` seconds by sending such tokens. One fetch at a time, whoever waits for it; it goes
    on when they have left, unless :meth:`close` ends it, at the end of the application's lifespan for example. When one
    fails, that is logged, the last good set is kept for ``keep`` seconds, and the next try comes after ``pause``.

    :param fetch: a coroutine function that gets the document: JSON as bytes or text, 256 KiB at most, or its value. The
        first 100 keys are looked at. It must check whom it gets it from (HTTPS).
    :param refresh: seconds.
    :param pause: seconds between two fetches at least.
    :param keep: seconds a set is used at most, where no newer one can be had.
    :param patience: seconds a fetch may take.
    :param clock: seconds.
    :raises ValueError: a number is out of its range.
    """

    __slots__ = (
        "_clock", "_failures", "_fetch", "_fetched_at", "_fetches", "_fetching", "_keep", "_keys", "_patience",
        "_pause", "_refresh", "_tried_at",
    )  # fmt: skip

    def __init__(
        self,
        fetch: Fetch,
        *,
        refresh: float = 300.0,
        pause: float = 30.0,
        keep: float = 24 * 3600.0,
        patience: float = 10.0,
        clock: Callable[[], float] = now,
    ) -> None:
        for name, value in (("refresh", refresh), ("pause", pause), ("keep", keep), ("patience", patience)):
            if not value > 0:
                raise ValueError(f"JWKS: {name} {value}: must be more than 0 seconds")
        if keep < refresh:
            raise ValueError(f"JWKS: keep {keep}: must be at least refresh, {refresh} seconds")
        self._fetch = fetch
        self._refresh = refresh
        self._pause = pause
        self._keep = keep
        self._patience = patience
        self._clock = clock
        self._keys: list[VerificationKey] = []
        self._fetched_at = self._tried_at = float("-inf")
        self._fetches = self._failures = 0
        self._fetching = Tasks()  # one at most

    def __repr__(self) -> str:
        return f"JWKS({getattr(self._fetch, '__qualname__', '...')}, refresh={self._refresh:g})"

    async def keys(self) -> list[VerificationKey]:
        """The keys.

        :raises KeysUnavailable: there are none.
        """
        age = self._clock() - self._fetched_at
        if age >= self._keep or not self._keys:
            await self._fetch_now()
        elif age >= self._refresh:
            self._begin()
        if not self._keys:
            raise KeysUnavailable
        return self._keys

    async def keys_with(self, kid: str) -> list[VerificationKey]:
        """Those called ``kid``, after a look for new ones where there are none.

        :raises KeysUnavailable: there are no keys at all.
        """
        found = [key for key in await self.keys() if key.kid == kid]
        if not found:
            await self._fetch_now()
            found = [key for key in self._keys if key.kid == kid]
        return found

    async def close(self) -> None:
        """End a fetch that is under way; else one ends by itself, within ``patience``. The keys stay."""
        await self._fetching.cancel()

    def statistics(self) -> dict[str, int]:
        """``fetches`` and, of these, ``failures`` since the start, and ``keys`` now."""
        return {"fetches": self._fetches, "failures": self._failures, "keys": len(self._keys)}

    def _begin(self) -> None:
        """Fetch, unless that is under way, or was tried just now. In a Task of its own: a client that leaves must not
        end it, or it could keep all others from new keys."""
        if not len(self._fetching) and self._clock() - self._tried_at >= self._pause:
            self._tried_at = self._clock()
            self._fetching.spawn(self._get(), name=f"fetch of {self!r}")

    async def _fetch_now(self) -> None:
        self._begin()
        await self._fetching.join()
        if self._clock() - self._fetched_at >= self._keep:
            self._keys = []

    async def _get(self) -> None:
        self._fetches += 1
        try:
            async with timeout(self._patience):
                got = await self._fetch()
            self._keys = keys_of(_decoded(got), secrets=False)
        except Exception as error:
            self._failures += 1
            log.warning("keys not fetched, the last ones are kept", source=repr(self), exc_info=error)
        else:
            self._fetched_at = self._clock()


def _decoded(got: bytes | str | Document) -> Document:
    if isinstance(got, str):
        got = got.encode()
    if isinstance(got, bytes):
        if len(got) > LARGEST_DOCUMENT:
            raise ValueError(f"a JWKS document of {len(got)} bytes: the most is {LARGEST_DOCUMENT}")
        got = msgspec.json.decode(got)
    if not isinstance(got, Mapping):
        raise ValueError("a JWKS document must be a JSON object (RFC 7517 section 5)")
    return got
