"""Thousands of devices for :mod:`examples.device_gateway`, in one process.

Start the gateway, then::

    python -m examples.device_simulator --devices 10000

Each device logs in, sends a reading every ``--interval`` seconds, answers pings, and does what it is told to: any
command but ``fail``. A line per second says how they do; Ctrl-C ends it. Devices that lose their connection stay away,
so that it is seen: see :class:`forebay.engine.Reconnecting` for clients that come back.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from examples.device_protocol import (
    FRAMING,
    PING,
    PONG,
    Acknowledge,
    Command,
    Login,
    Reading,
    Refused,
    Welcome,
    encode,
    from_gateway,
    token_of,
)
from forebay import Connection, ConnectionHandler
from forebay.engine import CloseReason, Heartbeat, Tasks, dial, now, run, sleep
from forebay.errors import ConnectFailed

DIALLING_AT_ONCE = 100  # the gateway's backlog is not endless
_HEARTBEAT = Heartbeat(is_ping=PING.__eq__, pong=PONG)


class Device(ConnectionHandler):
    """One device. Its timer is its connection's own, on the timer wheel: ten thousand of them cost no loop timer."""

    __slots__ = ("counts", "interval", "name")

    def __init__(self, name: str, interval: float, counts: Counter[str]) -> None:
        self.name = name
        self.interval = interval
        self.counts = counts

    def on_open(self, conn: Connection) -> None:
        self.counts["connected"] += 1
        conn.write(encode(Login(self.name, token_of(self.name))))

    def on_message(self, conn: Connection, data: bytes) -> None:
        match from_gateway.decode(data):
            case Welcome():
                self.counts["logged in"] += 1
                conn.expire_in(random.uniform(0, self.interval))  # not all at the same moment
            case Command(number, name):
                self.counts["commands"] += 1
                conn.write(encode(Acknowledge(number, "told to fail" if name == "fail" else "")))
            case Refused():
                self.counts["refused"] += 1

    def on_timeout(self, conn: Connection) -> None:
        self.counts["readings"] += 1
        conn.write(encode(Reading({"temperature": round(random.gauss(21, 2), 1)})))
        conn.expire_in(self.interval)

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self.counts["connected"] -= 1
        self.counts["lost"] += reason is not CloseReason.STOPPED


class Simulation:
    """So many devices, which connect as fast as the gateway takes them."""

    def __init__(self, address: str, devices: int, interval: float) -> None:
        self.counts: Counter[str] = Counter()
        self._address = address
        self._names = iter([f"device-{number}" for number in range(devices)])
        self._interval = interval
        self._connections: list[Connection] = []
        self._tasks = Tasks()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Counter[str]]:
        """Connect all, and cut all at the end. Gives the counts, which change all the time."""
        for number in range(DIALLING_AT_ONCE):
            self._tasks.spawn(self._connect(), name=f"dialler {number}")
        try:
            yield self.counts
        finally:
            await self._tasks.cancel()
            for conn in self._connections:
                conn.close(CloseReason.STOPPED)
            while self.counts["connected"]:
                await sleep(0.05)

    async def _connect(self) -> None:
        for name in self._names:
            device = Device(name, self._interval, self.counts)
            try:
                conn = await dial(self._address, device, framing=FRAMING, heartbeat=_HEARTBEAT, timeout=10)
            except ConnectFailed:
                self.counts["not connected"] += 1
            else:
                self._connections.append(conn)


async def simulate(address: str, devices: int, interval: float, seconds: float) -> Counter[str]:
    """Run a simulation and say every second how it does; returns the last counts."""
    begun = now()
    async with Simulation(address, devices, interval).running() as counts:
        while now() - begun < seconds:
            await sleep(1)
            shown = ", ".join(f"{counts[name]} {name}" for name in COLUMNS if counts[name] or name in COLUMNS[:3])
            print(f"{now() - begun:5.0f} s  {shown}", flush=True)
        return counts.copy()


COLUMNS = ("connected", "logged in", "readings", "commands", "refused", "not connected", "lost")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m examples.device_simulator", description="Simulates devices.")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--address", default="tcp://127.0.0.1:7300")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between two readings of a device")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which it ends")
    given = parser.parse_args(arguments)
    with suppress(KeyboardInterrupt):
        run(simulate(given.address, given.devices, given.interval, given.seconds))


if __name__ == "__main__":
    main()
