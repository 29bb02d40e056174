"""More streams that two readers may understand differently: chunks, trailers, lines, hosts, upgrades, early answers."""

from __future__ import annotations

from collections.abc import Iterator

from tests.http.desync_cases import (
    ATTACK,
    CHUNKED,
    CHUNKS,
    CODING,
    EARLY,
    END,
    HIDDEN,
    HIDES,
    Outcome,
    Reading,
    Variant,
    attack,
    length,
    reads,
    refused,
    show,
)

BOTH = reads(attack(b"abc"), HIDES)
BAD = (400, 413, 431)


# -- chunks


def _sizes() -> Iterator[Variant]:
    for size in (b"3", b"03", b"003", b"3;a", b"3;a=b", b'3;a="b"', b'3;a="b;c"', b'3;a="\\""', b"3;a;b;c=d"):
        yield Variant(f"chunk {show(size)}", CHUNKED + size + b"\r\nabc\r\n" + END + HIDDEN, (BOTH,))
    # Readable in one way only, though some are not what the grammar says, or are longer than anybody needs.
    for size in (
        b"0" * 14 + b"3",
        b"0" * 30 + b"3",
        b"3 ;a",
        b"3; a",
        b"3\t;\ta",
        b"3;a =b",
        b"3;a= b",
        b"3;",
        b"3;;a",
        b"3;a=",
    ):
        yield Variant(f"chunk {show(size)}", CHUNKED + size + b"\r\nabc\r\n" + END + HIDDEN, (BOTH, refused(*BAD)))
    for size in (
        *(
            b"0x3",
            b"0X3",
            b"x3",
            b"+3",
            b"-3",
            b"--3",
            b" 3",
            b"\t3",
            b"3 ",
            b"3\t",
            b"3 0",
            b"0 3",
            b"3_",
            b"0_3",
            b"3h",
        ),
        *(b"3,", b"3,3", b"3.0", b"3e", b"3g", b"g3", b"", b" ", b";a", b"'3'", b'"3"', b"3\x00", b"\x003", b"3\x0b"),
        *(b"\x0b3", b"3\x0c", b"3\xa0", b"\xef\xbc\x93", b"\xd9\xa3", b"3:", b"3=a", b"3 a", b"%33", b"3\\", b"#3"),
        *(
            b"10000000000000003",
            b"100000000000000000000003",
            b"FFFFFFFFFFFFFFFF",
            b"FFFFFFFFFFFFFFFD",
            b"7FFFFFFFFFFFFFFF",
        ),
        *(b"8000000000000003", b"100000003", b"80000003", b"f" * 40, b"-0", b"-1"),
        *(b"3\n", b"3\r", b"3\n\r", b"\n3", b"\r3", b"\r\n3", b"3\r\n ", b"3\r\r"),
        *(b"3;a\n", b"3;\n", b"3;a\nb", b"3;\nabc", b"3;a\r", b"3;\r", b"3;a\rb", b"3;a\x00", b"3;\x00", b"3;a\x0b\n"),
        *(
            b'3;a="\n"',
            b'3;a="\r"',
            b'3;a="\r\n"',
            b'3;a="\\\n"',
            b'3;a="\\\r\n"',
            b"3;a=\n",
            b"3;\ra=b",
            b"3\n;a",
            b"3\r;a",
        ),
        *(b"3;\nxx\r\n47", b"2\nxx", b"3;a\r\n b"),
    ):
        yield Variant(f"chunk {show(size)}", CHUNKED + size + b"\r\nabc\r\n" + END + HIDDEN, (refused(*BAD, 408),))
    long = b"3;" + b"a" * 70_000
    yield Variant("chunk with 70 KB extension", CHUNKED + long + b"\r\nabc\r\n" + END + HIDDEN, (refused(*BAD),))
    many = (b"1;" + b"a" * 500 + b"\r\nx\r\n") * 300
    yield Variant("300 chunks with extensions", CHUNKED + many + END + HIDDEN, (refused(*BAD),))
    lower = CHUNKED.replace(b"chunked", b"CHUNKED") + b"a\r\n0123456789\r\nA\r\n0123456789\r\n" + END + HIDDEN
    yield Variant("chunks of a and A", lower, (reads(attack(b"0123456789" * 2), HIDES),))


def _ends() -> Iterator[Variant]:
    # What stands between the data of a chunk and the next size; a reader that skips two octets unseen is led astray.
    for end in (
        *(
            b"",
            b"\n",
            b"\r",
            b"\n\n",
            b"\r\r",
            b"XX",
            b"\rX",
            b"X\n",
            b"X\r\n",
            b"\n\r",
            b" \r\n",
            b"\r \n",
            b"\x00\x00",
        ),
        *(b"\r\n\r\n", b"\r\n\n", b"\n\r\n", b"\r\r\n", b"  ", b"\t\r\n", b"\r\nX", b"0\r\n", b"\x0b\r\n"),
    ):
        stream = CHUNKED + b"3\r\nabc" + end + END + HIDDEN
        yield Variant(f"chunk data, then {show(end)}", stream, (refused(400, 408),))
    for last in (b"00", b"000", b"0;a", b"0;a=b", b'0;a="b"'):
        yield Variant(f"last chunk {show(last)}", CHUNKED + b"3\r\nabc\r\n" + last + b"\r\n\r\n" + HIDDEN, (BOTH,))
    for last in (
        *(
            b"0\n\r\n",
            b"0\r\r\n\r\n",
            b"0\n\n",
            b"0 \r\n\r\n",
            b"-0\r\n\r\n",
            b"0x0\r\n\r\n",
            b"+0\r\n\r\n",
            b"0\r\n\r",
        ),
        *(
            b"0\r\n\n",
            b"0;\n\r\n\r\n",
            b"0\x00\r\n\r\n",
            b"0\r\n \r\n",
            b"0\r\n\x00\r\n",
            b"\r\n",
            b"\r\n\r\n",
            b"0\r\n\r\r\n",
        ),
        *(b"0\r\n", b"0,\r\n\r\n", b"0;a\rb\r\n\r\n", b"0\r\n\x0b\r\n\r\n"),
    ):
        yield Variant(f"last chunk {show(last)}", CHUNKED + b"3\r\nabc\r\n" + last + HIDDEN, (refused(400, 408),))
    yield Variant("nothing but a hidden request for chunks", CHUNKED + HIDDEN, (refused(),))
    inside = b"%x\r\n%b\r\n" % (len(END + HIDDEN), END + HIDDEN) + END
    yield Variant("an end of chunks within a chunk", CHUNKED + inside, (reads(attack(END + HIDDEN)),))
    after = (BOTH, refused(after=(attack(b"abc"),)))
    yield Variant("an empty line behind the last chunk", CHUNKED + CHUNKS + b"\r\n" + HIDDEN, after)
    junk = refused(400, 408, 501, after=(attack(b"abc"),))
    yield Variant("more chunks behind the last one", CHUNKED + CHUNKS + CHUNKS + HIDDEN, (junk,))


def _trailers() -> Iterator[Variant]:
    start = CHUNKED + b"3\r\nabc\r\n0\r\n"
    for line in (b"X: y", b"X:", b"X: y\r\nZ: z", b"x: Content-Length: 9"):
        yield Variant(f"trailer {show(line)}", start + line + b"\r\n\r\n" + HIDDEN, (BOTH,))
    for line in (
        *(b"Content-Length: 500", b"Content-Length: 0", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
        *(b"Host: b", b"Connection: close", b"Upgrade: h2c", b"Expect: 100-continue", b"Trailer: x", b"TE: trailers"),
        *(b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"content-length: +500", b"transfer-encoding: x"),
    ):
        yield Variant(f"trailer {show(line)}", start + line + b"\r\n\r\n" + HIDDEN, (BOTH, refused()))
    for line in (
        *(
            b"X",
            b"X : y",
            b": y",
            b" X: y",
            b"\tX: y",
            b"X: a\rb",
            b"X: a\nb",
            b"X: a\x00b",
            b"X: y\r\n z",
            b"X\x00: y",
        ),
        *(
            b"GET /h/NNNN HTTP/1.1",
            b"X: y\n",
            b"X: y\n\nGET /h/NNNN HTTP/1.1",
            b"X: y\r",
            b"\nX: y",
            b"\rX: y",
            b"X Y: z",
        ),
        *(b"X\n: y", b"X\r: y", b"\xffX: y", b"(X): y", b"X: a\x7fb", b"X: a\x0bb"),
    ):
        yield Variant(f"trailer {show(line)}", start + line + b"\r\n\r\n" + HIDDEN, (refused(400, 408),))
    yield Variant("70 KB of trailers", start + b"X: yyyyyyy\r\n" * 6000 + b"\r\n" + HIDDEN, (refused(*BAD),))
    swallow = start + b"X: " + HIDDEN  # its lines are trailers, but for the request line, which is a value
    yield Variant("a request as a trailer", swallow, (reads(attack(b"abc")), refused()))


# -- lines, versions, targets, hosts


def _lines() -> Iterator[Variant]:
    first, second = b"GET /a/NNNN HTTP/1.1", b"Host: a"
    two = (reads(attack(b"", "GET"), HIDES),)
    for end in (b"\n", b"\r", b"\n\r", b"\r\r\n", b"\x0b", b"\x00\r\n", b"\x85", b"\xe2\x80\xa8"):
        name = show(end)
        yield Variant(
            f"{name} behind the request line", first + end + second + b"\r\n\r\n" + HIDDEN, (refused(400, 505),)
        )
        yield Variant(f"{name} behind a field", first + b"\r\n" + second + end + b"X: y\r\n\r\n" + HIDDEN, (refused(),))
        yield Variant(f"{name} everywhere", (first + end + second + end + end) + HIDDEN, (refused(400, 408, 505),))
        hides = b"X: y" + end + end + HIDDEN
        yield Variant(f"{name} twice in a value", first + b"\r\n" + second + b"\r\n" + hides, (refused(400, 408),))
    head = first + b"\r\n" + second + b"\r\n\r\n"
    yield Variant("an empty line first", b"\r\n" + head + HIDDEN, two)
    yield Variant("an empty line between", head + b"\r\n" + HIDDEN, two)
    for start in (b"\r\n\r\n", b"\n", b"\r\n\n"):  # one may be skipped, says RFC 9112 section 2.2
        yield Variant(f"{show(start)} first", start + head + HIDDEN, (*two, refused()))
    for start in (b"\r", b" ", b"\t", b" \r\n", b"\x00", b"\x0b\r\n", b"\xef\xbb\xbf", b"X\r\n", b"\r\r\n", b": \r\n"):
        yield Variant(f"{show(start)} first", start + head + HIDDEN, (refused(400, 505),))
    for version in (
        *(
            b"HTTP/1.10",
            b"HTTP/1.01",
            b"HTTP/01.1",
            b"HTTP/1.1.1",
            b"HTTP/1",
            b"HTTP/1.",
            b"HTTP/.1",
            b"HTTP/ 1.1",
            b"HTTP/",
        ),
        *(
            b"HTTP/1,1",
            b"http/1.1",
            b"HTTPS/1.1",
            b"HTTP 1.1",
            b"HTTP/1.1x",
            b"HTTP/1.1 x",
            b"HTTP/2.0",
            b"HTTP/0.9",
            b"HTTP/9.9",
        ),
        *(
            b"HTTP/1.1\x00",
            b"\x00HTTP/1.1",
            b"HTTP/1.1\x0b",
            b"HTTP/1.1 ",
            b" HTTP/1.1",
            b"HTTP/1.1\t",
            b"HTTP/-1.1",
            b"",
            b"ICE/1.0",
        ),
        *(b"HTTP/1.1 HTTP/1.0", b"HTTP/\xef\xbc\x91.1", b"RTSP/1.0", b"HTTP/1.1;", b"HTTP/+1.1", b"HTTP\\1.1"),
    ):
        stream = ATTACK.replace(b"HTTP/1.1", version, 1) + length(HIDDEN) + b"\r\n" + HIDDEN
        yield Variant(f"version {show(version)}", stream, (refused(400, 505),))
    stream = ATTACK.replace(b"1.1", b"1.2", 1) + length(HIDDEN) + b"\r\n" + HIDDEN
    yield Variant("version 1.2", stream, (reads(attack(HIDDEN)), refused(400, 505)))
    yield Variant("HTTP/0.9, then a request", b"GET /a/NNNN\r\n" + HIDDEN, (refused(400, 505),))
    yield Variant("HTTP/0.9 with a body", b"GET /a/NNNN\r\n\r\n" + HIDDEN, (refused(400, 505),))
    old = ATTACK.replace(b"1.1", b"1.0", 1)
    yield Variant("1.0, then a request", old + b"\r\n" + HIDDEN, (reads(attack()),))
    keep = b"Connection: keep-alive\r\n"
    yield Variant("1.0 and keep-alive, then a request", old + keep + b"\r\n" + HIDDEN, (reads(attack(), HIDES),))
    yield Variant("1.0 with length", old + length(HIDDEN) + b"\r\n" + HIDDEN + HIDDEN, (reads(attack(HIDDEN)),))
    close = b"Connection: close\r\n"
    yield Variant("close, then a request", ATTACK + close + b"\r\n" + HIDDEN, (reads(attack()),))
    yield Variant("keep-alive and close", ATTACK + keep + close + b"\r\n" + HIDDEN, (reads(attack()),))


def _targets() -> Iterator[Variant]:
    for target in (
        *(
            b"/a/NNNN ",
            b"/a/NNNN HTTP/1.1\r",
            b"/a/NNNN\t",
            b"/a/NNNN\x00",
            b"/a/NNNN\x0b",
            b"/a/NNNN#",
            b"/a/NNNN\x7f",
            b"/a/../a/NNNN",
        ),
        *(
            b"a/NNNN",
            b"/a/NNNN\xa0",
            b" /a/NNNN",
            b"\\a\\NNNN",
            b"/a/NNNN HTTP/1.1 x",
            b"/a/NNNN%",
            b"/a/NNNN%zz",
            b"/a/NNNN/..;/",
        ),
        *(
            b"ftp://a/a/NNNN",
            b"http://b/a/NNNN",
            b"http:///a/NNNN",
            b"http://a@b/a/NNNN",
            b"http://a:b@a/a/NNNN",
            b"//b@a/a/NNNN#x",
        ),
        *(
            b"http://a b/a/NNNN",
            b"http:/a/NNNN",
            b"a:80",
            b"*",
            b"http://a\\@b/a/NNNN",
            b"/a/NNNN%00",
            b"http://a\x00/a/NNNN",
        ),
    ):
        stream = b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n" + length(HIDDEN) + b"\r\n" + HIDDEN
        dots = target.endswith(b"..;/")
        outcome = (refused(), reads(("GET", target.decode("latin-1"), HIDDEN))) if dots else (refused(),)
        yield Variant(f"target {show(target)}", stream, outcome)
    for target in (b"http://a/a/NNNN", b"HTTP://A/a/NNNN", b"//b/a/NNNN", b"/a/NNNN?x=http://b/", b"/a/NNNN//"):
        stream = b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN
        yield Variant(f"target {show(target)}", stream, (reads(("GET", target.decode(), b""), HIDES),))
    line = b"POST /a/NNNN HTTP/1.1\r\n"
    for name, hosts in {
        "no Host": b"",
        "Host twice": b"Host: a\r\nHost: a\r\n",
        "two Hosts": b"Host: a\r\nHost: b\r\n",
        "two Hosts, spelt differently": b"Host: a\r\nhost: b\r\n",
        "two Hosts, one with a blank before the colon": b"Host: a\r\nHost : b\r\n",
        "two Hosts, one folded": b"Host: a\r\n Host: b\r\n",
        "two Hosts, one empty": b"Host: a\r\nHost:\r\n",
        "two Hosts, the first one empty": b"Host:\r\nHost: a\r\n",
        "Host on the next line": b"Host:\r\n a\r\n",
        "Host after a bare LF": b"X: y\nHost: a\r\n",
    }.items():
        yield Variant(name, line + hosts + length(HIDDEN) + b"\r\n" + HIDDEN, (refused(),))
    for host in (
        *(
            b"a, b",
            b"a b",
            b"u@a",
            b"a/b",
            b"a?b",
            b"a#b",
            b"a\\b",
            b"a\x00",
            b"a\x00b",
            b"a:x",
            b"a:80:80",
            b"[::1",
            b"::1",
            b"a:-1",
        ),
        *(
            b"http://a",
            b"a\tb",
            b"a;b",
            b"<a>",
            b"a:80 ",
            b"a\x0b",
            b"a%00",
            b"a\xa0",
            b'"a"',
            b"[::1]x",
            b"a:8\xef\xbc\x90",
            b"a'b",
        ),
    ):
        stream = line + b"Host: " + host + b"\r\n" + length(HIDDEN) + b"\r\n" + HIDDEN
        fine = host == b"a:80 "
        either = (reads(attack(HIDDEN)), refused()) if host in (b"a%00", b"a;b", b"a'b") else (refused(),)
        yield Variant(f"Host {show(host)}", stream, (reads(attack(HIDDEN)),) if fine else either)


# -- upgrades, expectations, early answers, other fields


def _upgrades() -> Iterator[Variant]:
    socket = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    h2c = b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    get = ATTACK.replace(b"POST", b"GET")
    for name, fields in {
        "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + socket,
        "websocket of a wrong version": b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        + socket.replace(b"13", b"777"),
        "websocket without a key": b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
        "websocket without the option": b"Upgrade: websocket\r\n" + socket,
        "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" + h2c,
        "h2c without settings": b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "h2c, half the options": b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + h2c,
        "TLS": b"Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
        "many protocols": b"Connection: Upgrade\r\nUpgrade: websocket, h2c, foo/1\r\n" + socket,
        "the option alone": b"Connection: Upgrade\r\n",
        "two Upgrades": b"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n" + h2c + socket,
        "an empty Upgrade": b"Connection: Upgrade\r\nUpgrade:\r\n",
    }.items():
        yield Variant(f"upgrade: {name}", get + fields + b"\r\n" + HIDDEN, (reads(attack(b"", "GET"), HIDES),))
        yield Variant(
            f"upgrade with length: {name}",
            ATTACK + fields + length(HIDDEN) + b"\r\n" + HIDDEN,
            (reads(attack(HIDDEN)),),
        )
        yield Variant(f"upgrade with chunks: {name}", ATTACK + fields + CODING + b"\r\n" + CHUNKS + HIDDEN, (BOTH,))
        both = ATTACK + fields + length(HIDDEN) + CODING + b"\r\n" + END + HIDDEN
        yield Variant(f"upgrade with both: {name}", both, (refused(),))
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield Variant("the preface of HTTP/2", preface + HIDDEN, (refused(400, 505),))
    no = refused(400, 505, after=(attack(b"", "GET"),))
    yield Variant("a request, then the preface of HTTP/2", get + b"\r\n" + preface + HIDDEN, (no,))


def _expectations() -> Iterator[Variant]:
    whole = (reads(attack(HIDDEN)),)
    for value in (b"100-continue", b"100-Continue", b"\t100-continue "):
        expect = b"Expect:" + value + b"\r\n"
        yield Variant(f"expect {show(value)}", ATTACK + expect + length(HIDDEN) + b"\r\n" + HIDDEN, whole)
        yield Variant(f"expect {show(value)}, chunks", ATTACK + expect + CODING + b"\r\n" + CHUNKS + HIDDEN, (BOTH,))
        yield Variant(
            f"expect {show(value)}, no content", ATTACK + expect + b"\r\n" + HIDDEN, (reads(attack(), HIDES),)
        )
    for value in (
        b"y 100-continue",
        b"100-continue, x",
        b"100-continu",
        b"100-continue;a",
        b"x",
        b"100-continue\x0b",
        b"\n100-continue",
        b"100",
    ):
        expect = b"Expect: " + value + b"\r\n"
        yield Variant(
            f"expect {show(value)}", ATTACK + expect + length(HIDDEN) + b"\r\n" + HIDDEN, (refused(400, 417),)
        )
    old = ATTACK.replace(b"1.1", b"1.0", 1)
    yield Variant("expect in 1.0", old + b"Expect: 100-continue\r\n" + length(HIDDEN) + b"\r\n" + HIDDEN, whole)
    for value in (b"", b"100-continue, 100-continue"):
        expect = b"Expect: " + value + b"\r\n"
        either = (*whole, refused(400, 417))
        yield Variant(f"expect {show(value)}", ATTACK + expect + length(HIDDEN) + b"\r\n" + HIDDEN, either)


def _early() -> Iterator[Variant]:
    early: Reading = ("POST", "/early/NNNN", b"")
    alone, then = reads(early), reads(early, HIDES)
    more = b"x" * 70_000
    for name, fields, content in (
        ("length", length(HIDDEN), HIDDEN),
        ("a large length", length(more + HIDDEN), more + HIDDEN),
        ("chunks", CODING, b"%x\r\n%b\r\n" % (len(HIDDEN), HIDDEN) + END),
        ("large chunks", CODING, b"%x\r\n%b\r\n" % (len(more + HIDDEN), more + HIDDEN) + END),
        ("expect and length", b"Expect: 100-continue\r\n" + length(HIDDEN), HIDDEN),
        ("expect and chunks", b"Expect: 100-continue\r\n" + CODING, CHUNKS),
    ):
        yield Variant(f"early answer, {name}", EARLY + fields + b"\r\n" + content, (alone,))
        yield Variant(
            f"early answer, {name}, then a request", EARLY + fields + b"\r\n" + content + HIDDEN, (alone, then)
        )
    yield Variant("early answer, no content", EARLY + b"\r\n" + HIDDEN, (then,))
    unfinished = EARLY + length(HIDDEN * 2) + b"\r\n" + HIDDEN
    yield Variant("early answer, unfinished content", unfinished, (alone,))
    broken = EARLY + CODING + b"\r\n3\r\nabcXX" + END + HIDDEN
    faulty = Outcome((early,), frozenset((400,)))
    yield Variant("early answer, broken chunks", broken, (alone, faulty))
    yield Variant("early answer, broken size", EARLY + CODING + b"\r\n0x0\r\n\r\n" + HIDDEN, (alone, faulty))
    yield Variant("early answer, both", EARLY + length(HIDDEN) + CODING + b"\r\n" + HIDDEN, (refused(),))
    for count in (2, 20):
        stream = (ATTACK + length(HIDDEN) + b"\r\n" + HIDDEN) * count
        yield Variant(f"{count} requests at once", stream, (reads(*[attack(HIDDEN)] * count),))
    mixed = ATTACK + length(HIDDEN) + b"\r\n" + HIDDEN + CHUNKED + CHUNKS + HIDDEN
    yield Variant("both framings at once", mixed, (reads(attack(HIDDEN), attack(b"abc"), HIDES),))
    for options in (b"Content-Length", b"Transfer-Encoding", b"close, Content-Length", b"Host", b"X-Tag, X-Read"):
        fields = b"Connection: " + options + b"\r\n" + length(HIDDEN) + b"\r\n" + HIDDEN
        yield Variant(f"connection {show(options)}", ATTACK + fields, (reads(attack(HIDDEN)),))
    for line in (
        b"Proxy-Connection: close",
        b"Keep-Alive: timeout=0, max=0",
        b"X-Tag: x\r\nX-Read: GET /h",
        b"TE: chunked",
    ):
        yield Variant(
            f"field {show(line)}", ATTACK + line + b"\r\n" + length(HIDDEN) + b"\r\n" + HIDDEN, (reads(attack(HIDDEN)),)
        )


VARIANTS: tuple[Variant, ...] = (
    *_sizes(),
    *_ends(),
    *_trailers(),
    *_lines(),
    *_targets(),
    *_upgrades(),
    *_expectations(),
    *_early(),
)
"""Those about everything but what the head says of the content."""
