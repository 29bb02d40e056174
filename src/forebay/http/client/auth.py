"""Credentials with each request: user and password (RFC 7617), tokens (RFC 6750), and tokens that are renewed.

Each is a middleware of a client. None of them sends credentials to a server that they are not for: see
:class:`ForOrigins`.
"""

from __future__ import annotations

import re
import time
import unicodedata
from base64 import b64encode
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from ipaddress import ip_address
from math import inf

import structlog

from forebay.chain import Handler
from forebay.engine.deadlines import fail_after
from forebay.engine.single_flight import SingleFlight
from forebay.errors import RetryClass, UpstreamError
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.url import parse_url

__all__ = ["Basic", "Bearer", "ForOrigins", "Refreshable", "Token", "check_user"]

log = structlog.get_logger("forebay.http")

Next = Handler[ClientRequest, ClientResponse]

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # b64token: RFC 6750 section 2.1
_SCHEME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REMEMBERED = 64  # origins that were warned of


def _wall() -> float:
    return time.time()


class ForOrigins:
    """Whom credentials are for.

    Requests that have an ``authorization`` header already keep it. A redirect to another origin than the first
    request's gets no credentials, unless the origin is one of ``origins``. Credentials that go over plain HTTP to
    another machine can be read by everybody on the way: that is logged once for each origin.

    :param origins: scheme, host and port of those who get the credentials, and nobody else does, as in
        ``https://api.example.org``. Default: whoever is asked first, before any redirect.
    :raises ValueError: one of them is no origin.
    """

    __slots__ = ("_origins", "_warned")

    def __init__(self, origins: Collection[str] = ()) -> None:
        if isinstance(origins, str):
            raise ValueError(f"{type(self).__name__} origins {origins!r}: must be a list of them")
        found = set()
        for origin in origins:
            url = parse_url(origin)
            if url.target != "/":
                raise ValueError(f"{type(self).__name__} origins {origin!r}: must be without path and query")
            found.add(url.origin)
        self._origins = frozenset(found)
        self._warned: set[str] = set()

    def applies(self, request: ClientRequest, *, readable: bool = True) -> bool:
        """Whether ``request`` is to have the credentials.

        :param readable: they could be used by whoever reads them.
        """
        url = request.url
        if url.origin not in self._origins if self._origins else request.foreign:
            return False
        if "authorization" in request.headers:
            return False
        if readable and not url.secure and not _is_loopback(url.host):
            self._warn(url.origin)
        return True

    def _warn(self, origin: str) -> None:
        if origin not in self._warned and len(self._warned) < _REMEMBERED:
            self._warned.add(origin)
            log.warning("credentials are sent without TLS", auth=type(self).__name__, origin=origin)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761 section 6.3
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def with_credentials(request: ClientRequest, value: str) -> ClientRequest:
    """A copy that has them: whoever sends ``request`` again later is to get those of that time."""
    sent = request.copy()
    sent.headers["authorization"] = value
    return sent


def check_user(owner: str, user: str, password: str) -> None:
    """:raises ValueError: a control character is in one of them (RFC 7617 section 2)."""
    for what, text in (("user", user), ("password", password)):
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
            raise ValueError(f"{owner} {what}: must be without control characters")  # and without its value here


class Basic(ForOrigins):
    """User name and password with each request, unasked (RFC 7617): readable by all who see the request, so for TLS.

    They are sent as UTF-8, normalised to NFC.

    :param user: without a colon.
    :param origins: whom they are for: see :class:`ForOrigins`.
    :raises ValueError: what cannot be sent like that.
    """

    __slots__ = ("_user", "_value")

    def __init__(self, user: str, password: str, *, origins: Collection[str] = ()) -> None:
        super().__init__(origins)
        if ":" in user:
            raise ValueError(f"Basic user {user!r}: must be without a colon")
        check_user("Basic", user, password)
        self._user = user
        pair = unicodedata.normalize("NFC", f"{user}:{password}").encode()
        self._value = f"Basic {b64encode(pair).decode()}"

    def __repr__(self) -> str:
        return f"Basic({self._user!r}, ...)"

    async def __call__(self, request: ClientRequest, call_next: Next) -> ClientResponse:
        if self.applies(request):
            request = with_credentials(request, self._value)
        return await call_next(request)


class Bearer(ForOrigins):
    """A token with each request (RFC 6750): whoever has it is let in, so for TLS. :class:`Refreshable` is for those
    that expire.

    :param origins: whom it is for: see :class:`ForOrigins`.
    :raises ValueError: the token cannot be sent.
    """

    __slots__ = ("_value",)

    def __init__(self, token: str, *, origins: Collection[str] = ()) -> None:
        super().__init__(origins)
        _check_token("Bearer", token)
        self._value = f"Bearer {token}"

    def __repr__(self) -> str:
        return "Bearer(...)"

    async def __call__(self, request: ClientRequest, call_next: Next) -> ClientResponse:
        if self.applies(request):
            request = with_credentials(request, self._value)
        return await call_next(request)


def _check_token(owner: str, token: str) -> None:
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"{owner} token of {len(token)} characters: must be letters, digits and ._~+/- (RFC 6750)")


@dataclass(frozen=True, slots=True)
class Token:
    """A token that expires.

    :param expires_at: seconds since the epoch, as in ``exp`` of a JWT; None: never, until a server refuses it.
    :raises ValueError: it cannot be sent.
    """

    value: str = field(repr=False)
    expires_at: float | None = None

    def __post_init__(self) -> None:
        _check_token("Token", self.value)
        if self.expires_at is not None and not abs(self.expires_at) < inf:
            raise ValueError(f"Token expires_at {self.expires_at}: must be seconds since the epoch, or None")

    @classmethod
    def lasting(cls, value: str, seconds: float | None) -> Token:
        """One that lasts for ``seconds`` from now on: what OAuth calls ``expires_in`` (RFC 6749 section 5.1)."""
        return cls(value, None if seconds is None else _wall() + seconds)


class Refreshable(ForOrigins):
    """A bearer token that is fetched when it is needed, again before it expires, and once more when a server answers
    401: then the request is sent again, if its content still can be.

    A request whose content can be sent once only keeps its 401, and the next one gets another token.

    All requests share one fetch. One that fails is not tried again within ``pause``, and neither is one for a server
    that has refused a token which was just fetched: meanwhile requests fail with the same error, or get their 401. A
    token that is about to expire is used to its end if there is no other. ``fetch`` must not go through a client that
    has this very middleware: it would wait for itself, until ``timeout``.

    :param fetch: gives the token. It runs in a Task of its own.
    :param margin: seconds before its end that a token is fetched anew: what a request may take to arrive.
    :param timeout: seconds for a fetch, above 0.
    :param pause: seconds between a fetch that failed, or was in vain, and the next, at least 0.
    :param origins: whom it is for: see :class:`ForOrigins`.
    :param clock: seconds since the epoch.
    :raises ValueError: a number is out of its range.
    :raises UpstreamError: when called: there is no token; the reason is its cause. No server has done what the request
        asks for: it was not sent, or answered with 401.
    """

    __slots__ = (
        "_clock", "_failed_at", "_failure", "_fetch", "_fetched_at", "_flight", "_margin", "_pause", "_timeout",
        "_token", "failures", "fetches",
    )  # fmt: skip

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Token]],
        *,
        margin: float = 30.0,
        timeout: float = 30.0,
        pause: float = 5.0,
        origins: Collection[str] = (),
        clock: Callable[[], float] = _wall,
    ) -> None:
        super().__init__(origins)
        if not 0 <= margin < inf or not 0 <= pause < inf or not 0 < timeout < inf:
            raise ValueError(
                f"Refreshable margin {margin}, pause {pause}, timeout {timeout}: "
                "must be at least 0 seconds, timeout above 0, and finite"
            )
        self._fetch = fetch
        self._margin = margin
        self._timeout = timeout
        self._pause = pause
        self._clock = clock
        self._token: Token | None = None
        self._fetched_at = -inf
        self._failure: Exception | None = None
        self._failed_at = -inf
        self._flight: SingleFlight[Token] = SingleFlight()
        self.fetches = 0
        self.failures = 0

    def __repr__(self) -> str:
        return f"Refreshable(..., margin={self._margin:g})"

    async def __call__(self, request: ClientRequest, call_next: Next) -> ClientResponse:
        if not self.applies(request):
            return await call_next(request)
        token = await self._current()
        response = await call_next(with_credentials(request, f"Bearer {token.value}"))
        if response.status != 401 or not self._may_replace(token):
            return response
        if not request.content.replayable:
            if self._token is token:
                self._token = None  # the next one is to have another
            return response
        response.discard()  # before the fetch, which may want its connection
        token = await self._replace(token)
        return await call_next(with_credentials(request, f"Bearer {token.value}"))

    def statistics(self) -> dict[str, int]:
        """``fetches`` begun, and how many of them were ``failures``."""
        return {"fetches": self.fetches, "failures": self.failures}

    async def _current(self) -> Token:
        """A token that will do for a request."""
        token = self._token
        if token is not None and self._lasts(token, self._margin):
            return token
        if token is not None and self._lasts(token) and self._is_recent(self._fetched_at):
            return token  # tokens that last no longer than the margin
        try:
            return await self._renewed()
        except UpstreamError:
            if token is not None and self._lasts(token):  # still, after all that time
                return token
            raise

    def _lasts(self, token: Token, seconds: float = 0.0) -> bool:
        return token.expires_at is None or self._clock() < token.expires_at - seconds

    def _is_recent(self, at: float) -> bool:
        """Whether that was within the pause; not where the clock was set back since."""
        return 0 <= self._clock() - at < self._pause

    def _may_replace(self, refused: Token) -> bool:
        """Whether there is another token, or may be one: not where this one was fetched just now."""
        return self._token is not refused or not self._is_recent(self._fetched_at)

    async def _replace(self, refused: Token) -> Token:
        token = self._token
        return token if token is not None and token is not refused else await self._renewed()

    async def _renewed(self) -> Token:
        if self._failure is not None and self._is_recent(self._failed_at):
            raise self._error("not tried again yet") from self._failure
        return await self._flight.run("token", self._call)

    async def _call(self) -> Token:
        self.fetches += 1
        try:
            async with fail_after(self._timeout):
                token = await self._fetch()
            if not isinstance(token, Token):
                raise TypeError(f"fetch gave {type(token).__name__}: must be a Token")
        except Exception as error:  # whatever fetch raises: it is the program's own
            self.failures += 1
            self._failure = error
            self._failed_at = self._clock()
            raise self._error("it failed") from error
        self._token = token
        self._fetched_at = self._clock()
        self._failure = None
        return token

    def _error(self, what: str) -> UpstreamError:
        """Without the text of the failure, which may hold secrets; it is the cause."""
        name = type(self._failure).__name__
        return UpstreamError(f"no token could be fetched: {name}, {what}", retry=RetryClass.SAFE)
