"""Multipart bodies to fuzz with: by hypothesis, and to begin with."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from fuzz.target import encode

BOUNDARIES = (b"b-B", b"--", b"a:b", b"x y")
"""Which of these it is, the flags of an input say."""

_DISPOSITION = b"Content-Disposition: form-data"
_HEADERS = [
    _DISPOSITION + b'; name="a"', _DISPOSITION + b"; name=a", _DISPOSITION + b'; name="a"; filename="b.txt"',
    _DISPOSITION + b'; name="";filename=""', b'content-disposition:Form-Data;NAME = "a" ;; ', _DISPOSITION,
    _DISPOSITION + b'; name="%22%0D%0a%41"', _DISPOSITION + rb'; name="\"a\\b\c"', _DISPOSITION + rb'; name="a\\"',
    _DISPOSITION + rb'; name="a"; filename="C:\a\b"', _DISPOSITION + b'; name="a"; name="b"',
    _DISPOSITION + b'; name="a"; filename*=utf-8\'\'b', _DISPOSITION + b'; name="a"; filename*0="b"',
    _DISPOSITION + b'; name="a"; filename="b"; filename*=utf-8\'\'c', _DISPOSITION + b'; name="\xc3\xa9;="',
    _DISPOSITION + b'; name="\xff"', _DISPOSITION + b"; name=a b", _DISPOSITION + b'; name="a',
    _DISPOSITION + b"; name=", _DISPOSITION + b'; name="a"b', _DISPOSITION + b"; name",
    b"Content-Disposition: attachment; name=a", b"Content-Type: text/plain; charset=utf-8",
    b"Content-Transfer-Encoding: base64", b"A: b\r\n c", b"A: b\nC: d", b"A", b"Content-Transfer-Encoding: Binary",
    b"A: \x00", b"A : b", b" A: b", b": b", b"A:\tb\t", b"A: " + b"b" * 197, b"A:", b"\xff: a",
]  # fmt: skip
_ENDS = [b"\r\n"] * 30 + [b" \t\r\n", b"\n", b"\r", b"\r\r\n", b" " * 64 + b"\r\n", b" " * 65 + b"\r\n", b"-\r\n"]
_CONTENTS = [
    b"", b"x", b"\r\n", b"\r", b"\n", b"--", b"\r\n--", b"\r\n-", b"\r\n\r\n", b"x" * 300, bytes(range(256)),
    b"\r\n--b", b"\r\n--b-", b"\r\n---", b"\r\n--a:", b"\r\n--x ",
]  # fmt: skip
_AROUND = [
    b"\r\n",
    b"\n",
    b"\r",
    b"x",
    b"\r\n ",
    b"x" * 39,
    b"x" * 40,
    b"x" * 41,
    b"\r\n" * 20,
    b"\r\n" * 22,
    b"x\r\n",
    b" -",
]
_LAST = [b"--\r\n", b"--", b"--\r\n", b"-- \t\r\n", b"--\r", b"--\n", b"-", b"--x", b"---", b"--" + b" " * 65]

WORDS = (
    *(word for word in dict.fromkeys(_HEADERS + _CONTENTS + _AROUND + _LAST) if 0 < len(word) <= 40),
    *(b"\r\n--" + boundary for boundary in BOUNDARIES),
    *(b"--" + boundary + b"\r\n" for boundary in BOUNDARIES),
    *(b"\r\n\r\n--" + boundary for boundary in BOUNDARIES),
    *(_DISPOSITION, b"Content-Disposition:", b'; name="', b'; filename="', b"filename*", b"name", b"filename"),
    *(b"%22", b"%0D", b"%0a", b'\\"', b"\\\\", b'"', b";", b"=", b"Content-Transfer-Encoding: ", b"7bit"),
)  # fmt: skip


def _part(boundary: bytes, headers: Sequence[bytes], content: bytes, end: bytes = b"\r\n") -> bytes:
    return b"--" + boundary + end + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + content + b"\r\n"


@st.composite
def inputs(draw: st.DrawFn) -> bytes:
    """A few parts, most of them right, perhaps with text around them, perhaps changed in a few places."""
    flags = draw(st.integers(0, len(BOUNDARIES) - 1))
    boundary = BOUNDARIES[flags]
    body = bytearray(b"" if draw(st.integers(0, 3)) else draw(st.sampled_from(_AROUND)))
    some = st.sampled_from
    for _ in range(draw(some([0, 1, 1, 1, 2, 2, 3, 5]))):
        first = _HEADERS[draw(some([0, 1, 2, 3, 4, 6, 7, 13, 14]))]
        headers = [first] if draw(st.integers(0, 3)) else []
        headers += draw(st.lists(some(_HEADERS), max_size=0 if draw(st.integers(0, 3)) else 3))
        content = draw(st.lists(some(_CONTENTS), max_size=3).map(b"".join) | st.binary(max_size=20))
        body += _part(boundary, headers, content, draw(some(_ENDS)))
    body += b"--" + boundary + draw(some(_LAST))
    body += b"" if draw(st.integers(0, 3)) else draw(some(_AROUND))
    for _ in range(draw(some([0, 0, 0, 1, 1, 2]))):
        at = draw(st.integers(0, len(body)))
        if draw(st.booleans()):
            body[at : at + draw(st.integers(0, 2))] = draw(some(WORDS) | st.binary(max_size=3))
        elif at < len(body):
            body[at] ^= 1 << draw(st.integers(0, 7))
    if not draw(st.integers(0, 5)):
        del body[draw(st.integers(0, len(body))) :]
    places = draw(st.lists(st.integers(0, max(1, len(body))), max_size=7))
    return encode(flags, places, bytes(body))


def seeds() -> Sequence[bytes]:
    """Each header, content, end and text around, and what follows each boundary; of each boundary some."""
    made = []
    for flags, boundary in enumerate(BOUNDARIES):
        good, last = _part(boundary, _HEADERS[:1], b"x"), b"--" + boundary + b"--\r\n"
        bodies = [_part(boundary, [header], b"x") + last for header in _HEADERS]
        bodies += [_part(boundary, [_HEADERS[0], header], b"x") + good + last for header in _HEADERS[15:]]
        bodies += [_part(boundary, _HEADERS[2:3], content) + last for content in _CONTENTS]
        bodies += [_part(boundary, _HEADERS[:1], b"x", end) + good + last for end in _ENDS[29:]]
        bodies += [good + _part(boundary, _HEADERS[:1], b"x", end) + last for end in _ENDS[29:]]
        bodies += [good + b"--" + boundary + end for end in _LAST]
        bodies += [text + good + last for text in _AROUND] + [good + last + text for text in _AROUND]
        bodies += [last, good * 4 + last, good * 5 + last, good[:-3] + last, _part(boundary, [], b"") + last]
        bodies.append(_part(boundary, [_HEADERS[0], b"A: b", b"C: d", b"E: f"], b"") + last)
        kept = bodies if not flags else bodies[flags :: 2 * len(BOUNDARIES)]
        made += [encode(flags, [1, 9, 40][: number % 4], body) for number, body in enumerate(kept)]
    return made
