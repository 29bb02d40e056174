"""What a request sends: its kinds, files that are read piece by piece, and that a length is never wrong."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import tempfile
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from forebay.http.client import sources
from forebay.http.client.content import EMPTY, Content, File, Streamed, encode_content, with_progress
from tests.support import eventually

MEGABYTE = bytes(range(256)) * 4096


async def sent(content: Content) -> bytes:
    """All of it, which is as long as it says."""
    pieces = [piece async for piece in content.pieces()]
    assert all(type(piece) is bytes and piece for piece in pieces)
    data = b"".join(pieces)
    assert content.length in (None, len(data))
    assert content.data in (None, data)
    return data


async def pieces_of(*pieces: bytes | str) -> AsyncIterator[bytes | str]:
    """These, one after the other."""
    for piece in pieces:
        yield piece


def parts_of(content: Content, data: bytes) -> list[tuple[str, str | None, str, bytes]]:
    """Name, filename, media type and content of each part, as the standard library reads them."""
    message: Any = BytesParser(policy=HTTP).parsebytes(f"content-type: {content.kind}\r\n\r\n".encode() + data)
    assert not message.defects
    return [
        (
            part.get_param("name", header="content-disposition"),
            part.get_filename(),
            part.get_content_type(),
            part.get_payload(decode=True),
        )
        for part in message.iter_parts()
    ]


@dataclass
class Point:
    """Something to encode."""

    x: int


@pytest.mark.parametrize(
    ("options", "kind", "data"),
    [
        ({}, "", b""),
        ({"content": b""}, "", b""),
        ({"content": b"\x00\xff"}, "", b"\x00\xff"),
        ({"content": bytearray(b"a")}, "", b"a"),
        ({"content": memoryview(b"abc")[1:]}, "", b"bc"),
        ({"content": ""}, "text/plain; charset=utf-8", b""),
        ({"content": "ü"}, "text/plain; charset=utf-8", b"\xc3\xbc"),
        ({"content": Content(b"a", "x/y")}, "x/y", b"a"),
        ({"json": None}, "application/json", b"null"),
        ({"json": {"a": ["ü", 1]}}, "application/json", '{"a":["ü",1]}'.encode()),
        ({"json": Point(1)}, "application/json", b'{"x":1}'),
        ({"msgpack": {"a": 1}}, "application/msgpack", b"\x81\xa1a\x01"),
        ({"msgpack": None}, "application/msgpack", b"\xc0"),
        ({"form": {}}, "application/x-www-form-urlencoded", b""),
        ({"form": {"a&": ["1 2", True, None]}}, "application/x-www-form-urlencoded", b"a%26=1+2&a%26=true&a%26="),
        ({"form": [("a", 1), ("b", "ü")]}, "application/x-www-form-urlencoded", b"a=1&b=%C3%BC"),
    ],
)
async def test_kinds_of_content(options: Any, kind: str, data: bytes) -> None:
    """Each is encoded, in memory, and may be sent again."""
    content = encode_content(**options)
    assert (content.kind, content.data, content.length, content.replayable) == (kind, data, len(data), True)
    assert await sent(content) == await sent(content) == data


def test_no_content_is_one_object() -> None:
    """By which a request knows that it has none."""
    assert encode_content() is EMPTY
    assert encode_content(None, msgspec.UNSET, msgspec.UNSET, None, None) is EMPTY


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"json": 1, "form": {}}, ValueError, "was given json and form or files"),
        ({"content": b"", "msgpack": 1}, ValueError, "was given content and msgpack"),
        ({"content": 5}, TypeError, "content of type int: must be bytes, str, a Path"),
        ({"content": [b"a"]}, TypeError, "content of type list"),
        ({"content": io.StringIO("a")}, TypeError, "must be open in binary mode"),
        ({"content": Path("/no/such/file")}, FileNotFoundError, "/no/such/file"),
        ({"content": Path("/")}, ValueError, "/ is no regular file"),
        ({"content": Path("/dev/null")}, ValueError, "/dev/null is no regular file"),
        ({"form": {"a": b"1"}}, TypeError, "field 'a': must be text"),
        ({"form": "a=1"}, TypeError, "fields of type str"),
        ({"files": {"a": "text"}}, TypeError, "file 'a': its content must be bytes, not str"),
        ({"files": {"a": ("a.txt", 1)}}, TypeError, "file 'a': its content must be bytes, not int"),
        ({"files": {"a": io.StringIO("a")}}, TypeError, "must be open in binary mode"),
        ({"files": {"a": ("a.txt", b"", "text/plain\r\nx: y")}}, ValueError, "media type"),
        ({"files": {"a": ("a.txt", Content(b""), "text/plain\r\nx: y")}}, ValueError, "media type"),
        ({"files": {"a": Path("/no/such/file")}}, FileNotFoundError, "/no/such/file"),
        ({"files": {"a": ("a.txt",)}}, TypeError, "file 'a': must be .*has 1 values"),
        ({"files": {"a": ("a.txt", b"", "text/plain", {})}}, TypeError, "file 'a': must be .*has 4 values"),
        ({"files": {"a": (Path("a"), b"")}}, TypeError, "name .*must be text"),
        ({"files": {1: b""}}, TypeError, "name 1 of a field or file: must be text, not int"),
        ({"files": {"a": b""}, "form": {1: "a"}}, TypeError, "name 1 of a field or file"),
        ({"files": "a=1"}, TypeError, "files of type str: must be a mapping"),
        ({"files": {"a": b""}, "form": {"b": "\ud800"}}, ValueError, "fields must be Unicode"),
        ({"files": {"\ud800": b""}}, ValueError, "fields must be Unicode"),
    ],
)
def test_what_is_no_content(options: Any, error: type[Exception], match: str) -> None:
    """Is refused before anything is sent."""
    with pytest.raises(error, match=match):
        encode_content(**options)


@pytest.mark.parametrize("kind", ["a\r\nb: c", "a\n", "ü", "a\0"])
def test_a_media_type_is_one_line(kind: str) -> None:
    """It becomes a header."""
    makers: list[Callable[[], Content]] = [
        lambda: Content(b"", kind),
        lambda: File(__file__, kind=kind),
        lambda: Streamed(pieces_of(), kind=kind),
    ]
    for make in makers:
        with pytest.raises(ValueError, match="media type"):
            make()


# Async iterables


async def test_an_async_iterable() -> None:
    """Its length is not known; text is UTF-8, empty pieces are none; it can be sent once."""
    content = encode_content(pieces_of(b"a", "", "ü", b""))
    assert (content.length, content.replayable, content.data) == (None, False, None)
    assert await sent(content) == b"a\xc3\xbc"
    with pytest.raises(ValueError, match="cannot be sent twice"):
        await sent(content)


async def test_an_async_iterable_of_known_length() -> None:
    """Gives exactly that; whether more or less comes is known before the last byte was sent."""
    assert await sent(Streamed(pieces_of("ab", "c"), length=3)) == b"abc"
    assert await sent(Streamed(pieces_of(), length=0)) == b""
    with pytest.raises(ValueError, match="it ended after 3 of 4 bytes"):
        await sent(Streamed(pieces_of("ab", "c"), length=4))
    content, got = Streamed(pieces_of("ab", "cd"), length=3), b""
    with pytest.raises(ValueError, match="more than 3 bytes"):
        async for piece in content.pieces():
            got += piece
    assert got == b"ab"
    content, got = Streamed(pieces_of("ab", "c", "", "d"), length=3), b""
    with pytest.raises(ValueError, match="more than 3 bytes"):
        async for piece in content.pieces():
            got += piece
    assert got == b"ab"
    with pytest.raises(ValueError, match="length -1"):
        Streamed(pieces_of(), length=-1)
    with pytest.raises(TypeError, match="a piece must be bytes or str, not int"):
        await sent(Streamed(pieces_of(1)))  # type: ignore[arg-type]  # what is refused


async def test_an_async_iterable_is_closed() -> None:
    """When it is left before its end."""
    closed = False

    async def endless() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield b"a"
        finally:
            closed = True

    pieces = encode_content(endless()).pieces()
    assert await anext(pieces) == b"a"
    await pieces.aclose()
    assert closed


# Files


@pytest.mark.parametrize("size", [0, 1, 262143, 262144, 262145, 524288, 1048576])
async def test_a_file_by_its_path(tmp_path: Path, size: int) -> None:
    """All of it, as often as it is wanted; its type is that of its name."""
    path = tmp_path / "a b.json"
    path.write_bytes(MEGABYTE[:size])
    for content in (encode_content(path), File(str(path)), encode_content(File(path))):
        assert (content.length, content.replayable, content.kind) == (size, True, "application/json")
        assert await sent(content) == await sent(content) == MEGABYTE[:size]
    assert File(path, kind="x/y", name="z").kind == "x/y"
    assert File(path).name == "a b.json"


async def test_a_file_that_is_open(tmp_path: Path) -> None:
    """From where it is; again from there; it stays open."""
    path = tmp_path / "a.txt"
    path.write_bytes(MEGABYTE)
    with path.open("rb") as file:
        file.seek(10)
        content = encode_content(file)
        assert (content.length, content.replayable) == (len(MEGABYTE) - 10, True)
        assert await sent(content) == await sent(content) == MEGABYTE[10:]
        assert not file.closed
    with path.open("rb", buffering=0) as raw:
        assert await sent(encode_content(raw)) == MEGABYTE
    memory = io.BytesIO(b"0123")
    memory.seek(1)
    assert await sent(encode_content(memory)) == b"123"
    with pytest.raises(ValueError, match="closed"):
        encode_content(file)


async def test_a_file_that_is_compressed(tmp_path: Path) -> None:
    """What it gives counts, and not what is on the disk."""
    path = tmp_path / "a.gz"
    with gzip.open(path, "wb") as file:
        file.write(MEGABYTE)
    with gzip.open(path, "rb") as opened:
        assert await sent(encode_content(opened)) == MEGABYTE  # type: ignore[arg-type]  # it is no IO[bytes] to mypy


async def test_a_pipe() -> None:
    """It cannot seek: it is sent as it comes, once."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as file:
        content = encode_content(file)
        assert (content.length, content.replayable) == (None, False)
        pieces = content.pieces()
        os.write(writing, b"abc")
        assert await asyncio.wait_for(anext(pieces), 5) == b"abc"
        os.write(writing, b"def")
        os.close(writing)
        assert [piece async for piece in pieces] == [b"def"]
        with pytest.raises(ValueError, match="cannot seek, and so cannot be sent twice"):
            await sent(content)


async def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Are refused by name, and not when half of the request was sent."""
    with (tmp_path / "out").open("wb") as file, pytest.raises(ValueError, match="out': must be open for reading"):
        encode_content(file)
    with (tmp_path / "out").open("rb") as closed:
        pass
    with pytest.raises(ValueError, match="closed"):
        encode_content(closed)
    with tempfile.NamedTemporaryFile("w+") as text, pytest.raises(TypeError, match="open in binary mode, and gave str"):
        text.write("abc")
        text.flush()
        text.seek(0)
        await sent(encode_content(text))
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with os.fdopen(reading, "rb") as pipe, pytest.raises(ValueError, match="must be in blocking mode"):
        encode_content(pipe)
    os.close(writing)


def file_threads() -> int:
    """Those that there are."""
    return sum(thread.name.startswith("files-") for thread in threading.enumerate())


async def test_pipes_keep_no_file_waiting(tmp_path: Path) -> None:
    """However many of them have nothing to read; and their threads end with them, also when nobody waits any more."""
    await eventually(lambda: not file_threads())
    path = tmp_path / "a"
    path.write_bytes(MEGABYTE)
    pipes = [os.pipe() for _ in range(12)]
    with ExitStack() as stack:
        files = [stack.enter_context(os.fdopen(reading, "rb")) for reading, _ in pipes]
        writers = [stack.enter_context(os.fdopen(writing, "wb", 0)) for _, writing in pipes]  # closed first
        tasks = [asyncio.create_task(sent(encode_content(file))) for file in files]
        await eventually(lambda: file_threads() >= 12)
        assert await asyncio.wait_for(sent(File(path)), 5) == MEGABYTE
        for task in tasks[6:]:
            task.cancel()
        for writer in writers:
            writer.write(b"abc")
            writer.close()
        assert await asyncio.gather(*tasks[:6]) == [b"abc"] * 6
        await eventually(lambda: not file_threads())


async def test_giving_up_is_nothing_to_tell(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An upload that is cancelled while a thread reads, opens or waits for its turn: no warning, and no error."""
    path = tmp_path / "a"
    path.write_bytes(MEGABYTE)
    with capture_logs() as told:
        for turns in range(30):
            tasks = [asyncio.create_task(sent(File(path))) for _ in range(8)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=5)
        assert await sent(File(path)) == MEGABYTE
        await eventually(lambda: not any(thread.name.startswith("files-") for thread in threading.enumerate()))
    assert (told, caplog.records) == ([], [])


@pytest.mark.parametrize("size", [1, 262144, 1048576])
async def test_a_file_that_changes_before_it_is_sent(tmp_path: Path, size: int) -> None:
    """Is an error that says how, and not all of it has been sent by then."""
    path = tmp_path / "a"
    path.write_bytes(MEGABYTE[:size])
    for change, match in ((-1, f"it has shrunk from {size} to {size - 1} bytes"), (1, f"grown past the {size} bytes")):
        content, got = File(path), 0
        path.write_bytes(bytes(size + change))
        with pytest.raises(ValueError, match=match):
            async for piece in content.pieces():
                got += len(piece)
        assert got < size
        path.write_bytes(MEGABYTE[:size])


@pytest.mark.parametrize("change", [-600_000, -1, 1])
async def test_a_file_that_changes_while_it_is_sent(tmp_path: Path, change: int) -> None:
    """As well, and in a form too."""
    path = tmp_path / "a"
    makers: list[Callable[[], Content]] = [lambda: File(path), lambda: encode_content(files={"a": path})]
    for content_of in makers:
        path.write_bytes(MEGABYTE)
        content = content_of()
        assert content.length is not None
        pieces = content.pieces()
        got = len(await anext(pieces))
        os.truncate(path, len(MEGABYTE) + change)
        with pytest.raises(ValueError, match=r"it has (shrunk|grown)"):
            async for piece in pieces:
                got += len(piece)
        assert got < content.length


async def test_a_file_that_is_gone(tmp_path: Path) -> None:
    """Is what the system says."""
    path = tmp_path / "a"
    path.write_bytes(b"a")
    content = File(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        await sent(content)
    os.mkfifo(path)
    with pytest.raises(ValueError, match="no regular file"):
        await asyncio.wait_for(sent(content), 5)


async def test_somebody_else_reads_the_file(tmp_path: Path) -> None:
    """Two that read one open file get an error, and not each other's bytes."""
    path = tmp_path / "a"
    path.write_bytes(MEGABYTE * 2)

    class Shared(io.FileIO):
        """Reads from another place, each time it was told where to."""

        def seek(self, at: int, whence: int = 0) -> int:
            return super().seek(at + (whence == 0 and at > 0), whence)

    with Shared(path) as file, pytest.raises(ValueError, match="something else read it at the same time"):
        await sent(encode_content(file))


async def test_descriptors_and_threads_end(tmp_path: Path) -> None:
    """Also of files that are left in the middle, by whoever was cancelled too."""
    path = tmp_path / "a"
    path.write_bytes(MEGABYTE)
    before = len(os.listdir("/proc/self/fd"))

    async def take_some() -> None:
        pieces = File(path).pieces()
        try:
            await anext(pieces)
            await asyncio.sleep(3600)
        finally:
            await pieces.aclose()

    tasks = [asyncio.create_task(take_some()) for _ in range(20)]
    for turns, task in enumerate(tasks):
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait(tasks, timeout=5)
    await sent(File(path))
    await eventually(lambda: len(os.listdir("/proc/self/fd")) == before)


async def test_a_file_that_opens_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody waits for it any more, and all of it was closed: it is closed as well."""
    path = tmp_path / "a"
    path.write_bytes(MEGABYTE)
    before = len(os.listdir("/proc/self/fd"))
    opening, left = threading.Event(), threading.Event()
    closing = sources._Reading._close

    def open_late(*args: Any, **options: Any) -> Any:
        opening.set()
        assert left.wait(5)
        return open(*args, **options)

    def close(reading: sources._Reading) -> None:
        closing(reading)
        left.set()

    monkeypatch.setattr(sources, "open", open_late, raising=False)
    monkeypatch.setattr(sources._Reading, "_close", close)
    task = asyncio.create_task(sent(File(path)))
    await eventually(opening.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(left.is_set)
    await eventually(lambda: len(os.listdir("/proc/self/fd")) == before)


async def test_a_large_file_takes_no_memory(tmp_path: Path) -> None:
    """A file is sent with what a few pieces take, alone and in a form."""
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(1 << 28)  # without taking room on the disk
    tracemalloc.start()
    try:
        for content in (File(path), encode_content(form={"a": 1}, files={"b": path})):
            size = 0
            tracemalloc.reset_peak()
            async for piece in content.pieces():
                size += len(piece)
            assert size == content.length
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


# Forms with files


async def test_a_form_with_files(tmp_path: Path) -> None:
    """Of all kinds; each with its name, its type, and what is in it."""
    path = tmp_path / 'p"q.json'
    path.write_bytes(MEGABYTE)
    with path.open("rb") as file:
        content = encode_content(
            form={"title": "ü", "n": [1, None]},
            files=[
                ("bytes", b"--x\r\n\x00"),
                ("named", ("a.txt", b"1")),
                ("typed", ("a.txt", b"2", "x/y")),
                ("path", path),
                ("renamed", ("other.txt", path)),
                ("open", file),
                ("file", File(path, name="f", kind="f/f")),
                ("memory", io.BytesIO(b"3")),
                ("a\r\nb", b"4"),
            ],
        )
        assert content.length is not None
        assert (content.data, content.replayable) == (None, True)
        for _ in range(2):
            data = await sent(content)
            assert parts_of(content, data) == [
                ("title", None, "text/plain", "ü".encode()),
                ("n", None, "text/plain", b"1"),
                ("n", None, "text/plain", b""),
                ("bytes", "bytes", "application/octet-stream", b"--x\r\n\x00"),
                ("named", "a.txt", "text/plain", b"1"),
                ("typed", "a.txt", "x/y", b"2"),
                ("path", "p%22q.json", "application/json", MEGABYTE),
                ("renamed", "other.txt", "text/plain", MEGABYTE),
                ("open", "p%22q.json", "application/json", MEGABYTE),
                ("file", "f", "f/f", MEGABYTE),
                ("memory", "memory", "application/octet-stream", b"3"),
                ("a%0D%0Ab", "a%0D%0Ab", "application/octet-stream", b"4"),
            ]


async def test_a_small_form_is_in_memory() -> None:
    """It is sent with its head, at once; several files of one name are a list."""
    content = encode_content(files={"a": [b"1", ("b", b"2")], "c": ("d.txt", b"3")})
    assert content.data is not None
    assert [part[:2] for part in parts_of(content, await sent(content))] == [("a", "a"), ("a", "b"), ("c", "d.txt")]
    content = encode_content(files={})
    assert content.data == f"--{content.kind.partition('=')[2]}--\r\n".encode()


async def test_a_large_form_in_memory() -> None:
    """Is sent piece by piece, without being joined."""
    content = encode_content(form={f"f{n}": "x" * 1000 for n in range(1500)}, files={"a": MEGABYTE * 2})
    assert content.data is None
    parts = parts_of(content, await sent(content))
    assert len(parts) == 1501
    assert parts[-1][3] == MEGABYTE * 2


async def test_a_form_of_unknown_length() -> None:
    """One part that comes as it comes makes all of it so."""
    content = encode_content(files={"a": ("a.txt", pieces_of(b"1", "2")), "b": b"3"})
    assert (content.length, content.replayable) == (None, False)
    assert [part[3] for part in parts_of(content, await sent(content))] == [b"12", b"3"]
    with pytest.raises(ValueError, match="cannot be sent twice"):
        await sent(content)


def test_names_on_the_disk(tmp_path: Path) -> None:
    """What is not UTF-8 is replaced, as by browsers; a path in bytes is one; a descriptor, or the like, has no name."""
    path = os.fsencode(tmp_path) + b"/\xff.txt"
    with open(path, "wb"):
        pass
    assert File(Path(os.fsdecode(path))).name == "\ufffd.txt"
    with open(path, "rb") as file:
        assert File(file).name == "\ufffd.txt"
        assert encode_content(files={"a": file}).length
    with open(os.open(path, os.O_RDONLY), "rb") as file:
        assert File(file).name == ""
    assert File(io.BytesIO()).name == ""


ANY_TEXT = st.text(st.characters(blacklist_categories=[]) | st.sampled_from('"\\\r\n\0;'), max_size=10)


@given(
    st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=3),
    st.binary(max_size=200),
    ANY_TEXT,
    ANY_TEXT,
    ANY_TEXT | st.sampled_from(["text/plain", "a\r\nb: c"]),
)
def test_any_form_arrives(form: dict[str, str], data: bytes, name: str, filename: str, kind: str) -> None:
    """Whatever its fields hold, and whatever its file is called, none of them becomes a part, or a line, of its own."""
    try:
        content = encode_content(form=form, files={name: (filename, data, kind)})
    except ValueError:
        return  # half a character, or no media type
    assert content.data is not None
    boundary = content.kind.partition("=")[2].encode()
    parts = content.data.split(b"--" + boundary)
    assert len(parts) == len(form) + 3
    head, _, body = parts[-2].partition(b"\r\n\r\n")
    assert body == data + b"\r\n"
    lines = head.split(b"\r\n")[1:]
    assert [line.partition(b":")[0] for line in lines] == [b"content-disposition", b"content-type"]
    assert not any(b"\r" in line or b"\n" in line for line in lines)
    assert lines[0].count(b'"') == 4
    for part, value in zip(parts[1:], form.values(), strict=False):
        head, _, body = part.partition(b"\r\n\r\n")
        assert head.count(b"\r\n") == 1
        assert body == value.encode() + b"\r\n"


# Progress


async def test_progress(tmp_path: Path) -> None:
    """Begins at 0 and ends at all, at each sending; content in memory is told of as well."""
    path = tmp_path / "a"
    path.write_bytes(MEGABYTE)
    told: list[tuple[int, int | None]] = []

    def note(done: int, total: int | None) -> None:
        told.append((done, total))

    for content in (Content(MEGABYTE, "x/y"), File(path, kind="x/y")):
        watched = with_progress(content, note)
        assert (watched.kind, watched.length, watched.replayable) == ("x/y", len(MEGABYTE), True)
        for _ in range(2):
            told.clear()
            assert sha256(await sent(watched)).digest() == sha256(MEGABYTE).digest()
            assert told == [(n * 65536, len(MEGABYTE)) for n in range(17)]
    told.clear()
    await sent(with_progress(Streamed(pieces_of(b"abc", b"d")), note))
    assert told == [(0, None), (3, None), (4, None)]


async def test_progress_that_fails() -> None:
    """Ends the sending, and closes what was sent."""

    def fail(done: int, total: int | None) -> None:
        if done:
            raise LookupError("enough")

    pieces = with_progress(Content(MEGABYTE), fail).pieces()
    assert len(await anext(pieces)) == 65536
    with pytest.raises(LookupError, match="enough"):
        await anext(pieces)
