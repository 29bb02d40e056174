"""A TCP proxy that stands between a client and its server, and does to their connections what networks do."""

from __future__ import annotations

import asyncio
import random
import socket
import struct

from forebay.engine.address import Address, parse_address

__all__ = ["FaultProxy"]

_CHUNK = 64 * 1024
_IN_FLIGHT = 64  # chunks under way, per direction, while there is latency
_SLICES_PER_SECOND = 50  # in which a limited bandwidth is dealt out
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class FaultProxy:
    """Forwards TCP connections from a port of 127.0.0.1 to ``target``, with faults that can be switched while it runs.

    ::

        async with FaultProxy("tcp://127.0.0.1:7000") as proxy:
            client = await dial(proxy.address)
            proxy.latency = 0.2
            await proxy.reset()

    Faults, all off at first:

    * ``latency``, ``jitter``: seconds that everything takes longer, each way, and up to how much more by chance. What
      was sent first arrives first all the same.
    * ``bandwidth``: bytes per second, per connection and direction; ``None``: no limit.
    * ``black_hole``: connections are accepted and kept open, and nothing is forwarded either way, ends included. What
      was sent meanwhile arrives when it is switched off.
    * ``cut_after``: connections are reset once this many bytes were forwarded, both ways together; ``None``: never.
    * :meth:`reset`, :meth:`half_close`, :meth:`refuse` and :meth:`accept`, :meth:`flap`.

    Counters: ``accepted`` (connections), ``bytes_up`` (to the server), ``bytes_down`` (to the client), ``resets``
    (connections reset by :meth:`reset`), ``cuts`` (by ``cut_after``), ``unreachable`` (connections reset because the
    server could not be connected to).

    :param seed: of the jitter.
    :raises ValueError: ``target`` is not an address ``tcp://host:port``.
    """

    def __init__(
        self,
        target: str | Address,
        *,
        latency: float = 0.0,
        jitter: float = 0.0,
        bandwidth: float | None = None,
        cut_after: int | None = None,
        seed: int = 0,
    ) -> None:
        self.target = parse_address(target) if isinstance(target, str) else target
        self.latency = latency
        self.jitter = jitter
        self.bandwidth = bandwidth
        self.cut_after = cut_after
        self.accepted = self.bytes_up = self.bytes_down = self.resets = self.cuts = self.unreachable = 0
        self.random = random.Random(seed)  # noqa: S311 - it shakes the latency, nothing is secret
        self._open = asyncio.Event()
        self._open.set()
        self._port_keeper: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._pipes: dict[_Pipe, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<FaultProxy to {self.target} connections={self.connections} accepted={self.accepted}>"

    @property
    def address(self) -> Address:
        """Where it listens. It stays the same while connections are refused.

        :raises RuntimeError: it is not running.
        """
        if self._port_keeper is None:
            raise RuntimeError("the proxy is not running")
        return Address("tcp", "127.0.0.1", self._port_keeper.getsockname()[1])

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._pipes)

    @property
    def black_hole(self) -> bool:
        """Whether nothing is forwarded."""
        return not self._open.is_set()

    @black_hole.setter
    def black_hole(self, value: bool) -> None:
        if value:
            self._open.clear()
        else:
            self._open.set()

    async def __aenter__(self) -> FaultProxy:
        # The port is ours as long as this socket is bound to it; that it does not listen refuses connections.
        self._port_keeper = _bound(0)
        self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            self.refuse()
            await self.reset()
        finally:
            if self._port_keeper is not None:
                self._port_keeper.close()
                self._port_keeper = None

    # Faults

    def accept(self) -> None:
        """Take connections, as at first. Undoes :meth:`refuse`."""
        if self._listener is None:
            self._listener = _bound(self.address.port)
            self._listener.listen(128)
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def refuse(self) -> None:
        """Refuse new connections until :meth:`accept`. Those that are open stay so."""
        listener, self._listener = self._listener, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()

    async def reset(self) -> int:
        """Break every connection that is open, both ways, with a reset; return when they are gone.

        :return: how many there were.
        """
        pipes = dict(self._pipes)
        for pipe, task in pipes.items():
            pipe.reset = True
            task.cancel()
        if pipes:
            await asyncio.wait(list(pipes.values()))
        self.resets += len(pipes)
        return len(pipes)

    def half_close(self) -> int:
        """Tell every client that the server sends nothing more, though it may. What clients send is still forwarded.

        :return: how many connections there were.
        """
        for pipe in self._pipes:
            pipe.end_of_server()
        return len(self._pipes)

    async def flap(self, times: int, *, up: float, down: float) -> None:
        """Go down and come up again, ``times`` times: reset what is open and refuse for ``down`` seconds, then accept
        for ``up`` seconds."""
        for _ in range(times):
            self.refuse()
            await self.reset()
            await asyncio.sleep(down)
            self.accept()
            await asyncio.sleep(up)

    # What is behind them

    async def passable(self) -> None:
        """Return when it is no black hole."""
        await self._open.wait()

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:  # it left again
            return
        client.setblocking(False)
        self.accepted += 1
        pipe = _Pipe(self, client)
        task = self._pipes[pipe] = asyncio.get_running_loop().create_task(pipe.run())
        task.add_done_callback(lambda _: self._ended(pipe))

    def _ended(self, pipe: _Pipe) -> None:
        del self._pipes[pipe]
        pipe.close()


class _Pipe:
    """One connection: the client's socket, the server's, and what goes on between them."""

    def __init__(self, proxy: FaultProxy, client: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.server = socket.socket()
        self.reset = False
        self.forwarded = 0
        self.server_ended = False  # the client was told that it has

    async def run(self) -> None:
        """From the client's connection to its end."""
        self.server.setblocking(False)
        await self.proxy.passable()
        target = self.proxy.target
        try:
            await asyncio.get_running_loop().sock_connect(self.server, (target.host, target.port))
        except OSError:
            self.proxy.unreachable += 1
            self.reset = True
            return
        for sock in (self.client, self.server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await self._forward()

    def close(self) -> None:
        """Close both ends, with a reset where there was one."""
        for sock in (self.client, self.server):
            if self.reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            sock.close()

    def end_of_server(self) -> None:
        """Tell the client that nothing more comes."""
        if not self.server_ended:
            self.server_ended = True
            _shut(self.client)

    async def _forward(self) -> None:
        """Return when both ends have said all, or as soon as one is broken."""
        directions: list[asyncio.Queue[tuple[float, bytes]]] = [asyncio.Queue(_IN_FLIGHT), asyncio.Queue(_IN_FLIGHT)]
        upward, downward = directions
        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(self._read(self.client, upward)),
            loop.create_task(self._read(self.server, downward)),
            loop.create_task(self._write(upward, self.server)),
            loop.create_task(self._write(downward, self.client)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done() and (error := task.exception()) is not None:
                    self.reset = True  # one end is broken: so is the other
                    if not isinstance(error, OSError):
                        raise error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                if not task.cancelled():
                    task.exception()  # the first one was looked at

    async def _read(self, source: socket.socket, under_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop = asyncio.get_running_loop()
        proxy = self.proxy
        due = 0.0
        data = b"?"
        while data:
            await proxy.passable()
            data = await loop.sock_recv(source, _CHUNK)
            late = proxy.latency + (proxy.jitter * proxy.random.random() if proxy.jitter else 0.0)
            due = max(due, loop.time() + late)
            await under_way.put((due, data))

    async def _write(self, under_way: asyncio.Queue[tuple[float, bytes]], sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        proxy = self.proxy
        while True:
            due, data = await under_way.get()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            if not data:
                await proxy.passable()
                if sink is self.client:
                    self.end_of_server()
                else:
                    _shut(sink)
                return
            if sink is self.client and self.server_ended:
                continue
            await self._deliver(sink, data)

    async def _deliver(self, sink: socket.socket, data: bytes) -> None:
        """Send ``data`` as fast as the bandwidth allows, up to where the connection is cut."""
        loop = asyncio.get_running_loop()
        proxy = self.proxy
        rest = memoryview(data)
        while rest:
            most = len(rest)
            if proxy.bandwidth is not None:
                most = min(most, max(1, int(proxy.bandwidth / _SLICES_PER_SECOND)))
            if proxy.cut_after is not None:
                most = min(most, max(0, proxy.cut_after - self.forwarded))
            if proxy.bandwidth is not None:
                await asyncio.sleep(most / proxy.bandwidth)
            await proxy.passable()
            part, rest = rest[:most], rest[most:]
            self.forwarded += most
            if sink is self.client:
                proxy.bytes_down += most
            else:
                proxy.bytes_up += most
            await loop.sock_sendall(sink, part)
            if proxy.cut_after is not None and self.forwarded >= proxy.cut_after:
                proxy.cuts += 1
                raise ConnectionResetError("cut")


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return sock


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:  # it is broken, which its reader finds out
        return
