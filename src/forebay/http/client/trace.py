"""What happened to one request, step by step, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import structlog

from forebay.engine.loop import now

__all__ = ["Attempt", "Leg", "Step", "Times", "Trace", "TraceEvent"]

log = structlog.get_logger("forebay.client")

_MOST_EVENTS = 1000


class Step(StrEnum):
    """What can happen to a request. The comments say what an event's ``detail`` has, where it is known."""

    POOL_WAIT = "pool-wait"  # method, url: a connection is asked for; this is where a request to a server begins
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
    RETRY = "retry"  # attempt: 2 for the second; error or status: why; delay: seconds until it begins
    FAILED = "failed"  # error


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

    :param pool_wait: for a connection, or the right to dial one.
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

    __slots__ = (
        "_at_connection",
        "_wall",
        "events",
        "keep_bytes",
        "left_out",
        "on_event",
        "received",
        "received_total",
        "sent",
        "sent_total",
    )

    def __init__(self, on_event: Callable[[TraceEvent], None] | None = None, keep_bytes: int = 0) -> None:
        if keep_bytes < 0:
            raise ValueError(f"Trace keep_bytes {keep_bytes}: must be at least 0")
        self.on_event = on_event
        self.keep_bytes = keep_bytes
        self.events: list[TraceEvent] = []
        self.left_out = 0
        self.sent = bytearray()
        self.received = bytearray()
        self.sent_total = 0
        self.received_total = 0
        self._at_connection: dict[int, tuple[int, int]] = {}  # of events got-connection: bytes sent and received before
        self._wall = time.time() - now()

    def __str__(self) -> str:
        from forebay.http.client.waterfall import waterfall  # which draws what is in here

        return waterfall(self)

    def __repr__(self) -> str:
        return f"<Trace {' '.join(event.step for event in self.events[-20:])}>"

    def mark(self, step: Step | str, at: float | None = None, **detail: Any) -> None:
        """``step`` has happened.

        :param at: when, on the monotonic clock; None: now.
        :raises ValueError: there is no such step.
        """
        self.watch(step, now() if at is None else at, detail)

    def watch(self, step: Step | str, at: float, detail: dict[str, Any]) -> None:
        """The same in the form that :func:`forebay.engine.dial.dial` calls."""
        event = TraceEvent(step if type(step) is Step else Step(step), at, detail)
        if len(self.events) < _MOST_EVENTS:
            if self.keep_bytes and event.step is Step.GOT_CONNECTION:
                self._at_connection[len(self.events)] = self.sent_total, self.received_total
            self.events.append(event)
        else:
            self.left_out += 1
        if self.on_event is not None:
            try:
                self.on_event(event)
            except Exception:  # whoever looks on must not break what it looks at
                log.exception("trace hook failed", step=event.step.value)

    def note_sent(self, data: bytes | bytearray | memoryview) -> None:
        """These bytes were sent; keep what there is room for."""
        self.sent_total += len(data)
        if (room := self.keep_bytes - len(self.sent)) > 0:
            self.sent += data[:room]

    def note_received(self, data: bytes | bytearray | memoryview) -> None:
        """These bytes were received; keep what there is room for."""
        self.received_total += len(data)
        if (room := self.keep_bytes - len(self.received)) > 0:
            self.received += data[:room]

    def wall(self, at: float) -> float:
        """Seconds since 1970 at a moment of the monotonic clock."""
        return self._wall + at

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The requests to servers that this was. Each redirect, replay and retry begins another one, and so does
        whoever asks for a connection after an answer, as authentication does."""
        parts: list[list[int]] = [[]]
        over = False  # the last part has its answer, or has failed
        for index, (step, _, _) in enumerate(self.events):
            if parts[-1] and (step in _BEGINS or (over and step is Step.POOL_WAIT)):
                parts.append([index])
                over = False
            elif step is Step.DONE and not over and len(parts) > 1:
                parts[-2].append(index)  # the rest of an answer that was left for the next
            else:
                parts[-1].append(index)
                over = over or step is Step.HEAD or step is Step.FAILED
        legs: list[Leg] = []
        end = self.sent_total, self.received_total
        for number in range(len(parts) - 1, -1, -1):
            if part := parts[number]:
                start = next((self._at_connection[index] for index in part if index in self._at_connection), end)
                start = start if number else (0, 0)
                events = tuple(self.events[index] for index in part)
                legs.append(Leg(events, (start[0], end[0]), (start[1], end[1])))
                end = start
        return tuple(reversed(legs))

    @property
    def times(self) -> Times:
        """Of the last leg."""
        legs = self.legs
        return legs[-1].times if legs else Times()


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
        reached = [self.at(step) for step in (Step.DNS_START, Step.CONNECT_START, Step.GOT_CONNECTION)]
        return Times(
            pool_wait=_between(self.at(Step.POOL_WAIT), min((at for at in reached if at is not None), default=None)),
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
