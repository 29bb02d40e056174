"""Happy Eyeballs: connecting to a name that has several addresses, some of which may lead nowhere (RFC 8305).

:class:`Race` decides which address is tried when, without sockets and without a clock; :func:`connect_first` does it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from forebay.engine.loop import now

__all__ = [
    "ATTEMPT_DELAY",
    "MOST_ADDRESSES",
    "AddressInfo",
    "NoneAnswered",
    "Observer",
    "Race",
    "connect_first",
    "interleave",
    "why",
]

ATTEMPT_DELAY = 0.25
"""Seconds an attempt is given before the next address is tried beside it (RFC 8305 section 5)."""

MOST_ADDRESSES = 32
"""Addresses of one name that are tried; what a name server gives past them is left out."""

_MOST_NAMED = 8  # addresses in an error message

AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
"""What ``getaddrinfo`` gives for each address."""

T = TypeVar("T")


def interleave(found: Sequence[AddressInfo]) -> list[AddressInfo]:
    """The order in which addresses are tried: the families take turns, so that one broken family costs one attempt.

    The family of the first address begins, and addresses of one family keep their order, which is the system's
    (RFC 6724). Addresses that came twice are tried once; at most 32 are kept. RFC 8305 section 4.
    """
    families: dict[int, deque[AddressInfo]] = {}
    for info in dict.fromkeys(found):
        families.setdefault(info[0], deque()).append(info)
    ordered: list[AddressInfo] = []
    while families and len(ordered) < MOST_ADDRESSES:
        for family in list(families):
            ordered.append(families[family].popleft())
            if not families[family]:
                del families[family]
    return ordered[:MOST_ADDRESSES]


class Race(Generic[T]):
    """Which attempt starts when. An attempt gets a head start of ``delay``; when one fails, the next starts at once.

    :param candidates: in the order in which they are tried.
    :param delay: seconds, at least 0.
    """

    __slots__ = ("_delay", "_due_at", "_running", "_waiting", "failures")

    def __init__(self, candidates: Sequence[T], delay: float = ATTEMPT_DELAY) -> None:
        self._waiting = deque(candidates)
        self._delay = delay
        self._due_at = 0.0  # when the next one starts, unless one fails before
        self._running = 0
        self.failures: list[tuple[T, OSError]] = []

    @property
    def lost(self) -> bool:
        """Whether every candidate has failed."""
        return not self._waiting and not self._running

    def start(self, now: float) -> T | None:
        """The candidate to try now; ``None``: not yet, or none is left."""
        if not self._waiting or (self._running and now < self._due_at):
            return None
        self._running += 1
        self._due_at = now + self._delay
        return self._waiting.popleft()

    def wait(self, now: float) -> float | None:
        """Seconds until :meth:`start` gives the next candidate; ``None``: only a result can change anything."""
        if not self._waiting:
            return None
        return max(0.0, self._due_at - now) if self._running else 0.0

    def failed(self, candidate: T, error: OSError, now: float) -> None:
        """``candidate`` did not make it: the next one need not wait any longer."""
        self._running -= 1
        self._due_at = now
        self.failures.append((candidate, error))


class NoneAnswered(OSError):
    """No address could be connected to. The text says why not, for each."""

    def __init__(self, failures: Sequence[tuple[AddressInfo, OSError]]) -> None:
        self.failures = tuple(failures)
        super().__init__(_summary(self.failures))


def _summary(failures: Sequence[tuple[AddressInfo, OSError]]) -> str:
    if len(failures) == 1:
        return why(failures[0][1])
    reasons: dict[str, list[str]] = {}
    for info, error in failures[:_MOST_NAMED]:
        reasons.setdefault(why(error), []).append(str(info[4][0]))
    texts = [f"{reason} ({', '.join(hosts)})" for reason, hosts in reasons.items()]
    if (left := len(failures) - _MOST_NAMED) > 0:
        texts.append(f"and {left} more")
    return ", ".join(texts)


def why(error: OSError) -> str:
    """The reason for ``error`` in a few lower-case words."""
    if isinstance(error, socket.gaierror):
        if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
            return "its host name is not known"
        return f"its host name could not be looked up: {(error.strerror or 'it is not said why').lower()}"
    return os.strerror(error.errno).lower() if error.errno else str(error)


class Observer(Protocol):
    """Hears of each attempt: that it starts, and then one of how it ended and that it was given up. Must not raise."""

    def started(self, info: AddressInfo) -> None:
        """An attempt begins."""

    def ended(self, info: AddressInfo, error: OSError | None) -> None:
        """It failed; ``None``: it won."""

    def given_up(self, info: AddressInfo) -> None:
        """Nobody waits for it any more: another one won, or all of it was cancelled."""


async def connect_first(
    addresses: Sequence[AddressInfo],
    delay: float = ATTEMPT_DELAY,
    *,
    in_order: bool = False,
    observer: Observer | None = None,
) -> socket.socket:
    """A connected, non-blocking socket to whichever address answers first. All other attempts are closed by then.

    There is no timeout in here: who cancels it finds every socket closed.

    :param in_order: they are tried in the order they have, which is not that of :func:`interleave`.
    :raises NoneAnswered: no address could be connected to.
    """
    candidates = addresses[:MOST_ADDRESSES] if in_order else interleave(addresses)
    runners = _Runners(Race(candidates, delay), observer)
    try:
        return await runners.winner
    except asyncio.CancelledError:
        runners.give_up()
        raise
    finally:
        runners.stop()


class _Runners:
    """The attempts of one race. They are sockets the loop watches, and no tasks: stopping them takes no waiting."""

    def __init__(self, race: Race[AddressInfo], observer: Observer | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._race = race
        self._observer = observer
        self._sockets: dict[socket.socket, AddressInfo] = {}
        self._next: asyncio.TimerHandle | None = None
        self.winner: asyncio.Future[socket.socket] = self._loop.create_future()
        self._go_on()

    def _go_on(self) -> None:
        """Start what may start; see to it that the next is not forgotten."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        while not self.winner.done() and (info := self._race.start(now())) is not None:
            self._start(info)
        if self.winner.done():
            return
        if self._race.lost:
            self.winner.set_exception(NoneAnswered(self._race.failures))
        elif (seconds := self._race.wait(now())) is not None:
            self._next = self._loop.call_later(seconds, self._go_on)

    def _start(self, info: AddressInfo) -> None:
        family, kind, protocol, _, where = info
        if self._observer is not None:
            self._observer.started(info)
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            sock.connect(where)
        except (BlockingIOError, InterruptedError):
            assert sock is not None
            self._sockets[sock] = info
            self._loop.add_writer(sock, self._decided, sock)
        except OSError as error:
            if sock is not None:
                sock.close()
            self._failed(info, error)
        else:
            self._won(sock)
            if self._observer is not None:
                self._observer.ended(info, None)

    def _decided(self, sock: socket.socket) -> None:
        """The kernel knows how the attempt ended."""
        self._loop.remove_writer(sock)
        info = self._sockets.pop(sock)
        if self.winner.done():
            sock.close()
            if self._observer is not None:
                self._observer.given_up(info)
            return
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number == 0:
            self._won(sock)
            if self._observer is not None:
                self._observer.ended(info, None)
            return
        sock.close()
        self._failed(info, OSError(number, os.strerror(number)))
        self._go_on()

    def _failed(self, info: AddressInfo, error: OSError) -> None:
        self._race.failed(info, error, now())
        if self._observer is not None:
            self._observer.ended(info, error)

    def _won(self, sock: socket.socket) -> None:
        self.winner.set_result(sock)

    def give_up(self) -> None:
        """Nobody fetches the winner, though there may have been one in the very last moment."""
        if self.winner.done() and not self.winner.cancelled() and self.winner.exception() is None:
            self.winner.result().close()

    def stop(self) -> None:
        """Close every attempt that has not won."""
        if self._next is not None:
            self._next.cancel()
        for sock, info in self._sockets.items():
            self._loop.remove_writer(sock)
            sock.close()
            if self._observer is not None:
                self._observer.given_up(info)
        self._sockets.clear()
