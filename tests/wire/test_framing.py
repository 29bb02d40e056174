"""Every framing: that messages survive any cut of their bytes, and what becomes of bytes that are no message."""

from __future__ import annotations

import re
import textwrap
import time
import tracemalloc
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import FrameTooLong, FramingError
from forebay.wire import framing as framings
from forebay.wire.framing import Delimited, Fixed, Framing, LengthPrefixed, Lines, Varint
from tests.wire.codecs import CASES, Case, cut, read, read_slowly

every_case = pytest.mark.parametrize("case", CASES, ids=str)
ANY_BINARY_CASE = st.sampled_from([case for case in CASES if case.binary])

CUTS = st.lists(st.integers(0, 400), max_size=8)


def hostile(case: Case) -> st.SearchStrategy[bytes]:
    """Bytes that are nearly messages: good ones, noise, and pieces that matter to some framing."""
    piece = st.one_of(
        case.messages.map(case.make().encode),
        st.binary(max_size=50),
        st.sampled_from([b"\n", b"\r\n", b"\r", b"\0", b"\xff", b"\x80\0", b"aa", b"--END-", b"\0\0\0\x05", b"x" * 41]),
    )
    return st.lists(piece, max_size=6).map(b"".join)


@every_case
@given(st.data(), CUTS)
def test_messages_survive_any_cut(case: Case, data: st.DataObject, cuts: list[int]) -> None:
    """What was encoded is decoded, however the network cuts it, and nothing is left."""
    messages = data.draw(st.lists(case.messages, max_size=8))
    framing = case.make()
    decoder = framing.decoder()
    found = []
    for chunk in cut(b"".join(map(framing.encode, messages)), cuts):
        found += decoder.feed(chunk)
    assert (found, decoder.error, decoder.pending) == (messages, None, 0)
    decoder.eof()


@every_case
@given(st.data(), CUTS)
def test_any_bytes_are_read_as_the_reference_reads_them(case: Case, data: st.DataObject, cuts: list[int]) -> None:
    """Whatever comes, and however it is cut: the messages, the error and what is held are those of the slow reader;
    only FramingError leaves the decoder, and what it holds is bounded."""
    stream = data.draw(hostile(case))
    expected, bad, left = read_slowly(case, stream)
    framing = case.make()
    decoder = framing.decoder()
    found = []
    error: FramingError | None = None
    for chunk in cut(stream, cuts):
        try:
            found += decoder.feed(chunk)
        except FramingError as raised:
            error = raised
        assert decoder.pending <= framing.maximum + case.extra
        if decoder.error is not None:
            error = decoder.error
            break
    assert (found, error is not None, decoder.pending) == (expected, bad, left)
    if error is not None:
        with pytest.raises(FramingError) as again:
            decoder.feed(b"more")
        assert again.value is error
    if error is not None or left:
        with pytest.raises(FramingError):
            decoder.eof()
    else:
        decoder.eof()


@given(st.sampled_from(CASES), st.data(), CUTS)
def test_the_kind_of_error_does_not_depend_on_the_cut(case: Case, data: st.DataObject, cuts: list[int]) -> None:
    """In one chunk or in many, the same bytes are too long, or wrong."""
    stream = data.draw(hostile(case))
    _, whole = read(case.make(), [stream])
    _, parts = read(case.make(), cut(stream, cuts))
    assert type(whole) is type(parts)


@given(ANY_BINARY_CASE, st.data(), CUTS)
def test_views_are_the_same_messages(case: Case, data: st.DataObject, cuts: list[int]) -> None:
    """With views, every message is a read-only memoryview of the same bytes, and of the chunk when it lies in one."""
    framing = case.make(views=True)
    messages = data.draw(st.lists(case.messages, max_size=6))
    stream = b"".join(map(framing.encode, messages))
    found, error = read(framing, cut(stream, cuts))
    assert (found, error) == (messages, None)
    assert all(isinstance(view, memoryview) and view.readonly for view in found)
    assert all(view.obj is stream for view in read(framing, [stream])[0])


@given(ANY_BINARY_CASE, st.data())
def test_views_can_be_sent_on(case: Case, data: st.DataObject) -> None:
    """A view is encoded like the bytes it shows."""
    framing = case.make()
    message = data.draw(case.messages)
    assert framing.encode(memoryview(message)) == framing.encode(message)


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (Lines(1 << 20), b"x"),
        (Delimited(b"--END--", 1 << 20), b"--END?"),
        (Fixed(1 << 20), b"x"),
        (LengthPrefixed(4, maximum=1 << 20), b"x"),
        (LengthPrefixed(3, offset=1000, maximum=1 << 20), b"x"),
        (Varint(1 << 20), b"x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_big_message_in_small_pieces_costs_as_much_as_it_is_long(framing: Framing, body: bytes) -> None:
    """A MiB in single bytes takes about 16 times as long as 64 KiB: each byte costs the same. So it is with 1000."""

    def seconds(size: int, step: int) -> float:
        if isinstance(framing, Fixed):
            framing_of_size: Framing = Fixed(size)
        else:
            framing_of_size = framing
        message = (body * size)[:size]
        stream = framing_of_size.encode(message.decode() if isinstance(framing, Lines) else message)
        pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
        decoder = framing_of_size.decoder()
        started = time.process_time()
        found = [decoded for piece in pieces for decoded in decoder.feed(piece)]
        spent = time.process_time() - started
        assert [len(decoded) for decoded in found] == [size]
        return spent

    assert seconds(1 << 20, 1) < 5 * 16 * min(seconds(1 << 16, 1) for _ in range(3))
    assert seconds(1 << 20, 1000) < 1.0


@pytest.mark.parametrize(
    ("framing", "start"),
    [
        (LengthPrefixed(4, maximum=1 << 30), b"\x3f\xff\xff\xff"),
        (Varint(1 << 30), b"\xff\xff\xff\xff\x03"),
        (Fixed(1 << 30), b"x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_memory_is_taken_for_what_is_only_promised(framing: Framing, start: bytes) -> None:
    """A header that announces a GiB costs what was sent: a peer cannot make us reserve memory."""
    decoder = framing.decoder()
    tracemalloc.start()
    try:
        assert decoder.feed(start) == []
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()
    assert decoder.pending == len(start)


@pytest.mark.parametrize("framing", [Lines(), Delimited(b";"), Fixed(4), LengthPrefixed(), Varint()], ids=repr)
def test_a_decoder_is_small(framing: Framing) -> None:
    """There is one for each connection: it has no buffer until there is something to hold, and again none after."""
    decoder: Any = framing.decoder()
    assert not hasattr(decoder, "__dict__")
    assert decoder._held is None
    assert len(decoder.feed(b"\0\0\0\x01x"[:2])) + decoder.pending > 0
    if isinstance(framing, LengthPrefixed):
        assert decoder.feed(b"\0\x01x") == [b"x"]
        assert decoder._held is None


def test_maximum_is_for_what_is_received() -> None:
    """Answers may be longer than requests: only the reader of a message knows how much it takes."""
    for framing in (Lines(5, encoding=None), Delimited(b";", 5), LengthPrefixed(maximum=5), Varint(5)):
        data = framing.encode(b"123456")
        with pytest.raises(FrameTooLong, match="5"):
            framing.decoder().feed(data)


def test_the_example_of_the_docstring() -> None:
    """The framing that is shown as a user's own works, cut as one likes, and keeps the contract of errors."""
    code = re.search(r"::\n\n((?:    .*\n|\n)+)", framings.__doc__ or "")
    assert code is not None
    module = types.ModuleType("example")
    exec(textwrap.dedent(code[1]), module.__dict__)
    records = module.Records(2)
    stream = records.encode(["a", "b"]) + records.encode(["c", "d"])
    for at in range(len(stream)):
        assert read(records, [stream[:at], stream[at:]]) == ([["a", "b"], ["c", "d"]], None)
    found, error = read(records, [stream + b"only one\n"])
    assert found == [["a", "b"], ["c", "d"]]
    assert "1 fields" in str(error)
    with pytest.raises(ValueError, match="2 fields"):
        records.encode(["a"])


# Lines


def test_line_ends() -> None:
    """LF and CRLF both end a line, and only the last CR belongs to the end."""
    assert read(Lines(), [b"a\r\nb\nc\r\r\n\n"]) == (["a", "b", "c\r", ""], None)


def test_strict_refuses_a_lone_line_feed() -> None:
    """With strict, CRLF is sent and nothing else is accepted."""
    framing = Lines(strict=True)
    assert framing.encode("a") == b"a\r\n"
    messages, error = read(framing, [b"a\r\nb\nc\r\n"])
    assert messages == ["a"]
    assert "LF alone" in str(error)


@pytest.mark.parametrize("cut", [1, 3, 100])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_maximum(cut: int, end: bytes) -> None:
    """A line of exactly the maximum passes, one byte more does not, whole or in pieces."""
    framing = Lines(5, encoding=None)
    for data, expected in ((b"12345" + end, [b"12345"]), (b"123456" + end, None)):
        messages, error = read(framing, [data[i : i + cut] for i in range(0, len(data), cut)])
        assert messages == (expected or [])
        assert isinstance(error, FrameTooLong) == (expected is None)


def test_an_endless_line_is_refused_before_it_ends() -> None:
    """A peer that never ends its line is found out at the maximum, not later."""
    decoder = Lines(1000).decoder()
    with pytest.raises(FrameTooLong, match="1000 bytes"):
        for _ in range(100):
            assert decoder.feed(b"x" * 11) == []


def test_good_lines_before_a_bad_one_are_not_lost() -> None:
    """They are returned, the error is set, and nothing more can be fed."""
    decoder = Lines().decoder()
    assert decoder.feed(b"good\n\xff\nlater\n") == ["good"]
    assert "not valid utf-8" in str(decoder.error)
    with pytest.raises(FramingError, match="utf-8"):
        decoder.feed(b"more\n")


def test_eof_in_the_middle_of_a_line() -> None:
    """What was not ended is no message."""
    decoder = Lines().decoder()
    decoder.eof()
    assert decoder.feed(b"a\nDELETE /a") == ["a"]
    with pytest.raises(FramingError, match="middle of a line, after 9 bytes"):
        decoder.eof()


def test_bytes_when_there_is_no_encoding() -> None:
    """Without an encoding any byte but the line's end may stand in a line."""
    framing = Lines(encoding=None)
    assert framing.encode(b"\xff\x00") == b"\xff\x00\n"
    assert read(framing, [b"\xff\x00\n"]) == ([b"\xff\x00"], None)


@pytest.mark.parametrize("message", ["two\nlines", b"two\nlines"])
def test_a_message_with_a_line_feed_is_refused(message: str | bytes) -> None:
    """It would arrive as two."""
    with pytest.raises(ValueError, match="line feed"):
        Lines().encode(message)


def test_bad_parameters_of_lines() -> None:
    """They are refused when the framing is made."""
    with pytest.raises(ValueError, match="at least 1"):
        Lines(0)
    with pytest.raises(LookupError):
        Lines(encoding="nosuch")
    with pytest.raises(ValueError, match="one byte"):
        Lines(encoding="utf-16")


@pytest.mark.parametrize("message", ["ends with CR\r", b"ends with CR\r", "\r"])
def test_a_message_that_ends_with_cr_is_refused(message: str | bytes) -> None:
    """It would arrive without it; with strict it arrives."""
    with pytest.raises(ValueError, match="end with CR"):
        Lines().encode(message)
    assert Lines(encoding=None, strict=True).decoder().feed(Lines(strict=True).encode(message)) == [
        message if isinstance(message, bytes) else message.encode()
    ]


@pytest.mark.parametrize(
    "encoding", ["latin-1", "ascii", "utf-8", "UTF8", "gb18030", "utf-7", "hz", "iso2022_jp", "cp1252"]
)
def test_encodings(encoding: str) -> None:
    """Each line is text of its own, also where an encoding has modes that last."""
    framing = Lines(encoding=encoding)
    lines = ["plain", "~", "", "with \r in it"]
    if encoding in ("gb18030", "iso2022_jp", "utf-8", "UTF8", "utf-7"):
        lines.append("\u65e5\u672c")
    if encoding == "latin-1":
        lines.append("\xe9\x85")
    stream = b"".join(map(framing.encode, lines))
    assert read(framing, [stream]) == (lines, None)
    assert read(framing, [stream[at : at + 1] for at in range(len(stream))]) == (lines, None)


def test_characters_the_encoding_does_not_have() -> None:
    """They cannot be sent, nor half a pair of surrogates."""
    for framing, text in ((Lines(encoding="ascii"), "\xe9"), (Lines(), "\ud800")):
        with pytest.raises(ValueError, match="encode"):
            framing.encode(text)


@pytest.mark.parametrize("framing", [Lines(10), Lines(10, encoding=None), Lines(10, strict=True)], ids=repr)
def test_many_lines_in_a_chunk_longer_than_the_maximum(framing: Lines) -> None:
    """The maximum is for each line, not for the chunk."""
    stream = b"".join(framing.encode(f"line {number}") for number in range(100))
    found, error = read(framing, [stream + framing.encode("x" * 11), b"more\n"])
    assert len(found) == 100
    assert isinstance(error, FrameTooLong)
