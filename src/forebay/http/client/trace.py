"""What happened to one request, step by step, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import structlog

from forebay.engine.loop import now

__all__ = ["GIVEN_UP", "Attempt", "Leg", "Step", "Times", "Trace", "TraceEvent"]

log = structlog.get_logger("forebay.client")

_MOST_EVENTS = 1000


class Step(StrEnum):
    """What can happen to a request. The comments say what an event's ``detail`` has, where it is known."""

    POOL_WAIT = "pool-wait"  # method, url: a connection is asked for; this is where a request to a server begins
    DIAL_START = "dial-start"  # there is none that is free, and one may be made: what is needed for it is made ready
    DNS_START = "dns-start"  # host
    DNS_DONE = "dns-done"  # addresses: how many; cached; error: why there is none
    CONNECT_START = "connect-start"  # address
    CONNECT_DONE = "connect-done"  # address; error: why it failed, or that it was given up
    TUNNEL_START = "tunnel-start"  # host, proxy: the proxy is asked for a way to the host
    TUNNEL_DONE = "tunnel-done"  # status; error: why there is no way
    TLS_START = "tls-start"
    TLS_DONE = "tls-done"  # version, cipher; error: why it failed
    GOT_CONNECTION = "got-connection"  # reused; idle: for how many seconds it had not been used; address
    WROTE_HEADERS = "wrote-headers"
    WROTE_BODY = "wrote-body"  # bytes
    CONTINUE = "continue"  # the server asks for the content (100 Continue)
    INTERIM = "interim"  # status: of another answer before the answer, as 103 is one
    FIRST_BYTE = "first-byte"  # of the answer
    HEAD = "head"  # status
    DONE = "done"  # bytes: of the answer's content
    REDIRECT = "redirect"  # status, method, url: where it goes next
    REPLAY = "replay"  # error: of the kept connection that was dead
    RETRY = "retry"  # attempt: 2 for the second; error or status: why; hedge: the one before is still under way
    FAILED = "failed"  # error


GIVEN_UP = "given up"
"""The ``error`` of what did not fail, but was not waited for any more."""

_BEGINS = frozenset((Step.REDIRECT, Step.REPLAY, Step.RETRY))


class TraceEvent(NamedTuple):
    """One step: which, at which moment of the monotonic clock (:func:`forebay.engine.loop.now`), and what is known."""

    step: Step
    at: float
    detail: dict[str, Any]


class Attempt(NamedTuple):
    """One address that was connected to: ``ended`` is None while it goes on, ``error`` empty when it came about."""

    address: str
    started: float
    ended: float | None
    error: str


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that each part of a leg took; None: there was no such part, or it has not ended.

    :param pool_wait: for a connection, or the right to make one.
    :param prepare: to make ready what a new one needs: with TLS, the certificates to trust, which are read once.
    :param dns: for the host's addresses.
    :param connect: from the first address tried to the one that answered.
    :param tunnel: for a proxy to make a way to the server.
    :param tls: for the handshake.
    :param send: to hand the request to the system, content included.
    :param wait: from then to the first byte of the answer: the server at work, and the way there and back.
    :param receive: from the first byte of the answer to its last.
    :param total: from the leg's beginning to the last that happened in it.
    :param reused: it went over a connection that was there already.
    :param idle_for: for how long that had not been used; 0 for a new one.
    :param address: of the server, as host and port; empty where there was no connection.
    """

    pool_wait: float | None = None
    prepare: float | None = None
    dns: float | None = None
    connect: float | None = None
    tunnel: float | None = None
    tls: float | None = None
    send: float | None = None
    wait: float | None = None
    receive: float | None = None
    total: float = 0.0
    reused: bool = False
    idle_for: float = 0.0
    address: str = ""


class _Record:
    """What a trace and its forks have in common.

    :ivar tries: for each event, the number of the try that it is of.
    :ivar ranges: of the bytes sent and received over a connection, by the number of its event got-connection; by -1
        less the number of the try for those that came without one. Each is where they begin and end.
    """

    __slots__ = ("count", "events", "left_out", "ranges", "received", "received_total", "sent", "sent_total", "tries")

    def __init__(self) -> None:
        self.events: list[TraceEvent] = []
        self.tries: list[int] = []
        self.count = 1
        self.left_out = 0
        self.sent = bytearray()
        self.received = bytearray()
        self.sent_total = 0
        self.received_total = 0
        self.ranges: dict[int, list[int]] = {}

    def range_of(self, key: int) -> list[int]:
        """Sent from and to, received from and to."""
        found = self.ranges.get(key)
        if found is None:
            sent, received = self.sent_total, self.received_total
            found = self.ranges[key] = [sent, sent, received, received]
        return found


class Trace:
    """Collects the steps of one request, redirects and further tries included.

    :param on_event: called with each event as it happens. It must not wait. What it raises is logged, and changes
        nothing.
    :param keep_bytes: how many of the bytes sent, and of those received, are kept in ``sent`` and ``received`` exactly
        as they were on the connection, for :func:`~forebay.http.client.dump.dump_request`; at least 0.
    :raises ValueError: ``keep_bytes`` is negative.

    ``str()`` of it is a picture in text. ``events`` holds up to 1,000; ``left_out`` counts those that came after.
    ``sent_total`` and ``received_total`` count all bytes, where some are kept.
    """

    __slots__ = ("_connection", "_record", "_try", "_wall", "keep_bytes", "on_event")

    def __init__(self, on_event: Callable[[TraceEvent], None] | None = None, keep_bytes: int = 0) -> None:
        if keep_bytes < 0:
            raise ValueError(f"Trace keep_bytes {keep_bytes}: must be at least 0")
        self.on_event = on_event
        self.keep_bytes = keep_bytes
        self._record = _Record()
        self._try = 0
        self._connection = -1  # the key of its bytes
        self._wall = time.time() - now()

    def __str__(self) -> str:
        from forebay.http.client.waterfall import waterfall  # which draws what is in here

        return waterfall(self)

    def __repr__(self) -> str:
        return f"<Trace {' '.join(event.step for event in self.events[-20:])}>"

    def fork(self) -> Trace:
        """A trace for a try of the same request that goes on beside this one. Both have the events of both, and know
        which are of which."""
        made = Trace(self.on_event, self.keep_bytes)
        made._record = self._record
        made._try = self._record.count
        made._connection = -1 - made._try
        made._wall = self._wall
        self._record.count += 1
        return made

    @property
    def events(self) -> list[TraceEvent]:
        """What has happened, in the order in which it was told."""
        return self._record.events

    @property
    def left_out(self) -> int:
        """How many events came after the list was full."""
        return self._record.left_out

    @property
    def sent(self) -> bytearray:
        """The first bytes that were sent."""
        return self._record.sent

    @property
    def received(self) -> bytearray:
        """The first bytes that were received."""
        return self._record.received

    @property
    def sent_total(self) -> int:
        """How many bytes were sent; 0 when none are kept."""
        return self._record.sent_total

    @property
    def received_total(self) -> int:
        """How many bytes were received; 0 when none are kept."""
        return self._record.received_total

    def mark(self, step: Step | str, at: float | None = None, **detail: Any) -> None:
        """``step`` has happened.

        :param at: when, on the monotonic clock; None: now.
        :raises ValueError: there is no such step.
        """
        self.watch(step, now() if at is None else at, detail)

    def watch(self, step: Step | str, at: float, detail: dict[str, Any]) -> None:
        """The same in the form that :func:`forebay.engine.dial.dial` calls."""
        event = TraceEvent(step if type(step) is Step else Step(step), at, detail)
        record = self._record
        if len(record.events) < _MOST_EVENTS:
            if event.step is Step.GOT_CONNECTION:
                self._connection = len(record.events)
            record.events.append(event)
            record.tries.append(self._try)
        else:
            record.left_out += 1
        if self.on_event is not None:
            try:
                self.on_event(event)
            except Exception:  # whoever looks on must not break what it looks at
                log.exception("trace hook failed", step=event.step.value)

    def note_sent(self, data: bytes | bytearray | memoryview) -> None:
        """These bytes were sent; keep what there is room for."""
        record = self._record
        span = record.range_of(self._connection)
        record.sent_total += len(data)
        span[1] = record.sent_total
        if (room := self.keep_bytes - len(record.sent)) > 0:
            record.sent += data[:room]

    def note_received(self, data: bytes | bytearray | memoryview) -> None:
        """These bytes were received; keep what there is room for."""
        record = self._record
        span = record.range_of(self._connection)
        if span[2] == span[3]:
            span[2] = record.received_total
        record.received_total += len(data)
        span[3] = record.received_total
        if (room := self.keep_bytes - len(record.received)) > 0:
            record.received += data[:room]

    def wall(self, at: float) -> float:
        """Seconds since 1970 at a moment of the monotonic clock."""
        return self._wall + at

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The requests to servers that this was, in the order in which they began. Each redirect, replay and retry
        begins another one, and so does whoever asks for a connection after an answer, as authentication does."""
        parts = [part for number in range(self._record.count) for part in self._parts(number)]
        return self._as_legs(sorted(parts))

    @property
    def times(self) -> Times:
        """Of the last leg of this try."""
        parts = self._parts(self._try)
        return self._as_legs(parts[-1:])[0].times if parts else Times()

    def _parts(self, number: int) -> list[list[int]]:
        """The numbers of the events of each leg of one try."""
        parts: list[list[int]] = [[]]
        over = False  # the last part has its answer, or has failed
        for index, (step, _, _) in enumerate(self.events):
            if self._record.tries[index] != number:
                continue
            if parts[-1] and (step in _BEGINS or (over and step is Step.POOL_WAIT)):
                parts.append([index])
                over = False
            elif step is Step.DONE and not over and len(parts) > 1:
                parts[-2].append(index)  # the rest of an answer that was left for the next
            else:
                parts[-1].append(index)
                over = over or step is Step.HEAD or step is Step.FAILED
        return [part for part in parts if part]

    def _as_legs(self, parts: list[list[int]]) -> tuple[Leg, ...]:
        record = self._record
        legs: list[Leg] = []
        sent = received = 0
        firsts = {number: record.tries.index(number) for number in set(record.tries)}
        for part in parts:
            keys = [index for index in part if index in record.ranges]
            number = record.tries[part[0]]
            if part[0] == firsts[number] and -1 - number in record.ranges:
                keys.append(-1 - number)
            spans = [record.ranges[key] for key in keys] or [[sent, sent, received, received]]
            sent, received = max(span[1] for span in spans), max(span[3] for span in spans)
            start = min(span[0] for span in spans), min(span[2] for span in spans)
            events = tuple(self.events[index] for index in part)
            legs.append(Leg(events, (start[0], sent), (start[1], received)))
        return tuple(legs)


class Leg:
    """One request to one server, and what became of it.

    ``events`` are its own, the one it begins with included, at least one. ``sent_range`` and ``received_range`` say
    which of all the bytes were sent and received for it, as start and end, where a trace keeps some.
    """

    __slots__ = ("_found", "events", "received_range", "sent_range")

    def __init__(
        self,
        events: tuple[TraceEvent, ...],
        sent_range: tuple[int, int] = (0, 0),
        received_range: tuple[int, int] = (0, 0),
    ) -> None:
        self.events = events
        self.sent_range = sent_range
        self.received_range = received_range
        self._found: dict[Step, TraceEvent] = {}
        for event in events:
            self._found.setdefault(event.step, event)

    def event(self, step: Step) -> TraceEvent | None:
        """The first of its kind."""
        return self._found.get(step)

    def at(self, step: Step) -> float | None:
        """When a step first happened."""
        event = self._found.get(step)
        return None if event is None else event.at

    @property
    def cause(self) -> TraceEvent | None:
        """The redirect, replay or retry that began it; None for the first."""
        return self.events[0] if self.events[0].step in _BEGINS else None

    @property
    def started(self) -> float:
        """When it began, on the monotonic clock."""
        return self.events[0].at

    @property
    def ended(self) -> float:
        """When the last of it happened."""
        return max(event.at for event in self.events)

    @property
    def method(self) -> str:
        """Of the request; empty when it is not known."""
        return str(self._detail("method"))

    @property
    def url(self) -> str:
        """Of the request; empty when it is not known."""
        return str(self._detail("url"))

    @property
    def status(self) -> int:
        """Of the answer; 0 without one."""
        head = self._found.get(Step.HEAD)
        return 0 if head is None else int(head.detail.get("status", 0))

    @property
    def error(self) -> str:
        """Why it failed; empty when it did not."""
        failed = self._found.get(Step.FAILED)
        return "" if failed is None else str(failed.detail.get("error", "")) or "failed"

    def _detail(self, name: str) -> Any:
        for step in (Step.POOL_WAIT, Step.REDIRECT):
            event = self._found.get(step)
            if event is not None and name in event.detail:
                return event.detail[name]
        return ""

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The addresses that were connected to, in the order in which they were tried."""
        begun: list[Attempt] = []
        for step, at, detail in self.events:
            address = str(detail.get("address", ""))
            if step is Step.CONNECT_START:
                begun.append(Attempt(address, at, None, ""))
            elif step is Step.CONNECT_DONE:
                index = next((i for i, one in enumerate(begun) if one.address == address and one.ended is None), None)
                start = at if index is None else begun[index].started
                made = Attempt(address, start, at, str(detail.get("error") or ""))
                if index is None:
                    begun.append(made)
                else:
                    begun[index] = made
        return tuple(begun)

    @property
    def times(self) -> Times:
        """How long each part took."""
        got = self._found.get(Step.GOT_CONNECTION)
        written = self.written
        first, done = self.answered, self.at(Step.DONE)
        attempts = self.attempts
        won = next((one.ended for one in attempts if one.ended is not None and not one.error), None)
        address = next((one.address for one in attempts if one.ended is not None and not one.error), "")
        dialled, reached = self.at(Step.DIAL_START), self.reached
        return Times(
            pool_wait=_between(self.at(Step.POOL_WAIT), reached if dialled is None else dialled),
            prepare=_between(dialled, reached),
            dns=_between(self.at(Step.DNS_START), self.at(Step.DNS_DONE)),
            connect=_between(attempts[0].started, won) if attempts else None,
            tunnel=_between(self.at(Step.TUNNEL_START), self.at(Step.TUNNEL_DONE)),
            tls=_between(self.at(Step.TLS_START), self.at(Step.TLS_DONE)),
            send=_between(None if got is None else got.at, written),
            wait=_between(written, first),
            receive=_between(first, done),
            total=self.ended - self.started,
            reused=bool(got is not None and got.detail.get("reused")),
            idle_for=float(got.detail.get("idle") or 0.0) if got is not None else 0.0,
            address=str((got.detail.get("address") if got is not None else "") or address).rpartition("://")[2],
        )

    @property
    def reached(self) -> float | None:
        """When its waiting for a connection was over: there was one, or one began to be made; None: it was not."""
        found = [self.at(step) for step in (Step.DNS_START, Step.CONNECT_START, Step.GOT_CONNECTION)]
        return min((at for at in found if at is not None), default=None)

    @property
    def written(self) -> float | None:
        """When the last of the request was handed to the system; None: it was not."""
        body = self.at(Step.WROTE_BODY)
        return self.at(Step.WROTE_HEADERS) if body is None else body

    @property
    def answered(self) -> float | None:
        """When the first of the answer was there, and not of an answer before it (1xx); None: it did not come."""
        if Step.CONTINUE in self._found or Step.INTERIM in self._found:
            return self.at(Step.HEAD)
        first = self.at(Step.FIRST_BYTE)
        return self.at(Step.HEAD) if first is None else first


def _between(start: float | None, end: float | None) -> float | None:
    """Seconds, never below 0: an answer may come before all of the request was written."""
    return None if start is None or end is None else max(0.0, end - start)
