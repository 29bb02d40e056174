"""Downloads: whole or not at all, resumed where they can be, and never two versions in one file."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
import random
import resource
import stat
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from email.utils import formatdate
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import pytest

from forebay.errors import (
    ConnectFailed,
    DeadlineExceeded,
    UpstreamClosed,
    UpstreamProtocolError,
    UpstreamStatus,
)
from forebay.http import App, FileResponse, HTTPServer, Request, Response
from forebay.http.client.client import Client
from forebay.http.client.download import Downloaded, download, save_response
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.settings import Timeouts
from forebay.http.client.url import parse_url
from forebay.http.headers import MutableHeaders
from forebay.policy.backoff import Backoff
from tests.http.client.kit import Asked, Peer, at_rest, playing
from tests.support import eventually, free_port, open_descriptors, running

DATA = random.Random(1).randbytes(700_000)
OTHER = random.Random(2).randbytes(650_000)
SOON = Backoff(initial=0.001, cap=0.002)
TAG = 'ETag: "one"\r\n'
OLD = f"Last-Modified: {formatdate(1_000_000, usegmt=True)}\r\nDate: {formatdate(usegmt=True)}\r\n"

Answer = bytes | Callable[[Asked], bytes]


def whole(data: bytes = DATA, headers: str = TAG, *, cut: int | None = None, status: str = "200 OK") -> bytes:
    """An answer with all of it, of which only ``cut`` bytes are sent."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode() + data[:cut]


def part(data: bytes = DATA, headers: str = TAG, *, cut: int | None = None, end: int | None = None) -> Answer:
    """An answer with the part that was asked for, up to ``end``; of which only ``cut`` bytes are sent."""

    def made(asked: Asked) -> bytes:
        first = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-"))
        last = (len(data) if end is None else end) - 1
        content = data[first : last + 1]
        lines = f"Content-Range: bytes {first}-{last}/{len(data)}\r\nContent-Length: {len(content)}\r\n"
        return f"HTTP/1.1 206 Partial Content\r\n{lines}{headers}\r\n".encode() + content[:cut]

    return made


class Scripted:
    """A server that gives one answer after the other, each on a connection that it cuts then."""

    def __init__(self, answers: tuple[Answer, ...]) -> None:
        self.asked: list[Asked] = []
        self.url = ""
        self._answers = iter(answers)

    async def play(self, peer: Peer) -> None:
        """One connection."""
        asked = await peer.asked()
        if asked is not None:
            self.asked.append(asked)
            answer = next(self._answers, b"HTTP/1.1 599 No More Answers\r\nContent-Length: 0\r\n\r\n")
            await peer.say(answer if isinstance(answer, bytes) else answer(asked))

    @property
    def ranges(self) -> list[tuple[str | None, str | None]]:
        """``range`` and ``if-range`` of each request."""
        return [(one.headers.get("range"), one.headers.get("if-range")) for one in self.asked]


@asynccontextmanager
async def scripted(*answers: Answer) -> AsyncIterator[tuple[Scripted, Client]]:
    """A server with these answers, and a client for it."""
    script = Scripted(answers)
    async with playing(script.play) as server:
        script.url = f"{server.url}/file"
        async with Client() as client:
            yield script, client
            await at_rest(client)


async def get(script: Scripted, client: Client, path: Path, **options: Any) -> Downloaded:
    """Download it, waiting for nothing."""
    return await download(client, script.url, path, backoff=SOON, **options)


def left_at(path: Path) -> set[str]:
    """The names of the files there."""
    return {one.name for one in path.parent.iterdir()}


async def leave_some(path: Path, cut: int = 300_000, headers: str = TAG) -> str:
    """What a download that broke off after ``cut`` bytes has left; its URL was this."""
    async with scripted(whole(headers=headers, cut=cut)) as (script, client):
        with pytest.raises(UpstreamClosed):
            await get(script, client, path, attempts=1)
        return script.url


# From our own server


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Client]:
    """An application with the files of a directory, and a client for it."""
    app: App[Any] = App()

    @app.get("/files/{name}")
    def file(name: str) -> FileResponse:
        return FileResponse(directory / name)

    @app.get("/moved/{name}")
    def moved(name: str) -> Response:
        return Response(status=302, headers={"location": f"/files/{name}"})

    @app.get("/echo")
    def echo(request: Request) -> dict[str, Any]:
        return {"query": list(request.query), "x": request.headers.get("x")}

    server = HTTPServer(app, bind="http://127.0.0.1:0")
    async with running(server), Client(str(server.addresses[0])) as client:
        yield client


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Client]:
    """A client of a server with one file of a few pieces, one that is small, and one that is empty."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(DATA * 5)
    (source / "small").write_bytes(b"abc")
    (source / "empty").write_bytes(b"")
    async with serving(source) as client:
        yield client


@pytest.mark.parametrize(("name", "content"), [("large", DATA * 5), ("small", b"abc"), ("empty", b"")])
async def test_a_download(served: Client, tmp_path: Path, name: str, content: bytes) -> None:
    """All of it, in place of what was there, and nothing else is left."""
    path = tmp_path / "to" / "file"
    path.parent.mkdir()
    path.write_bytes(b"before")
    told: list[tuple[int, int | None]] = []
    found = await download(
        served,
        f"/files/{name}",
        path,
        on_progress=lambda done, total: told.append((done, total)),
        digest=f"sha256:{sha256(content).hexdigest()}",
        fsync=True,
    )
    assert found == Downloaded(path, len(content), 0, 1)
    assert path.read_bytes() == content
    assert left_at(path) == {"file"}
    assert told[0] == (0, len(content))
    assert told[-1] == (len(content), len(content))
    assert told == sorted(told)


async def test_the_rest_of_a_download(served: Client, tmp_path: Path) -> None:
    """What the server says about its file is enough to go on from what is there, over a redirect too."""
    path = tmp_path / "file"
    for url, resume, requests in (("/files/large", True, 1), ("/moved/large", True, 1), ("/files/large", False, 1)):

        def enough(done: int, total: int | None) -> None:
            if done >= 600_000:
                raise LookupError("enough")

        with pytest.raises(LookupError, match="enough"):
            await download(served, url, path, resume=False, on_progress=enough)
        some = path.with_name("file.part").stat().st_size
        assert 600_000 <= some < len(DATA * 5)
        found = await download(served, url, path, resume=resume)
        assert found == Downloaded(path, len(DATA) * 5, some if resume else 0, requests)
        assert path.read_bytes() == DATA * 5
        path.unlink()


async def test_the_requests_options(served: Client, tmp_path: Path) -> None:
    """Go with each request; a path may be text."""
    path = tmp_path / "file"
    await download(served, "/echo", str(path), params={"a": 1}, headers={"x": "y"})
    assert json.loads(path.read_bytes()) == {"query": [["a", "1"]], "x": "y"}


async def test_what_was_left_of_another_url(served: Client, tmp_path: Path) -> None:
    """Is not gone on from, though it would have the same version."""
    path = tmp_path / "file"
    await leave_some(path)
    found = await download(served, "/files/large", path)
    assert (found.resumed, path.read_bytes()) == (0, DATA * 5)
    await leave_some(path)
    as_long = DATA[::-1]
    async with scripted(part(as_long), whole(as_long)) as (script, client):
        assert await get(script, client, path) == Downloaded(path, len(DATA), 0, 2)
    assert path.read_bytes() == as_long


# Connections that are cut


async def test_a_connection_that_is_cut(tmp_path: Path) -> None:
    """The rest is asked for, as often as it takes, for what was begun."""
    path = tmp_path / "file"
    told: list[int] = []
    async with scripted(whole(cut=100_000), part(cut=1), part(cut=300_000), part()) as (script, client):
        found = await get(script, client, path, on_progress=lambda done, total: told.append(done))
    assert found == Downloaded(path, len(DATA), 0, 4)
    assert path.read_bytes() == DATA
    assert script.ranges == [
        (None, None),
        ("bytes=100000-", '"one"'),
        ("bytes=100001-", '"one"'),
        ("bytes=400001-", '"one"'),
    ]
    assert [one.headers["accept-encoding"] for one in script.asked] == ["identity"] * 4
    assert told == sorted(told)
    assert left_at(path) == {"file"}


async def test_too_many_cuts(tmp_path: Path) -> None:
    """After the last attempt the error is raised, and what came stays for the next call."""
    path = tmp_path / "file"
    async with scripted(whole(cut=100_000), part(cut=100_000), part(cut=100_000), part()) as (script, client):
        with pytest.raises(UpstreamClosed):
            await get(script, client, path, attempts=3)
        assert left_at(path) == {"file.part", "file.part.json"}
        assert path.with_name("file.part").read_bytes() == DATA[:300_000]
        assert script.url not in path.with_name("file.part.json").read_text()
        assert await get(script, client, path) == Downloaded(path, len(DATA), 300_000, 1)
    assert path.read_bytes() == DATA


async def test_a_server_that_is_down(tmp_path: Path) -> None:
    """Nothing is left of what never began."""
    path = tmp_path / "file"
    async with Client(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(ConnectFailed):
            await download(client, "/", path, attempts=2, backoff=SOON)
    assert left_at(path) == set()


async def test_a_server_that_sends_parts_of_parts(tmp_path: Path) -> None:
    """Each is taken for what it is, and none for a failure."""
    path = tmp_path / "file"
    parts = [part(end=at) for at in range(150_000, 700_000, 50_000)]
    async with scripted(whole(cut=100_000), *parts, part()) as (script, client):
        found = await get(script, client, path, attempts=2)
    assert (found.requests, path.read_bytes()) == (13, DATA)


async def test_all_of_it_was_there(tmp_path: Path) -> None:
    """When the program ended just before it gave the file its name: the server has nothing more."""
    path = tmp_path / "file"
    none = f"HTTP/1.1 416 X\r\nContent-Range: bytes */{len(DATA)}\r\nContent-Length: 0\r\n\r\n".encode()
    async with scripted(whole(cut=300_000), none) as (script, client):
        with pytest.raises(UpstreamClosed):
            await get(script, client, path, attempts=1)
        path.with_name("file.part").write_bytes(DATA)
        assert await get(script, client, path) == Downloaded(path, len(DATA), len(DATA), 1)
    assert path.read_bytes() == DATA


# Versions


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        (TAG, '"one"'),
        (OLD, formatdate(1_000_000, usegmt=True)),
        (TAG + OLD, '"one"'),
        ('ETag: W/"one"\r\n', None),
        ("ETag: one\r\n", None),
        (f"Last-Modified: {formatdate(1_000_000, usegmt=True)}\r\n", None),
        ("Last-Modified: yesterday\r\nDate: today\r\n", None),
        ("Last-Modified: {0}\r\nDate: {0}\r\n".format(formatdate(1_000_000, usegmt=True)), None),
        (TAG + "Content-Encoding: identity\r\n", None),
        ("", None),
    ],
    ids=["tag", "date", "both", "weak", "bare", "no-date", "no-dates", "same-second", "coded", "nothing"],
)
async def test_what_says_which_version(tmp_path: Path, headers: str, validator: str | None) -> None:
    """A strong tag, or a date that is exact; without one of them all begins anew."""
    path = tmp_path / "file"
    rest = part() if validator else whole()
    async with scripted(whole(headers=headers, cut=300_000), rest) as (script, client):
        found = await get(script, client, path)
    assert (found.requests, path.read_bytes()) == (2, DATA)
    assert script.ranges[1] == (("bytes=300000-", validator) if validator else (None, None))


async def test_another_version(tmp_path: Path) -> None:
    """The server sends all of the new one: nothing of the old one stays."""
    path = tmp_path / "file"
    async with scripted(
        whole(cut=300_000), whole(OTHER, 'ETag: "two"\r\n', cut=200_000), part(OTHER, 'ETag: "two"\r\n')
    ) as (
        script,
        client,
    ):
        found = await get(script, client, path)
    assert (found, path.read_bytes()) == (Downloaded(path, len(OTHER), 0, 3), OTHER)
    assert script.ranges[1:] == [("bytes=300000-", '"one"'), ("bytes=200000-", '"two"')]


def _content_range(text: str, count: int = 400_000, more: str = "") -> Answer:
    return f"HTTP/1.1 206 X\r\nContent-Length: {count}\r\n{text}{more}\r\n".encode() + bytes(count)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_content_range("Content-Range: bytes 0-399999/700000\r\n"), "asked for bytes 300000 and on"),
        (_content_range("Content-Range: bytes 300001-699999/700000\r\n", 399_999), "asked for bytes 300000 and on"),
        (_content_range("Content-Range: bytes 300000-700000/700000\r\n", 400_001), "asked for bytes 300000"),
        (_content_range("Content-Range: bytes 300000-299999/700000\r\n", 0), "asked for bytes 300000"),
        (_content_range("Content-Range: bytes 300000-699999/700001\r\n"), "it had 700000 bytes, and has 700001 now"),
        (_content_range("Content-Range: bytes 300000-699999\r\n"), "asked for bytes 300000"),
        (_content_range("Content-Range: items 300000-699999/700000\r\n"), "asked for bytes 300000"),
        (_content_range(f"Content-Range: bytes 300000-{'9' * 30}/*\r\n"), "asked for bytes 300000"),
        (_content_range(""), "a part that says not which"),
        (_content_range("Content-Type: multipart/byteranges; boundary=x\r\n"), "a part that says not which"),
        (_content_range("Content-Range: bytes 300000-699999/700000\r\n", more='ETag: "two"\r\n'), 'sent one of "two"'),
        (
            _content_range("Content-Range: bytes 300000-699999/700000\r\n", more="Content-Encoding: gzip\r\n"),
            "in a coding",
        ),
        (_content_range("Content-Range: bytes 300000-699999/700000\r\n", 400_001), "more than 700000 bytes"),
    ],
)
async def test_another_part_than_was_asked_for(tmp_path: Path, answer: Answer, reason: str) -> None:
    """It is not put behind what is there: an error that says why, or, with an attempt left, all of it anew."""
    path = tmp_path / "file"
    async with scripted(whole(cut=300_000), answer) as (script, client):
        with pytest.raises(UpstreamProtocolError, match=reason):
            await get(script, client, path, attempts=2)
    async with scripted(whole(cut=300_000), answer, whole()) as (script, client):
        assert await get(script, client, path) == Downloaded(path, len(DATA), 0, 3)
    assert path.read_bytes() == DATA


async def test_less_of_a_part_than_it_says(tmp_path: Path) -> None:
    """Is gone on from, and counts as a failure: nothing may have come at all."""
    path = tmp_path / "file"
    less = _content_range("Content-Range: bytes 300000-699999/700000\r\n", 0)
    async with scripted(whole(cut=300_000), less, less, part()) as (script, client):
        with pytest.raises(UpstreamClosed, match="it ended after 300000 of 700000 bytes"):
            await get(script, client, path, attempts=3)
        assert (await get(script, client, path)).resumed == 300_000
    assert path.read_bytes() == DATA


async def test_a_part_without_a_total(tmp_path: Path) -> None:
    """Is all there is, where the server says no more."""
    path = tmp_path / "file"

    def rest(asked: Asked) -> bytes:
        return b"HTTP/1.1 206 X\r\nContent-Length: 3\r\nContent-Range: bytes 2-4/*\r\n\r\ncde"

    first = b'HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\nETag: "one"\r\n\r\n2\r\nab\r\n'
    async with scripted(first, rest) as (script, client):
        assert await get(script, client, path) == Downloaded(path, 5, 0, 2)
    assert path.read_bytes() == b"abcde"


@pytest.mark.parametrize("status", ["416 Range Not Satisfiable", "412 Precondition Failed"])
async def test_there_is_no_such_part(tmp_path: Path, status: str) -> None:
    """The file has become shorter: it begins anew."""
    path = tmp_path / "file"
    none = f"HTTP/1.1 {status}\r\nContent-Range: bytes */200000\r\nContent-Length: 0\r\n\r\n".encode()
    async with scripted(whole(cut=300_000), none, whole(DATA[:200_000])) as (script, client):
        assert await get(script, client, path) == Downloaded(path, 200_000, 0, 3)
    assert script.ranges[2] == (None, None)
    assert path.read_bytes() == DATA[:200_000]


@pytest.mark.parametrize(
    ("status", "requests"),
    [("404 X", 1), ("403 X", 1), ("412 X", 1), ("416 X", 1), ("500 X", 3), ("503 X", 3), ("429 X", 3)],
)
async def test_answers_that_are_errors(tmp_path: Path, status: str, requests: int) -> None:
    """Are raised; those that may pass, after the last attempt."""
    path = tmp_path / "file"
    async with scripted(*[whole(b"no", status=status)] * 3) as (script, client):
        with pytest.raises(UpstreamStatus, match=status[:3]):
            await get(script, client, path, attempts=3)
    assert len(script.asked) == requests
    assert left_at(path) == set()


async def test_an_error_in_between(tmp_path: Path) -> None:
    """Does not lose what is there."""
    path = tmp_path / "file"
    async with scripted(whole(cut=300_000), whole(b"no", status="503 X"), part()) as (script, client):
        assert (await get(script, client, path)).requests == 3
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("status", ["204 X", "201 X", "304 X", "206 X"])
async def test_answers_that_are_no_file(tmp_path: Path, status: str) -> None:
    """Are errors as well, at once."""
    path = tmp_path / "file"
    answer = f"HTTP/1.1 {status}\r\n{'' if status[:3] in ('204', '304') else 'Content-Length: 0'}\r\n\r\n".encode()
    async with scripted(answer.replace(b"\r\n\r\n\r\n", b"\r\n\r\n")) as (script, client):
        with pytest.raises(UpstreamProtocolError, match=f"answered with {status[:3]}, and no file"):
            await get(script, client, path)


async def test_compressed_all_the_same(tmp_path: Path) -> None:
    """A server that sends a coding that was not asked for: the file has what is in it, and is not resumed."""
    path = tmp_path / "file"
    data = gzip.compress(DATA)
    headers = TAG + "Content-Encoding: gzip\r\n"
    async with scripted(whole(data, headers, cut=300_000), whole(data, headers)) as (script, client):
        assert (await get(script, client, path)).size == len(DATA)
    assert path.read_bytes() == DATA
    assert script.ranges == [(None, None)] * 2


# What it is to be


async def test_the_digest(tmp_path: Path) -> None:
    """Is that of all of it, what was there before included; a file with another is gone."""
    path = tmp_path / "file"
    right = f"sha256:{sha256(DATA).hexdigest().upper()}"
    async with scripted(whole(cut=300_000), part(), whole(cut=300_000), part(), whole()) as (script, client):
        await get(script, client, path, digest=right)
        assert path.read_bytes() == DATA
        with pytest.raises(UpstreamClosed):
            await get(script, client, path, attempts=1)
        broken = path.with_name("file.part")
        broken.write_bytes(bytes(300_000))
        with pytest.raises(UpstreamProtocolError, match=r"its sha256 is .*, and not"):
            await get(script, client, path, digest=right)
        assert left_at(path) == {"file"}
        assert path.read_bytes() == DATA
        await get(script, client, path, digest=f"md5:{md5(DATA).hexdigest()}")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"attempts": 0}, "attempts 0: must be at least 1"),
        ({"digest": "sha256"}, "must be like sha256:"),
        ({"digest": "sha256:abc"}, "must be like sha256:"),
        ({"digest": f"sha256:{'g' * 64}"}, "must be like sha256:"),
        ({"digest": "nonsense:abc"}, "must be like sha256:"),
        ({"digest": "shake_128:"}, "must be like sha256:"),
        ({"headers": {"Range": "bytes=0-"}}, "are set here"),
        ({"headers": [("accept-encoding", "gzip")]}, "are set here"),
    ],
)
async def test_arguments_that_make_no_sense(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    """Are refused before anything is asked."""
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match=match):
            await download(client, "/", tmp_path / "file", **options)


# Disks


@contextmanager
def a_disk_of(size: int) -> Iterator[None]:
    """Files of this process cannot become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """Is the system's own error; what fits stays, and is gone on from when there is room."""
    path = tmp_path / "file"
    async with scripted(whole(), part()) as (script, client):
        with a_disk_of(300_000), pytest.raises(OSError, match="too large") as e:
            await get(script, client, path)
        assert e.value.errno == errno.EFBIG
        assert path.with_name("file.part").read_bytes() == DATA[:300_000]
        found = await get(script, client, path)
    assert found == Downloaded(path, len(DATA), 300_000, 1)
    assert path.read_bytes() == DATA


async def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    """Are the system's errors, before anything is asked."""
    async with scripted() as (script, client):
        with pytest.raises(IsADirectoryError):
            await get(script, client, tmp_path)
        with pytest.raises(FileNotFoundError):
            await get(script, client, tmp_path / "no" / "file")
        (tmp_path / "file.part").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match=r"file\.part"):
            await get(script, client, tmp_path / "file")
        assert not script.asked


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400, 0o664])
async def test_permissions_stay(tmp_path: Path, mode: int) -> None:
    """What is private stays so, also while it is written; the bits of other kinds go."""
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode | 0o4000)
    before = os.umask(0o022)
    try:
        async with scripted(whole(cut=300_000), part(), whole()) as (script, client):
            with pytest.raises(UpstreamClosed):
                await get(script, client, path, attempts=1)
            for left in (path.with_name("file.part"), path.with_name("file.part.json")):
                assert not stat.S_IMODE(left.stat().st_mode) & ~(mode | 0o600)
            await get(script, client, path)
            assert (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) == (mode, DATA)
            await save_response(await client.get(script.url), path)
            assert (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) == (mode, DATA)
    finally:
        os.umask(before)


async def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    """Such as /dev/null, also through a link; a link to a file is replaced, and not what it leads to."""
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    async with scripted(whole(), whole()) as (script, client):
        for path in (fifo, link):
            with pytest.raises(OSError, match="must be a regular file"):
                await get(script, client, path)
        made = ClientResponse.made(ClientRequest("GET", parse_url("http://a/"), MutableHeaders()), 200)
        for path in (fifo, link, tmp_path):
            with pytest.raises(OSError, match=r"regular file|directory"):
                await save_response(made, path)
        assert left_at(fifo) == {"fifo", "link"}
        assert link.is_symlink()
        for target in (tmp_path / "target", tmp_path / "nowhere"):
            link.unlink()
            link.symlink_to(target)
            (tmp_path / "target").write_bytes(b"before")
            await get(script, client, link)
            assert (link.is_symlink(), link.read_bytes()) == (False, DATA)
            assert (tmp_path / "target").read_bytes() == b"before"


async def test_a_note_that_leads_elsewhere(tmp_path: Path) -> None:
    """Nothing is written through a link, and a FIFO is not waited for."""
    path, note, victim = tmp_path / "file", tmp_path / "file.part.json", tmp_path / "victim"
    makes: list[Callable[[], None]] = [lambda: note.symlink_to(victim), lambda: os.mkfifo(note)]
    for make in makes:
        victim.write_bytes(b"precious")
        make()
        async with scripted(whole(cut=300_000), part()) as (script, client):
            assert (await asyncio.wait_for(get(script, client, path), 5)).requests == 2
        assert victim.read_bytes() == b"precious"
        assert path.read_bytes() == DATA
        assert left_at(path) == {"file", "victim"}


@pytest.mark.parametrize(
    ("first", "tag"),
    [
        (b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: "one"\r\n\r\nabc', ""),
        (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: "one"\r\n\r\n3\r\nabc\r\n', 'ETag: "two"\r\n'),
    ],
)
async def test_nothing_behind_a_part_of_another_version(tmp_path: Path, first: bytes, tag: str) -> None:
    """It is not all of it only because the other one ends just there."""
    path = tmp_path / "file"
    none = f"HTTP/1.1 416 X\r\nContent-Range: bytes */3\r\n{tag}Content-Length: 0\r\n\r\n".encode()
    async with scripted(first, none, whole(b"xyz")) as (script, client):
        assert (await get(script, client, path)).requests == 3
    assert path.read_bytes() == b"xyz"


async def test_two_downloads_of_one_file(tmp_path: Path) -> None:
    """The second is refused, and does not touch what the first has."""
    path = tmp_path / "file"
    going_on = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.say(whole(cut=300_000))
        await going_on.wait()
        await peer.say(DATA[300_000:])

    async with playing(play) as server, Client(server.url) as client:
        first = asyncio.create_task(download(client, "/", path))
        await eventually(path.with_name("file.part").exists)
        with pytest.raises(BlockingIOError, match="another download writes this file"):
            await asyncio.wait_for(download(client, "/", path), 5)
        going_on.set()
        await first
    assert path.read_bytes() == DATA


async def test_a_note_that_is_none(tmp_path: Path) -> None:
    """What nobody knows the version of begins anew."""
    path = tmp_path / "file"
    for note in (b"", b"{}", b"[", b'{"url": 1}', b"\xff", b'{"url": "x"}'):
        path.with_name("file.part").write_bytes(b"x" * 100)
        path.with_name("file.part.json").write_bytes(note)
        async with scripted(whole()) as (script, client):
            assert await get(script, client, path) == Downloaded(path, len(DATA), 0, 1)
        assert script.ranges == [(None, None)]
        assert left_at(path) == {"file"}


# Its end


async def test_cancelled_anywhere(tmp_path: Path) -> None:
    """Whenever it is given up: nothing wrong is ever under the file's name, and nothing is left open."""
    path = tmp_path / "file"

    async def play(peer: Peer) -> None:
        while (asked := await peer.asked()) is not None:
            await peer.say(part()(asked) if "range" in asked.headers else whole())  # type: ignore[operator]  # it is one

    async with playing(play) as server, Client(server.url) as client:
        await download(client, "/", path)
        path.unlink()
        before = open_descriptors()
        for turns in range(60):
            task = asyncio.create_task(download(client, "/", path, resume=turns % 2 == 0))
            for _ in range(turns):
                await asyncio.sleep(0)
                if turns % 3 == 0:
                    await asyncio.sleep(0.0002)
            task.cancel()
            await asyncio.wait([task])
            if path.exists():
                assert path.read_bytes() == DATA
                path.unlink()
            assert left_at(path) <= {"file.part", "file.part.json"}
            await at_rest(client)

        await download(client, "/", path)
        assert path.read_bytes() == DATA
        await eventually(lambda: open_descriptors() <= before + 2)  # the client's connection, and the server's


async def test_no_time_left(tmp_path: Path) -> None:
    """A total timeout ends it; what came stays."""
    path = tmp_path / "file"

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.say(whole(cut=300_000))
        await asyncio.sleep(3600)

    async with playing(play) as server, Client(server.url, timeouts=Timeouts(total=0.2)) as client:
        with pytest.raises(DeadlineExceeded):
            await download(client, "/", path)
        assert path.with_name("file.part").read_bytes() == DATA[:300_000]


async def test_it_takes_no_memory(tmp_path: Path) -> None:
    """As large as the file may be."""
    path = tmp_path / "file"
    size = 1 << 27

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.say(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        piece = bytes(1 << 16)
        for _ in range(size // len(piece)):
            await peer.say(piece)

    async with playing(play) as server, Client(server.url) as client:
        tracemalloc.start()
        try:
            found = await download(client, "/", path)
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()
    assert found.size == path.stat().st_size == size


# Saving one response


async def test_saving(served: Client, tmp_path: Path) -> None:
    """An answer that is there already: all of it or nothing, under its own name in the end only."""
    path = tmp_path / "to" / ("x" * 255)  # as long as a name can be
    path.parent.mkdir()
    told: list[tuple[int, int | None]] = []
    for name, content in (("large", DATA * 5), ("small", b"abc"), ("empty", b"")):
        told.clear()
        response = await served.get(f"/files/{name}")
        size = await save_response(
            response,
            path,
            on_progress=lambda done, total: told.append((done, total)),
            fsync=True,
        )
        assert (size, path.read_bytes()) == (len(content), content)
        assert told[-1:] == ([(size, size)] if size else [])
        assert len(left_at(path)) == 1


async def test_saving_what_breaks_off(tmp_path: Path) -> None:
    """Leaves what was there as it was, and nothing else."""
    path = tmp_path / "file"
    path.write_bytes(b"before")
    async with scripted(whole(cut=300_000), whole()) as (script, client):
        response = await client.get(script.url)
        with pytest.raises(UpstreamClosed):
            await save_response(response, path)
        assert left_at(path) == {"file"}
        assert path.read_bytes() == b"before"
        with a_disk_of(300_000):
            response = await client.get(script.url)
            with pytest.raises(OSError, match="too large") as e:
                await save_response(response, path)
            assert left_at(path) == {"file"}
        assert e.value.errno == errno.EFBIG
        assert path.read_bytes() == b"before"
