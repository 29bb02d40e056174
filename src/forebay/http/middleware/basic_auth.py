"""User name and password with each request (RFC 7617), and a keeper of passwords to check them against."""

from __future__ import annotations

import hmac
import inspect
import re
import secrets
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from hashlib import scrypt, sha256
from typing import Any

from forebay.engine.executor import Executor
from forebay.engine.loop import now
from forebay.engine.single_flight import SingleFlight
from forebay.engine.tasks import Tasks
from forebay.errors import DeadlineExceeded, ForebayError, Overloaded
from forebay.http.challenges import Refusals, challenge, check_realm, credentials
from forebay.http.messages import Next, Request, Response

__all__ = ["BasicAuth", "Passwords", "check_password", "hash_password"]

_LONGEST = 1024  # bytes of user name and password
_HASH = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})")
_MEMORY = 256 * 1024 * 1024  # bytes that checking one password may take
_REMEMBERED = 1024  # users whose password was right of late
_DEADLINE = 10.0  # seconds that a check may take, its turn included

BasicCheck = Callable[[str, str], Any | Awaitable[Any]]


def hash_password(password: str, *, ln: int = 14, r: int = 8, p: int = 5) -> str:
    """A hash to keep instead of ``password``, by scrypt (RFC 7914) with a salt of 16 bytes.

    The default takes 16 MiB and about a fifth of a second of one core, as OWASP's cheat sheet on password storage has
    it. It blocks for that long.

    :param ln: 2 to its power is the cost.
    :param r: the block size; memory is ``128 * r * 2**ln`` bytes.
    :param p: how often that is done.
    :raises ValueError: the parameters are out of their range, or need more than 256 MiB.
    """
    _check_cost(ln, r, p)
    salt = secrets.token_bytes(16)
    made = _scrypt(password, salt, ln, r, p, 32)
    return f"$scrypt$ln={ln},r={r},p={p}${_b64(salt)}${_b64(made)}"


def check_password(password: str, hashed: str) -> bool:
    """Whether ``hashed``, made by :func:`hash_password`, is of ``password``. Takes as long as that, and blocks as well.

    The time must not tell which users there are: for an unknown one check the password against any hash.

    :raises ValueError: ``hashed`` is none, or its parameters are out of their range.
    """
    return _Hash(hashed).matches(password)


def _check_cost(ln: int, r: int, p: int) -> None:
    if not (10 <= ln <= 20 and 1 <= r <= 32 and 1 <= p <= 16) or 128 * r << ln > _MEMORY:
        raise ValueError(
            f"scrypt with ln={ln}, r={r}, p={p}: must be 10 to 20, 1 to 32 and 1 to 16, "
            f"and 128 * r * 2**ln at most {_MEMORY} bytes"
        )


def _scrypt(password: str, salt: bytes, ln: int, r: int, p: int, size: int) -> bytes:
    prepared = unicodedata.normalize("NFC", password).encode()
    return scrypt(prepared, salt=salt, n=1 << ln, r=r, p=p, maxmem=2 * _MEMORY, dklen=size)


def _b64(data: bytes) -> str:
    return b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return b64decode(text + "=" * (-len(text) % 4))


class _Hash:
    __slots__ = ("cost", "expected", "salt")

    def __init__(self, text: str) -> None:
        found = _HASH.fullmatch(text)
        if found is None:
            raise ValueError("the hash is not as hash_password makes it: $scrypt$ln=...")
        self.cost = (int(found[1]), int(found[2]), int(found[3]))
        _check_cost(*self.cost)
        self.salt = _unb64(found[4])
        self.expected = _unb64(found[5])

    def matches(self, password: str) -> bool:
        made = _scrypt(password, self.salt, *self.cost, len(self.expected))
        return hmac.compare_digest(made, self.expected)


class Passwords:
    """Users and the hashes of their passwords, as ``check`` of :class:`BasicAuth`; the identity is the user's name.

    Hashing is slow on purpose, so it runs in a thread, and who was let in is remembered for a while: by an HMAC of name
    and password with a key that only this process has, for 1024 users at most. Who was refused is not remembered. An
    unknown user takes as long as the one with the costliest hash. Past ``queue`` checks that wait, and after ten
    seconds, the answer is 503: put a ``RateLimit`` in front.

    :param hashes: by user name, made by :func:`hash_password`.
    :param remember: seconds; a password that was changed is accepted for that long. 0: not at all.
    :param executor: where to hash; default: up to two threads of its own, which end when there is nothing to hash.
    :param queue: checks that wait, of its own threads.
    :param clock: seconds.
    :raises ValueError: there is no user, a hash is none, or a number is out of its range.
    """

    __slots__ = (
        "_checks", "_clock", "_decoy", "_executor", "_hashes", "_held", "_key", "_own", "_queue", "_recent",
        "_remember", "_users",
    )  # fmt: skip

    def __init__(
        self,
        hashes: Mapping[str, str],
        *,
        remember: float = 60.0,
        executor: Executor | None = None,
        queue: int = 64,
        clock: Callable[[], float] = now,
    ) -> None:
        if not hashes:
            raise ValueError("Passwords: there must be at least one user")
        if not remember >= 0:
            raise ValueError(f"Passwords: remember {remember}: must be 0 seconds or more")
        if queue < 1:
            raise ValueError(f"Passwords: queue {queue}: must be at least 1")
        self._hashes: dict[str, _Hash] = {}
        for user, text in hashes.items():
            try:
                self._hashes[user] = _Hash(text)
            except ValueError as error:
                raise ValueError(f"Passwords: user {user!r}: {error}") from None
        self._decoy = max(self._hashes.values(), key=lambda one: (one.cost[1] << one.cost[0]) * one.cost[2])
        self._remember = remember
        self._executor = executor
        self._queue = queue
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._recent: dict[bytes, float] = {}  # until when; the latest is last
        self._checks: SingleFlight[bool] = SingleFlight()
        self._held = Tasks()
        self._own: Executor | None = None  # while there is something to hash
        self._users = 0

    def __repr__(self) -> str:
        return f"Passwords(<{len(self._hashes)} users>, remember={self._remember:g})"

    async def __call__(self, user: str, password: str) -> str | None:
        """The user's name, if this is the password.

        :raises Overloaded: too many passwords are being checked.
        """
        name = user.encode()
        digest = hmac.digest(self._key, b"%d:%b%b" % (len(name), name, password.encode()), sha256)
        until = self._recent.get(digest)
        if until is not None and self._clock() < until:
            return user
        check = partial(self._check, digest, user, password)
        self._held.spawn(self._hold(digest, check), name="check of a password")
        return user if await self._checks.run(digest, check) else None

    async def _hold(self, digest: bytes, check: Callable[[], Awaitable[bool]]) -> None:
        """Wait for a check to its end, also when its client has left: a thread cannot be stopped, and clients that come
        and go must not have more of them at work than there may be."""
        with suppress(ForebayError):  # the client is told, if it is still there
            await self._checks.run(digest, check)

    async def _check(self, digest: bytes, user: str, password: str) -> bool:
        found = self._hashes.get(user)
        try:
            matches = await self._in_thread((found or self._decoy).matches, password)
        except DeadlineExceeded:
            raise Overloaded("passwords", f"a password could not be checked within {_DEADLINE:g} seconds") from None
        if found is None or not matches:
            return False
        if self._remember:
            self._recent.pop(digest, None)
            self._recent[digest] = self._clock() + self._remember
            if len(self._recent) > _REMEMBERED:
                del self._recent[next(iter(self._recent))]
        return True

    async def _in_thread(self, matches: Callable[[str], bool], password: str) -> bool:
        if self._executor is not None:
            return await self._executor.run(matches, password, deadline=_DEADLINE)
        executor = self._own
        if executor is None:
            executor = self._own = Executor("passwords", concurrency=2, queue=self._queue)
            await executor.start()
        self._users += 1
        try:
            return await executor.run(matches, password, deadline=_DEADLINE)
        finally:
            self._users -= 1
            if not self._users:
                self._own = None
                await executor.stop()


class BasicAuth:
    """Lets in who sends a user name and a password that ``check`` takes, and answers everybody else with 401.

    Passwords come with every request, so this is for TLS only. ``request.identity`` becomes what ``check`` returns. A
    browser asks its user, and keeps the password until it is closed.

    :param check: ``check(user, password)``, plain or a coroutine function: the identity, or None (or False) to refuse;
        True stands for the user's name. A plain one runs on the loop: it must not block. :class:`Passwords` is one.
    :param realm: what is shown to the user, and what tells areas of one server apart.
    :param optional: let requests without a user name pass too, with no identity. A wrong password is refused still.
    :param name: of the security scheme in the OpenAPI document.
    :raises ValueError: the realm cannot be sent.
    """

    __slots__ = ("_challenge", "_check", "_name", "_realm", "_refusals", "optional")

    def __init__(
        self, check: BasicCheck, *, realm: str = "restricted", optional: bool = False, name: str = "basicAuth"
    ) -> None:
        check_realm("BasicAuth", realm)
        if not callable(check):
            raise ValueError("BasicAuth: check must be callable, as check(user, password)")
        self._check = check
        self._realm = realm
        self.optional = optional
        self._name = name
        self._challenge = ("www-authenticate", challenge("Basic", realm=realm, charset="UTF-8"))
        self._refusals = Refusals("BasicAuth", ("missing", "malformed", "wrong"))

    def __repr__(self) -> str:
        return f"BasicAuth(..., realm={self._realm!r}{', optional=True' if self.optional else ''})"

    async def __call__(self, request: Request, call_next: Next) -> Response:
        sent = credentials(request, "basic")
        if sent is None:
            if self.optional:
                return await call_next(request)
            return self._refuse(request, "missing", "this needs a user name and a password")
        pair = _read(sent)
        if pair is None:
            return self._refuse(request, "malformed", "the credentials are not as RFC 7617 has them")
        found = self._check(*pair)
        if inspect.isawaitable(found):
            found = await found
        if found is None or found is False:
            return self._refuse(request, "wrong", "the user name or the password is wrong")
        self._refusals.accepted += 1
        request.identity = pair[0] if found is True else found
        return await call_next(request)

    def security(self) -> tuple[str, dict[str, Any]]:
        """Name and security scheme, for OpenAPI 3.1."""
        return self._name, {"type": "http", "scheme": "basic"}

    def statistics(self) -> dict[str, int]:
        """Requests ``accepted``, and refused by reason, since the start."""
        return self._refusals.statistics()

    def _refuse(self, request: Request, reason: str, detail: str) -> Response:
        return self._refusals.refuse(request, reason, 401, detail, self._challenge)


def _read(sent: str) -> tuple[str, str] | None:
    if len(sent) > 2 * _LONGEST:
        return None
    try:
        text = b64decode(sent, validate=True).decode()
    except ValueError:
        return None
    user, colon, password = text.partition(":")
    if not colon or len(text) > _LONGEST or any(unicodedata.category(c) == "Cc" for c in text):
        return None
    return user, password
