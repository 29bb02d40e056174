"""What RFC 9112 says a server must refuse and must accept. The number in a case's name is its section."""

from __future__ import annotations

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
BAD = {400}


Reading = tuple[str, str, bytes]
"""Method, target and content of a request."""


def version(name: bytes) -> bytes:
    """A request that says ``name`` for its version."""
    return b"GET / " + name + b"\r\nHost: a\r\n\r\n"


def target(path: bytes, method: bytes = b"GET", host: bytes = b"a") -> bytes:
    """A request for ``path``."""
    return method + b" " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"


REFUSED: dict[str, tuple[bytes, set[int]]] = {
    "2.1: no request line at all": (b"nonsense\r\n\r\n", BAD),
    "2.1: a response instead of a request": (b"HTTP/1.1 200 OK\r\nHost: a\r\n\r\n", {400, 505}),
    "2.2: lines that end with a bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", BAD),
    "2.2: a request line that ends with a bare LF": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", BAD),
    "2.2: a field line that ends with a bare LF": (b"GET / HTTP/1.1\r\nHost: a\n\r\n", BAD),
    "2.2: an empty line that is a bare LF": (GET + b"\n", {400, 408}),
    "2.2: a bare CR in the request line": (b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "2.2: a bare CR in a field value": (GET + b"X: a\rb\r\n\r\n", BAD),
    "2.2: a bare CR in a field name": (GET + b"X\rY: a\r\n\r\n", BAD),
    "2.2: a bare CR before CRLF": (GET + b"X: a\r\r\n\r\n", BAD),
    "2.2: white space between request line and fields": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", BAD),
    "2.2: a tab between request line and fields": (b"GET / HTTP/1.1\r\n\tX: y\r\nHost: a\r\n\r\n", BAD),
    "2.2: white space before the request line": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "2.3: no version, as in HTTP/0.9": (b"GET /\r\n\r\n", {400, 505}),
    "2.3: a major version not spoken": (version(b"HTTP/2.0"), {505}),
    "2.3: another major version not spoken": (version(b"HTTP/3.0"), {505}),
    "2.3: major version 0": (version(b"HTTP/0.9"), {505, 400}),
    "2.3: the name in lower case": (version(b"http/1.1"), BAD),
    "2.3: another protocol's name": (version(b"HTTQ/1.1"), BAD),
    "2.3: two digits": (version(b"HTTP/1.10"), {400, 505}),
    "2.3: a leading zero": (version(b"HTTP/01.1"), {400, 505}),
    "2.3: no minor version": (version(b"HTTP/1"), {400, 505}),
    "2.3: an empty minor version": (version(b"HTTP/1."), {400, 505}),
    "2.3: a blank in it": (version(b"HTTP/ 1.1"), {400, 505}),
    "3: two blanks after the method": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "3: two blanks before the version": (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "3: a tab after the method": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "3: a vertical tab after the method": (b"GET\x0b/ HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "3: a blank at the end": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", BAD),
    "3: a blank within the target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "3: no target": (b"GET  HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "3: no method": (b" / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "3: a target of 9,000 octets": (target(b"/" + b"a" * 9000), {414}),
    "3: an unfinished target of 9,000 octets": (b"GET /" + b"a" * 9000, {414}),
    "3.1: a method that is no token": (b"G<T / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "3.1: a method longer than any": (b"A" * 200 + b" / HTTP/1.1\r\nHost: a\r\n\r\n", {400, 501}),
    "3.2: a control character in the target": (target(b"/a\x01b"), BAD),
    "3.2: NUL in the target": (target(b"/a\x00b"), BAD),
    "3.2: DEL in the target": (target(b"/a\x7fb"), BAD),
    "3.2: raw octets above 127 in the target": (target(b"/\xc3\xa9"), BAD),
    "3.2: a fragment in the target": (target(b"/a#b"), BAD),
    "3.2: no Host": (b"GET / HTTP/1.1\r\n\r\n", BAD),
    "3.2: two Hosts": (GET + b"Host: b\r\n\r\n", BAD),
    "3.2: the same Host twice": (GET + b"Host: a\r\n\r\n", BAD),
    "3.2: two Hosts, spelt differently": (GET + b"hOsT: a\r\n\r\n", BAD),
    "3.2: two Hosts in HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", BAD),
    "3.2: a Host with a path": (target(b"/", host=b"a/b"), BAD),
    "3.2: a Host with userinfo": (target(b"/", host=b"u@a"), BAD),
    "3.2: a Host with a blank": (target(b"/", host=b"a b"), BAD),
    "3.2: a list of Hosts": (target(b"/", host=b"a, b"), BAD),
    "3.2: a Host with a port that is none": (target(b"/", host=b"a:8o"), BAD),
    "3.2: a Host with an open bracket": (target(b"/", host=b"[::1"), BAD),
    "3.2.1: a relative target": (target(b"index.html"), BAD),
    "3.2.1: only a query": (target(b"?x=1"), BAD),
    "3.2.2: absolute-form of another scheme": (target(b"ftp://a/"), BAD),
    "3.2.2: absolute-form without a host": (target(b"http:///x"), BAD),
    "3.2.2: absolute-form with userinfo": (target(b"http://u:p@a/x"), BAD),
    "3.2.2: absolute-form without Host": (b"GET http://a/ HTTP/1.1\r\n\r\n", BAD),
    "3.2.2: absolute-form and another Host, which only an attacker sends": (target(b"http://b/x"), BAD),
    "3.2.3: authority-form with GET": (target(b"a:80"), BAD),
    "3.2.3: CONNECT, which only a proxy serves": (target(b"a:80", b"CONNECT"), {400, 405, 501}),
    "3.2.4: asterisk-form with GET": (target(b"*"), BAD),
    "3.2.4: an asterisk with something behind it": (target(b"*/x", b"OPTIONS"), BAD),
    "5: a field line without a colon": (GET + b"nonsense\r\n\r\n", BAD),
    "5: an empty field name": (GET + b": x\r\n\r\n", BAD),
    "5.1: a blank before the colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", BAD),
    "5.1: a tab before the colon": (GET + b"X\t: y\r\n\r\n", BAD),
    "5.1: a blank within a name": (GET + b"X Y: z\r\n\r\n", BAD),
    "5.2: a folded value": (GET + b"X: a\r\n b\r\n\r\n", BAD),
    "5.2: a value folded by a tab": (GET + b"X: a\r\n\tb\r\n\r\n", BAD),
    "5.2: a folded line without content": (GET + b"X: a\r\n \r\n\r\n", BAD),
    "5.2: a value that begins on the next line": (GET + b"X:\r\n a\r\n\r\n", BAD),
    "6.1: an unknown coding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n", {501}),
    "6.1: gzip before chunked, which is not undone here": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", {501}),
    "6.1: gzip alone": (POST + b"Transfer-Encoding: gzip\r\n\r\n", {400, 501}),
    "6.1: chunked twice": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", {400, 501}),
    "6.1: chunked twice, in two lines": (
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        {400, 501},
    ),
    "6.1: chunked in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    "6.1: an empty coding": (POST + b"Transfer-Encoding:\r\n\r\n", {400, 501}),
    "6.1: identity, which is a coding no more": (POST + b"Transfer-Encoding: identity\r\n\r\n", {400, 501}),
    "6.3-3: coding and length": (
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    "6.3-3: length and coding": (
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    "6.3-4: chunked is not the last coding": (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", {400, 501}),
    "6.3-5: two different lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", BAD),
    "6.3-5: a list of different lengths": (POST + b"Content-Length: 3, 4\r\n\r\nabcd", BAD),
    "6.3-5: the same length twice, which may be refused": (
        POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        BAD,
    ),
    "6.3-5: a list of equal lengths, which may be refused": (POST + b"Content-Length: 3, 3\r\n\r\nabc", BAD),
    "6.3-5: no digits": (POST + b"Content-Length: abc\r\n\r\n", BAD),
    "6.3-5: an empty length": (POST + b"Content-Length: \r\n\r\n", BAD),
    "7.1: no chunk size": (CHUNKED + b"\r\nabc\r\n0\r\n\r\n", BAD),
    "7.1: a chunk size that is not hexadecimal": (CHUNKED + b"g\r\nabc\r\n0\r\n\r\n", BAD),
    "7.1: a chunk size with 0x": (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", BAD),
    "7.1: a chunk size with a sign": (CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n", BAD),
    "7.1: a negative chunk size": (CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", BAD),
    "7.1: a chunk size with an underscore": (CHUNKED + b"0_3\r\nabc\r\n0\r\n\r\n", BAD),
    "7.1: a blank before the chunk size": (CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n", BAD),
    "7.1: a chunk size past 64 bits": (CHUNKED + b"10000000000000003\r\nabc\r\n0\r\n\r\n", {400, 413}),
    "7.1: a chunk size line that ends with a bare LF": (CHUNKED + b"3\nabc\r\n0\r\n\r\n", BAD),
    "7.1: chunk data longer than its size": (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", BAD),
    "7.1: chunk data that ends with a bare LF": (CHUNKED + b"3\r\nabc\n0\r\n\r\n", BAD),
    "7.1: chunk data without an end": (CHUNKED + b"3\r\nabc0\r\n\r\n", BAD),
    "7.1.1: a bare LF in an extension": (CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n", BAD),
    "7.1.1: a bare CR in an extension": (CHUNKED + b"3;a\rb\r\nabc\r\n0\r\n\r\n", BAD),
    "7.1.1: an extension of 100 KB": (CHUNKED + b"3;" + b"a" * 100_000 + b"\r\nabc\r\n0\r\n\r\n", {400, 413, 431}),
    "7.1.1: 300 KB of extensions, 600 to a chunk of one octet": (
        CHUNKED + (b"1;" + b"a" * 600 + b"\r\nx\r\n") * 500 + b"0\r\n\r\n",
        {400, 413, 431},
    ),
    "7.1.2: a trailer without a colon": (CHUNKED + b"0\r\nnonsense\r\n\r\n", BAD),
    "7.1.2: a trailer with a blank before the colon": (CHUNKED + b"0\r\nX : y\r\n\r\n", BAD),
    "7.1.2: a folded trailer": (CHUNKED + b"0\r\nX: y\r\n z\r\n\r\n", BAD),
    "7.1.2: a trailer that ends with a bare LF": (CHUNKED + b"0\r\nX: y\n\r\n", BAD),
    "7.1.2: NUL in a trailer": (CHUNKED + b"0\r\nX: a\x00b\r\n\r\n", BAD),
    "7.1.2: 100 KB of trailers": (CHUNKED + b"0\r\n" + b"X: yyyyyy\r\n" * 10_000 + b"\r\n", {400, 413, 431}),
    "11.2: a request that hides behind a NUL": (GET + b"X: a\x00\r\nTransfer-Encoding: chunked\r\n\r\n", BAD),
}


ACCEPTED: dict[str, tuple[bytes, list[Reading]]] = {
    "2.2: an empty line before the request line": (b"\r\n" + GET + b"\r\n", [("GET", "/", b"")]),
    "2.2: an empty line after the content of a POST": (
        POST + b"Content-Length: 3\r\n\r\nabc\r\n",
        [("POST", "/p", b"abc")],
    ),
    "3: a target of 8,000 octets": (target(b"/" + b"a" * 7999), [("GET", "/" + "a" * 7999, b"")]),
    "3.2.1: path and query": (target(b"/a/b?c=d&e=/?"), [("GET", "/a/b?c=d&e=/?", b"")]),
    "3.2.1: all characters of a target": (
        target(b"/-._~!$&'()*+,;=:@/%41%ff?-._~!$&'()*+,;=:@/?%41"),
        [("GET", "/-._~!$&'()*+,;=:@/%41%ff?-._~!$&'()*+,;=:@/?%41", b"")],
    ),
    "3.2.2: absolute-form": (target(b"http://a/x?y"), [("GET", "http://a/x?y", b"")]),
    "3.2.2: absolute-form without a path": (target(b"http://a"), [("GET", "http://a", b"")]),
    "3.2.4: OPTIONS of the server": (target(b"*", b"OPTIONS"), [("OPTIONS", "*", b"")]),
    "5: no field but Host": (GET + b"\r\n", [("GET", "/", b"")]),
    "5: 90 fields": (GET + b"X: y\r\n" * 90 + b"\r\n", [("GET", "/", b"")]),
    "6.1: chunked in upper case": (
        POST + b"Transfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        [("POST", "/p", b"abc")],
    ),
    "6.1: chunked with blanks around it": (
        POST + b"Transfer-Encoding: \t chunked  \r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        [("POST", "/p", b"abc")],
    ),
    "6.1: chunked with a tab behind it": (
        POST + b"Transfer-Encoding: chunked\t\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        [("POST", "/p", b"abc")],
    ),
    "6.2: a length": (POST + b"Content-Length: 3\r\n\r\nabc", [("POST", "/p", b"abc")]),
    "6.2: a length of 0": (POST + b"Content-Length: 0\r\n\r\n", [("POST", "/p", b"")]),
    "6.2: a length with white space around it": (
        POST + b"Content-Length: \t3 \t\r\n\r\nabc",
        [("POST", "/p", b"abc")],
    ),
    "6.3-6: any octets are content": (
        POST + b"Content-Length: 256\r\n\r\n" + bytes(range(256)),
        [("POST", "/p", bytes(range(256)))],
    ),
    "6.3-7: neither coding nor length: no content": (POST + b"\r\n", [("POST", "/p", b"")]),
    "6.3: a GET may have content": (GET + b"Content-Length: 3\r\n\r\nabc", [("GET", "/", b"abc")]),
    "6.3: a DELETE may have content": (
        b"DELETE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        [("DELETE", "/", b"abc")],
    ),
    "6.3: content that looks like a request": (
        POST + b"Content-Length: %d\r\n\r\n" % len(GET + b"\r\n") + GET + b"\r\n",
        [("POST", "/p", GET + b"\r\n")],
    ),
    "7.1: one chunk": (CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", [("POST", "/p", b"abc")]),
    "7.1: several chunks": (CHUNKED + b"1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n", [("POST", "/p", b"abcdef")]),
    "7.1: no chunks": (CHUNKED + b"0\r\n\r\n", [("POST", "/p", b"")]),
    "7.1: sizes in lower and upper case": (
        CHUNKED + b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
        [("POST", "/p", b"01234567890123456789")],
    ),
    "7.1: leading zeros": (CHUNKED + b"0003\r\nabc\r\n000\r\n\r\n", [("POST", "/p", b"abc")]),
    "7.1: chunk data that looks like the end": (
        CHUNKED + b"5\r\n0\r\n\r\n\r\n0\r\n\r\n",
        [("POST", "/p", b"0\r\n\r\n")],
    ),
    "7.1.1: extensions are ignored": (
        CHUNKED + b'3;a;b=c;d="e;f"\r\nabc\r\n0;last\r\n\r\n',
        [("POST", "/p", b"abc")],
    ),
    "7.1.1: a quoted pair in an extension": (CHUNKED + b'3;a="\\"\\\\"\r\nabc\r\n0\r\n\r\n', [("POST", "/p", b"abc")]),
    "7.1.1: white space around ; and = is removed": (
        CHUNKED + b"3 ; a = b\r\nabc\r\n0\r\n\r\n",
        [("POST", "/p", b"abc")],
    ),
    "7.1.2: trailers": (CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\nZ:\r\n\r\n", [("POST", "/p", b"abc")]),
    "7.4: TE asks for what is not used": (GET + b"TE: trailers, gzip;q=0.5\r\n\r\n", [("GET", "/", b"")]),
    "11.2: framing words where they mean nothing": (
        GET + b"X: Transfer-Encoding: chunked\r\nY: Content-Length: 9\r\n\r\n",
        [("GET", "/", b"")],
    ),
}
