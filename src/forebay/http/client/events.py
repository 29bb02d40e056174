"""Server-sent events that go on over lost connections, as a browser's ``EventSource`` has them (WHATWG HTML, section
9.2)."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from forebay.errors import ContentTooLarge, UpstreamClosed, UpstreamProtocolError, UpstreamStatus
from forebay.http.client.event_reader import EventReader, ServerSentEvent
from forebay.http.client.reconnects import LONGEST_WAIT, OnState, Reconnects, shown
from forebay.policy.backoff import Backoff

if TYPE_CHECKING:
    from forebay.http.client.client import Client
    from forebay.http.client.response import ClientResponse
    from forebay.http.client.url import URL

__all__ = ["EventSource"]

_BACKOFF = Backoff(initial=1.0, cap=30.0, jitter="equal")
_GOOD_LIFE = 5.0
_QUEUE = 64  # events that wait to be taken; of more than 256 Ki characters fewer
_KIND = "text/event-stream"
_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # in a header field: RFC 9110 section 5.5


class EventSource(Reconnects):
    """The events of ``url``, over as many connections as it takes. ``client.events(...)`` makes them; used once::

        async with client.events("/updates") as events:
            async for event in events:
                print(event.id, event.data)

    Each connection after the first asks with ``Last-Event-ID`` for what came after the last event, which it is for the
    server to heed. What was sent before a connection broke is delivered first, and in order. An event of which the
    end is missing is none.

    =====================================  ============================================================================
    the answer                             what happens
    =====================================  ============================================================================
    200 with ``text/event-stream``         events, and when they end, the next connection
    204                                    the iteration ends: the server wants no more connections
    429, 5xx, no answer, lost connections  it is tried again, by ``backoff``, and later by ``Retry-After``
    anything else                          the iteration raises the error
    =====================================  ============================================================================

    The first connection is begun on entering, which does not wait for it; see :meth:`wait_connected`. Events are
    received before they are asked for, up to 64, or 256 Ki characters of them. Past that the server has to wait.

    ``last_event_id`` is that of the last event that was taken: what to begin with another time, so that none is missed.

    :param client: sends the requests. Its ``read`` and ``total`` timeouts do not count here.
    :param url: as for ``client.get``, as are ``params`` and ``headers``.
    :param last_event_id: what the first request begins behind.
    :param backoff: waited before each next connection. What the server sets by ``retry:`` comes on top, up to 600
        seconds, as does ``Retry-After``. It begins anew after a connection that brought an event, or lived 5 seconds.
    :param attempts: tries in a row that brought no such connection, at least 1, after which the error of the last is
        raised; None: there is no end to them.
    :param heartbeat: seconds above 0 after which a server that sends nothing, not even a comment, is taken for gone;
        None: never, which leaves that to the network.
    :param on_state: called with each state, and why it is not connected; it must not block.
    :param source: of randomness for the waits.
    :raises ValueError: a parameter is out of range.

    The iteration raises what ended it, once:

    :raises UpstreamStatus: the answer's status is 400 or more, and not one to try again after.
    :raises UpstreamProtocolError: the answer is no event stream.
    :raises ContentTooLarge: an event is longer than 1 Mi characters.
    :raises UpstreamError: ``attempts`` are over, or it is of no use to try again.
    """

    __slots__ = ("_client", "_headers", "_heartbeat", "_params", "_received_id", "_url", "last_event_id")

    def __init__(
        self,
        client: Client,
        url: str | URL,
        *,
        params: Any = None,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        last_event_id: str | None = None,
        backoff: Backoff = _BACKOFF,
        attempts: int | None = None,
        heartbeat: float | None = 45.0,
        on_state: OnState | None = None,
        source: random.Random | None = None,
    ) -> None:
        if heartbeat is not None and not 0 < heartbeat < inf:
            raise ValueError(f"heartbeat {heartbeat}: must be above 0 seconds and finite, or None")
        if last_event_id and _UNSENDABLE.search(last_event_id):
            raise ValueError(f"last_event_id {last_event_id[:80]!r}: must be without control characters")
        super().__init__(
            f"events of {shown(url)}",
            backoff=backoff,
            attempts=attempts,
            good_life=_GOOD_LIFE,
            limit=_QUEUE,
            on_state=on_state,
            source=source,
        )
        self._client = client
        self._url = url
        self._params = params
        self._headers = list(headers.items() if isinstance(headers, Mapping) else headers)
        self._heartbeat = heartbeat
        self._received_id = self.last_event_id = last_event_id or ""

    def __aiter__(self) -> EventSource:
        return self

    async def __anext__(self) -> ServerSentEvent:
        await self._next()
        event: ServerSentEvent = self._take(_size_of)
        self.last_event_id = event.id
        return event

    async def _live(self) -> None:
        timeouts = replace(self._client.timeouts, read=self._heartbeat, total=None)
        response = await self._client.get(self._url, params=self._params, headers=self._fields(), timeouts=timeouts)
        async with response:
            if response.status == 204:
                return
            self._check(response)
            self._connected()
            await self._receive(response)

    def _fields(self) -> list[tuple[str, str]]:
        names = {name.lower() for name, _ in self._headers}
        fields = [("accept", _KIND), ("cache-control", "no-store")]
        made = [*self._headers, *(field for field in fields if field[0] not in names)]
        if self._received_id:
            if _UNSENDABLE.search(self._received_id):
                raise UpstreamProtocolError(f"{self.name}: id {self._received_id[:80]!r} cannot be sent in a header")
            made.append(("last-event-id", self._received_id.encode().decode("latin-1")))  # UTF-8: section 9.2.3
        return made

    def _check(self, response: ClientResponse) -> None:
        """See that it is an event stream.

        :raises UpstreamError: it is none.
        """
        status = response.status
        if status >= 400:
            message = f"{self.name}: {status} {response.reason}".rstrip()
            raise UpstreamStatus(message, answered=status, response=response)
        kind = response.headers.get("content-type", "")
        if status != 200:
            raise UpstreamProtocolError(f"{self.name}: the answer is {status}, which is neither 200 nor 204")
        if kind.partition(";")[0].strip().lower() != _KIND:
            raise UpstreamProtocolError(f"{self.name}: the answer's content-type is {kind!r}, not {_KIND}")

    async def _receive(self, response: ClientResponse) -> None:
        reader = EventReader(self._received_id)
        async with aclosing(response.stream()) as pieces:
            async for piece in pieces:
                try:
                    events = reader.feed(piece)
                except ValueError as error:
                    raise ContentTooLarge(f"{self.name}: {error}") from None
                self._received_id = reader.last_event_id
                if reader.retry is not None:
                    self._wait = min(reader.retry / 1000, LONGEST_WAIT)
                for event in events:
                    self._good = True
                    await self._put(event, len(event.data))
        raise UpstreamClosed(f"{self.name}: the server has ended them")


def _size_of(event: ServerSentEvent) -> int:
    return len(event.data)
