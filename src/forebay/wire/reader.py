"""What the readers of requests and of responses share."""

from __future__ import annotations

from typing import Any, Protocol

import httptools

from forebay.errors import ProtocolError

__all__ = [
    "CODING",
    "CONDITIONAL",
    "CONNECTION",
    "EXPECT",
    "HOST",
    "LENGTH",
    "ORDINARY",
    "TIMEOUT",
    "UPGRADE",
    "Reader",
    "Sink",
    "learn",
    "meanings",
]

# What a header means to the framing of its message, or whether it makes a request conditional (RFC 9110 section 13) or
# partial (section 14), or says how long its client waits (policy.deadline). Unknown spellings are looked up once
# and remembered, up to a bound.
ORDINARY, HOST, LENGTH, CODING, EXPECT, CONNECTION, UPGRADE, CONDITIONAL, TIMEOUT = range(9)
_MEANINGS = {
    b"host": HOST,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"expect": EXPECT,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"if-match": CONDITIONAL,
    b"if-none-match": CONDITIONAL,
    b"if-modified-since": CONDITIONAL,
    b"if-unmodified-since": CONDITIONAL,
    b"if-range": CONDITIONAL,
    b"range": CONDITIONAL,
    b"request-timeout-ms": TIMEOUT,
}
meanings: dict[bytes, int] = {}
"""What the spellings of header names met so far mean."""
_MEANINGS_KEPT = 2048


class Sink(Protocol):
    """What a reader tells of the messages it finds."""

    def on_head(self) -> None:
        """The head is complete: the reader's attributes describe it until ``on_end``."""

    def on_body(self, data: bytes) -> None:
        """A piece of the content, without its framing."""

    def on_end(self) -> None:
        """The content is complete. Not called for a request that has none: it is complete with its head."""


def learn(name: bytes) -> int:
    """The meaning of a spelling that is not among :data:`meanings` yet."""
    meaning = _MEANINGS.get(name.lower(), ORDINARY)
    if len(meanings) < _MEANINGS_KEPT:
        meanings[name] = meaning
    return meaning


class Reader:
    """What both readers share: feeding the parser, the limits on a head, and bytes that lead nowhere."""

    __slots__ = ("_error", "_fed", "_parser", "_progress", "_sink", "_stalled", "headers", "max_count", "max_head")

    _parser: Any  # httptools.HttpRequestParser or HttpResponseParser

    def __init__(self, sink: Sink, max_head: int, max_count: int) -> None:
        self._sink = sink
        self.max_head = max_head
        self.max_count = max_count
        self.headers: list[tuple[bytes, bytes]] = []
        self._error: ProtocolError | None = None
        self._progress = 0  # events so far
        self._stalled = 0  # bytes fed since the last event: the unfinished head, chunk line or trailer
        self._fed = 0  # bytes of the feed under way

    def _feed(self, data: bytes) -> None:
        before = self._progress
        self._fed = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._failed(error)
        if self._progress != before:
            self._stalled = 0
        else:
            self._stalled += len(data)
            self._check_unfinished()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_chunk_header(self) -> None:
        self._progress += 1

    def on_body(self, data: bytes) -> None:
        self._progress += 1
        self._sink.on_body(data)

    def _refuse(self, message: str, status: int = 400) -> ProtocolError:
        self._error = ProtocolError(message, status=status)
        return self._error

    def _failed(self, error: httptools.HttpParserError) -> None:
        if isinstance(error, httptools.HttpParserCallbackError):
            raise self._error or error.__context__ or error from None
        raise self._refuse(str(error)) from None

    def _upgraded(self, rest: bytes) -> None:
        raise self._refuse("an upgrade that was not asked for")

    def _check_unfinished(self) -> None:
        """Bytes that ended no head, chunk or message: may we go on waiting for its end?"""
        if self._stalled > self.max_head:
            raise self._refuse(f"head is longer than {self.max_head} bytes", 431)
        if len(self.headers) > self.max_count:
            raise self._refuse(f"more than {self.max_count} header fields", 431)

    def _check_head(self, line: int) -> None:
        """A complete head within its limits? ``line`` is the length of its first line."""
        if len(self.headers) > self.max_count:
            raise self._refuse(f"more than {self.max_count} header fields", 431)
        size = line + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.max_head:
            raise self._refuse(f"head is longer than {self.max_head} bytes", 431)
