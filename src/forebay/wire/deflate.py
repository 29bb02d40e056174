"""WebSocket compression: the extension permessage-deflate, RFC 7692. What is agreed on, and the bytes.

A server answers what a client offered with :func:`accept_offer`; a client offers with :func:`offer` and reads the
answer with :func:`accept_response`. Both come to :class:`DeflateParameters`, of which each side makes a
:class:`Deflater` for what it sends and an :class:`Inflater` for what it gets.

A side that keeps its context (takes it over from message to message) compresses better, by referring to the messages
before, but both ends then keep a window for as long as the connection is open: 2**(window_bits + 2) + 2**(mem_level +
9) bytes to compress, 2**window_bits to inflate. With the default settings those would be 144 KiB and 32 KiB, which is
why they ask both sides to keep none: nothing is held between messages then, and connections share one :class:`Deflater`
and one :class:`Inflater`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from forebay.errors import WebSocketError
from forebay.wire.extensions import Parameters, parse_extensions

__all__ = [
    "DeflateParameters",
    "DeflateSettings",
    "Deflater",
    "Inflater",
    "accept_offer",
    "accept_response",
    "compress_once",
    "offer",
]

Side = Literal["server", "client"]

_NAME = "permessage-deflate"
_BITS = {str(bits): bits for bits in range(8, 16)}
_TAIL = b"\x00\x00\xff\xff"  # ends what Z_SYNC_FLUSH gives, and is not sent: RFC 7692 section 7.2.1


@dataclass(frozen=True, slots=True)
class DeflateSettings:
    """What one side wants of permessage-deflate.

    By default no context is kept. ``DeflateSettings(server_no_context_takeover=False,
    client_no_context_takeover=False)`` keeps one on both sides, where the peer agrees: many small messages that are
    like each other then take a fraction of the bytes, for about 176 KiB of memory per connection.

    :param server_no_context_takeover: the server is to compress each message by itself.
    :param client_no_context_takeover: the same for the client.
    :param server_max_window_bits: 8 to 15: how far back the server may refer, as a power of two of bytes.
    :param client_max_window_bits: the same for the client.
    :param level: 0 to 9: how hard to try when compressing; 1 is the fastest, 9 the smallest.
    :param mem_level: 1 to 9: how much memory to compress with.
    :param min_size: bytes below which messages are sent as they are.

    :raises ValueError: a parameter is out of its range.
    """

    server_no_context_takeover: bool = True
    client_no_context_takeover: bool = True
    server_max_window_bits: int = 15
    client_max_window_bits: int = 15
    level: int = 3  # on JSON within a seventh of the size that 6 gives, at about half the time
    mem_level: int = 5
    min_size: int = 128

    def __post_init__(self) -> None:
        for name, low, high in (
            ("server_max_window_bits", 8, 15),
            ("client_max_window_bits", 8, 15),
            ("level", 0, 9),
            ("mem_level", 1, 9),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"DeflateSettings {name} {getattr(self, name)}: must be {low} to {high}")
        if self.min_size < 0:
            raise ValueError(f"DeflateSettings min_size {self.min_size}: must be 0 bytes or more")


@dataclass(frozen=True, slots=True)
class DeflateParameters:
    """What both sides agreed on, and how this one compresses. See :class:`DeflateSettings`."""

    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int
    client_max_window_bits: int
    level: int
    mem_level: int
    min_size: int


_parameters = lru_cache(256)(DeflateParameters)  # one object for all connections that agreed on the same


def accept_offer(header_value: str, settings: DeflateSettings) -> tuple[str, DeflateParameters] | None:
    """A server's answer to ``Sec-WebSocket-Extensions``: its value, and what it means; RFC 7692 section 7.1.

    The first offer of permessage-deflate that is acceptable is taken. None: there is none, or the header is malformed
    (which :func:`~forebay.wire.extensions.parse_extensions` tells apart).
    """
    try:
        offers = parse_extensions(header_value)
    except WebSocketError:
        return None
    for name, parameters in offers:
        if name == _NAME and (asked := _read(parameters, bare_client_bits=True)) is not None:
            return _answer(asked, settings)
    return None


@dataclass(slots=True)
class _Asked:
    """The parameters of one offer or answer: bits are 0 where absent, 15 where given without a value."""

    server_no_context: bool = False
    client_no_context: bool = False
    server_bits: int = 0
    client_bits: int = 0


def _read(parameters: Parameters, *, bare_client_bits: bool) -> _Asked | None:
    """None: unknown, repeated, or with a value that it must not have."""
    asked = _Asked()
    seen = set()
    for name, value in parameters:
        if name in seen:
            return None
        seen.add(name)
        if name == "server_no_context_takeover" and value is None:
            asked.server_no_context = True
        elif name == "client_no_context_takeover" and value is None:
            asked.client_no_context = True
        elif name == "server_max_window_bits" and value in _BITS:
            asked.server_bits = _BITS[value]
        elif name == "client_max_window_bits" and value in _BITS:
            asked.client_bits = _BITS[value]
        elif name == "client_max_window_bits" and value is None and bare_client_bits:
            asked.client_bits = 15
        else:
            return None
    return asked


def _answer(asked: _Asked, settings: DeflateSettings) -> tuple[str, DeflateParameters]:
    server_no_context = asked.server_no_context or settings.server_no_context_takeover
    client_no_context = asked.client_no_context or settings.client_no_context_takeover
    server_bits = min(asked.server_bits or 15, settings.server_max_window_bits)
    # A client that did not offer to be limited cannot be: RFC 7692 section 7.1.2.2.
    client_bits = min(asked.client_bits, settings.client_max_window_bits) if asked.client_bits else 15
    value = _NAME
    if server_no_context:
        value += "; server_no_context_takeover"
    if client_no_context:
        value += "; client_no_context_takeover"
    if asked.server_bits or server_bits < 15:
        value += f"; server_max_window_bits={server_bits}"
    if client_bits < 15:
        value += f"; client_max_window_bits={client_bits}"
    return value, _parameters(
        server_no_context,
        client_no_context,
        server_bits,
        client_bits,
        settings.level,
        settings.mem_level,
        settings.min_size,
    )


def offer(settings: DeflateSettings) -> str:
    """What a client sends as ``Sec-WebSocket-Extensions``."""
    value = _NAME
    if settings.server_no_context_takeover:
        value += "; server_no_context_takeover"
    if settings.client_no_context_takeover:
        value += "; client_no_context_takeover"
    if settings.server_max_window_bits < 15:
        value += f"; server_max_window_bits={settings.server_max_window_bits}"
    value += "; client_max_window_bits"
    if settings.client_max_window_bits < 15:
        value += f"={settings.client_max_window_bits}"
    return value


def accept_response(value: str, settings: DeflateSettings) -> DeflateParameters:
    """What a server's ``Sec-WebSocket-Extensions`` means to the client that sent :func:`offer` of ``settings``.

    :raises WebSocketError: with ``code`` 1010: it is malformed, or not an answer to that offer.
    """

    def refuse(why: str) -> WebSocketError:
        return WebSocketError(f"Sec-WebSocket-Extensions: {value!r}: {why}", code=1010)

    try:
        extensions = parse_extensions(value)
    except WebSocketError as error:
        raise WebSocketError(str(error), code=1010) from None
    if len(extensions) != 1 or extensions[0][0] != _NAME:
        raise refuse(f"must be {_NAME} once and nothing else, as was offered")
    got = _read(extensions[0][1], bare_client_bits=False)
    if got is None:
        raise refuse("has a parameter that is unknown, repeated, or not of a value that it may have")
    if settings.server_no_context_takeover and not got.server_no_context:
        raise refuse("lacks server_no_context_takeover, which was asked for")
    if not got.server_bits and settings.server_max_window_bits < 15:
        raise refuse(f"lacks server_max_window_bits, of which at most {settings.server_max_window_bits} was asked for")
    if got.server_bits > settings.server_max_window_bits:
        raise refuse(f"server_max_window_bits must be at most {settings.server_max_window_bits}, as was asked for")
    if got.client_bits > settings.client_max_window_bits:
        raise refuse(f"client_max_window_bits must be at most {settings.client_max_window_bits}, as was offered")
    return _parameters(
        got.server_no_context,
        got.client_no_context or settings.client_no_context_takeover,
        got.server_bits or 15,
        got.client_bits or settings.client_max_window_bits,
        settings.level,
        settings.mem_level,
        settings.min_size,
    )


class Deflater:
    """Compresses the messages that ``side`` sends on one connection; see :meth:`of`."""

    __slots__ = ("_bits", "_compressor", "_level", "_mem_level", "keeps_context", "min_size")

    @staticmethod
    def of(parameters: DeflateParameters, side: Side) -> Deflater:
        """One for a new connection. Where no context is kept, all connections with the same parameters have the same
        one: it has nothing to remember between messages."""
        without = parameters.server_no_context_takeover if side == "server" else parameters.client_no_context_takeover
        return _shared_deflater(parameters, side) if without else Deflater(parameters, side)

    def __init__(self, parameters: DeflateParameters, side: Side) -> None:
        server = side == "server"
        self._bits = parameters.server_max_window_bits if server else parameters.client_max_window_bits
        self._level = parameters.level
        self._mem_level = parameters.mem_level
        self._compressor: zlib._Compress | None = None
        self.min_size = parameters.min_size
        """Bytes below which a message is better sent as it is."""
        self.keeps_context = not (
            parameters.server_no_context_takeover if server else parameters.client_no_context_takeover
        )
        """Messages refer to those before, so that each one compressed has to be sent, in order."""

    def compress(self, payload: bytes) -> bytes:
        """The payload of a compressed message."""
        compressor = self._compressor or _compressor(self._bits, self._level, self._mem_level)
        if self.keeps_context:
            self._compressor = compressor
        return _flushed(compressor, payload)

    def forget(self) -> None:
        """Begin a new context, without a word to the peer. Due once a message was sent that :func:`compress_once` made.

        The peer counts that message to the context, so that references to those before it would be off.
        """
        self._compressor = None


def compress_once(payload: bytes, window_bits: int = 15, level: int = 3) -> bytes:
    """A message compressed without a context, for any number of receivers that inflate by ``window_bits`` or more.

    Whoever sends it on a connection calls :meth:`Deflater.forget` on that connection's own.
    """
    return _flushed(_compressor(window_bits, level, 8), payload)


def _compressor(window_bits: int, level: int, mem_level: int) -> zlib._Compress:
    # zlib has no raw window of 8 bits. With 9 it refers back 250 bytes at most, which is within 8.
    return zlib.compressobj(level, zlib.DEFLATED, -max(window_bits, 9), mem_level)


def _flushed(compressor: zlib._Compress, payload: bytes) -> bytes:
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Inflater:
    """Inflates the messages that ``side`` gets on one connection; see :meth:`of`.

    :param max_size: bytes of the longest message, inflated. No more than one byte beyond it is ever inflated.
    """

    __slots__ = ("_bits", "_decompressor", "_keeps_context", "max_size")

    @staticmethod
    def of(parameters: DeflateParameters, side: Side, max_size: int) -> Inflater:
        """One for a new connection, shared as those of :meth:`Deflater.of` are."""
        without = parameters.client_no_context_takeover if side == "server" else parameters.server_no_context_takeover
        return _shared_inflater(parameters, side, max_size) if without else Inflater(parameters, side, max_size)

    def __init__(self, parameters: DeflateParameters, side: Side, max_size: int) -> None:
        if max_size < 1:
            raise ValueError(f"max_size {max_size}: must be 1 byte or more")
        server = side == "server"
        self._bits = max(9, parameters.client_max_window_bits if server else parameters.server_max_window_bits)
        self._keeps_context = not (
            parameters.client_no_context_takeover if server else parameters.server_no_context_takeover
        )
        self._decompressor: zlib._Decompress | None = None
        self.max_size = max_size

    def decompress(self, payload: bytes | bytearray) -> bytes:
        """What a compressed message's payload, all its frames together, stands for.

        :raises WebSocketError: it is not compressed data (``code`` 1007), or stands for more than ``max_size`` (1009).
            Nothing more can be inflated then.
        """
        if not payload:  # no deflate data at all, for which zlib would go on waiting: it must not touch the context
            return b""
        decompressor = self._decompressor or zlib.decompressobj(-self._bits)
        self._decompressor = None
        try:
            data = decompressor.decompress(payload + _TAIL, self.max_size + 1)
        except zlib.error as error:
            raise WebSocketError(f"a compressed message that does not inflate ({error})", code=1007) from None
        if len(data) > self.max_size:
            raise WebSocketError(f"a message that inflates to more than {self.max_size} bytes", code=1009)
        if decompressor.eof:  # a sender may end a message by BFINAL and an empty block: RFC 7692 section 7.2.3.4
            if decompressor.unused_data != b"\x00" + _TAIL:
                raise WebSocketError("a compressed message that goes on after its last block", code=1007)
        elif self._keeps_context:
            self._decompressor = decompressor
        return data


_shared_deflater = lru_cache(256)(Deflater)
_shared_inflater = lru_cache(256)(Inflater)
