"""Lines: what is one, what is not, and that it makes no difference how the network cuts them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import FrameTooLong, FramingError
from forebay.wire.framing import Lines

TEXT = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=40)


def read(framing: Lines, chunks: Sequence[bytes]) -> tuple[list[object], FramingError | None]:
    """The messages in ``chunks``, and the error that ended them."""
    decoder = framing.decoder()
    messages: list[object] = []
    for chunk in chunks:
        try:
            messages += decoder.feed(chunk)
        except FramingError as error:
            return messages, error
        if decoder.error is not None:
            return messages, decoder.error
    return messages, None


@given(st.lists(TEXT, max_size=8), st.lists(st.integers(0, 300), max_size=8), st.booleans())
def test_lines_survive_any_cut(lines: list[str], cuts: list[int], strict: bool) -> None:
    """What was encoded is decoded, however the network cuts it."""
    framing = Lines(strict=strict)
    data = b"".join(map(framing.encode, lines))
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert read(framing, chunks) == (lines, None)


@given(st.lists(st.binary(max_size=30), max_size=6), st.integers(1, 20), st.booleans())
def test_errors_do_not_depend_on_the_cut(chunks: list[bytes], maximum: int, strict: bool) -> None:
    """Any bytes give the same messages in one chunk as in many, and the same verdict once every line has ended."""
    framing = Lines(maximum, strict=strict)
    chunks = [*chunks, b"\n"]
    whole, whole_error = read(framing, [b"".join(chunks)])
    parts, parts_error = read(framing, chunks)
    assert parts == whole
    assert (parts_error is None) == (whole_error is None)


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
    with pytest.raises(FramingError, match="9 bytes"):
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


def test_bad_parameters() -> None:
    """They are refused when the framing is made."""
    with pytest.raises(ValueError, match="at least 1"):
        Lines(0)
    with pytest.raises(LookupError):
        Lines(encoding="nosuch")
    with pytest.raises(ValueError, match="one byte"):
        Lines(encoding="utf-16")
