"""One connection that passes the fault proxy: the client's socket, the server's, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from forebay.engine.address import Address
from forebay.engine.loop import now
from forebay.testing.fault_flow import Flow
from forebay.testing.faults import Faults

__all__ = ["Passed", "Pipe"]

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_LINGER = 1.0  # seconds for which an orderly close takes, and drops, what still comes: it would be answered by a reset
# ... and for which a reset waits for those who do not take what came before it


@dataclass(frozen=True, slots=True)
class Passed:
    """A connection that has ended.

    ``end`` is why: ``"closed"`` (by both ends), ``"broken"`` (one end reset it, so the other was reset as well, behind
    what the first had sent),
    ``"unreachable"`` (the server could not be connected to), ``"reset"`` (by :meth:`FaultProxy.reset`),
    ``"cancelled"``, ``"cut_after"``, or the fault with its direction: ``"down.limit"``.
    """

    number: int
    client: str
    seconds: float
    bytes_up: int
    bytes_down: int
    end: str
    has_faults: tuple[bool, bool]
    """Whether it was among the share that has, upward and downward."""

    def __str__(self) -> str:
        amounts = f"{self.bytes_up} B up, {self.bytes_down} B down"
        return f"#{self.number} from {self.client}: {amounts}, {self.seconds:.3f} s, {self.end}"


class Pipe:
    """Forwards between a client and the target until either is gone or a fault ends it.

    :param peer: the client's address, as text.
    :param draw: from 0 to 1: it has the faults of a direction whose share is larger.
    :param cut_after: returns after how many bytes, both ways together, it is reset; None: never.
    """

    def __init__(
        self,
        client: socket.socket,
        peer: str,
        target: Address,
        *,
        number: int,
        faults: tuple[Faults, Faults],
        draw: float,
        seed: int,
        cut_after: Callable[[], int | None],
    ) -> None:
        self.number = number
        self.peer = peer
        self.target = target
        self.client = client
        self.server = socket.socket(socket.AF_INET6 if ":" in target.host else socket.AF_INET)
        self.end = "closed"
        self._reset = False
        self._began = now()
        self._cut_after = cut_after
        loop = asyncio.get_running_loop()
        self._closing: asyncio.Future[None] = loop.create_future()
        self._resetting: asyncio.Future[None] = loop.create_future()
        up, down = faults

        def flow(faults: Faults, source: socket.socket, sink: socket.socket, way: str) -> Flow:
            text = f"{seed} {number} {way}"
            return Flow(faults, source, sink, draw=draw, seed=text, left=self._left, end=self._end_by)

        self.up = flow(up, client, self.server, "up")
        self.down = flow(down, self.server, client, "down")

    async def run(self) -> None:
        """From the client's connection to its end. Close afterwards."""
        work = asyncio.get_running_loop().create_task(self._work())
        stops = {self._closing, self._resetting}
        try:
            await asyncio.wait({work, *stops}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.end, self._reset = "cancelled", True
            raise
        finally:
            work.cancel()
            await asyncio.wait({work})
        error = None if work.cancelled() else work.exception()
        if self._resetting.done():
            self._reset = True
        elif self._closing.done():
            await self._say_good_bye()
        elif error is not None:
            self._reset = True  # one end is broken: so is the other
            self.end = "unreachable" if isinstance(error, _Unreachable) else "broken"
        if error is not None and not isinstance(error, OSError):
            raise error

    def break_off(self) -> None:
        """Reset both ends as soon as the loop has its turn."""
        if not self._resetting.done():
            if not self._closing.done():
                self.end = "reset"
            self._resetting.set_result(None)

    def changed(self) -> None:
        """Do as the faults say from now on."""
        self.up.changed()
        self.down.changed()

    def close(self) -> None:
        """Close both ends, with a reset where there was one."""
        self.up.close()
        self.down.close()
        for sock in (self.client, self.server):
            if self._reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            sock.close()

    def passed(self) -> Passed:
        """What became of it."""
        flows = (self.up, self.down)
        up, down = (flow.forwarded for flow in flows)
        has = (flows[0].has_faults, flows[1].has_faults)
        return Passed(self.number, self.peer, now() - self._began, up, down, self.end, has)

    def _left(self) -> int | None:
        most = self._cut_after()
        return None if most is None else most - self.up.forwarded - self.down.forwarded

    def _end_by(self, flow: Flow, name: str) -> None:
        if self._closing.done() or self._resetting.done():
            return
        if name == "cut_after":
            self.end = name
        else:
            flow.faults.counts[name] += 1
            self.end = f"{'up' if flow is self.up else 'down'}.{name}"
        stop = self._closing if name in ("timeout", "limit") else self._resetting
        stop.set_result(None)

    async def _work(self) -> None:
        """Return when both ends have said all; raise what broke one."""
        loop = asyncio.get_running_loop()
        self.server.setblocking(False)
        await self.up.passable()
        try:
            await loop.sock_connect(self.server, (self.target.host, self.target.port))
        except OSError as error:
            raise _Unreachable from error
        for sock in (self.client, self.server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        up, down = self.up, self.down
        parts = ((up.read(), up), (up.write(), down), (down.read(), down), (down.write(), up))
        tasks = [loop.create_task(_break_behind(work, said)) for work, said in parts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                if not task.cancelled():
                    task.exception()  # the first one was looked at

    async def _say_good_bye(self) -> None:
        """Tell both ends that nothing more comes, and drop what they still say until they have heard it."""
        for flow in (self.up, self.down):
            flow.shut_sink()
        loop = asyncio.get_running_loop()
        hearing = [loop.create_task(_drop(sock)) for sock in (self.client, self.server)]
        both = loop.create_task(_all(hearing))
        try:
            await asyncio.wait({both, self._resetting}, timeout=_LINGER, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = [both, *hearing]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


class _Unreachable(OSError):
    pass


async def _break_behind(work: Coroutine[Any, Any, None], said: Flow) -> None:
    """Do ``work``. If the end that ``said`` comes from turns out to be broken, that is raised behind what it said."""
    try:
        await work
    except OSError:
        await said.heard_out(_LINGER)
        raise


async def _all(tasks: Iterable[asyncio.Task[None]]) -> None:
    await asyncio.wait(list(tasks))


async def _drop(sock: socket.socket) -> None:
    """Read to the end."""
    loop = asyncio.get_running_loop()
    try:
        while await loop.sock_recv(sock, 65536):
            pass
    except OSError:  # it is broken, or never was connected
        return
