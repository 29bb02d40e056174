"""What must not be seen in dumps, HAR files and pictures: which fields are secret, and how they are masked."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from json import JSONDecodeError, loads
from urllib.parse import unquote_to_bytes

__all__ = ["MASK", "SECRETS", "Range", "Secrets"]

MASK = "***"
"""What stands where a secret was."""

_MASK = MASK.encode()

Range = tuple[int, int]
"""A piece of some bytes: its start, and its end."""

_HEADERS = ("authorization", "proxy-authorization", "cookie", "set-cookie", "cookie2", "set-cookie2")
_WORDS = (
    "token", "password", "passwd", "passphrase", "passcode", "secret", "credential", "signature", "sessionid", "sessid",
    "apikey", "accesskey", "authkey", "masterkey", "privatekey", "sharedkey", "subscriptionkey",
)  # fmt: skip
_NAMES = ("auth", "authorization", "bearer", "cookie", "jwt", "otp", "pin", "pwd", "session", "sid", "sig")

_SQUEEZED = re.compile(r"[^a-z0-9]")
_SCHEME = re.compile(r"(basic|bearer|digest|negotiate|ntlm|token|hoba|mutual|dpop|apikey) +", re.IGNORECASE)
_ATTRIBUTES = frozenset(("path", "domain", "expires", "max-age", "secure", "httponly", "samesite", "partitioned"))
_FORM_KIND = "application/x-www-form-urlencoded"

_IN_URL = re.compile(rb"[?&#;]([^=&#;?\s]+)=")
_URL_VALUE = re.compile(rb"[^&#\s]*")
_USER = re.compile(rb"://([^/?#\s\"'<>]+)@")
_IN_FORM = re.compile(rb"(?:^|&)([^=&]*)=")
_FORM_VALUE = re.compile(rb"[^&]*")
_IN_TEXT = re.compile(rb"(?:^|[\s?&#;,\"'>])([\w.%+\[\]-]{2,200})=", re.ASCII)
_TEXT_VALUE = re.compile(rb"\"[^\"]*\"?|[^&\s\"'<>]*")
_LINE = re.compile(rb"(?:\A|(?<=\n))([!#$%&'*+.^_`|~0-9A-Za-z-]{1,200})[ \t]*:[ \t]*([^\n]*(?:\n[ \t][^\n]*)*)")
_JSON = re.compile(rb"\"(?:[^\"\\]|\\.)*\"?|[\[\]{}:,]|[^\s\"\[\]{}:,]+", re.DOTALL)
_PART = re.compile(rb"(?:\A|\n)--([^\r\n]{1,70})\r?\n")
_PART_NAME = re.compile(rb"(?<![\w*])name=(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;\"]+))", re.IGNORECASE)
_START = re.compile(rb"HTTP/\d|[!#$%&'*+.^_`|~0-9A-Za-z-]+ \S")


@dataclass(frozen=True, slots=True)
class Secrets:
    """Which fields are masked.

    :param headers: names of header fields, in lower case. Of ``authorization`` the scheme stays, of cookies the name.
    :param words: fields of headers, queries, forms and JSON are secret when their names have one of these in them,
        whatever its case, and without what is neither a letter nor a digit: ``apikey`` means ``X-API-Key`` too.
    :param names: the same for names as a whole.
    :raises ValueError: a word is empty, or is not in lower case, or has more than letters and digits.
    """

    headers: frozenset[str] = frozenset(_HEADERS)
    words: frozenset[str] = frozenset(_WORDS)
    names: frozenset[str] = frozenset(_NAMES)

    def __post_init__(self) -> None:
        for word in (*self.words, *self.names):
            if not word or _SQUEEZED.search(word):
                raise ValueError(f"Secrets word {word!r}: must be lower-case letters and digits")
        for name in self.headers:
            if not name or name != name.lower():
                raise ValueError(f"Secrets header {name!r}: must be in lower case")

    def plus(self, *names: str) -> Secrets:
        """These, and fields of some further names, wherever they are."""
        squeezed = {_squeezed(name) for name in names}
        return replace(self, headers=self.headers | {name.lower() for name in names}, names=self.names | squeezed)

    def has(self, name: str) -> bool:
        """Whether fields of that name are secret."""
        squeezed = _squeezed(name)
        return squeezed in self.names or any(word in squeezed for word in self.words)

    def header(self, name: str, value: str) -> str:
        """A header field's value as it may be seen."""
        key = name.strip().lower()
        if key in ("cookie", "cookie2") and key in self.headers:
            return "; ".join(_cookie(one) for one in value.split(";"))
        if key in ("set-cookie", "set-cookie2") and key in self.headers:
            first, *attributes = value.split(";")
            return ";".join([_cookie(first), *(_attribute(one) for one in attributes)])
        if key in self.headers or self.has(key):
            scheme = _SCHEME.match(value) if key.endswith("authorization") else None
            return f"{scheme[0]}{MASK}" if scheme is not None else MASK
        return self.url(value)

    def url(self, text: str) -> str:
        """A URL, or text with some in it, as it may be seen: without passwords, and what is secret in queries."""
        if "=" not in text and "@" not in text:
            return text
        data = text.encode("utf-8", "surrogateescape")
        return _masked(data, self._in_url(data)).decode("utf-8", "surrogateescape")

    def content(self, data: bytes, kind: str = "") -> bytes:
        """Content as it may be seen: fields of forms and JSON, and anything that reads like a secret header field.

        What is compressed or encrypted is left as it is: nobody can look for fields in there.

        :param kind: its media type; empty: not known.
        """
        return _masked(data, self._in_content(data, kind))

    def message(self, data: bytes) -> bytes:
        """What was sent or received for one request, as it may be seen: heads, and content, in chunks or not.

        It may be cut anywhere. It need not even be HTTP.
        """
        masked: list[bytes] = []
        kind, chunked = "", False
        while _START.match(data):
            end = data.find(b"\r\n\r\n")
            head = data if end < 0 else data[: end + 4]
            masked.append(self._head(head))
            data = data[len(head) :]
            kind, chunked = _framing(head)
            if not _is_interim(head):
                break
        pieces = list(_chunks(data)) if chunked else [(0, len(data))]
        content = b"".join(data[start:end] for start, end in pieces)
        trailers = pieces[-1][1] if pieces else 0
        masked.append(_masked(data, [*_spread(self._in_content(content, kind), pieces), *self._lines(data, trailers)]))
        return b"".join(masked)

    def _head(self, head: bytes) -> bytes:
        first, mark, rest = head.partition(b"\n")
        return _masked(first, self._in_url(first)) + mark + _LINE.sub(self._line, rest)

    def _line(self, match: re.Match[bytes]) -> bytes:
        value = match[2]
        end = value[len(value.rstrip(b"\r\n")) :]
        text = value.rstrip(b"\r\n").decode("latin-1")
        name = match[1].decode("latin-1")
        masked = self.header(name, text)
        if masked == text:
            return match[0]
        return match[0][: match.start(2) - match.start()] + masked.encode("utf-8", "surrogateescape") + end

    def _in_url(self, data: bytes) -> Iterator[Range]:
        for match in _USER.finditer(data):
            yield match.span(1)
        yield from self._fields(data, _IN_URL, _URL_VALUE)

    def _fields(self, data: bytes, field: re.Pattern[bytes], value: re.Pattern[bytes]) -> Iterator[Range]:
        at = 0
        while (match := field.search(data, at)) is not None:
            at = match.end()
            if self.has(_plain(match[1])):
                found = value.match(data, at)
                assert found is not None  # it matches nothing, too
                yield found.span()
                at = found.end()

    def _in_content(self, data: bytes, kind: str) -> Iterator[Range]:
        kind = kind.lower()
        yield from self._lines(data)
        for match in _USER.finditer(data):
            yield match.span(1)
        if kind.startswith("multipart/"):
            yield from self._in_parts(data)
        elif "json" in kind or data.lstrip()[:1] in (b"{", b"["):
            yield from self._in_json(data)
        elif kind.startswith(_FORM_KIND):
            yield from self._fields(data, _IN_FORM, _FORM_VALUE)
            return
        yield from self._fields(data, _IN_TEXT, _TEXT_VALUE)

    def _lines(self, data: bytes, start: int = 0) -> Iterator[Range]:
        """Values of what reads like secret header fields: of trailers, or of another message."""
        for match in _LINE.finditer(data, start):
            name = match[1].decode("latin-1").lower()
            if name in self.headers or self.has(name):
                first, last = match.span(2)
                yield first, last - (1 if data[last - 1 : last] == b"\r" else 0)

    def _in_json(self, data: bytes) -> Iterator[Range]:
        """Values of secret members, whole arrays and objects too. In one pass, over what need not be whole."""
        depth = 0  # of a value that is masked
        began = 0
        secret = pending = False
        last: re.Match[bytes] | None = None
        for token in _JSON.finditer(data):
            sign = token[0]
            if depth:
                depth += (sign in b"[{") - (sign in b"]}")
                if not depth:
                    yield began, token.end()
                continue
            if sign == b":":
                pending = secret = last is not None and self.has(_json_name(last[0]))
            elif pending:
                pending = False
                if sign in (b"[", b"{"):
                    depth, began = 1, token.start()
                elif sign[:1] == b'"':
                    yield token.start() + 1, token.end() - (1 if len(sign) > 1 and sign[-1:] == b'"' else 0)
                else:
                    yield token.span()
            last = token if sign[:1] == b'"' else None
        if depth and secret:
            yield began, len(data)

    def _in_parts(self, data: bytes) -> Iterator[Range]:
        first = _PART.search(data)
        if first is None:
            return
        line = b"--" + first[1].rstrip()
        start = first.end()
        while True:
            end = data.find(b"\n" + line, start)
            part = data[start : end if end >= 0 else len(data)]
            head, mark, content = part.partition(b"\r\n\r\n")
            name = _PART_NAME.search(head)
            if mark and name is not None and self.has(_plain(name[1] if name[1] is not None else name[2])):
                begin = start + len(head) + len(mark)
                yield begin, begin + len(content[:-1] if content[-1:] == b"\r" and end >= 0 else content)
            if end < 0:
                return
            start = end + 1 + len(line)


SECRETS = Secrets()
"""What is masked when nothing else is said."""


def _squeezed(name: str) -> str:
    return _SQUEEZED.sub("", name.lower())


def _plain(name: bytes) -> str:
    return unquote_to_bytes(name).decode("utf-8", "replace")


def _json_name(token: bytes) -> str:
    try:
        return str(loads(token))
    except (JSONDecodeError, UnicodeDecodeError):
        return token.decode("latin-1")


def _cookie(text: str) -> str:
    name, mark, _ = text.strip().partition("=")
    return f"{name}={MASK}" if mark else MASK


def _attribute(text: str) -> str:
    return text if text.partition("=")[0].strip().lower() in _ATTRIBUTES else f" {MASK}"


def _is_interim(head: bytes) -> bool:
    return head[:5] == b"HTTP/" and head[8:10] == b" 1" and head[9:12] != b"101"


def _framing(head: bytes) -> tuple[str, bool]:
    """Of a message: its media type, and whether its content is in chunks."""
    kind, chunked = "", False
    for match in _LINE.finditer(head.partition(b"\n")[2]):
        name = match[1].lower()
        if name == b"content-type":
            kind = match[2].decode("latin-1").strip()
        elif name == b"transfer-encoding":
            chunked = b"chunked" in match[2].lower()
    return kind, chunked


def _chunks(data: bytes) -> Iterator[Range]:
    """Where the content of chunks is (RFC 9112 section 7.1); what is not chunks is taken for content."""
    at = 0
    while at < len(data):
        end = data.find(b"\n", at)
        if end < 0:
            return  # it is cut within a line of a size
        try:
            size = int(data[at:end].partition(b";")[0].strip(), 16)
        except ValueError:
            size = -1
        if size < 0:
            yield at, len(data)
            return
        if size == 0:
            return
        yield end + 1, min(end + 1 + size, len(data))
        at = end + 1 + size
        at += 2 if data[at : at + 2] == b"\r\n" else 1 if data[at : at + 1] == b"\n" else 0


def _spread(ranges: Iterable[Range], pieces: list[Range]) -> Iterator[Range]:
    """Ranges of what the pieces are together, as ranges of what they were cut from."""
    ends = list(accumulate(last - first for first, last in pieces))
    for start, end in ranges:
        for index in range(bisect_right(ends, start), len(pieces)):
            first, last = pieces[index]
            before = ends[index] - (last - first)
            if before >= end:
                break
            yield first + max(0, start - before), first + min(last - first, end - before)


def _masked(data: bytes, ranges: Iterable[Range]) -> bytes:
    """``data`` with a mask for each of the ranges, which may overlap."""
    parts: list[bytes] = []
    at = 0
    for start, end in sorted(ranges):
        if end <= max(at, start):
            continue
        if start >= at:
            parts += (data[at:start], _MASK)
        at = end
    if not parts:
        return data
    parts.append(data[at:])
    return b"".join(parts)
