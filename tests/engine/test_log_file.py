"""Log lines written by a thread: nothing is lost without being counted, and nothing holds up the loop."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine.log_file import LineWriter, LogFile
from forebay.engine.loop import now
from tests.support import eventually, open_descriptors

APPENDER = """
import asyncio, sys
from forebay.engine.log_file import LineWriter

async def main(path, mark, count):
    writer = LineWriter(path, interval=0.001)
    writer.start()
    for number in range(count):
        writer.put(f"{mark} {number} " + mark * (number % 300))
        if number % 100 == 0:
            await asyncio.sleep(0.001)
    await writer.close(20)
    assert writer.written == count, writer

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def never() -> bool:
    """Nobody gives up."""
    return False


def events(captured: list[Any], part: str) -> list[Any]:
    """Those with ``part`` in their text."""
    return [event for event in captured if part in event["event"]]


async def test_lines_are_appended_in_order(tmp_path: Path) -> None:
    """What was in the file stays, lines follow as they were put, and closing leaves no descriptor or thread."""
    path = tmp_path / "log"
    path.write_text("before\n")
    descriptors, threads = open_descriptors(), threading.active_count()
    writer = LineWriter(path)
    writer.put("put before the start")
    writer.start()
    for number in range(3000):
        writer.put(str(number))
    await writer.close()
    assert path.read_text().splitlines() == ["before", "put before the start", *map(str, range(3000))]
    assert (writer.written, writer.dropped, writer.failed, writer.waiting) == (3001, 0, 0, 0)
    assert (open_descriptors(), threading.active_count()) == (descriptors, threads)


async def test_lines_are_written_while_it_runs(tmp_path: Path) -> None:
    """Each burst is written without a close, also after the thread has gone to sleep."""
    path = tmp_path / "log"
    writer = LineWriter(path, interval=0.01)
    writer.start()
    for number in range(5):
        writer.put(f"line {number}")
        await eventually(lambda: path.exists() and path.read_text().count("\n") == number + 1)  # noqa: B023
    await writer.close()


async def test_it_can_be_started_again(tmp_path: Path) -> None:
    """After a close; not while it is started."""
    writer = LineWriter(tmp_path / "log")
    await writer.close()  # of what was never started
    for number in range(3):
        writer.start()
        with pytest.raises(RuntimeError, match="started already"):
            writer.start()
        writer.put(str(number))
        await writer.close()
    assert (tmp_path / "log").read_text() == "0\n1\n2\n"


async def test_what_no_encoding_has_is_escaped(tmp_path: Path) -> None:
    """A lone surrogate in a line does not cost the batch it is in."""
    writer = LineWriter(tmp_path / "log")
    writer.start()
    writer.put("a\udcffb")
    writer.put("ü")
    await writer.close()
    assert (tmp_path / "log").read_text("utf-8") == "a\\udcffb\nü\n"


@pytest.mark.parametrize("bound", [{"max_lines": 0}, {"max_bytes": -1}, {"interval": 0}])
def test_bounds_must_be_above_zero(bound: Any) -> None:
    """The error names the bound and its value."""
    (name, value) = next(iter(bound.items()))
    with pytest.raises(ValueError, match=f"{name}={value}.* must be above zero"):
        LineWriter("-", **bound)


# -- a sink that is slow


@pytest.mark.parametrize(("bound", "kept"), [({"max_lines": 10}, 10), ({"max_bytes": 50}, 12)])
async def test_at_the_bound_lines_are_dropped_and_counted(bound: Any, kept: int) -> None:
    """The sink holds one line for as long as it likes; beside it so many wait. One warning, however many are lost."""
    taken: list[str] = []
    entered, release = threading.Event(), threading.Event()

    def slow(line: str) -> None:
        taken.append(line)
        entered.set()
        release.wait(20)

    writer = LineWriter(slow, interval=0.001, **bound)
    with capture_logs() as captured:
        writer.start()
        writer.put("....")
        await eventually(entered.is_set)
        kept -= "max_bytes" in bound  # the line in the sink's hands still takes its room
        for _ in range(100):
            writer.put("abcd")
        assert (writer.waiting, writer.dropped) == (kept, 100 - kept)
        release.set()
        await writer.close()
    assert taken == ["....", *["abcd"] * kept]
    assert (writer.written, writer.failed) == (kept + 1, 0)
    (event,) = events(captured, "dropped")
    assert event["log_level"] == "warning"


async def test_room_comes_back() -> None:
    """After the sink has caught up, as much as before fits in again."""
    taken: list[str] = []
    writer = LineWriter(taken.append, interval=0.001, max_bytes=100)
    writer.start()
    for _ in range(20):
        for _ in range(10):
            writer.put("0123456789")
        await eventually(lambda: writer.written == len(taken) and not writer.waiting)
    await writer.close()
    assert len(taken) + writer.dropped == 200
    assert writer.dropped < 100


async def test_a_stuck_sink_is_left_behind() -> None:
    """Closing takes no longer than it may, counts what was not written, and says so. The thread ends later."""
    release = threading.Event()
    writer = LineWriter(lambda line: release.wait(20), interval=0.001)
    threads = threading.active_count()
    with capture_logs() as captured:
        for _ in range(5000):
            writer.put("line")
        writer.start()
        await eventually(lambda: writer.waiting < 5000)
        started = now()
        await writer.close(0.1)
        assert now() - started < 3
    assert writer.dropped == 5000 - 1024
    assert events(captured, "stuck")
    with pytest.raises(RuntimeError, match="started already"):
        writer.start()
    release.set()
    await eventually(lambda: threading.active_count() == threads)
    assert writer.written + writer.failed == 1024


async def test_closing_keeps_its_time_and_counts_what_is_left() -> None:
    """A slow sink gets no more lines once the time is over. Then there is room for as many as before."""
    writer = LineWriter(lambda line: time.sleep(0.02), max_bytes=30_000)
    for _ in range(3000):
        writer.put("0123456789")
    writer.start()
    started = now()
    with capture_logs() as captured:
        await writer.close(0.1)
    assert now() - started < 3
    assert writer.written + writer.failed + writer.dropped == 3000
    assert writer.dropped == 3000 - 1024
    assert writer.failed > 900
    assert len(events(captured, "no time left")) == 1
    for _ in range(3001):
        writer.put("0123456789")
    assert writer.waiting == 3000


async def test_a_function_that_raises_costs_its_batch() -> None:
    """The rest of the batch is lost, reported once; the next batch is tried."""
    taken: list[str] = []
    fail = True

    def sink(line: str) -> None:
        if fail and line == "bad":
            raise LookupError("no such table")
        taken.append(line)

    writer = LineWriter(sink, interval=0.001)
    with capture_logs() as captured:
        writer.put("good")
        writer.put("bad")
        writer.put("lost")
        writer.start()
        await eventually(lambda: writer.failed == 2)
        for _ in range(3):
            writer.put("bad")
            await eventually(lambda: not writer.waiting)
        await eventually(lambda: writer.failed == 5)
        fail = False
        writer.put("bad")
        await eventually(lambda: len(taken) == 2)
        await writer.close()
    assert taken == ["good", "bad"]
    (error,) = events(captured, "cannot be written")
    assert (error["error"], error["failed"]) == ("no such table", 2)
    (again,) = events(captured, "written again")
    assert again["failed"] == 5


# -- files that fail


async def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    """Every line is counted as failed; one error names the reason."""
    writer = LineWriter("/dev/full", interval=0.001)
    with capture_logs() as captured:
        writer.start()
        for number in range(20):
            writer.put("line")
            await eventually(lambda: writer.failed == number + 1)  # noqa: B023
        await writer.close()
    assert (writer.written, writer.dropped) == (0, 0)
    (error,) = events(captured, "cannot be written")
    assert "No space left" in error["error"]
    assert (error["log"], error["log_level"]) == ("/dev/full", "error")


def test_a_line_cut_by_a_full_disk_spoils_no_other(tmp_path: Path) -> None:
    """The file may grow to 25 bytes: two lines fit, half a line follows. With room again, the next line has its own."""
    path = tmp_path / "log"
    file = LogFile(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (25, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            file.write(["line one.", "line two.", "line three", "line four"], never)
        written = file.written
        with pytest.raises(OSError, match="too large"):
            file.write(["line five"], never)
        assert file.written == written
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert written == 2
    file.write(["line six."], never)
    file.write(["line seven"], never)
    file.close()
    assert path.read_text() == "line one.\nline two.\nline \nline six.\nline seven\n"
    assert file.written == 4


async def test_an_unwritable_place_is_reported_at_the_start_and_tried_again(tmp_path: Path) -> None:
    """There is no such directory: reported once, before the first line. Once there is, lines are written."""
    path = tmp_path / "later" / "log"
    writer = LineWriter(path, interval=0.001)
    with capture_logs() as captured:
        writer.start()
        await eventually(lambda: events(captured, "cannot be written"))
        for number in range(5):
            writer.put("lost")
            await eventually(lambda: writer.failed == number + 1)  # noqa: B023
        path.parent.mkdir()
        writer.put("written")
        await eventually(path.exists)
        await writer.close()
    assert path.read_text() == "written\n"
    (error,) = events(captured, "cannot be written")
    assert "No such file or directory" in error["error"]
    assert str(path) in error["error"]
    assert len(events(captured, "written again")) == 1


# -- rotation


async def test_a_file_that_is_renamed_is_opened_anew(tmp_path: Path) -> None:
    """Nothing is lost: each line is in the old file or the new one, in order."""
    path, old = tmp_path / "log", tmp_path / "log.1"
    writer = LineWriter(path, interval=0.001)
    writer.start()
    writer.put("0")
    await eventually(lambda: writer.written == 1)
    path.rename(old)
    count = 1

    def reopened() -> bool:
        nonlocal count
        writer.put(str(count))
        count += 1
        return path.exists()

    await eventually(reopened)
    await writer.close()
    assert [*old.read_text().split(), *path.read_text().split()] == [str(number) for number in range(count)]
    assert path.read_text()
    assert writer.written == count


async def test_a_file_that_was_replaced_or_removed_is_opened_anew(tmp_path: Path) -> None:
    """Another file of the same name, as logrotate creates it, is appended to; without one, a new one is made."""
    path = tmp_path / "log"
    descriptors = open_descriptors()
    writer = LineWriter(path, interval=0.001)
    writer.start()
    for step in ("replaced", "removed"):
        writer.put("old")
        await eventually(lambda: not writer.waiting and path.exists())
        path.unlink()
        if step == "replaced":
            path.write_text("created\n")

        def reopened() -> bool:
            writer.put("new")
            return path.exists() and "new\n" in path.read_text()

        await eventually(reopened)
    assert open_descriptors() <= descriptors + 1
    await writer.close()
    assert open_descriptors() == descriptors


# -- pipes, and several processes


async def test_a_pipe_that_nobody_reads_holds_up_nothing(tmp_path: Path) -> None:
    """Its reader sleeps: the loop goes on, closing keeps its time, every line is counted, and what arrived is whole."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        writer = LineWriter(fifo, interval=0.001, max_lines=500)
        writer.start()
        slowest = 0.0
        for number in range(5000):
            started = now()
            writer.put(f"{number:0200}")
            slowest = max(slowest, now() - started)
            if number % 100 == 0:
                await asyncio.sleep(0.001)
        assert slowest < 1
        await eventually(lambda: writer.dropped)
        started = now()
        await writer.close(0.2)
        assert now() - started < 3
        data = b""
        while piece := os.read(reader, 65536):
            data += piece
    finally:
        os.close(reader)
    assert writer.written + writer.dropped + writer.failed == 5000
    lines = data.decode().split("\n")
    assert lines.pop() == ""
    assert lines == [f"{number:0200}" for number in range(writer.written)]
    assert writer.written > 100


async def test_a_reader_that_catches_up_gets_every_line(tmp_path: Path) -> None:
    """More than a pipe holds, and lines longer than PIPE_BUF, reach a reader that sleeps first, in order and whole."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    lines = [f"{number} " + "x" * (number * 7 % 9000) for number in range(300)]
    writer = LineWriter(fifo, interval=0.001)
    writer.start()
    try:
        for line in lines:
            writer.put(line)
        await eventually(lambda: writer.written > 5)
        os.set_blocking(reader, True)
        size = sum(map(len, lines)) + len(lines)

        def read() -> bytes:
            data = b""
            while len(data) < size:
                data += os.read(reader, 10_000)
            return data

        data = await asyncio.wait_for(asyncio.to_thread(read), 20)
        await writer.close()
    finally:
        os.close(reader)
    assert data.decode() == "\n".join(lines) + "\n"
    assert writer.written == 300


async def test_a_pipe_is_written_once_it_has_a_reader(tmp_path: Path) -> None:
    """Without one it cannot be opened, which does not block; lines until then are lost."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = LineWriter(fifo, interval=0.001)
    with capture_logs() as captured:
        writer.start()
        writer.put("lost")
        await eventually(lambda: writer.failed == 1)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        writer.put("read")
        await eventually(lambda: writer.written == 1)
        assert os.read(reader, 100) == b"read\n"
        os.close(reader)
        writer.put("lost again")
        await eventually(lambda: writer.failed == 2)
        await writer.close()
    assert len(events(captured, "cannot be written")) == 1


def append(target: str, mark: str, count: int, **options: Any) -> subprocess.Popen[bytes]:
    """A process that writes lines."""
    return subprocess.Popen([sys.executable, "-c", APPENDER, target, mark, str(count)], **options)


def check_lines(text: str, marks: str, count: int) -> None:
    """Every line is there once, whole, and each process's lines are in order."""
    seen = dict.fromkeys(marks, 0)
    for line in text.splitlines():
        mark, number, padding = line.split(" ")
        assert seen[mark] == int(number)
        assert padding == mark * (int(number) % 300)
        seen[mark] += 1
    assert seen == dict.fromkeys(marks, count)


def test_several_processes_append_to_one_file(tmp_path: Path) -> None:
    """Their lines do not mix."""
    path = tmp_path / "log"
    processes = [append(str(path), mark, 8000) for mark in "ab"]
    for process in processes:
        assert process.wait(40) == 0
    check_lines(path.read_text(), "ab", 8000)


def test_several_processes_write_to_one_standard_output() -> None:
    """Their lines do not mix, though it is a pipe that is often full."""
    read, write = os.pipe()
    processes = [append("-", mark, 5000, stdout=write) for mark in "ab"]
    os.close(write)
    with open(read, encoding="ascii") as pipe:
        text = pipe.read()
    for process in processes:
        assert process.wait(40) == 0
    check_lines(text, "ab", 5000)
