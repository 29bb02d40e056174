"""A worker process, seen over its channel; and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from forebay.engine.control import Assignment, ControlChannel, Failure, Message
from forebay.engine.worker import Worker, main
from forebay.errors import StartError
from forebay.observe.metrics import Family
from tests.support import RawClient, eventually

ROOT = Path(__file__).parent.parent.parent


class Harness:
    """The supervisor's end: assigns, opens sockets, and keeps what the worker says."""

    def __init__(self, sock: socket.socket) -> None:
        self.said: list[tuple[str, Any]] = []
        self.refusal: Failure | None = None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.channel = ControlChannel(sock, self._on_message, who="the worker")

    def _on_message(self, message: Message) -> None:
        if message.kind == "listen" and self.refusal is not None:
            self.channel.reply(message, failure=self.refusal)
        elif message.kind == "listen":
            self.channel.reply(message, sock=self.listener)
        else:
            self.said.append((message.kind, msgspec.msgpack.decode(message.body)))

    def assign(self, entry: str, drain_timeout: float = 5.0, **args: Any) -> None:
        """Tell the worker what it is."""
        self.channel.send("assign", Assignment("test#0", entry, args, drain_timeout))

    async def heard(self, kind: str) -> Any:
        """The body of the first message of this kind."""
        await eventually(lambda: any(said == kind for said, _ in self.said), timeout=10)
        return next(body for said, body in self.said if said == kind)

    def total(self, name: str = "test_answers") -> float:
        """A counter's value, as last pushed."""
        pushed = [body for kind, body in self.said if kind == "metrics"]
        for family in msgspec.convert(pushed[-1] if pushed else [], list[Family]):
            if family.name == name:
                return sum(sample.value for sample in family.samples)
        return 0

    def close(self) -> None:
        """The supervisor is gone."""
        self.channel.close()
        self.listener.close()


@asynccontextmanager
async def worker(cwd: Path = ROOT) -> AsyncIterator[tuple[Harness, asyncio.subprocess.Process]]:
    """A worker process that knows nothing yet."""
    ours, theirs = socket.socketpair()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", "forebay.engine.worker", str(theirs.fileno()), "test#0"),
        pass_fds=(theirs.fileno(),),
        cwd=cwd,
    )
    theirs.close()
    harness = Harness(ours)
    try:
        yield harness, process
    finally:
        harness.close()
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ended(process: asyncio.subprocess.Process) -> int:
    """The process's exit code, within ten seconds."""
    return await asyncio.wait_for(process.wait(), 10)


@pytest.mark.both_loops
async def test_a_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Assigned, it gets ready, serves on the socket it is given, pushes what it counts, drains when told, exits."""
    if "uvloop" not in type(asyncio.get_running_loop()).__module__:
        monkeypatch.setenv("FOREBAY_LOOP", "asyncio")
    async with worker() as (harness, process):
        harness.assign("tests.engine.entries:answers", version="v7")
        await harness.heard("ready")
        client = await RawClient.connect(harness.listener.getsockname()[1])
        await client.send(b"hello\n")
        assert await client.line() == f"v7 {process.pid}\n".encode()
        await eventually(lambda: harness.total() == 1)

        os.kill(process.pid, signal.SIGINT)  # a terminal sends these to the whole group
        os.kill(process.pid, signal.SIGHUP)
        await client.send(b"later\n")
        harness.channel.send("drain")
        assert await client.line() == f"v7 {process.pid}\n".encode()
        assert await ended(process) == 0
        await client.close()
        await asyncio.wait_for(harness.channel.ended.wait(), 5)
        assert harness.said[-1][0] == "metrics"
        assert harness.total() == 2
        assert "leaving" not in dict(harness.said)


async def test_collect_is_answered_with_what_is_counted_now() -> None:
    """The metrics are sent before the answer, so that they are there when it is."""
    async with worker() as (harness, process):
        harness.assign("tests.engine.entries:answers")
        await harness.heard("ready")
        client = await RawClient.connect(harness.listener.getsockname()[1])
        for number in range(1, 6):
            await client.send(b"hello\n")
            assert (await client.line()).startswith(b"v1")
            await harness.channel.request("collect", timeout=5)
            assert harness.total() == number
        await client.close()
        harness.channel.send("stop")
        assert await ended(process) == 0


async def test_sigterm_drains_and_says_so() -> None:
    """The supervisor hears at once that it has to replace the worker, which finishes what it has begun."""
    async with worker() as (harness, process):
        harness.assign("tests.engine.entries:answers")
        await harness.heard("ready")
        client = await RawClient.connect(harness.listener.getsockname()[1])
        await client.send(b"later\n")
        await eventually(lambda: harness.total("test_clients") == 1)
        process.terminate()
        assert await harness.heard("leaving") == "SIGTERM"
        assert await client.line() == f"v1 {process.pid}\n".encode()
        assert await ended(process) == 0
        await client.close()


async def test_without_its_supervisor_it_drains_and_exits() -> None:
    """The end of the channel means that nobody is there any more."""
    async with worker() as (harness, process):
        harness.assign("tests.engine.entries:answers")
        await harness.heard("ready")
        client = await RawClient.connect(harness.listener.getsockname()[1])
        await client.send(b"later\n")
        await eventually(lambda: harness.total("test_clients") == 1)
        harness.close()
        assert await client.line() == f"v1 {process.pid}\n".encode()
        assert await ended(process) == 0
        await client.close()


async def test_without_its_supervisor_it_ends_even_if_it_hangs() -> None:
    """Nobody is left to kill a worker that blocks; the kernel does, past the drain timeout."""
    async with worker() as (harness, process):
        harness.assign("tests.engine.entries:hangs", where="drain", drain_timeout=0.1)
        await harness.heard("ready")
        harness.close()
        assert await ended(process) == -signal.SIGALRM


async def test_garbage_from_the_supervisor_is_its_end() -> None:
    """A worker that cannot be talked to must not go on."""
    async with worker() as (harness, process):
        harness.assign("tests.engine.entries:answers")
        await harness.heard("ready")
        harness.channel.send("dance")
        assert await ended(process) == 0
        assert harness.channel.reason == "end of stream"


async def test_stop_cuts_a_drain() -> None:
    """What a drain waits for is not waited for after stop."""
    async with worker() as (harness, process):
        harness.assign("tests.engine.entries:answers", drain_timeout=60)
        await harness.heard("ready")
        client = await RawClient.connect(harness.listener.getsockname()[1])
        await eventually(lambda: harness.total("test_clients") == 1)
        harness.channel.send("drain")
        await harness.channel.request("collect", timeout=5)
        assert process.returncode is None, "the client it waits for was never answered"
        harness.channel.send("stop")
        assert await ended(process) == 0
        await client.close()


async def test_a_start_that_hangs_is_cut() -> None:
    """A worker that is not ready yet has nothing to finish."""
    async with worker() as (harness, process):
        harness.assign("tests.engine.entries:hangs", where="start")
        harness.channel.send("drain")
        assert await ended(process) == 0
        assert "ready" not in dict(harness.said)


async def test_it_runs_from_any_folder_and_finds_what_lies_there(tmp_path: Path) -> None:
    """Modules of the working directory are found, and hide none of Python's own while the worker gets up."""
    (tmp_path / "shop.py").write_text("from tests_free import Stub\ndef make():\n    return Stub()\n")
    (tmp_path / "tests_free.py").write_text(
        "class Stub:\n    name = 'stub'\n"
        "    async def start(self): pass\n    async def drain(self): pass\n    async def stop(self): pass\n"
    )
    (tmp_path / "signal.py").write_text("raise RuntimeError('not this one')\n")
    async with worker(cwd=tmp_path) as (harness, process):
        harness.assign("shop:make")
        await harness.heard("ready")
        harness.channel.send("drain")
        assert await ended(process) == 0


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("nosuch:make", "cannot import nosuch: No module named 'nosuch'"),
        ("tests.engine.entries:nosuch", "module tests.engine.entries has no function 'nosuch'"),
        (
            "tests.engine.entries:number",
            "tests.engine.entries:number returned int, which is no service: that has a name, start(),*",
        ),
        (
            "tests.engine.entries:raises",
            "tests.engine.entries:raises failed: KeyError: 'no such thing' (*/tests/engine/entries.py line *)",
        ),
        (
            "tests.engine.entries:hangs",
            "tests.engine.entries:hangs failed: TypeError: hangs() missing 1 required positional argument: 'where'",
        ),
        ("broken:make", "cannot import broken: SyntaxError: invalid syntax (broken.py, line 1)"),
        ("leaves:make", "cannot import leaves: SystemExit: 4 (*leaves.py line 2)"),
    ],
)
async def test_why_it_cannot_start(entry: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One readable line for each way to be wrong, with the place where it was raised; exit code 3."""
    (tmp_path / "broken.py").write_text("def make(:\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(4)\n")
    monkeypatch.syspath_prepend(tmp_path)
    ours, theirs = socket.socketpair()
    harness = Harness(ours)
    harness.assign(entry)
    assert await Worker(theirs).run() == 3
    said = msgspec.convert(await harness.heard("failed"), Failure).message
    harness.close()
    assert "\n" not in said
    for part in reason.split("*"):
        assert part in said


async def test_a_service_that_fails_to_start_says_why() -> None:
    """What the supervisor could not open is told as it told it."""
    ours, theirs = socket.socketpair()
    harness = Harness(ours)
    harness.refusal = Failure.of(StartError("cannot listen on tcp://127.0.0.1:1: permission denied"))
    harness.assign("tests.engine.entries:answers", bind="tcp://127.0.0.1:1")
    assert await Worker(theirs).run() == 3
    said = msgspec.convert(await harness.heard("failed"), Failure).message
    harness.close()
    assert said == "cannot listen on tcp://127.0.0.1:1: permission denied"


def test_it_is_not_started_by_hand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a channel it says who starts it, with the exit code of a usage error."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["worker"])
    assert main() == 2
    assert "by its supervisor" in capsys.readouterr().err
