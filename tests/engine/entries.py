"""What the worker processes of the supervisor's tests run. Imported there as ``tests.engine.entries``."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

from forebay.engine.address import parse_address
from forebay.engine.connection import Connection
from forebay.engine.handler import CloseReason, ConnectionHandler
from forebay.engine.listener import listen
from forebay.engine.load import accepted
from forebay.engine.server import TCPServer
from forebay.errors import ConfigError, Problem, StartError
from forebay.observe.metrics import Counter, Family, Gauge
from forebay.service import Service


class Answers(TCPServer):
    """Answers each line with its version and its pid, and counts them. ``later`` is answered after half a second."""

    def __init__(self, bind: str, version: str) -> None:
        super().__init__(lambda: Answering(self), bind=bind, name="answers")
        self.version = version
        self.prepared: dict[str, Any] | None = None
        self.answered = Counter()
        self.holding = Gauge()

    def collect(self) -> list[Family]:
        """What was answered, and how many clients are connected."""
        return [
            Family("test_answers", "counter", "Answers.", self.answered.samples((("version", self.version),))),
            Family("test_clients", "gauge", "Clients.", self.holding.samples()),
        ]

    async def prepare(self, payload: dict[str, Any]) -> None:
        """Take a new version, or do what the payload says instead."""
        match payload:
            case {"refuse": reason}:
                raise ConfigError("test.toml", [Problem(reason, key="answers.version", line=3)])
            case {"raise": reason}:
                raise ValueError(reason)
            case {"die": True}:
                os.kill(os.getpid(), signal.SIGKILL)
            case {"die_once": path} if first(path):
                os.kill(os.getpid(), signal.SIGKILL)
            case {"hang": True}:
                await asyncio.sleep(60)
        self.prepared = payload

    def commit(self) -> None:
        """Be the new version."""
        assert self.prepared is not None
        if self.prepared.get("fail_commit"):
            raise RuntimeError("commit went wrong")
        self.version = self.prepared["version"]

    def rollback(self) -> None:
        """Forget the new version."""
        self.prepared = None


class Answering(ConnectionHandler):
    """One client. It is answered at least once, and all it asked, before a drain closes it."""

    def __init__(self, server: Answers) -> None:
        self.server = server
        self.waiting = 1
        self.answered = 0
        self.draining = False

    def on_open(self, conn: Connection) -> None:
        """Count it."""
        self.server.holding.value += 1

    def on_message(self, conn: Connection, data: bytes) -> None:
        """Answer."""
        self.waiting = max(self.waiting, self.answered + 1)
        if data.startswith(b"later"):
            asyncio.get_running_loop().call_later(0.5, self.answer, conn)
        else:
            self.answer(conn)

    def answer(self, conn: Connection) -> None:
        """Answer now."""
        self.answered += 1
        self.server.answered.value += 1
        conn.write(f"{self.server.version} {os.getpid()}\n".encode())
        if self.draining:
            self.on_drain(conn)

    def on_drain(self, conn: Connection) -> None:
        """Close it, unless something is still to be answered."""
        self.draining = True
        if self.answered == self.waiting:
            conn.close(CloseReason.DRAIN)

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        """Count it off."""
        self.server.holding.value -= 1


class Stub:
    """A service that does nothing."""

    name = "stub"

    async def start(self) -> None:
        """Nothing."""

    async def drain(self) -> None:
        """Nothing."""

    async def stop(self) -> None:
        """Nothing."""


class Hangs(Stub):
    """Hangs where it is told to, so hard that nothing but SIGKILL ends it."""

    def __init__(self, where: str) -> None:
        self.where = where

    async def start(self) -> None:
        """Maybe hang."""
        if self.where == "start":
            await asyncio.sleep(60)

    async def drain(self) -> None:
        """Maybe hang."""
        if self.where == "drain":
            time.sleep(60)  # blocks the loop, and with it everything


class Dies(Stub):
    """Exits a moment after its start."""

    def __init__(self, code: int) -> None:
        self.code = code

    async def start(self) -> None:
        """Come to an end soon."""
        asyncio.get_running_loop().call_later(0.05, os._exit, self.code)


class Blocking(Stub):
    """Blocks its event loop in the way that the first line it is sent names: ``busy``, ``sleep``, ``c`` or ``orphan``.

    Any other line is answered with the pid, ``accept N`` after counting N connections, ``grow N`` after taking N MiB.
    """

    def __init__(self, bind: str, start: float) -> None:
        self.bind = bind
        self.hold: list[bytearray] = []
        threading.Thread(target=wait_in_a_thread, daemon=True).start()
        time.sleep(start)

    async def start(self) -> None:
        """Listen."""
        sock = await listen(parse_address(self.bind))
        self.server = await asyncio.start_server(self.serve, sock=sock)

    async def stop(self) -> None:
        """Listen no more."""
        self.server.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Do what is asked."""
        while line := await reader.readline():
            how, _, number = line.decode().strip().partition(" ")
            match how:
                case "busy":
                    block_busily()
                case "sleep":
                    block_in_sleep(float(number or 60))
                case "c":
                    block_in_c()
                case "orphan":
                    block_until_orphaned(number)
                case "accept":
                    accepted.count += int(number)
                case "grow":
                    self.hold.append(bytearray(int(number) * 2**20))
            writer.write(b"%d\n" % os.getpid())
        writer.close()


def wait_in_a_thread() -> None:
    """What is to be seen of another thread."""
    threading.Event().wait(60)


def block_busily() -> None:
    """Compute."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        pass


def block_in_sleep(seconds: float) -> None:
    """Wait for something in the wrong way."""
    time.sleep(seconds)


def block_in_c() -> None:
    """Call into C that keeps the interpreter's lock, so that no other thread runs either."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        ctypes.PyDLL(None).sleep(60)


def block_until_orphaned(path: str) -> None:
    """Block until the kernel has set the alarm, and then bring that forward, so that the test need not wait for it."""
    Path(path).touch()
    while not signal.getitimer(signal.ITIMER_REAL)[0]:
        time.sleep(0.01)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    time.sleep(60)


class Datagrams(Stub):
    """Answers each datagram with its pid."""

    def __init__(self, bind: str) -> None:
        self.bind = bind

    async def start(self) -> None:
        """Listen."""
        self.sock = await listen(parse_address(self.bind, schemes=("udp",)))
        asyncio.get_running_loop().add_reader(self.sock, self.answer, self.sock)

    def answer(self, sock: socket.socket) -> None:
        """Answer one."""
        _, peer = sock.recvfrom(100)
        sock.sendto(b"%d" % os.getpid(), peer)

    async def stop(self) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_reader(self.sock)
        self.sock.close()


def first(path: str) -> bool:
    """Whether nobody was here before."""
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


async def answers(bind: str = "tcp://127.0.0.1:0", version: str = "v1", only_first: str = "", **_: Any) -> Service:
    """The service most tests use. With ``only_first``, a path, only the first one that finds it missing starts."""
    if only_first and not first(only_first):
        raise StartError("somebody was faster")
    return Answers(bind, version)


def blocking(bind: str = "tcp://127.0.0.1:0", start: float = 0.0, only_first: str = "", grown: int = 0) -> Service:
    """Blocks when asked, and at its start; ``only_first`` as above; it takes ``grown`` MiB from the start."""
    if only_first and not first(only_first):
        raise StartError("somebody was faster")
    service = Blocking(bind, start)
    service.hold.append(bytearray(grown * 2**20))
    return service


def datagrams(bind: str = "udp://127.0.0.1:0") -> Service:
    """Answers datagrams."""
    return Datagrams(bind)


def hangs(where: str) -> Service:
    """Hangs in ``where``."""
    return Hangs(where)


def dies(code: int = 1) -> Service:
    """Dies with ``code``."""
    return Dies(code)


def raises() -> Service:
    """An entry with a bug."""
    raise KeyError("no such thing")


def number() -> int:
    """Not a service."""
    return 3
