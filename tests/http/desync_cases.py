"""Byte streams that two readers may understand differently, each with the readings that are right.

``NNNN`` stands for the number of the variant. The visible request asks for ``/a/NNNN`` or ``/early/NNNN``; a second
one, for ``/h/NNNN``, hides where only a wrong reading finds it, or is one that every right reading finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

Reading = tuple[str, str, bytes]


@dataclass(frozen=True)
class Outcome:
    """What a server may make of a stream: the requests it understands, in order, and how it refuses what is left."""

    reads: tuple[Reading, ...]
    refusal: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Variant:
    """One stream and its right outcomes."""

    name: str
    data: bytes
    outcomes: tuple[Outcome, ...]

    def numbered(self, number: int) -> bytes:
        """The stream with the variant's number in it; lengths stay."""
        return self.data.replace(b"NNNN", b"%04d" % number)


ATTACK = b"POST /a/NNNN HTTP/1.1\r\nHost: a\r\n"
EARLY = b"POST /early/NNNN HTTP/1.1\r\nHost: a\r\n"
HIDDEN = b"GET /h/NNNN HTTP/1.1\r\nHost: a\r\n\r\n"
HIDES: Reading = ("GET", "/h/NNNN", b"")
CODING = b"Transfer-Encoding: chunked\r\n"
CHUNKED = ATTACK + CODING + b"\r\n"
CHUNKS = b"3\r\nabc\r\n0\r\n\r\n"
END = b"0\r\n\r\n"


def attack(content: bytes = b"", method: str = "POST") -> Reading:
    """The visible request, as it is understood."""
    return method, "/a/NNNN", content


def length(content: bytes) -> bytes:
    """The Content-Length of ``content``."""
    return b"Content-Length: %d\r\n" % len(content)


def refused(*statuses: int, after: tuple[Reading, ...] = ()) -> Outcome:
    """Refused, with 400 if nothing else is said."""
    return Outcome(after, frozenset(statuses or (400,)))


def reads(*readings: Reading) -> Outcome:
    """Understood so, and nothing else."""
    return Outcome(readings)


def show(octets: bytes) -> str:
    """Octets as part of a name."""
    return ascii(octets.decode("latin-1"))[1:-1] or "nothing"


# -- Transfer-Encoding: its values, its names

_GOOD_CODINGS = (b"chunked", b"Chunked", b"cHuNkEd", b"\tchunked", b"  chunked  ", b"chunked\t", b"")
_BAD_CODINGS = (
    *(b"xchunked", b"chunkedx", b"chunke", b"chunk ed", b"chunked chunked", b"identity", b"cow", b"gzip", b"x, y"),
    *(b"chunked, identity", b"identity, chunked", b"chunked, chunked", b"gzip, chunked", b"chunked, gzip"),
    *(b"chunked;q=1", b"chunked;foo=bar", b'"chunked"', b"'chunked'", b"`chunked`", b"[chunked]", b"chunked (x)"),
    *(b"\x0bchunked", b"chunked\x0b", b"\x0cchunked", b"chunked\x0c", b"\x00chunked", b"chunked\x00", b"chunked\x08"),
    *(b"\x7fchunked", b"chunked\xa0", b"\xa0chunked", b"\x85chunked", b"chunked\x1f", b"chun\x00ked", b"\xffchunked"),
    *(b"chun\xe2\x84\xaaed", b"c\xcc\xa7hunked", b"chunked\\", b"=chunked", b": chunked", b"chunked:", b"chunked/1"),
    *(b"chunked\r", b"\rchunked", b"chunked\n", b"\nchunked", b"x\nchunked", b"\r\n chunked", b"chunked\r\n ,x"),
)
_LIST_CODINGS = (b"chunked,", b",chunked", b", chunked", b" , ,chunked, ")


def _codings() -> Iterator[Variant]:
    body = END + HIDDEN
    for value in _GOOD_CODINGS[:-1]:
        line = b"Transfer-Encoding:" + value + b"\r\n"
        name = show(value)
        yield Variant(f"coding {name}", ATTACK + line + b"\r\n" + CHUNKS + HIDDEN, (reads(attack(b"abc"), HIDES),))
        yield Variant(f"length, coding {name}", ATTACK + length(body) + line + b"\r\n" + body, (refused(),))
        yield Variant(f"coding {name}, length", ATTACK + line + length(body) + b"\r\n" + body, (refused(),))
        yield Variant(f"coding {name}, length 0", ATTACK + line + length(b"") + b"\r\n" + body, (refused(),))
    for value in (*_BAD_CODINGS, b""):
        line = b"Transfer-Encoding: " + value + b"\r\n"
        name = show(value)
        no = (refused(400, 501),)
        yield Variant(f"coding {name}", ATTACK + line + b"\r\n" + CHUNKS + HIDDEN, no)
        yield Variant(f"length, coding {name}", ATTACK + length(body) + line + b"\r\n" + body, no)
        yield Variant(f"coding, coding {name}", ATTACK + CODING + line + b"\r\n" + CHUNKS + HIDDEN, no)
        yield Variant(f"coding {name}, coding", ATTACK + line + CODING + b"\r\n" + CHUNKS + HIDDEN, no)
    for value in _LIST_CODINGS:  # RFC 9110 section 5.6.1.2 asks recipients to ignore a few empty elements
        line = b"Transfer-Encoding: " + value + b"\r\n"
        name = show(value)
        either = (reads(attack(b"abc"), HIDES), refused(400, 501))
        yield Variant(f"coding {name}", ATTACK + line + b"\r\n" + CHUNKS + HIDDEN, either)
        yield Variant(f"length, coding {name}", ATTACK + length(body) + line + b"\r\n" + body, (refused(400, 501),))
    yield Variant("coding twice", ATTACK + CODING * 2 + b"\r\n" + CHUNKS + HIDDEN, (refused(400, 501),))
    old = ATTACK.replace(b"1.1", b"1.0")
    for keep in (b"", b"Connection: keep-alive\r\n"):
        yield Variant(f"coding in 1.0 {show(keep)}", old + keep + CODING + b"\r\n" + CHUNKS + HIDDEN, (refused(),))
        yield Variant(
            f"length and coding in 1.0 {show(keep)}", old + keep + length(body) + CODING + b"\r\n" + body, (refused(),)
        )


# What is no token is refused; what is another token is another field, and means nothing.
_MARKS_OF_NAMES = (b" ", b"\t", b"\x00", b"\x0b", b"\x0c", b"\r", b"\n", b"\xa0", b"\xad", b"\x7f", b"\x08", b'"', b"(")


def _bad_names(name: bytes) -> Iterator[bytes]:
    for mark in _MARKS_OF_NAMES:
        yield name + mark
        yield name.replace(b"-", mark)
    for mark in (b"\x00", b"\x0b", b"\xef\xbb\xbf", b":", b"/", b"@", b'"', b"\xa0"):
        yield mark + name
    yield name.replace(b"i", b"\xc4\xb1").replace(b"t", b"\xc5\xa7")
    yield name.replace(b"-", b"\xe2\x80\x90")
    yield name.replace(b"n", b"\xef\xbd\x8e", 1)
    yield b"X: y\r" + name
    yield b"X: y\n" + name
    yield b"X: y\r\n " + name
    yield b"X: y\r\n\t" + name
    yield b"X: y\x00\r\n" + name
    yield b"X\r\n" + name
    yield b"\r" + name


def _other_names(name: bytes) -> Iterator[bytes]:
    yield from (name.replace(b"-", mark) for mark in (b"_", b"", b"--", b".", b"~", b"|", b"`", b"'"))
    yield from (mark + name for mark in (b"X-", b"_", b"-", b"'"))
    yield from (name + mark for mark in (b"-", b"_", b"s", b"'"))


def _names() -> Iterator[Variant]:
    body = END + HIDDEN
    for name in _bad_names(b"Transfer-Encoding"):
        line = name + b": chunked\r\n"
        yield Variant(f"length, {show(name)}", ATTACK + length(body) + line + b"\r\n" + body, (refused(),))
    for name in _other_names(b"Transfer-Encoding"):
        line = name + b": chunked\r\n"
        yield Variant(f"length, {show(name)}", ATTACK + length(body) + line + b"\r\n" + body, (reads(attack(body)),))
    for name in _bad_names(b"Content-Length"):
        line = name + b": %d\r\n" % len(HIDDEN)
        yield Variant(f"{show(name)}", ATTACK + line + b"\r\n" + HIDDEN, (refused(),))
    for name in _other_names(b"Content-Length"):
        line = name + b": %d\r\n" % len(HIDDEN)
        yield Variant(f"{show(name)}", ATTACK + line + b"\r\n" + HIDDEN, (reads(attack(), HIDES),))
    line = b"X: " + b"y" * 900 + b"\r\n"
    yield Variant("a long head", ATTACK + line * 5 + length(body) + b"\r\n" + body, (reads(attack(body)),))
    first = b" Transfer-Encoding: chunked\r\nHost: a\r\n"
    line = b"POST /a/NNNN HTTP/1.1\r\n"
    yield Variant("white space before the first field", line + first + length(body) + b"\r\n" + body, (refused(),))


# -- Content-Length: its values, more than one of them


def _lengths() -> Iterator[Variant]:
    size = b"%d" % len(HIDDEN)
    whole = (reads(attack(HIDDEN)),)
    for value in (size, b"\t" + size, b"  " + size + b" ", size + b"\t"):
        yield Variant(f"length {show(value)}", ATTACK + b"Content-Length:" + value + b"\r\n\r\n" + HIDDEN, whole)
    for value in (b"0" + size, b"0" * 18 + size):  # 1*DIGIT allows it, and there is but one way to read it
        either = (*whole, refused())
        yield Variant(f"length {show(value)}", ATTACK + b"Content-Length: " + value + b"\r\n\r\n" + HIDDEN, either)
    for value in (
        *(b"+" + size, b"-" + size, b"-0", b"+0", b"-1", b"0x" + b"%x" % len(HIDDEN), b"0X1", b"0b1", b"0o7"),
        *(
            size + b".0",
            size + b"e0",
            b"1_0",
            b"1 0",
            b"0 " + size,
            size + b" 0",
            size + b";",
            size + b",",
            b"," + size,
        ),
        *(size + b", " + size, size + b"," + size, b"0, " + size, size + b", 0", size + b";a=b", b'"' + size + b'"'),
        *(
            b"'" + size + b"'",
            size + b"\x00",
            b"\x00" + size,
            size + b"\x0b",
            b"\x0b" + size,
            b"\x0c" + size,
            b"",
            b" ",
        ),
        *(
            b"NaN",
            b"abc",
            size + b"abc",
            b"(" + size + b")",
            size + b"\xa0",
            b"\xa0" + size,
            b"\x85" + size,
            b"=" + size,
        ),
        *(size + b"\r", b"\r" + size, size + b"\n", b"\n" + size, b"\r\n " + size, size + b"\r\n 0", b"0\r\n " + size),
        *("".join(chr(0xFF10 + int(digit)) for digit in size.decode()).encode(), b"\xb2\xb9", b"%30", size + b"%00"),
        *("".join(chr(0x660 + int(digit)) for digit in size.decode()).encode(), b": " + size, size + b":"),
    ):
        stream = ATTACK + b"Content-Length: " + value + b"\r\n\r\n" + HIDDEN
        yield Variant(f"length {show(value)}", stream, (refused(),))
    for huge in (2**31, 2**32, 2**63, 2**64, 10**19, 10**30, 10**300):
        value = b"%d" % (huge + len(HIDDEN))
        stream = ATTACK + b"Content-Length: " + value + b"\r\n\r\n" + HIDDEN
        yield Variant(f"length past {huge:.0e}", stream, (refused(400, 413),))
    one, zero = length(HIDDEN), length(b"")
    for name, lines in {
        "the same length twice": one + one,
        "two lengths": one + zero,
        "two lengths, 0 first": zero + one,
        "two lengths, spelt differently": one + zero.lower(),
        "a length and an empty one": one + b"Content-Length: \r\n",
        "an empty length and another one": b"Content-Length:\r\n" + one,
        "two lengths, others between": one + b"X: y\r\n" * 20 + zero,
        "three lengths": one + one + zero,
        "a length and one with a sign": one + b"Content-Length: +0\r\n",
    }.items():
        yield Variant(name, ATTACK + lines + b"\r\n" + HIDDEN, (refused(),))
    for gap in (1, 10):  # the content is longer or shorter than announced
        long, short = HIDDEN + HIDDEN[:gap], HIDDEN[:-gap]
        yield Variant(f"length {gap} too large", ATTACK + length(long) + b"\r\n" + HIDDEN, (refused(408),))
        rest = (refused(400, 408, 501, after=(attack(short),)), reads(attack(short)))
        yield Variant(f"length {gap} too small", ATTACK + length(short) + b"\r\n" + HIDDEN, rest)


# -- methods, and content where there is usually none


def _methods() -> Iterator[Variant]:
    for method in ("GET", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS"):
        head = ATTACK.replace(b"POST", method.encode())
        both = (reads(attack(HIDDEN, method)),)
        yield Variant(f"{method} with length", head + length(HIDDEN) + b"\r\n" + HIDDEN, both)
        chunks = b"%x\r\n%b\r\n" % (len(HIDDEN), HIDDEN) + END
        yield Variant(f"{method} with chunks", head + CODING + b"\r\n" + chunks, both)
        yield Variant(f"{method} without content", head + b"\r\n" + HIDDEN, (reads(attack(b"", method), HIDES),))
        yield Variant(
            f"{method} with length 0", head + length(b"") + b"\r\n" + HIDDEN, (reads(attack(b"", method), HIDES),)
        )
        yield Variant(f"{method} with both", head + length(HIDDEN) + CODING + b"\r\n" + HIDDEN, (refused(),))
    head = ATTACK.replace(b"POST", b"TRACE")
    trace = (reads(attack(HIDDEN, "TRACE")), refused(400, 405, 501))
    yield Variant("TRACE with length", head + length(HIDDEN) + b"\r\n" + HIDDEN, trace)
    head = b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n"
    no = (refused(400, 405, 501),)
    yield Variant("CONNECT", head + b"\r\n" + HIDDEN, no)
    yield Variant("CONNECT with length", head + length(HIDDEN) + b"\r\n" + HIDDEN, no)
    yield Variant("CONNECT to a path", ATTACK.replace(b"POST", b"CONNECT") + b"\r\n" + HIDDEN, no)
    for other in (b"post", b"PoSt", b"POSTX", b"FOO"):
        stream = ATTACK.replace(b"POST", other) + length(HIDDEN) + b"\r\n" + HIDDEN
        yield Variant(
            f"method {other.decode()}", stream, (reads(attack(HIDDEN, other.decode())), refused(400, 405, 501))
        )
    for other in (
        b"PO\x00ST",
        b"PO\x0bST",
        b"\x00POST",
        b"POST\x00",
        b"P\xc3\x96ST",
        b"(POST)",
        b"POST:",
        b"\xa0POST",
    ):
        stream = ATTACK.replace(b"POST", other) + length(HIDDEN) + b"\r\n" + HIDDEN
        yield Variant(f"method {show(other)}", stream, (refused(400, 501),))
    override = b"X-HTTP-Method-Override: HEAD\r\n"
    yield Variant("another method in a field", ATTACK + override + b"\r\n" + HIDDEN, (reads(attack(), HIDES),))


VARIANTS: tuple[Variant, ...] = (*_codings(), *_names(), *_lengths(), *_methods())
"""Those about what the head says of the content."""
