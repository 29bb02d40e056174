"""A TCP proxy that stands between a client and its server, and does to their connections what networks do."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, Unpack, cast, overload

from forebay.engine.address import ANY_HOST, Address, join_host_port, parse_address
from forebay.engine.loop import now
from forebay.testing.fault_pipe import Passed, Pipe
from forebay.testing.fault_script import Change, Script, check_change, check_flapping
from forebay.testing.faults import SETTINGS, Faults, FaultSettings

__all__ = ["FaultProxy"]

T = TypeVar("T")

_BACKLOG = 2048  # a connection that finds it full tries again a second later, which is no fault that was asked for
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_ACCEPT_AGAIN = 0.1  # seconds after which a system that was exhausted is asked again


class _Both(Generic[T]):
    """A setting of both directions."""

    __slots__ = ("name",)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, proxy: None, owner: type) -> _Both[T]: ...

    @overload
    def __get__(self, proxy: FaultProxy, owner: type) -> T: ...

    def __get__(self, proxy: FaultProxy | None, owner: type) -> _Both[T] | T:
        if proxy is None:
            return self
        up, down = getattr(proxy.up, self.name), getattr(proxy.down, self.name)
        if up != down:
            raise RuntimeError(f"{self.name} is {up!r} upward and {down!r} downward: ask proxy.up or proxy.down")
        return cast(T, up)

    def __set__(self, proxy: FaultProxy, value: T) -> None:
        for faults in (proxy.up, proxy.down):
            setattr(faults, self.name, value)


class FaultProxy:
    """Forwards TCP connections from a port to ``target``, with faults that can be switched while it runs.

    ::

        async with FaultProxy("tcp://127.0.0.1:7000") as proxy:
            client = await dial(proxy.address)
            proxy.latency = 0.2
            proxy.down.bandwidth = 100_000
            await proxy.reset()

    ``up`` (from clients to the server) and ``down`` (from the server to clients) have the faults of one direction each:
    see :class:`Faults`. Each is an attribute of the proxy as well. Setting that sets both; reading it raises
    ``RuntimeError`` while they differ. A connection is made to the server only when upward is no black hole.

    Besides, of the proxy as a whole:

    * ``cut_after``: connections are reset once this many bytes were forwarded, both ways together; ``None``: never.
    * ``flapping``: ``(up, down)``: it accepts connections for so many seconds, then resets all and refuses new ones for
      so many, and so on; ``None``: it does not, which accepts again.
    * :meth:`reset`, :meth:`half_close`, :meth:`refuse` and :meth:`accept`, :meth:`flap`, :meth:`clear`.
    * :meth:`play`: all of that by a script.

    Counters: ``accepted`` (connections), ``bytes_up``, ``bytes_down``, ``resets`` (connections reset by :meth:`reset`
    and by flapping), ``cuts`` (by ``cut_after``), ``unreachable`` (connections reset because the server could not be
    connected to), ``flaps`` (how often it went down), and ``counts`` of ``up`` and ``down``. All are in
    :meth:`statistics`.

    A direction holds 128 KiB at most per connection (and a read), so that one whose receiver is slow is slow for its
    sender as well. With latency it holds what is under way: twice the bandwidth's worth, at most 16 MiB.

    :param target: ``tcp://host:port``. A name is looked up as an IPv4 address.
    :param listen: where; port 0: any free one.
    :param seed: of chance: the same connections, in the same order, draw the same numbers.
    :param on_passed: called with each connection that has ended.
    :param faults: of both directions.
    :raises ValueError: an address is none, or a fault is out of its bounds.
    """

    __slots__ = (
        "_bytes",
        "_cut_after",
        "_draws",
        "_flapping",
        "_flapping_task",
        "_listener",
        "_pipes",
        "_port_keeper",
        "accepted",
        "cuts",
        "down",
        "flaps",
        "listen",
        "on_passed",
        "resets",
        "seed",
        "target",
        "unreachable",
        "up",
    )

    latency: _Both[float] = _Both()
    jitter: _Both[float] = _Both()
    bandwidth: _Both[float | None] = _Both()
    slice: _Both[int | None] = _Both()
    slice_pause: _Both[float] = _Both()
    reset_after: _Both[float | None] = _Both()
    reset_after_bytes: _Both[int | None] = _Both()
    timeout: _Both[float | None] = _Both()
    black_hole: _Both[bool] = _Both()
    limit: _Both[int | None] = _Both()
    share: _Both[float] = _Both()

    def __init__(
        self,
        target: str | Address,
        *,
        listen: str | Address = "tcp://127.0.0.1:0",
        cut_after: int | None = None,
        seed: int = 0,
        on_passed: Callable[[Passed], None] | None = None,
        **faults: Unpack[FaultSettings],
    ) -> None:
        self.target = parse_address(target) if isinstance(target, str) else target
        self.listen = parse_address(listen) if isinstance(listen, str) else listen
        self.cut_after = cut_after
        self.seed = seed
        self.on_passed = on_passed
        self.up = Faults(self._changed, **faults)
        self.down = Faults(self._changed, **faults)
        self.accepted = self.resets = self.cuts = self.unreachable = self.flaps = 0
        self._bytes = [0, 0]  # of connections that have ended
        self._draws = random.Random(seed)  # noqa: S311 - it picks those that have faults, nothing is secret
        self._port_keeper: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._pipes: dict[Pipe, asyncio.Task[None]] = {}
        self._flapping: tuple[float, float] | None = None
        self._flapping_task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<FaultProxy to {self.target} connections={self.connections} accepted={self.accepted}>"

    @property
    def address(self) -> Address:
        """Where it listens. It stays the same while connections are refused.

        :raises RuntimeError: it is not running.
        """
        if self._port_keeper is None:
            raise RuntimeError("the proxy is not running")
        return Address("tcp", *self._port_keeper.getsockname()[:2])

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._pipes)

    @property
    def bytes_up(self) -> int:
        """Bytes forwarded to the server."""
        return self._bytes[0] + sum(pipe.up.forwarded for pipe in self._pipes)

    @property
    def bytes_down(self) -> int:
        """Bytes forwarded to clients."""
        return self._bytes[1] + sum(pipe.down.forwarded for pipe in self._pipes)

    @property
    def held(self) -> int:
        """Bytes that were read and not forwarded yet, of all connections and both ways, and what keeping them takes."""
        return sum(pipe.up.held + pipe.down.held for pipe in self._pipes)

    @property
    def flapping(self) -> tuple[float, float] | None:
        """Seconds up and seconds down; None: it is up all the time."""
        return self._flapping

    @flapping.setter
    def flapping(self, value: tuple[float, float] | None) -> None:
        self._flapping = check_flapping(value)
        self._follow_flapping()

    @property
    def cut_after(self) -> int | None:
        """Bytes, both ways together, after which connections are reset; None: never."""
        return self._cut_after

    @cut_after.setter
    def cut_after(self, value: int | None) -> None:
        self._cut_after: int | None = SETTINGS["limit"].checked("cut_after", value)

    def statistics(self) -> dict[str, Any]:
        """All counters, and those of the faults of each direction."""
        return {
            "accepted": self.accepted,
            "connections": self.connections,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "held": self.held,
            "resets": self.resets,
            "cuts": self.cuts,
            "unreachable": self.unreachable,
            "flaps": self.flaps,
            "up": dict(self.up.counts),
            "down": dict(self.down.counts),
        }

    async def __aenter__(self) -> FaultProxy:
        # The port is ours as long as this socket is bound to it; that it does not listen refuses connections.
        self._port_keeper = _bound(self.listen)
        try:
            self.accept()
        except BaseException:
            self._close_port()
            raise
        self._follow_flapping()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            flapping, self._flapping_task = self._flapping_task, None
            if flapping is not None:
                flapping.cancel()
                await asyncio.wait({flapping})
        finally:
            self.refuse()
            self._close_port()  # first, as the rest may be cancelled
            await self.reset()

    def _close_port(self) -> None:
        if self._port_keeper is not None:
            self._port_keeper.close()
            self._port_keeper = None

    # Faults

    def set(self, **settings: Unpack[FaultSettings]) -> None:
        """Change several faults of both directions at once: all or, when one is wrong, none."""
        for faults in (self.up, self.down):
            faults.set(**settings)

    def clear(self) -> None:
        """Switch all faults off, and accept connections. Those that are open stay so."""
        self.up.clear()
        self.down.clear()
        self.cut_after = None
        self.flapping = None
        if self._port_keeper is not None:
            self.accept()

    def accept(self) -> None:
        """Take connections, as at first. Undoes :meth:`refuse`."""
        if self._listener is None:
            if self._port_keeper is None:
                raise RuntimeError("the proxy is not running")
            self._listener = _bound_like(self._port_keeper)
            self._listener.listen(_BACKLOG)
            self._watch(self._listener)

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
        self.resets += len(pipes)
        for pipe in pipes:
            pipe.break_off()
        if pipes:
            await asyncio.wait(list(pipes.values()))
        return len(pipes)

    def half_close(self) -> int:
        """Tell every client that the server sends nothing more, though it may. What clients send is still forwarded.

        :return: how many connections there were.
        """
        for pipe in self._pipes:
            pipe.down.shut_sink()
        return len(self._pipes)

    async def flap(self, times: int, *, up: float, down: float) -> None:
        """Go down and come up again, ``times`` times: reset what is open and refuse for ``down`` seconds, then accept
        for ``up`` seconds."""
        for _ in range(times):
            await self._go_down(down)
            await asyncio.sleep(up)

    async def play(self, script: Script | Iterable[tuple[float, Change]], *, loops: int | None = None) -> None:
        """Do what the script says when it says so; return after its last step. Its faults then stay as they are.

        ::

            await proxy.play([
                (0.0, {"latency": 0.2, "down": {"bandwidth": 100_000}}),
                (5.0, {"clear": True, "reset": True}),
            ])

        A step's changes are faults by name (of both directions), ``up`` and ``down`` (dictionaries of faults),
        ``cut_after``, ``flapping``, ``refuse`` (True or False), and, with True, ``clear``, ``half_close``, ``reset``.
        A step that is late, as the program was busy, does not make those after it late.

        :param loops: how often, if not as the script says; 0: for ever.
        :raises ValueError: a step is not one, with its number and what would be valid. Nothing was done.
        """
        if not isinstance(script, Script):
            script = Script(tuple(script), 1 if loops is None else loops)
        elif loops is not None:
            script = Script(script.steps, loops)
        began = now()
        played = 0
        while script.loops == 0 or played < script.loops:
            for at, change in script.steps:
                await asyncio.sleep(max(0.0, began + at - now()))
                await self.apply(change)
            began += script.steps[-1][0] if script.steps else 0.0
            played += 1

    async def apply(self, change: Change) -> None:
        """Do what one step of a script says, at once.

        :raises ValueError: it cannot be done, with what is valid. Nothing was done.
        """
        check_change(change)
        if change.get("clear"):
            self.clear()
        self.set(**cast(FaultSettings, {name: value for name, value in change.items() if name in SETTINGS}))
        self.up.set(**change.get("up", {}))
        self.down.set(**change.get("down", {}))
        self.cut_after = change.get("cut_after", self.cut_after)
        if "flapping" in change:
            self.flapping = change["flapping"]
        if "refuse" in change:
            (self.refuse if change["refuse"] else self.accept)()
        if change.get("half_close"):
            self.half_close()
        if change.get("reset"):
            await self.reset()

    # What is behind them

    def _changed(self) -> None:
        for pipe in self._pipes:
            pipe.changed()

    async def _go_down(self, seconds: float) -> None:
        self.flaps += 1
        self.refuse()
        await self.reset()
        await asyncio.sleep(seconds)
        self.accept()

    def _follow_flapping(self) -> None:
        """Begin what ``flapping`` says, in place of what it said before."""
        if self._port_keeper is None:
            return
        if self._flapping_task is not None:
            self._flapping_task.cancel()
            self._flapping_task = None
            self.accept()
        if self._flapping is not None:
            self._flapping_task = asyncio.get_running_loop().create_task(self._flap_on(*self._flapping))

    async def _flap_on(self, up: float, down: float) -> None:
        while True:
            await asyncio.sleep(up)
            await self._go_down(down)

    def _watch(self, listener: socket.socket) -> None:
        if listener is self._listener:  # else it is closed
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, peer = listener.accept()
        except OSError as error:  # it left again, or there are too many: to ask for them in every turn is in vain
            if error.errno in _EXHAUSTED:
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                loop.call_later(_ACCEPT_AGAIN, self._watch, listener)
            return
        client.setblocking(False)
        self.accepted += 1
        try:
            pipe = Pipe(
                client,
                join_host_port(*peer[:2]),
                self.target,
                number=self.accepted,
                faults=(self.up, self.down),
                draw=self._draws.random(),
                seed=self.seed,
                cut_after=lambda: self.cut_after,
            )
        except OSError:  # too many open files: there is none for the connection to the server
            client.close()
            self.unreachable += 1
            return
        task = self._pipes[pipe] = asyncio.get_running_loop().create_task(pipe.run())
        task.add_done_callback(lambda _: self._ended(pipe))

    def _ended(self, pipe: Pipe) -> None:
        del self._pipes[pipe]
        pipe.close()
        passed = pipe.passed()
        self._bytes[0] += passed.bytes_up
        self._bytes[1] += passed.bytes_down
        self.unreachable += passed.end == "unreachable"
        self.cuts += passed.end == "cut_after"
        if self.on_passed is not None:
            self.on_passed(passed)


def _bound(listen: Address) -> socket.socket:
    """A socket bound to where we listen.

    :raises OSError: that is not possible.
    """
    if listen.host == ANY_HOST and socket.has_dualstack_ipv6():
        return _bound_to(socket.AF_INET6, ("::", listen.port), both=True)
    name = None if listen.host == ANY_HOST else listen.host
    found = socket.getaddrinfo(name, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, where = found[0]
    return _bound_to(family, where)


def _bound_like(sock: socket.socket) -> socket.socket:
    is_six = sock.family == socket.AF_INET6
    both = is_six and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return _bound_to(sock.family, sock.getsockname(), both=both)


def _bound_to(family: int, where: Any, *, both: bool = False) -> socket.socket:
    """:param both: take connections of IPv4 at an address of IPv6."""
    sock = socket.socket(family)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        sock.bind(where)
    except BaseException:
        sock.close()
        raise
    return sock
