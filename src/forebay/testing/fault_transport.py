"""A client's transport between the client and another one, which does to some requests what networks do."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from forebay.engine.deadlines import fail_after
from forebay.engine.loop import now, sleep
from forebay.errors import ForebayError, UpstreamClosed, UpstreamError
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.transport import Transport

__all__ = ["FaultTransport", "RequestFault"]


@dataclass(frozen=True, slots=True, eq=False)
class RequestFault:
    """What happens to some requests. What is left out does not. Compared by identity.

    :param match: which requests: a pattern of ``METHOD URL``, in which ``*`` is any text: ``POST *``, ``* */users/*``.
    :param probability: of those, how many, 0 to 1, by chance.
    :param times: how often it happens at most, at least 1; None: without an end.
    :param latency: seconds that the request waits before it is sent, at least 0.
    :param jitter: up to so many seconds more, by chance.
    :param error: the class of what is raised instead of sending it: an error of :mod:`forebay.errors` that needs a text
        only, such as ``ConnectFailed``, ``ReadTimeout`` or ``UpstreamClosed``.
    :param status: what it is answered with instead of sending it, 200 to 599.
    :param lose_answer: the request is sent, and ``error`` raised instead of its answer: the server has done it.
    :param cut_after: bytes of the answer's content after which the connection ends, as ``UpstreamClosed``, at least 0.
    :raises ValueError: one is out of range, or they contradict each other.
    :raises TypeError: ``error`` is no such class.
    """

    match: str = "*"
    probability: float = 1.0
    times: int | None = None
    latency: float = 0.0
    jitter: float = 0.0
    error: type[ForebayError] | None = None
    status: int | None = None
    lose_answer: bool = False
    cut_after: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"RequestFault probability {self.probability}: must be from 0 to 1")
        if self.times is not None and self.times < 1:
            raise ValueError(f"RequestFault times {self.times}: must be at least 1, or None")
        for name in ("latency", "jitter"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"RequestFault {name} {getattr(self, name)}: must be at least 0 seconds, and finite")
        if self.status is not None and not 200 <= self.status <= 599:
            raise ValueError(f"RequestFault status {self.status}: must be 200 to 599")
        if self.cut_after is not None and self.cut_after < 0:
            raise ValueError(f"RequestFault cut_after {self.cut_after}: must be at least 0 bytes")
        if sum((self.error is not None, self.status is not None, self.cut_after is not None)) > 1:
            raise ValueError("RequestFault: error, status and cut_after exclude each other")
        if self.lose_answer and self.error is None:
            raise ValueError("RequestFault lose_answer: needs the error that is raised instead")
        if self.error is not None:
            self.made("a test of it")

    def made(self, message: str) -> ForebayError:
        """The error, with that text.

        :raises TypeError: it cannot be made of a text.
        """
        kind: Any = self.error
        try:
            made = kind(message)
        except (TypeError, ValueError):
            made = None
        if not isinstance(made, ForebayError):
            raise TypeError(f"RequestFault error {kind!r}: must be a class of forebay.errors that is made of a text")
        return made


class FaultTransport:
    """Passes requests on to ``transport``, but for what ``faults`` do to them: for tests of what a program does on a
    bad day.

    ::

        faults = RequestFault("GET */users/*", probability=0.3, error=ReadTimeout), RequestFault(latency=0.2)
        async with Client("http://users", transport=FaultTransport(AppTransport(app), *faults, seed=7)) as client:
            ...

    All faults that match a request happen to it, in their order, until one ends it. ``counts`` says how often each has
    happened. ``faults`` may be changed at any time, and holds for requests that come then. For what happens on
    connections (slow, cut at a byte, silent) there is :class:`~forebay.testing.FaultProxy`.

    :param seed: of chance: the same requests in the same order meet the same faults.
    """

    __slots__ = ("_chance", "counts", "faults", "transport")

    def __init__(self, transport: Transport, *faults: RequestFault, seed: int = 0) -> None:
        self.transport = transport
        self.faults = list(faults)
        self.counts: dict[RequestFault, int] = {}
        self._chance = random.Random(seed)  # noqa: S311 - it picks requests that have faults, nothing is secret

    def __repr__(self) -> str:
        return f"<FaultTransport of {len(self.faults)} faults before {self.transport!r}>"

    async def start(self) -> None:
        """Start the transport."""
        await self.transport.start()

    async def drain(self) -> None:
        """Drain the transport."""
        await self.transport.drain()

    async def stop(self) -> None:
        """Stop the transport."""
        await self.transport.stop()

    async def send(self, request: ClientRequest) -> ClientResponse:
        """Send ``request``, if it comes to that.

        :raises ForebayError: that of a fault.
        :raises DeadlineExceeded: its time was over before the latency was.
        :raises Exception: whatever the transport raised.
        """
        target = request.endpoint.name if request.endpoint is not None else request.url.origin
        cut: int | None = None
        for fault, seconds in self._happening(request):
            if seconds:
                async with fail_after(max(0.0, request.deadline - now())):
                    await sleep(seconds)
            if fault.error is not None:
                if fault.lose_answer:
                    await (await self.transport.send(request)).close()
                error = fault.made(f"{request}: a fault of the test ({fault.error.__name__})")
                if isinstance(error, UpstreamError):
                    error.target = target
                raise error
            if fault.status is not None:
                headers = [("content-length", "0")]
                return ClientResponse.made(request, fault.status, headers)
            if fault.cut_after is not None:
                cut = fault.cut_after if cut is None else min(cut, fault.cut_after)
        response = await self.transport.send(request)
        if cut is None:
            return response
        pairs = [(name, value) for name in response.headers for value in response.headers.get_all(name)]
        return ClientResponse.made(request, response.status, pairs, _Cut(response, cut, target))

    def statistics(self) -> dict[str, Any]:
        """Those of the transport, where it has some, and how many requests met a fault."""
        statistics = getattr(self.transport, "statistics", None)
        found: dict[str, Any] = {} if statistics is None else statistics()
        return found | {"faults": sum(self.counts.values())}

    def _happening(self, request: ClientRequest) -> list[tuple[RequestFault, float]]:
        """The faults of this request, counted, and how long each takes. All of chance is drawn here, at once, so that
        requests that are under way at the same time do not change each other's."""
        found = []
        name = str(request)
        for fault in self.faults:
            if not fnmatchcase(name, fault.match):
                continue
            if self._chance.random() >= fault.probability:  # drawn for each that matches, so that chance stays the same
                continue
            count = self.counts.get(fault, 0)
            if fault.times is not None and count >= fault.times:
                continue
            self.counts[fault] = count + 1
            found.append((fault, fault.latency + fault.jitter * self._chance.random()))
            if fault.error is not None or fault.status is not None:
                break
        return found


class _Cut:
    """The content of ``response``, up to so many bytes, and then the end of the connection; all of it, where it is not
    that long. Whoever has it no longer has let go of the response."""

    __slots__ = ("_most", "_pieces", "_response", "_target")

    def __init__(self, response: ClientResponse, most: int, target: str) -> None:
        self._response = response
        self._most = most
        self._target = target
        self._pieces = response.stream()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._most
        async for piece in self._pieces:
            if len(piece) >= left:
                if left:
                    yield piece[:left]
                message = f"{self._response.request}: a fault of the test (cut after {self._most} bytes of the content)"
                await self.aclose()
                raise UpstreamClosed(message, target=self._target)
            left -= len(piece)
            yield piece

    async def aclose(self) -> None:
        await self._pieces.aclose()
        await self._response.close()

    def __del__(self) -> None:
        self._response.discard()
