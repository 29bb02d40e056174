"""multipart/form-data: what was written is read however it is cut, and what is malformed is refused."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from forebay.errors import ProtocolError
from forebay.wire.multipart import End, MultipartLimits, MultipartReader, PartBegin, PartData, read_boundary

BOUNDARY = b"b-B"
SMALL = MultipartLimits(parts=3, headers=3, head=200, around=20)


@dataclass
class Part:
    """A part as it was sent or read."""

    name: str
    filename: str | None
    content_type: bytes | None
    content: bytes = b""


def escaped(text: str) -> bytes:
    """A name as browsers write it."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A").encode()


def written(parts: Iterable[Part], boundary: bytes = BOUNDARY, before: bytes = b"", after: bytes = b"\r\n") -> bytes:
    """A body as browsers write it."""
    made = [before]
    for part in parts:
        made.append(b'--%b\r\nContent-Disposition: form-data; name="%b"' % (boundary, escaped(part.name)))
        if part.filename is not None:
            made.append(b'; filename="%b"' % escaped(part.filename))
        if part.content_type is not None:
            made.append(b"\r\nContent-Type: %b" % part.content_type)
        made.append(b"\r\n\r\n%b\r\n" % part.content)
    made.append(b"--%b--%b" % (boundary, after))
    return b"".join(made)


def read(
    pieces: Iterable[bytes], boundary: bytes = BOUNDARY, limits: MultipartLimits | None = None
) -> tuple[list[Part], int | None]:
    """The parts, the last of which may have only begun, and the status of the error."""
    reader = MultipartReader(boundary, limits)
    parts: list[Part] = []
    ended = True
    try:
        for piece in pieces:
            for event in reader.feed(piece):
                if isinstance(event, PartBegin):
                    assert ended
                    ended = False
                    parts.append(Part(event.name, event.filename, event.content_type))
                elif isinstance(event, PartData):
                    assert event.data
                    assert not ended
                    parts[-1].content += event.data
                else:
                    assert isinstance(event, End) is ended
                    ended = True
        reader.close()
    except ProtocolError as error:
        with pytest.raises(ProtocolError):
            reader.feed(b"x")
        with pytest.raises(ProtocolError):
            reader.close()
        return parts, error.status
    assert ended
    return parts, None


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


names = st.text(
    st.sampled_from('ab"\r\n%;=é\\€') | st.characters(codec="utf-8", exclude_categories=["C"]), max_size=8
).filter(lambda name: not re.search(r"%(22|0[da])|\\$|\\[\\\"]|[\\]\"", name, re.IGNORECASE))
contents = st.binary(max_size=40) | st.lists(
    st.sampled_from([b"\r\n", b"--", b"\r\n--b-", b"\r", b"\n", b"-", b"b-B", b"\r\n\r\n", b"--b-B", b"\r\n--b", b"x"]),
    max_size=8,
).map(b"".join)
parts_made = st.lists(
    st.builds(Part, names, st.none() | names, st.none() | st.just(b"text/plain; charset=utf-8"), contents)
    .filter(lambda part: b"\r\n--b-B" not in b"\r\n" + part.content),
    max_size=5,
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(parts_made, st.lists(st.integers(0, 2000), max_size=8), st.sampled_from([b"", b"\r\n", b"\r\nbye", b" \t"]))
def test_what_was_written_is_read(parts: list[Part], places: list[int], after: bytes) -> None:
    """Any parts, cut anywhere, and byte by byte."""
    body = written(parts, after=after)
    assert read(cut(body, places)) == (parts, None)
    assert read(cut(body, range(len(body)))) == (parts, None)


fragments = [
    b"--b-B", b"\r\n", b"--b-B\r\n", b"\r\n--b-B--", b"Content-Disposition: form-data; name=a\r\n", b"\r\n\r\n", b"--",
    b" ",
    b'content-disposition: form-data; name="x"; filename="\\"', b"\n", b"\r", b"-", b"x" * 30, b":", b'"',
    b"\x00", b"\xff",
    b"--b-B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n", b"; filename*=utf-8''a", b"\t",
    b"--b-B--\r\n", b"a: b\r\n",
]  # fmt: skip
hostile = st.lists(st.sampled_from(fragments) | st.binary(max_size=4), max_size=16).map(b"".join)


@settings(max_examples=1000, deadline=None)
@given(hostile, st.lists(st.integers(0, 400), max_size=6))
def test_whatever_comes_the_cuts_do_not_matter(body: bytes, places: list[int]) -> None:
    """Any bytes give the same parts and the same refusal whole, cut and byte by byte; and never another error."""
    whole = read([body], limits=SMALL)
    assert read(cut(body, places), limits=SMALL) == whole
    assert read(cut(body, range(len(body))), limits=SMALL) == whole


HEAD = b'--b-B\r\nContent-Disposition: form-data; name="a"\r\n'
END = b"\r\n--b-B--"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"--b-B--", []),
        (b"--b-B--\r\n", []),
        (b"preamble\r\n--b-B--", []),
        (HEAD + b"\r\nx" + END, [Part("a", None, None, b"x")]),
        (HEAD + b"\r\n" + END, [Part("a", None, None, b"")]),
        (HEAD + END, [Part("a", None, None, b"")]),  # RFC 2046: the empty line is the content's, which may be missing
        (HEAD + b"\r\n\r\n" + END, [Part("a", None, None, b"\r\n")]),
        (HEAD.replace(b"B\r", b"B \t\r") + b"\r\nx" + END + b"  ", [Part("a", None, None, b"x")]),
        (HEAD.replace(b'"a"', b"a") + b"\r\nx" + END, [Part("a", None, None, b"x")]),
        (HEAD.replace(b'"a"', b'"%22%0d%0A%41"') + b"\r\n" + END, [Part('"\r\n%41', None, None)]),
        (HEAD.replace(b'"a"', rb'"\"\\\c"') + b"\r\n" + END, [Part('"\\\\c', None, None)]),
        (HEAD.replace(b'"a"', b'"a";; filename="b"; filename*=utf-8\'\'c') + b"\r\n" + END, [Part("a", "b", None)]),
        (HEAD.replace(b'"a"', b'""; filename=""') + b"Content-Type: x\r\n\r\n" + END, [Part("", "", b"x")]),
        (HEAD + b"Content-Transfer-Encoding: BINARY\r\n\r\n=41" + END, [Part("a", None, None, b"=41")]),
        (HEAD + b"\r\n--b-B\r\n" + END, None),
    ],
)  # fmt: skip
def test_what_is_taken(body: bytes, expected: list[Part] | None) -> None:
    """The corners of the grammar, and what clients make of it."""
    assert read([body]) == ((expected, None) if expected is not None else ([Part("a", None, None)], 400))


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "without its last boundary"),
        (b"x", 400, "without its last boundary"),
        (b"--b-B", 400, "without its last boundary"),
        (HEAD + b"\r\nx", 400, "in part 1 without its last boundary"),
        (HEAD + b"\r\nx\r\n--b-B\r\n", 400, "in part 2 without"),
        (HEAD + b"\r\nx\r\n--b-B-", 400, "without its last boundary"),
        (b"--b-Bx", 400, "follows a boundary"),
        (b"\n" + HEAD + b"\r\nx" + END, 400, "byte 1: the first boundary does not follow CRLF"),
        (b"a\r\nb\n" + (HEAD + b"\r\nx\r\n") * 2 + END, 400, "byte 5: the first boundary does not follow CRLF"),
        (b"--b-B\n", 400, "follows a boundary"),
        (b"--b-B --", 400, "follows a boundary"),
        (b"--b-B--x", 400, "follows the last boundary"),
        (b"--b-B--\r", 400, "follows the last boundary"),
        (b"--b-B" + b" " * 65, 400, "more than 64 blanks"),
        (b"--b-B\r\n\r\nx" + END, 400, "no content-disposition"),
        (HEAD + b"Content-Disposition: form-data; name=b\r\n\r\n" + END, 400, "has 2 content-disposition headers"),
        (HEAD.replace(b"form-data", b"attachment") + b"\r\n" + END, 400, "form-data is expected"),
        (HEAD.replace(b"name", b"nome") + b"\r\n" + END, 400, "part 1 has no name"),
        (HEAD.replace(b'"a"', b'"a"; name="b"') + b"\r\n" + END, 400, "the parameter name twice"),
        (HEAD.replace(b'"a"', b'"a"; NAME="b"') + b"\r\n" + END, 400, "the parameter name twice"),
        (HEAD.replace(b'"a"', b'"a') + b"\r\n" + END, 400, "malformed parameter"),
        (HEAD.replace(b'"a"', b'"a"b') + b"\r\n" + END, 400, "malformed parameter"),
        (HEAD.replace(b'"a"', b'"a"; filename*=utf-8\'\'b') + b"\r\n" + END, 400, "filename* and no filename"),
        (HEAD.replace(b'"a"', b'"a"; filename*0="b"') + b"\r\n" + END, 400, "filename* and no filename"),
        (HEAD.replace(b'"a"', b'"a"; filename*0*=utf-8\'\'b') + b"\r\n" + END, 400, "filename* and no filename"),
        (HEAD.replace(b'"a"', b'"\xff"') + b"\r\n" + END, 400, "name of part 1 is not UTF-8"),
        (HEAD + b"Folded: a\r\n b\r\n\r\n" + END, 400, "malformed header line"),
        (HEAD + b"A b: c\r\n\r\n" + END, 400, "malformed header line"),
        (HEAD + b"A: \x00\r\n\r\n" + END, 400, "malformed header line"),
        (HEAD + b"A: b\nC: d\r\n\r\n" + END, 400, "malformed header line"),
        (HEAD + b"Content-Transfer-Encoding: base64\r\n\r\n" + END, 400, "content-transfer-encoding"),
        (HEAD + b"A: b\r\n" * 3 + b"\r\n" + END, 413, "part 1 has more than 3 headers"),
        (HEAD + b"A: " + b"b" * 200 + b"\r\n\r\n" + END, 413, "headers of part 1 are longer than 200 bytes"),
        (HEAD + b"A: " + b"b" * 300, 413, "headers of part 1 are longer than 200 bytes"),
        ((HEAD + b"\r\nx\r\n") * 4, 413, "more than 3 parts"),
        (b"\r\n x--b-B\r\n", 400, "byte 4: the first boundary does not follow CRLF"),
        (b"x" * 21, 413, "more than 20 bytes before the first boundary"),
        (b"--b-B--\r\n" + b"x" * 21, 413, "more than 20 bytes after the last boundary"),
    ],
)  # fmt: skip
def test_what_is_refused(body: bytes, status: int, message: str) -> None:
    """Each with its status; the message says what and where."""
    reader = MultipartReader(BOUNDARY, SMALL)
    with pytest.raises(ProtocolError, match=re.escape(message)) as caught:
        for _ in range(2):
            reader.feed(body)
            reader.close()
    assert caught.value.status == status
    assert read([body], limits=SMALL)[1] == status


def test_the_longest_headers_that_are_taken() -> None:
    """The bound is the last length that is taken, cut anyhow."""
    room = SMALL.head - len(HEAD.partition(b"\r\n")[2]) - len(b"A: ")
    for more, status in ((0, None), (1, 413)):
        body = HEAD + b"A: " + b"b" * (room + more) + b"\r\n\r\n" + END
        assert read([body], limits=SMALL)[1] == status
        assert read(cut(body, range(len(body))), limits=SMALL)[1] == status


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data ; charset=utf-8; BOUNDARY="a b"', b"a b"),
        (b"multipart/form-data;boundary=----WebKit0aA'()+_,-./:=?", b"----WebKit0aA'()+_,-./:=?"),
        (b"multipart/form-data; boundary=" + b"a" * 70, b"a" * 70),
    ],
)  # fmt: skip
def test_the_boundary_of_a_content_type(content_type: bytes, expected: bytes) -> None:
    """Quoted or not, whatever the case of the names."""
    assert read_boundary(content_type) == expected


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 415),
        (b"", 415),
        (b"multipart/mixed; boundary=a", 415),
        (b"multipart/form-data", 400),
        (b"multipart/form-data; boundary=", 400),
        (b'multipart/form-data; boundary=""', 400),
        (b'multipart/form-data; boundary="a "', 400),
        (b"multipart/form-data; boundary=" + b"a" * 71, 400),
        (b"multipart/form-data; boundary=a; boundary=b", 400),
        (b'multipart/form-data; boundary="a\xff"', 400),
        (b"multipart/form-data boundary=a", 415),
    ],
)
def test_a_content_type_without_a_usable_boundary(content_type: bytes | None, status: int) -> None:
    """Another type is 415, a bad boundary 400."""
    with pytest.raises(ProtocolError) as caught:
        read_boundary(content_type)
    assert caught.value.status == status


@pytest.mark.parametrize("limits", [{"parts": 0}, {"headers": 0}, {"head": 0}, {"around": -1}])
def test_limits_that_make_no_sense(limits: dict[str, int]) -> None:
    """They name themselves."""
    with pytest.raises(ValueError, match=next(iter(limits))):
        MultipartLimits(**limits)


@pytest.mark.parametrize("unit", [b"\r\n--b-", b"\r", b"\r\n--b-B\r\n", b"x"])
def test_memory_is_bounded(unit: bytes) -> None:
    """What is held besides the events is never more than a head or the beginning of a boundary."""
    reader = MultipartReader(BOUNDARY, MultipartLimits(head=200))
    reader.feed(HEAD + b"\r\n")
    try:
        for byte in unit * 2000:
            reader.feed(bytes([byte]))
            assert reader.pending <= 204
    except ProtocolError:
        assert unit == b"\r\n--b-B\r\n"


@pytest.mark.parametrize("begin", [HEAD + b"A: ", HEAD + b"\r\n"])
def test_the_time_grows_with_the_length(begin: bytes) -> None:
    """Four times the bytes, one by one, take about four times as long: a head, and beginnings of a boundary."""

    def seconds(count: int) -> float:
        reader = MultipartReader(BOUNDARY, MultipartLimits(head=10_000_000))
        reader.feed(begin)
        pieces = [bytes([byte]) for byte in (b"\r\n--b-" if begin.endswith(b"\r\n\r\n") else b"x") * count][:count]
        start = time.process_time()
        for piece in pieces:
            reader.feed(piece)
        return time.process_time() - start

    assert min(seconds(200_000) for _ in range(2)) < 10 * max(seconds(50_000) for _ in range(2))


# -- beside python-multipart


def theirs(body: bytes) -> tuple[list[Part], bool]:
    """The parts as python-multipart reads them, and whether it refused the body."""
    parts: list[Part] = []
    header: list[bytes] = [b"", b""]

    def begin() -> None:
        parts.append(Part("", None, None))

    def name(data: bytes, start: int, end: int) -> None:
        header[0] += data[start:end]

    def value(data: bytes, start: int, end: int) -> None:
        header[1] += data[start:end]

    def header_end() -> None:
        if header[0].lower() == b"content-disposition":
            _, options = parse_options_header(header[1])
            parts[-1].name = options[b"name"].decode()
            parts[-1].filename = options[b"filename"].decode() if b"filename" in options else None
        elif header[0].lower() == b"content-type":
            parts[-1].content_type = header[1]
        header[:] = [b"", b""]

    def data(piece: bytes, start: int, end: int) -> None:
        parts[-1].content += piece[start:end]

    ended: list[bool] = []
    callbacks: Any = {
        "on_part_begin": begin,
        "on_header_field": name,
        "on_header_value": value,
        "on_header_end": header_end,
        "on_part_data": data,
        "on_end": lambda: ended.append(True),
    }
    parser = MultipartParser(BOUNDARY, callbacks)
    try:
        parser.write(body)
        parser.finalize()
    except (FormParserError, KeyError, UnicodeDecodeError):
        return parts, True
    return parts, not ended


REASONS: list[tuple[str, str, str]] = [  # what we say; what the body has; why it is ours to refuse
    (r"malformed header line", r"\n[ \t]|[^\r]\n|\r[^\n]|[\x00-\x08\x0b-\x1f\x7f]", "they take some of it"),
    (r"content-disposition", r"", "none, two, or one that is no form-data: left to their callers"),
    (r"parameter", r"", "a malformed or repeated parameter: they guess, and take the last"),
    (r"has no name|filename\* and no|is not UTF-8", r"", "left to their callers"),
    (r"bytes (before|after)|more than|longer than", r"", "our bounds"),
    (r"does not follow CRLF", r"[^\n]--b-B|[^\r]\n--b-B|\A\n", "they skip anything up to a hyphen behind a line's end"),
    (r"follows the last boundary", r"--b-B--", "they warn and ignore whatever follows the last boundary"),
    (r"follows a boundary|without its last", r"", "they ignore what stands before the first boundary in their own way"),
]  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(parts_made.map(written) | hostile)
def test_beside_python_multipart(body: bytes) -> None:
    """What both take is the same; what only one takes has a reason."""
    reader = MultipartReader(BOUNDARY)
    mine, status = read([body])
    other, refused = theirs(body)
    if status is None and not refused:
        for part in other:
            for escape, text in (("%22", '"'), ("%0D", "\r"), ("%0A", "\n")):
                part.name = part.name.replace(escape, text)
                part.filename = part.filename and part.filename.replace(escape, text)
        if mine != other:
            # A part without content may end with its headers, whose last CRLF is the boundary's then (RFC 2046 section
            # 5.1.1). They take that boundary for content.
            assert re.search(rb"\r\n\r\n--b-B", body), body
            assert any(not part.content for part in mine), (mine, other)
    elif status is not None and not refused:
        with pytest.raises(ProtocolError) as caught:
            for _ in range(2):
                reader.feed(body)
                reader.close()
        assert [
            why for says, has, why in REASONS if re.search(says, str(caught.value)) and re.search(has.encode(), body)
        ]
    elif status is None:
        # They refuse text before the first boundary, blanks behind one, and parts that have headers and no empty line.
        assert re.search(rb"\A(?!--b-B)|b-B[ \t]|\r\n\r\n--b-B", body), body
