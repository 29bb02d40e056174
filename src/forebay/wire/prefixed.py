"""The framing :class:`LengthPrefixed`. See :mod:`forebay.wire.framing`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from forebay.errors import FrameTooLong, FramingError
from forebay.wire.decoding import SizedDecoder, check_maximum

__all__ = ["LengthPrefixed", "LengthPrefixedDecoder"]

_Unpack = Callable[[bytes | bytearray, int], tuple[int]]
_Pack = Callable[[int], bytes]


class LengthPrefixed:
    """Frames that have their length in a header: ``offset`` bytes that may be anything, then the length as an unsigned
    number, then the bytes that it counts.

    :param width: bytes of the length: 1, 2, 3, 4 or 8.
    :param byteorder: of the length, ``"big"`` or ``"little"``.
    :param offset: bytes before the length.
    :param adjustment: what to add to the length to get the number of bytes that follow it; less than 0 when it counts
        more than those, more when it does not count all of them (such as a checksum at the end).
    :param inclusive: the length counts the whole frame: ``offset``, itself, and what follows. ``adjustment`` is added
        all the same.
    :param strip: bytes cut from the beginning of each frame to get the message, at most the header's
        ``offset + width``. When it is not given, the message is what follows the length if the length comes first;
        with an ``offset`` it is the whole frame, because what stands before the length will mean something.
    :param maximum: bytes of the longest message accepted. A longer one is :class:`FrameTooLong`, known from its header
        before any of it is held.
    :param views: messages are memoryviews; see :mod:`forebay.wire.framing`.

    :raises ValueError: a parameter makes no sense.

    ``encode`` undoes this. It writes zeros where ``strip`` cut, and then the length into its place: a message that
    begins with a header (``strip`` is less than it) may hold anything where the length goes.

    =========================================================  ============================  =====================
    framing                                                    on the wire                   message
    =========================================================  ============================  =====================
    ``LengthPrefixed(2)``                                      ``00 02 | 68 69``             ``68 69``
    ``LengthPrefixed(2, inclusive=True)``                      ``00 04 | 68 69``             ``68 69``
    ``LengthPrefixed(2, strip=0)``                             ``00 02 | 68 69``             ``00 02 68 69``
    ``LengthPrefixed(1, offset=1)``: a type, a length          ``07 02 | 68 69``             ``07 02 68 69``
    ``LengthPrefixed(1, offset=1, strip=2)``                   ``00 02 | 68 69``             ``68 69``
    ``LengthPrefixed(1, adjustment=1)``: and a checksum byte   ``02 | 68 69 d1``             ``68 69 d1``
    =========================================================  ============================  =====================
    """

    __slots__ = (
        "_add",
        "_count",
        "_pack",
        "_simple",
        "_unpack",
        "adjustment",
        "byteorder",
        "inclusive",
        "maximum",
        "offset",
        "strip",
        "views",
        "width",
    )

    def __init__(
        self,
        width: int = 4,
        byteorder: Literal["big", "little"] = "big",
        *,
        offset: int = 0,
        adjustment: int = 0,
        inclusive: bool = False,
        strip: int | None = None,
        maximum: int = 1024 * 1024,
        views: bool = False,
    ) -> None:
        if width not in (1, 2, 3, 4, 8):
            raise ValueError(f"LengthPrefixed width {width}: must be 1, 2, 3, 4 or 8")
        if byteorder not in ("big", "little"):
            raise ValueError(f"LengthPrefixed byteorder {byteorder!r}: must be 'big' or 'little'")
        if offset < 0:
            raise ValueError(f"LengthPrefixed offset {offset}: must be at least 0")
        header = offset + width
        if strip is None:
            strip = 0 if offset else header
        if not 0 <= strip <= header:
            raise ValueError(f"LengthPrefixed strip {strip}: must be 0 to offset + width, which is {header}")
        self.maximum = check_maximum("LengthPrefixed", maximum, max(1, header - strip))
        self.width = width
        self.byteorder: Literal["big", "little"] = byteorder
        self.offset = offset
        self.adjustment = adjustment
        self.inclusive = inclusive
        self.strip = strip
        self.views = views
        self._add = adjustment if inclusive else adjustment + header  # to the length, to get the frame's
        self._count = strip - self._add  # to the message's length, to get the number that is sent
        self._simple = not offset and strip == width
        self._pack, self._unpack = _number(width, byteorder)

    def __repr__(self) -> str:
        return (
            f"LengthPrefixed({self.width}, {self.byteorder!r}, offset={self.offset}, adjustment={self.adjustment}, "
            f"inclusive={self.inclusive}, strip={self.strip}, maximum={self.maximum}, views={self.views})"
        )

    def encode(self, message: bytes) -> bytes:
        """The frame of ``message``.

        :raises ValueError: its length does not fit into ``width`` bytes, or is less than 0 with the ``adjustment``; or
            it is shorter than the part of the header that is to be in it.
        """
        length = len(message) + self._count
        try:
            if self._simple:
                return self._pack(length) + message
            field = self._pack(length)
        except (struct.error, OverflowError):
            raise ValueError(
                f"a message of {len(message)} bytes has the length {length}, which {self.width} bytes cannot express"
            ) from None
        frame = bytes(self.strip) + message
        header = self.offset + self.width
        if len(frame) < header:
            raise ValueError(f"a message of {len(message)} bytes has no room for its length")
        return frame[: self.offset] + field + frame[header:]

    def decoder(self) -> LengthPrefixedDecoder:
        """A new decoder, for one connection."""
        return LengthPrefixedDecoder(self)


class LengthPrefixedDecoder(SizedDecoder):
    """Cuts one connection's bytes into messages. See :class:`LengthPrefixed`."""

    __slots__ = ("_add", "_header", "_longest", "_offset", "_strip", "_unpack")

    def __init__(self, framing: LengthPrefixed) -> None:
        super().__init__(framing.views)
        self._add = framing._add
        self._header = framing.offset + framing.width
        self._longest = framing.maximum + framing.strip  # the frame
        self._offset = framing.offset
        self._strip = framing.strip
        self._unpack = framing._unpack

    def feed(self, data: bytes) -> list[Any]:
        """The messages that ``data`` completes. See :meth:`Decoder.feed <forebay.wire.framing.Decoder.feed>`."""
        if not self.pending and self.error is None:
            try:
                (length,) = self._unpack(data, self._offset)
            except struct.error:  # it is too short
                return super().feed(data)
            if length + self._add == len(data) <= self._longest:  # the usual case: one whole frame
                return [memoryview(data)[self._strip :] if self._views else data[self._strip :]]
        return super().feed(data)

    def _extent(self, data: bytes | bytearray, at: int) -> tuple[int, int]:
        if len(data) - at < self._header:
            return -1, at + self._header
        size = self._unpack(data, at + self._offset)[0] + self._add
        if size < self._header:
            raise FramingError(f"a frame's length is {size - self._header} bytes after its header")
        if size > self._longest:
            raise FrameTooLong(
                f"a message of {size - self._strip} bytes, where the most is {self._longest - self._strip}"
            )
        return at + self._strip, at + size


def _number(width: int, byteorder: Literal["big", "little"]) -> tuple[_Pack, _Unpack]:
    """How a number of ``width`` bytes is written, and read where it stands; :class:`struct.error` when it cannot be."""
    if width == 3:
        return lambda number: number.to_bytes(3, byteorder), partial(_unpack_3, byteorder)
    number = struct.Struct((">" if byteorder == "big" else "<") + {1: "B", 2: "H", 4: "I", 8: "Q"}[width])
    return number.pack, number.unpack_from


def _unpack_3(byteorder: Literal["big", "little"], data: bytes | bytearray, at: int) -> tuple[int]:
    field = data[at : at + 3]
    if len(field) < 3:
        raise struct.error("3 bytes are needed")
    return (int.from_bytes(field, byteorder),)
