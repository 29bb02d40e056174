"""Servers of a group that are functions: what the tests of targets and policies send to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from forebay.engine.dns_backends import numeric
from forebay.engine.dns_settings import LookupFailed
from forebay.engine.happy_eyeballs import AddressInfo
from forebay.http.client.content import Content
from forebay.http.client.request import ClientRequest
from forebay.http.client.resolver import ResolvedTarget
from forebay.http.client.response import ClientResponse
from forebay.http.client.url import parse_url
from forebay.http.headers import MutableHeaders

A, B, C = "http://a:1", "http://b:1", "http://c:1"


def request(url: str = f"{A}/x", method: str = "GET", **more: Any) -> ClientRequest:
    """One that a client has made."""
    return ClientRequest(method, parse_url(url), MutableHeaders(), **more)


def once_only() -> Content:
    """Content that cannot be sent again."""
    return Content(b"x", replayable=False)


class Answered(ClientResponse):
    """A response that counts how often it was let go of."""

    __slots__ = ("discarded",)

    discarded: int

    def discard(self) -> None:
        """It is not wanted."""
        self.discarded += 1
        super().discard()


class Servers:
    """Each does what ``does`` says, by its name: a status, seconds after which it answers with 200, an error that is
    raised, headers with a 503; or a list of these, one for each request, the last one over and over."""

    def __init__(self, **does: Any) -> None:
        self.does: dict[str, Any] = {f"http://{name}:1": what for name, what in does.items()}
        self.asked: list[str] = []
        self.requests: list[ClientRequest] = []
        self.responses: list[Answered] = []
        self.running = 0

    @property
    def shares(self) -> Counter[str]:
        """How often each was asked."""
        return Counter(self.asked)

    async def send(self, request: ClientRequest) -> ClientResponse:
        """As a transport does."""
        name = request.endpoint.name if request.endpoint is not None else request.url.origin
        self.asked.append(name)
        self.requests.append(request)
        what = self.does.get(name, 200)
        if isinstance(what, list):
            what = what.pop(0) if len(what) > 1 else what[0]
        self.running += 1
        try:
            await asyncio.sleep(what if isinstance(what, float) else 0)
            if isinstance(what, BaseException):
                raise what
        finally:
            self.running -= 1
        status = what if isinstance(what, int) else 503 if isinstance(what, dict) else 200
        headers = list(what.items()) if isinstance(what, dict) else []
        response = Answered.made(request, status, headers, b"ok")
        assert isinstance(response, Answered)
        response.discarded = 0
        self.responses.append(response)
        return response


class Names:
    """A name server that knows ``orders``, whose addresses are good for ``ttl`` seconds."""

    def __init__(self, *addresses: str, ttl: float = 30.0) -> None:
        self.addresses: tuple[str, ...] = addresses
        self.ttl = ttl
        self.asked = 0
        self.closed = 0

    async def find(self, host: str) -> tuple[Sequence[AddressInfo], float | None]:
        """See :class:`forebay.engine.dns_backends.Backend`."""
        assert host == "orders"
        self.asked += 1
        if not self.addresses:
            raise LookupFailed("nobody knows", timed_out=True)
        return [numeric(address, 0)[0] for address in self.addresses], self.ttl

    async def close(self) -> None:
        """Nothing is asked any more."""
        self.closed += 1


class Told:
    """A resolver that says what it is told to, by :meth:`say`: a set, or an error to raise."""

    def __init__(self, url: str = "http://orders") -> None:
        self.url = url
        self.watches = 0
        self.closed = 0
        self._said: asyncio.Queue[Any] = asyncio.Queue()

    def say(self, what: Sequence[str | ResolvedTarget] | Exception) -> None:
        """What comes next."""
        self._said.put_nowait(what)

    async def watch(self) -> AsyncIterator[Sequence[str | ResolvedTarget]]:
        """See :class:`forebay.http.client.resolver.Resolver`."""
        self.watches += 1
        try:
            while True:
                what = await self._said.get()
                if isinstance(what, Exception):
                    raise what
                yield what
        finally:
            self.closed += 1
