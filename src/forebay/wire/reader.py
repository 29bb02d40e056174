"""What the readers of requests and of responses share: the meanings of fields, chunks and trailers."""

from __future__ import annotations

import re
from typing import Protocol

__all__ = [
    "CHUNK_SIZE",
    "CODING",
    "CONDITIONAL",
    "CONNECTION",
    "EXPECT",
    "FIELD",
    "FREE_OVERHEAD",
    "HOST",
    "LENGTH",
    "NOT_IN_TRAILERS",
    "ORDINARY",
    "TIMEOUT",
    "UPGRADE",
    "Sink",
    "connection_options",
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

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'
CHUNK_SIZE = re.compile(
    rb"([0-9A-Fa-f]{1,15}+)(?:[ \t]*+;[ \t]*+"
    + _TOKEN
    + rb"(?:[ \t]*=[ \t]*+(?:"
    + _TOKEN
    + rb"|"
    + _QUOTED
    + rb"))?)*"
)
"""A chunk's line: its size, and extensions (RFC 9112 sections 7.1 and 7.1.1)."""
FREE_OVERHEAD = 16384
"""Bytes of chunk lines beyond what honest chunks of the same content need."""

# Possessive, as a value may begin with blanks: lines of nothing else would else be tried in every possible way.
FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)")
"""A field's line without its end: name, and value with the blanks behind it (RFC 9112 section 5)."""

NOT_IN_TRAILERS = frozenset(
    b"age authorization cache-control connection content-encoding content-length content-range content-type cookie "
    b"date expect host keep-alive location max-forwards proxy-authenticate proxy-authorization proxy-connection range "
    b"retry-after set-cookie te trailer transfer-encoding upgrade vary www-authenticate".split()
)
"""Fields that mean nothing, or something dangerous, once the content has been read (RFC 9110 section 6.5.1)."""


class Sink(Protocol):
    """What a reader of responses tells of those it finds."""

    def on_head(self) -> None:
        """The head is complete: the reader's attributes describe it until ``on_end``."""

    def on_body(self, data: bytes) -> None:
        """A piece of the content, without its framing; never empty."""

    def on_end(self) -> None:
        """The response is complete; one without content is so right after its head. Not called for an interim one."""


def learn(name: bytes) -> int:
    """The meaning of a spelling that is not among :data:`meanings` yet."""
    meaning = _MEANINGS.get(name.lower(), ORDINARY)
    if len(meanings) < _MEANINGS_KEPT:
        meanings[name] = meaning
    return meaning


def connection_options(value: bytes) -> frozenset[bytes]:
    """What a ``Connection`` field says, in lower case (RFC 9110 section 7.6.1)."""
    return _USUAL_OPTIONS.get(value) or _options(value)


def _options(value: bytes) -> frozenset[bytes]:
    return frozenset(option.strip(b" \t") for option in value.lower().split(b","))


_USUAL_OPTIONS = {value: _options(value) for value in (b"keep-alive", b"Keep-Alive", b"close", b"Close", b"Upgrade")}
