"""Uploaded files: in memory, on the disk, saved, cancelled, and without space."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forebay.errors import HTTPError
from forebay.http import uploads
from forebay.http.uploads import SPOOL_AT, UploadFile
from tests.support import eventually, open_descriptors


def upload_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("files-")]


@pytest.mark.parametrize("spool_at", [0, 10, 1000])
async def test_what_was_written_is_read(spool_at: int) -> None:
    """In memory or on the disk: whole, in pieces, and again from any place."""
    async with UploadFile("a.txt", spool_at=spool_at) as file:
        for piece in (b"hello", b"", b" ", b"world" * 10):
            await file.write(piece)
        whole = b"hello " + b"world" * 10
        assert file.size == len(whole)
        assert file.in_memory is (len(whole) <= spool_at)
        assert await file.read() == whole
        assert await file.read() == b""
        file.seek(6)
        assert await file.read(5) == b"world"
        assert [piece async for piece in file.chunks(20)] == [whole[11:31], whole[31:51], whole[51:]]
        file.seek(1000)
        assert await file.read(5) == b""


async def test_it_rolls_over_past_its_bound_and_not_before() -> None:
    """1 MiB stays in memory; one byte more goes to the disk."""
    async with UploadFile("a") as file:
        await file.write(bytes(SPOOL_AT))
        assert file.in_memory
        await file.write(b"x")
        assert "in disk" in repr(file)
        assert file.size == SPOOL_AT + 1
        file.seek(SPOOL_AT - 1)
        assert await file.read() == b"\x00x"


async def test_the_temporary_file_has_no_name(tmp_path: Path) -> None:
    """Nothing is left behind, whatever happens to the process."""
    async with UploadFile("a", spool_at=0, directory=tmp_path) as file:
        await file.write(b"x")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spool_at", [0, 1000])
async def test_it_is_saved_whole(tmp_path: Path, spool_at: int) -> None:
    """In place of what is there; with nothing beside it, and wherever reading is."""
    path = tmp_path / "saved"
    path.write_bytes(b"before")
    async with UploadFile("../../etc/passwd", spool_at=spool_at) as file:
        await file.write(b"content")
        assert await file.read(3) == b"con"
        await file.save_to(path)
        assert await file.read() == b"tent"
        await file.save_to(str(path))
    assert path.read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a" * 255, "写" * 85])
async def test_it_is_saved_under_the_longest_name(tmp_path: Path, name: str) -> None:
    """Names have 255 bytes at most; the one it is written under until it is complete is no longer."""
    async with UploadFile(name) as file:
        await file.write(b"content")
        await file.save_to(tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"content"


async def test_a_place_where_nothing_can_be_saved(tmp_path: Path) -> None:
    """It is the program's error, and says which; nothing is left."""
    async with UploadFile("a", spool_at=0) as file:
        await file.write(b"content")
        with pytest.raises(FileNotFoundError):
            await file.save_to(tmp_path / "missing" / "file")
        (tmp_path / "directory").mkdir()
        with pytest.raises(OSError, match="directory"):
            await file.save_to(tmp_path / "directory")
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]


async def test_closing_frees_everything() -> None:
    """Descriptors and threads are gone; a closed file says so; closing again is nothing."""
    before = open_descriptors()
    files = [UploadFile(str(number), spool_at=0) for number in range(20)]
    await asyncio.gather(*(file.write(b"x" * 100) for file in files))
    assert open_descriptors() >= before + 20
    assert len(upload_threads()) <= 4
    await asyncio.gather(*(file.aclose() for file in files))
    await files[0].aclose()
    await eventually(lambda: not upload_threads())
    assert open_descriptors() <= before
    assert "closed" in repr(files[0])
    for call in (files[0].read, lambda: files[0].write(b"x"), lambda: files[0].save_to("/nowhere")):
        with pytest.raises(ValueError, match="was closed"):
            await call()


async def test_the_threads_come_back() -> None:
    """After the last file took them along, the next one has new ones."""
    for _ in range(3):
        async with UploadFile("a", spool_at=0) as file:
            await file.write(b"x")
            assert upload_threads()
            assert await file.read() == b"x"
    await eventually(lambda: not upload_threads())


class Held:
    """Makes a call of the disk file wait in its thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        original: Callable[..., Any] = getattr(uploads._DiskFile, name)

        def held(disk: uploads._DiskFile, *args: Any) -> Any:
            self.entered.set()
            assert self.go.wait(10)
            return original(disk, *args)

        monkeypatch.setattr(uploads._DiskFile, name, held)


@pytest.mark.parametrize("rolled_over", [False, True])
async def test_a_write_that_is_cancelled(monkeypatch: pytest.MonkeyPatch, rolled_over: bool) -> None:
    """The loop goes on while the disk is slow; closing waits its turn behind the thread, and nothing leaks."""
    before = open_descriptors()
    made: list[Any] = []
    make = tempfile.TemporaryFile

    def keeps(**kwargs: Any) -> Any:
        made.append(make(**kwargs))
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", keeps)
    file = UploadFile("a", spool_at=0)
    if rolled_over:
        await file.write(b"x")
    held = Held(monkeypatch, "write")
    task = asyncio.ensure_future(file.write(b"y"))
    await eventually(held.entered.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    closed = Held(monkeypatch, "_close")
    closed.go.set()
    closing = file.close()
    await eventually(closed.entered.is_set)
    held.go.set()  # the thread goes on behind the close
    assert closing is not None
    await asyncio.wait_for(closing, 5)
    await eventually(lambda: not upload_threads())
    assert open_descriptors() <= before
    assert [each.closed for each in made] == [True]  # and not by the collector


@pytest.mark.parametrize("rolled_over", [False, True])
async def test_what_is_not_whole_is_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rolled_over: bool
) -> None:
    """After a write that failed: nothing is given out as if it were all, and nothing is added behind the gap."""
    async with UploadFile("a", spool_at=3) as file:
        await file.write(b"abcd" if rolled_over else b"abc")

        def fails(*_: object) -> None:
            raise OSError(errno.ENOSPC, "full")

        with monkeypatch.context() as patch:
            patch.setattr(uploads._DiskFile, "write", fails)
            with pytest.raises(HTTPError):
                await file.write(b"e")
        for call in (file.read, file.roll_over, lambda: file.write(b"f"), lambda: file.save_to(tmp_path / "saved")):
            with pytest.raises(ValueError, match="not whole"):
                await call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "status"), [(errno.ENOSPC, 507), (errno.EDQUOT, 507), (errno.EMFILE, 503), (errno.EIO, 503)]
)
async def test_a_disk_that_fails(monkeypatch: pytest.MonkeyPatch, number: int, status: int) -> None:
    """Full is 507, anything else 503, without the words of the system; everything is cleaned up."""

    def fails(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    before = open_descriptors()
    monkeypatch.setattr(tempfile, "TemporaryFile", fails)
    async with UploadFile("a", spool_at=3) as file:
        await file.write(b"abc")
        with pytest.raises(HTTPError) as caught:
            await file.write(b"d")
    assert caught.value.status == status
    assert os.strerror(number) not in caught.value.detail
    await eventually(lambda: not upload_threads())
    assert open_descriptors() <= before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
async def test_a_disk_that_is_full_while_it_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the file was opened; closing it, which writes what is left, fails nobody."""
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115
    before = open_descriptors()
    async with UploadFile("a", spool_at=0) as file:
        with pytest.raises(HTTPError) as caught:
            await file.write(b"d")
        assert caught.value.status == 507
    await eventually(lambda: not upload_threads())
    assert open_descriptors() <= before


def test_a_negative_offset() -> None:
    """Is refused."""
    with pytest.raises(ValueError, match=r"seek\(-1\)"):
        UploadFile("a").seek(-1)
