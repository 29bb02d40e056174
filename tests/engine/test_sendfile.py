"""Files on connections: what arrives, in which order, and what becomes of the connection when it cannot be finished."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine import CloseReason, Connection, Outbound, TCPServer
from forebay.engine.open_file import OpenFile
from forebay.errors import ConnectionClosed
from forebay.wire.framing import Lines
from tests.engine.connecting import (
    ANY,
    ANY_TLS,
    Recorder,
    client_of,
    deaf_client,
    port_of,
    read_all,
    server_tls,
    serving,
)
from tests.support import eventually, open_descriptors, running

pytestmark = pytest.mark.both_loops

MIB = 1024 * 1024
BYTES = b"".join(b"%07d\n" % number for number in range(MIB // 8))
BOTH = pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A MiB of which every part is different."""
    path = tmp_path / "file"
    path.write_bytes(BYTES)
    return path


def sending(recorder: Recorder, *, tls: bool = False, **options: Any) -> TCPServer:
    """A server whose connections do nothing by themselves."""
    recorder.message = lambda conn, data: None
    return serving(recorder, bind=ANY_TLS if tls else ANY, tls=server_tls() if tls else None, **options)


async def connected(recorder: Recorder) -> Connection:
    await eventually(lambda: recorder.conn)
    return recorder.opened


def slow(conn: Connection) -> None:
    """Let the kernel take little."""
    conn.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


@BOTH
@pytest.mark.parametrize(
    ("offset", "count"), [(0, None), (0, 0), (8, 8), (MIB, None), (MIB - 1, 1), (300_001, 600_000)]
)
async def test_parts(file: Path, tls: bool, offset: int, count: int | None) -> None:
    """Exactly the part that was asked for arrives, between what was written before and after, and is counted."""
    recorder = Recorder()
    expected = BYTES[offset:] if count is None else BYTES[offset : offset + count]
    async with running(sending(recorder, tls=tls)) as server, client_of(port_of(server), tls=tls) as client:
        conn = await connected(recorder)
        conn.write(b"before")
        assert await conn.send_file(file, offset, count) == len(expected)
        conn.write(b"after")
        conn.close()
        assert await client.rest() == b"before" + expected + b"after"
        assert conn.bytes_out == len(expected) + 11


@pytest.mark.parametrize(("offset", "count"), [(-1, None), (0, -1), (MIB + 1, None), (1, MIB)])
async def test_there_is_no_such_part(file: Path, offset: int, count: int | None) -> None:
    """It is said, nothing is sent, and the connection goes on."""
    recorder = Recorder()
    async with running(sending(recorder)) as server, client_of(port_of(server)) as client:
        conn = await connected(recorder)
        with pytest.raises(ValueError, match="must be from 0 to"):
            await conn.send_file(file, offset, count)
        conn.write(b"next")
        assert await client.exactly(4) == b"next"


async def test_what_is_no_regular_file(tmp_path: Path) -> None:
    """A directory, a FIFO nobody writes to, a device, a missing one: an error at once; no descriptor is left open."""
    recorder = Recorder()
    os.mkfifo(tmp_path / "fifo")
    async with running(sending(recorder)) as server, client_of(port_of(server)) as client:
        conn = await connected(recorder)
        before = open_descriptors()
        for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
            with pytest.raises(ValueError, match="is no regular file"):
                await asyncio.wait_for(conn.send_file(path), 5)
        with pytest.raises(FileNotFoundError):
            await conn.send_file(tmp_path / "missing")
        assert open_descriptors() == before
        conn.write(b"next")
        assert await client.exactly(4) == b"next"


@BOTH
async def test_a_slow_peer(file: Path, tls: bool) -> None:
    """It gets everything, what is written meanwhile comes after it, and the connection is not writable so long."""
    recorder = Recorder()
    async with running(sending(recorder, tls=tls)) as server, client_of(port_of(server), tls=tls) as client:
        conn = await connected(recorder)
        slow(conn)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it can
        tasks = [asyncio.create_task(conn.send_file(file)) for _ in range(2)]
        await eventually(lambda: not conn.writable)
        conn.write(b"written meanwhile")
        waiting = asyncio.ensure_future(conn.send(b"sent meanwhile"))
        assert not any(task.done() for task in tasks)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await client.exactly(len(BYTES), timeout=20) == BYTES
        rest = await client.exactly(len(BYTES) + 31, timeout=20)
        assert rest.replace(BYTES, b"") == b"written meanwhilesent meanwhile"
        assert [await task for task in tasks] == [MIB, MIB]
        await asyncio.wait_for(waiting, 5)
        await eventually(lambda: conn.writable)


@pytest.mark.parametrize("policy", ["wait", "drop-oldest", "close"])
async def test_what_was_queued_before_comes_first(file: Path, policy: str) -> None:
    """A file overtakes nothing, under no policy for slow consumers."""
    recorder = Recorder()
    outbound = Outbound(high=1000, policy=policy, limit=10 * MIB)
    async with running(sending(recorder, outbound=outbound)) as server, deaf_client(port_of(server)) as sock:
        conn = await connected(recorder)
        slow(conn)
        for _ in range(200):
            conn.write(b"x" * 10_000)
        task = asyncio.create_task(conn.send_file(file))
        await asyncio.sleep(0)
        conn.close()
        received = await read_all(sock)
        assert received == b"x" * 2_000_000 + BYTES
        assert await task == MIB


async def test_between_answers_to_one_chunk(file: Path) -> None:
    """Answers that are joined into one write keep their place before and after a file."""

    async def answer(conn: Connection) -> None:
        async for line in conn:
            await conn.send(f"before {line}")
            await conn.send_file(file, 0, 8)
            await conn.send(f"after {line}")

    server = TCPServer(answer, bind=ANY, framing=Lines())
    async with running(server), client_of(port_of(server)) as client:
        for chunk in (b"zero\n", b"one\ntwo\n"):
            await client.send(chunk)
            for line in chunk.split():
                expected = b"before %b\n0000000\nafter %b\n" % (line, line)
                assert await client.exactly(len(expected)) == expected


async def test_close_lets_it_finish(file: Path) -> None:
    """What the peer still says is not handled any more, and does not turn the end into a reset."""
    recorder = Recorder()
    async with running(sending(recorder)) as server, client_of(port_of(server)) as client:
        conn = await connected(recorder)
        slow(conn)
        task = asyncio.create_task(conn.send_file(file))
        await eventually(lambda: conn.bytes_out)
        conn.write(b"last words")
        conn.close()
        await client.send(b"too late")
        with pytest.raises(ConnectionClosed):
            await conn.send_file(file)
        assert await client.rest(20) == BYTES + b"last words"
        assert await task == MIB
        await eventually(lambda: recorder.reason is CloseReason.APP)
        assert recorder.messages == []


async def test_drain_lets_it_finish(file: Path) -> None:
    """A drain waits for the file."""
    recorder = Recorder()
    async with running(sending(recorder)) as server, client_of(port_of(server)) as client:
        conn = await connected(recorder)
        slow(conn)
        task = asyncio.create_task(conn.send_file(file))
        await eventually(lambda: conn.bytes_out)
        draining = asyncio.create_task(server.drain())
        assert await client.rest(20) == BYTES
        await asyncio.wait_for(draining, 5)
        assert await task == MIB
        assert recorder.reason is CloseReason.DRAIN


def cancel(conn: Connection, task: asyncio.Task[int], sock: socket.socket) -> None:
    task.cancel()


def abort(conn: Connection, task: asyncio.Task[int], sock: socket.socket) -> None:
    conn.abort(CloseReason.LIMIT)


def reset(conn: Connection, task: asyncio.Task[int], sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    sock.close()


def stall(conn: Connection, task: asyncio.Task[int], sock: socket.socket) -> None:
    pass


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (cancel, CloseReason.APP),
        (abort, CloseReason.LIMIT),
        (reset, CloseReason.RESET),
        (stall, CloseReason.WRITE_STALL),
    ],
)
async def test_what_ends_it_in_the_middle(
    tmp_path: Path, event: Callable[[Connection, asyncio.Task[int], socket.socket], None], reason: CloseReason
) -> None:
    """The peer cannot tell a part from the whole, so the connection ends with it; nothing is left open."""
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 50 * MIB)
    recorder = Recorder()
    async with running(sending(recorder, outbound=Outbound(timeout=0.3))) as server:
        await asyncio.sleep(0)
        before = open_descriptors()
        async with deaf_client(port_of(server)) as sock:
            conn = await connected(recorder)
            task = asyncio.create_task(conn.send_file(path))
            await eventually(lambda: conn.bytes_out)
            event(conn, task, sock)
            with pytest.raises(asyncio.CancelledError if event is cancel else ConnectionClosed):
                await asyncio.wait_for(task, 5)
            assert await eventually(lambda: recorder.reason) is reason
        await eventually(lambda: open_descriptors() <= before)


async def test_cancelled_before_it_began(file: Path) -> None:
    """While what was written before is still waiting: the connection goes on, in order, and bounded as ever."""
    recorder = Recorder()
    server = sending(recorder, outbound=Outbound(high=100_000))
    async with running(server), deaf_client(port_of(server)) as sock:
        conn = await connected(recorder)
        slow(conn)
        conn.write(b"a" * 90_000)
        task = asyncio.create_task(conn.send_file(file))
        await eventually(lambda: not conn.writable)
        task.cancel()
        await asyncio.wait([task])
        assert not conn.closing
        conn.write(b"b" * 3_000_000)
        assert not conn.writable
        conn.close()
        assert await read_all(sock) == b"a" * 90_000 + b"b" * 3_000_000


@BOTH
async def test_a_file_that_becomes_shorter(tmp_path: Path, tls: bool) -> None:
    """Only the end of the connection can tell the peer."""
    path = tmp_path / "shrinking"
    path.touch()
    os.truncate(path, 50 * MIB)
    recorder = Recorder()
    async with running(sending(recorder, tls=tls)) as server, client_of(port_of(server), tls=tls) as client:
        conn = await connected(recorder)
        task = asyncio.create_task(conn.send_file(path))
        await eventually(lambda: conn.bytes_out)
        os.truncate(path, 1)
        await client.rest(20)
        with pytest.raises(ConnectionClosed, match="became shorter: 1 bytes where 52428800 were needed"):
            await task
        assert await eventually(lambda: recorder.reason) is CloseReason.ERROR


@pytest.mark.parametrize("problem", [errno.EINVAL, errno.EIO])
async def test_file_systems_without_sendfile(file: Path, monkeypatch: pytest.MonkeyPatch, problem: int) -> None:
    """Their files are copied; one that cannot be read is an error, and the connection goes on."""

    def fails(*args: Any) -> int:
        raise OSError(problem, os.strerror(problem))

    monkeypatch.setattr("os.sendfile", fails)
    recorder = Recorder()
    async with running(sending(recorder)) as server, client_of(port_of(server)) as client:
        conn = await connected(recorder)
        if problem == errno.EINVAL:
            task = asyncio.create_task(conn.send_file(file))
            assert await client.exactly(MIB, timeout=20) == BYTES
            assert await task == MIB
        else:
            with pytest.raises(OSError, match="Input/output error"):
                await conn.send_file(file)
        conn.write(b"next")
        assert await client.exactly(4) == b"next"


async def test_over_a_unix_socket(file: Path, tmp_path: Path) -> None:
    """As over TCP."""
    recorder = Recorder()
    recorder.message = lambda conn, data: None
    async with running(serving(recorder, bind=f"unix://{tmp_path}/socket")):
        reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/socket")
        conn = await connected(recorder)
        task = asyncio.create_task(conn.send_file(file))
        assert await asyncio.wait_for(reader.readexactly(MIB), 5) == BYTES
        assert await task == MIB
        writer.close()
        await writer.wait_closed()


async def test_a_large_file_takes_no_memory(tmp_path: Path) -> None:
    """200 MiB, to a peer that throws it away."""
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 200 * MIB)
    recorder = Recorder()
    async with running(sending(recorder)) as server, client_of(port_of(server)) as client:
        conn = await connected(recorder)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        task = asyncio.create_task(conn.send_file(path))
        async with asyncio.timeout(40):
            received = 0
            while received < 200 * MIB:
                received += len(await client.reader.read(MIB))
        assert await task == 200 * MIB
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024  # KiB


class Outcome:
    """What ``start_file`` says in the end."""

    def __init__(self) -> None:
        self.told: list[Exception | None] = []

    def __call__(self, error: Exception | None) -> None:
        self.told.append(error)

    async def outcome(self) -> Exception | None:
        """The only one."""
        await eventually(lambda: self.told)
        (error,) = self.told
        return error


async def test_without_waiting(file: Path) -> None:
    """What the kernel takes at once is sent before the call returns; the file is the caller's to release."""
    recorder = Recorder()
    done = Outcome()
    async with running(sending(recorder)) as server, client_of(port_of(server)) as client:
        conn = await connected(recorder)
        before = open_descriptors()
        open_file = OpenFile(file)
        conn.write(b"before")
        conn.start_file(open_file, 8, 10_000, done)
        assert done.told == [None]
        assert conn.writable
        conn.write(b"after")
        open_file.release()
        assert open_file.fd == -1
        assert open_descriptors() == before
        assert await client.exactly(10_011) == b"before" + BYTES[8:10_008] + b"after"


@BOTH
async def test_close_with_files_in_line(file: Path, tls: bool) -> None:
    """A close lets the one finish that has begun; those that have not are told."""
    recorder = Recorder()
    outcomes = [Outcome() for _ in range(5)]
    async with running(sending(recorder, tls=tls)) as server, client_of(port_of(server), tls=tls) as client:
        conn = await connected(recorder)
        slow(conn)
        open_file = OpenFile(file)
        for done in outcomes:
            conn.start_file(open_file, 0, MIB, done)
        open_file.release()
        conn.close()
        assert await client.rest(20) == BYTES, "the others had not begun when it was closed"
        await eventually(lambda: all(done.told for done in outcomes))
        assert outcomes[0].told == [None]
        for done in outcomes[1:]:
            (error,) = done.told
            assert isinstance(error, ConnectionClosed)
        assert open_file.fd == -1


@BOTH
async def test_files_in_line(file: Path, tls: bool) -> None:
    """Several that wait for each other all arrive, in order."""
    recorder = Recorder()
    outcomes = [Outcome() for _ in range(5)]
    async with running(sending(recorder, tls=tls)) as server, client_of(port_of(server), tls=tls) as client:
        conn = await connected(recorder)
        slow(conn)
        open_file = OpenFile(file)
        for number, done in enumerate(outcomes):
            conn.start_file(open_file, number * 8, MIB - number * 8, done)
        open_file.release()
        for number, done in enumerate(outcomes):
            expected = BYTES[number * 8 :]
            assert await client.exactly(len(expected), timeout=20) == expected
            assert await done.outcome() is None
        await eventually(lambda: conn.writable)
        assert open_file.fd == -1


@BOTH
@pytest.mark.parametrize("how", ["abort", "reset", "stall"])
async def test_lost_without_waiting(tmp_path: Path, tls: bool, how: str) -> None:
    """The caller is told once, not while it is cutting the connection; the descriptors are closed at once."""
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 50 * MIB)
    recorder = Recorder()
    outcomes = [Outcome(), Outcome()]
    async with (
        running(sending(recorder, tls=tls, outbound=Outbound(timeout=0.3))) as server,
        client_of(port_of(server), tls=tls) as client,
    ):
        conn = await connected(recorder)  # before the pause: uvloop might keep the last of the handshake back
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        before = open_descriptors()
        open_file = OpenFile(path)
        for done in outcomes:
            conn.start_file(open_file, 0, 50 * MIB, done)
        open_file.release()
        if how == "abort":
            conn.abort()
            assert open_file.fd == -1
            assert [done.told for done in outcomes] == [[], []]
        elif how == "reset":
            client.abort()
        for done in outcomes:
            assert isinstance(await done.outcome(), ConnectionClosed)
        await eventually(lambda: recorder.reason)
        assert open_file.fd == -1
        assert open_descriptors() <= before


async def test_closed_already(file: Path) -> None:
    """It is said by the callback, after the call."""
    recorder = Recorder()
    done = Outcome()
    async with running(sending(recorder)) as server, client_of(port_of(server)):
        conn = await connected(recorder)
        conn.abort()
        open_file = OpenFile(file)
        conn.start_file(open_file, 0, 8, done)
        assert done.told == []
        await eventually(lambda: done.told)
        assert isinstance(done.told[0], ConnectionClosed)
        open_file.release()
        with pytest.raises(ValueError, match="is closed"):
            open_file.acquire()
        with pytest.raises(ValueError, match="is closed already"):
            open_file.release()


async def test_a_callback_that_fails(file: Path) -> None:
    """As a handler that does: logged, and the connection closed; the file is let go of."""
    recorder = Recorder()

    def fails(error: Exception | None) -> None:
        raise RuntimeError("of the test")

    async with running(sending(recorder)) as server, client_of(port_of(server)) as client:
        conn = await connected(recorder)
        slow(conn)
        open_file = OpenFile(file)
        conn.start_file(open_file, 0, MIB, fails)
        open_file.release()
        with capture_logs() as logs:
            assert await client.rest(20) == BYTES
            assert await eventually(lambda: recorder.reason) is CloseReason.ERROR
        assert [entry["event"] for entry in logs] == ["handler failed"]
        assert open_file.fd == -1
