"""Forms: read whole and a part at a time; their bounds, and whatever is no form."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay.errors import HTTPError, ProtocolError
from forebay.http import App, HTTPServer, Request
from forebay.http.forms import FormData, FormLimits, convert_form, read_form, request_parts
from tests.http.test_form_records import Signup
from tests.support import open_descriptors, raw_client, running

URLENCODED = b"application/x-www-form-urlencoded"
MULTIPART = b"multipart/form-data; boundary=B"


class Sent:
    """As much of an exchange as forms look at."""

    def __init__(self, content_type: bytes | None) -> None:
        self.content_type = content_type

    def header(self, name: bytes) -> bytes | None:
        assert name == b"content-type"
        return self.content_type


class Pieces:
    """Where the content comes from; it may break off."""

    def __init__(self, pieces: list[bytes], end: Exception | None = None) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.end = end

    async def next_piece(self) -> bytes:
        if self.pieces:
            return self.pieces.pop(0)
        if self.end is not None:
            raise self.end
        return b""


def request(content_type: bytes | None, *pieces: bytes, end: Exception | None = None) -> Request:
    sent: Any = Sent(content_type)
    source: Any = Pieces(list(pieces), end)
    return Request(sent, _source=source)


def part(name: str, content: bytes, filename: str | None = None, content_type: str | None = None) -> bytes:
    extra = "" if filename is None else f'; filename="{filename}"'
    extra += "" if content_type is None else f"\r\nContent-Type: {content_type}"
    return f'--B\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + content + b"\r\n"


def multipart(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--B--\r\n"


async def values(form: FormData) -> list[tuple[str, Any]]:
    """Every field; of a file its name and content."""
    return [(name, value if isinstance(value, str) else (value.filename, await value.read())) for name, value in form.items()]  # fmt: skip  # noqa: E501


async def test_an_urlencoded_form() -> None:
    """In order, any number of one name, decoded; however it is cut."""
    async with await read_form(request(URLENCODED, b"a=1&b=%C3%A9+%2", b"B&&a=2&c&=d")) as form:
        assert form.items() == [("a", "1"), ("b", "é +"), ("a", "2"), ("c", ""), ("", "d")]
        assert (form["a"], form.get("b"), form.get("x"), form.get("x", 5)) == ("1", "é +", None, 5)
        assert (form.get_all("a"), form.get_all("x")) == (["1", "2"], [])
        assert ("a" in form, "x" in form, list(form), len(form)) == (True, False, ["a", "b", "c", ""], 4)
        with pytest.raises(KeyError):
            form["x"]
        assert "é" not in repr(form)


async def test_a_multipart_form() -> None:
    """Texts and files, in memory and on the disk."""
    big = bytes(range(256)) * 20
    body = multipart(part("a", b"1"), part("f", big, "x.bin", "image/png"), part("a", "é".encode()), part("g", b"", ""))
    async with await read_form(request(MULTIPART, body[:700], body[700:]), FormLimits(spool_at=1000)) as form:
        first, empty = form.files
        assert (first.filename, first.content_type, first.size, first.in_memory) == ("x.bin", "image/png", 5120, False)
        assert first.headers["content-type"] == "image/png"
        assert (empty.filename, empty.content_type, empty.size) == ("", "application/octet-stream", 0)
        assert await values(form) == [("a", "1"), ("f", ("x.bin", big)), ("a", "é"), ("g", ("", b""))]
    assert first.closed


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 415),
        (b"application/json", 415),
        (b"multipart/mixed; boundary=B", 415),
        (b"multipart/form-data", 400),
        (URLENCODED + b"; charset=latin-1", 415),
        (URLENCODED + b'; charset="UTF-8"', None),
        (URLENCODED + b"; charset", 400),
    ],
)
async def test_the_content_type_of_a_form(content_type: bytes | None, status: int | None) -> None:
    """Either of two, in UTF-8; what would be taken is said."""
    if status is None:
        assert (await read_form(request(content_type, b"a=1"))).items() == [("a", "1")]
        return
    with pytest.raises((HTTPError, ProtocolError)) as caught:
        await read_form(request(content_type, b"a=1"))
    assert getattr(caught.value, "status", 0) == status


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (URLENCODED, b"a=%FF"),
        (URLENCODED, b"\xff=a"),
        (MULTIPART, multipart(part("a", b"\xff"))),
        (MULTIPART, part("a", b"b")),
        (MULTIPART, b"--B\r\n\r\n"),
        (MULTIPART, b""),
    ],
)
async def test_a_form_that_is_malformed(content_type: bytes, body: bytes) -> None:
    """400."""
    with pytest.raises((HTTPError, ProtocolError)) as caught:
        await read_form(request(content_type, body))
    assert getattr(caught.value, "status", 0) == 400


async def test_the_charset_of_a_field() -> None:
    """UTF-8, or 415."""
    good = multipart(part("a", b"b", content_type="text/plain; charset=UTF-8"))
    assert (await read_form(request(MULTIPART, good)))["a"] == "b"
    with pytest.raises(HTTPError, match="charset of field 'a'") as caught:
        await read_form(request(MULTIPART, multipart(part("a", b"b", content_type="text/plain; charset=latin-1"))))
    assert caught.value.status == 415


FILES = multipart(part("f", b"12345", "x"), part("g", b"12345", "y"))


@pytest.mark.parametrize(
    ("content_type", "body", "limits", "message"),
    [
        (URLENCODED, b"a=1&b=2&c=3", FormLimits(fields=2), "more than 2 fields"),
        (URLENCODED, b"&" * 5000 + b"a=1", FormLimits(fields=2), "more than 2 fields"),
        (URLENCODED, b"a=12345", FormLimits(field_size=4), "larger than 4 bytes"),
        (URLENCODED, b"a=12345", FormLimits(memory=6), "larger than 6 bytes"),
        (MULTIPART, multipart(*[part("a", b"")] * 3), FormLimits(fields=2), "more than 2 fields"),
        (MULTIPART, multipart(part("a", b"12345")), FormLimits(field_size=4), "field 'a' is larger than 4 bytes"),
        (MULTIPART, multipart(*[part("a", b"1" * 100)] * 5), FormLimits(memory=500), "form take more than 500 bytes"),
        (MULTIPART, FILES, FormLimits(files=1), "more than 1 files"),
        (MULTIPART, FILES, FormLimits(file_size=4), "file 'f' is larger than 4 bytes"),
        (MULTIPART, multipart(part("a", b"", "f" * 200)), FormLimits(memory=300), "more than 300 bytes"),
    ],
)
async def test_a_form_that_is_too_large(content_type: bytes, body: bytes, limits: FormLimits, message: str) -> None:
    """413, which says what of it; files that were read are closed."""
    before = open_descriptors()
    with pytest.raises(HTTPError, match=message) as caught:
        await read_form(request(content_type, body), limits)
    assert caught.value.status == 413
    assert open_descriptors() <= before


async def test_files_that_do_not_fit_into_memory_go_to_the_disk() -> None:
    """Even small ones, once others have taken what there is."""
    body = multipart(*[part("f", b"x" * 400, "x")] * 4)
    async with await read_form(request(MULTIPART, body), FormLimits(memory=1500)) as form:
        assert [file.in_memory for file in form.files] == [True, True, False, False]
        assert {await file.read() for file in form.files} == {b"x" * 400}


async def test_a_client_that_leaves() -> None:
    """What had come is let go of."""
    before = open_descriptors()
    gone = ConnectionError("gone")
    with pytest.raises(ConnectionError):
        await read_form(request(MULTIPART, FILES[:-20], end=gone), FormLimits(spool_at=0))
    assert open_descriptors() <= before


async def test_a_handler_that_is_cancelled_while_it_reads() -> None:
    """The same."""
    before = open_descriptors()
    waiting = asyncio.Event()

    class Slow(Pieces):
        async def next_piece(self) -> bytes:
            if not self.pieces:
                waiting.set()
                await asyncio.Event().wait()
            return await super().next_piece()

    sent: Any = Sent(MULTIPART)
    source: Any = Slow([FILES[:-20]])
    task = asyncio.ensure_future(read_form(Request(sent, _source=source), FormLimits(spool_at=0)))
    await asyncio.wait_for(waiting.wait(), 5)
    assert open_descriptors() > before
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_descriptors() <= before


async def test_parts_one_at_a_time() -> None:
    """Read, read in part, or not at all: the next one comes when it is asked for."""
    body = multipart(part("a", b"1"), part("f", b"x" * 100, "x"), part("g", b"y" * 100, "y"), part("b", b"2"))
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
    read = []
    async for each in request_parts(request(MULTIPART, *pieces)):
        if each.name == "f":
            async for piece in each:
                read.append((each.name, piece))
                break
        elif each.name != "g":
            read.append((each.name, await each.read(10)))
            assert [piece async for piece in each] == []  # it was read already
    assert [(name, content[:1]) for name, content in read] == [("a", b"1"), ("f", b"x"), ("b", b"2")]


async def test_the_client_waits_while_nobody_asks() -> None:
    """Nothing is read ahead of the part that is being read."""
    asked: list[int] = []

    class Watched(Pieces):
        async def next_piece(self) -> bytes:
            asked.append(len(self.pieces))
            return await super().next_piece()

    sent: Any = Sent(MULTIPART)
    source: Any = Watched([part("f", b"x", "x"), part("g", b"y", "y"), b"--B--"])
    parts = request_parts(Request(sent, _source=source))
    first = await anext(parts)
    assert (first.filename, asked) == ("x", [3])
    second = await anext(parts)
    assert (second.filename, asked) == ("y", [3, 2])
    with pytest.raises(RuntimeError, match="the next part has begun"):
        await first.read(10)


@pytest.mark.parametrize(
    ("body", "limits", "status"),
    [
        (FILES, FormLimits(file_size=4), 413),
        (FILES, FormLimits(files=1), 413),
        (FILES[:-9], FormLimits(), 400),
        (multipart(part("a", b"12345")), FormLimits(field_size=4), 413),
    ],
)
async def test_parts_that_are_refused(body: bytes, limits: FormLimits, status: int) -> None:
    """By the same bounds as a whole form."""
    with pytest.raises((HTTPError, ProtocolError)) as caught:
        async for each in request_parts(request(MULTIPART, body), limits):
            async for _ in each:
                pass
    assert getattr(caught.value, "status", 0) == status
    with pytest.raises(HTTPError) as other:
        await anext(request_parts(request(URLENCODED, b"a=1")))
    assert other.value.status == 415


@pytest.mark.parametrize("limits", [{"fields": -1}, {"file_size": -1}, {"memory": -1}])
def test_limits_that_make_no_sense(limits: dict[str, Any]) -> None:
    """They name themselves."""
    with pytest.raises(ValueError, match=next(iter(limits))):
        FormLimits(**limits)


# -- raw bytes

pieces_of_forms = st.sampled_from(
    [b"--B", b"--B\r\n", b"\r\n--B--", b"\r\n", b"a=1", b"&", b"%", b"%ff", b"=", b"+", part("a", b"1"), part("f", b"x", "y"), b"\r\n\r\n", b'Content-Disposition: form-data; name="', b'"', b"\xff"]  # noqa: E501
)  # fmt: skip


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(pieces_of_forms | st.binary(max_size=6), max_size=12),
    st.sampled_from([URLENCODED, MULTIPART, b"multipart/form-data; boundary=", b"", URLENCODED + b";charset=\xff"]) | st.binary(max_size=30),  # noqa: E501
)  # fmt: skip
def test_any_bytes_are_a_form_or_a_4xx(pieces: list[bytes], content_type: bytes) -> None:
    """Whatever the content and its type."""

    async def read() -> None:
        for limits in (FormLimits(), FormLimits(fields=2, files=1, field_size=3, file_size=3, memory=400)):
            try:
                async with await read_form(request(content_type, *pieces), limits) as made:
                    convert_form(made, Signup)
            except (HTTPError, ProtocolError) as error:
                if not 400 <= error.status <= 499:
                    raise

    asyncio.run(read())


async def test_forms_over_a_socket() -> None:
    """Good ones and bad ones, one after the other to one application: 200 or 4xx, and all is let go of."""
    app = App()

    @app.post("/form")
    async def handler(request: Request) -> dict[str, Any]:
        async with await read_form(request, FormLimits(spool_at=10)) as form:
            return {"values": [[name, repr(value)] for name, value in form.items()]}

    @app.post("/parts")
    async def parts(request: Request) -> dict[str, int]:
        return {each.name: len(await each.read(10**6)) async for each in request_parts(request)}

    bodies: list[tuple[bytes, bytes, int]] = [
        (URLENCODED, urlencode({"a": "é"}).encode(), 200),
        (URLENCODED, b"a=%ff", 400),
        (MULTIPART, multipart(part("f", b"x" * 200_000, "x")), 200),
        (MULTIPART, part("f", b"x" * 200_000, "x"), 400),
        (b"text/plain", b"a=1", 415),
    ]
    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
        for path in (b"/form", b"/parts"):
            for content_type, body, status in bodies:
                async with raw_client(server.addresses[0].port) as client:
                    head = b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
                    await client.send(head % (path, content_type, len(body)) + body)
                    found, _, content = await client.response()
                    expected = status if path == b"/form" or content_type != URLENCODED else 415
                    assert found == expected, content
