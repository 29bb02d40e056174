"""A gateway for devices: they connect and log in, send readings and heartbeats, and are sent commands.

Run it, connect a thousand devices, and be their operator::

    forebay run examples.device_gateway:server
    python -m examples.device_simulator --devices 1000
    nc 127.0.0.1 7301

A device has ``LOGIN_TIMEOUT`` to say who it is and to prove it. When it connects again, the new connection replaces the
old one: devices come back before we know that they were gone. Every ``HEARTBEAT`` of silence it is pinged, and given up
after three pings. Where devices are is known in this process alone, so this runs with one worker.
"""

from __future__ import annotations

import hmac
import re
from collections import OrderedDict
from itertools import count

import msgspec

from examples import device_protocol as wire
from forebay import Connection, TCPServer, framing
from forebay.engine import Future, Heartbeat, Keepalive, now, timeout
from forebay.errors import ConnectionClosed, DeadlineExceeded, ForebayError, Overloaded
from forebay.observe.metrics import Family, merge
from forebay.service import Group

MOST_DEVICES = 20_000  # connected
MOST_KNOWN = 100_000  # of those that were, and are not
MOST_COMMANDS = 8  # of one device, that are not acknowledged yet
LOGIN_TIMEOUT = 5.0  # seconds
HEARTBEAT = 30.0
COMMAND_TIMEOUT = 5.0

DEVICE = re.compile(r"[A-Za-z0-9._-]{1,64}")
HELP = "* COUNT, SEEN device, SEND device command, QUIT"


class Device:
    """A device that is logged in."""

    def __init__(self, name: str, conn: Connection) -> None:
        self.name = name
        self.conn = conn
        self.reading: dict[str, float] = {}
        self.commands: dict[int, Future[str]] = {}
        self._numbers = count(1)

    async def command(self, name: str, deadline: float) -> str:
        """Have it do something; once it has acknowledged that: why it could not, or nothing.

        :raises Overloaded: too many of its commands are not acknowledged.
        :raises DeadlineExceeded: there was no acknowledgement in time; it may have been done all the same.
        :raises ConnectionClosed: its connection ended before; the same goes for that.
        """
        if len(self.commands) >= MOST_COMMANDS:
            raise Overloaded("device-commands", f"{self.name} has {MOST_COMMANDS} commands to acknowledge already")
        number = next(self._numbers)
        acknowledged = self.commands[number] = Future[str]()
        try:
            async with timeout(deadline):
                await self.conn.send(wire.encode(wire.Command(number, name)))
                return await acknowledged
        except TimeoutError:
            raise DeadlineExceeded(f"{self.name} did not acknowledge {name} within {deadline:g} s") from None
        finally:
            del self.commands[number]

    def on_message(self, message: wire.Reading | wire.Acknowledge) -> None:
        """What it says once it is logged in."""
        if isinstance(message, wire.Reading):
            self.reading = message.values
            return
        waiting = self.commands.get(message.number)  # None: it comes after the deadline
        if waiting is not None and not waiting.done():
            waiting.set_result(message.error)

    def gone(self) -> None:
        """Its connection has ended."""
        for waiting in self.commands.values():
            if not waiting.done():
                waiting.set_exception(ConnectionClosed(f"{self.name} is gone"))


class Gateway:
    """Where the devices are."""

    def __init__(self, login_timeout: float, command_timeout: float) -> None:
        self.devices: dict[str, Device] = {}
        self.seen: OrderedDict[str, float] = OrderedDict()  # when the devices that are gone were last heard
        self.replaced = self.refused = 0
        self._login_timeout = login_timeout
        self._command_timeout = command_timeout

    async def serve(self, conn: Connection) -> None:
        """One device's connection."""
        name = await self._login(conn)
        if name is None:
            return
        device = Device(name, conn)
        self._enter(device)
        try:
            await conn.send(wire.encode(wire.Welcome()))
            async for frame in conn:
                device.on_message(wire.from_device.decode(frame))
        except msgspec.MsgspecError as error:
            conn.write(wire.encode(wire.Refused(f"not understood: {error}")))
        finally:
            device.gone()
            self._leave(device)

    async def _login(self, conn: Connection) -> str | None:
        try:
            login = wire.login_of.decode(await conn.receive(timeout=self._login_timeout))
            proved = hmac.compare_digest(login.token.encode(), wire.token_of(login.device).encode())  # in constant time
            if proved and DEVICE.fullmatch(login.device):
                return login.device
            why = "that is not the device's token"
        except (DeadlineExceeded, msgspec.MsgspecError):
            why = f"a login must come first, within {self._login_timeout:g} s"
        self.refused += 1
        conn.write(wire.encode(wire.Refused(why)))
        return None

    def _enter(self, device: Device) -> None:
        before = self.devices.get(device.name)
        self.devices[device.name] = device
        self.seen.pop(device.name, None)
        if before is not None:
            self.replaced += 1
            before.gone()
            before.conn.write(wire.encode(wire.Refused("another connection has taken your place")))
            before.conn.close()

    def _leave(self, device: Device) -> None:
        if self.devices.get(device.name) is device:  # else it was replaced
            del self.devices[device.name]
            self.seen[device.name] = device.conn.heard_at
            if len(self.seen) > MOST_KNOWN:
                self.seen.popitem(last=False)

    def last_seen(self, name: str) -> float | None:
        """Seconds since something was heard of a device, heartbeats included; ``None``: nothing ever was."""
        device = self.devices.get(name)
        heard_at = device.conn.heard_at if device is not None else self.seen.get(name)
        return None if heard_at is None else max(0.0, now() - heard_at)

    # Operators

    async def console(self, conn: Connection) -> None:
        """One operator's connection: a line, its answer, the next line."""
        await conn.send(HELP)
        async for line in conn:
            match line.split():
                case [word] if word.upper() == "QUIT":
                    return
                case [word] if word.upper() == "COUNT":
                    await conn.send(f"{len(self.devices)} connected, {len(self.seen)} gone, {self.refused} refused")
                case [word, name] if word.upper() == "SEEN":
                    seconds, device = self.last_seen(name), self.devices.get(name)
                    state = "gone" if device is None else f"connected, {device.reading}"
                    await conn.send("never" if seconds is None else f"{seconds:.1f} s ago, {state}")
                case [word, name, command] if word.upper() == "SEND":
                    await conn.send(await self._send(name, command))
                case _:
                    await conn.send(HELP)

    async def _send(self, name: str, command: str) -> str:
        device = self.devices.get(name)
        if device is None:
            return "it is not connected"
        try:
            error = await device.command(command, self._command_timeout)
        except ForebayError as failure:
            error = str(failure)
        return f"failed: {error}" if error else "done"


class DeviceService(Group):
    """The gateway's two servers: one for devices, one for operators."""

    def __init__(
        self,
        devices: str = "tcp://127.0.0.1:7300",
        operators: str = "tcp://127.0.0.1:7301",
        *,
        login_timeout: float = LOGIN_TIMEOUT,
        command_timeout: float = COMMAND_TIMEOUT,
        heartbeat_interval: float = HEARTBEAT,
    ) -> None:
        self.gateway = Gateway(login_timeout, command_timeout)
        self.devices = TCPServer(
            self.gateway.serve,
            bind=devices,
            name="devices",
            framing=wire.FRAMING,
            max_connections=MOST_DEVICES,
            first_byte_timeout=login_timeout,
            idle_timeout=None,  # heartbeats tell who is gone
            heartbeat=Heartbeat(heartbeat_interval, ping=wire.PING, is_pong=wire.PONG.__eq__),
            keepalive=Keepalive(),
        )
        self.operators = TCPServer(
            self.gateway.console,
            bind=operators,
            name="operators",
            framing=framing.Lines(1000),
            max_connections=20,
            first_byte_timeout=None,
            idle_timeout=600,
        )
        super().__init__("device-gateway", [self.devices, self.operators])

    def collect(self) -> list[Family]:
        """The metrics of both."""
        return merge([self.devices.collect(), self.operators.collect()])


server = DeviceService()
