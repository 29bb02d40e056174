"""The framings :class:`Fixed` and :class:`Varint`. See :mod:`forebay.wire.framing`."""

from __future__ import annotations

from typing import Any

from forebay.errors import FrameTooLong, FramingError
from forebay.wire.decoding import SizedDecoder, check_maximum

__all__ = ["Fixed", "FixedDecoder", "Varint", "VarintDecoder"]


class Fixed:
    """Messages of ``size`` bytes each, with nothing between them.

    :param views: messages are memoryviews; see :mod:`forebay.wire.framing`.

    :raises ValueError: the size is less than 1.
    """

    __slots__ = ("maximum", "views")

    def __init__(self, size: int, *, views: bool = False) -> None:
        if size < 1:
            raise ValueError(f"Fixed size {size}: must be at least 1")
        self.maximum = size
        self.views = views

    def __repr__(self) -> str:
        return f"Fixed({self.maximum}, views={self.views})"

    @property
    def size(self) -> int:
        """Bytes of every message."""
        return self.maximum

    def encode(self, message: bytes) -> bytes:
        """``message`` as it is.

        :raises ValueError: it has not ``size`` bytes.
        """
        if len(message) != self.maximum:
            raise ValueError(f"a message of {len(message)} bytes, where every message has {self.maximum}")
        return bytes(message)

    def decoder(self) -> FixedDecoder:
        """A new decoder, for one connection."""
        return FixedDecoder(self)


class FixedDecoder(SizedDecoder):
    """Cuts one connection's bytes into messages of one size. See :class:`Fixed`."""

    __slots__ = ("_size",)

    def __init__(self, framing: Fixed) -> None:
        super().__init__(framing.views)
        self._size = framing.maximum

    def _extent(self, data: bytes | bytearray, at: int) -> tuple[int, int]:
        return at, at + self._size


class Varint:
    """Each message has its length before it, as an unsigned LEB128 number: seven bits in each byte, the lowest first,
    and the highest bit of a byte set when another one follows. So are protobuf's delimited streams written.

    :param maximum: bytes of the longest message accepted. A longer one is :class:`FrameTooLong`, known from its length
        before any of it is held.
    :param views: messages are memoryviews; see :mod:`forebay.wire.framing`.

    :raises ValueError: the maximum is less than 1.

    A length is to be written in as few bytes as it needs; one that is not is a :class:`FramingError`.
    """

    __slots__ = ("maximum", "views")

    def __init__(self, maximum: int = 1024 * 1024, *, views: bool = False) -> None:
        self.maximum = check_maximum("Varint", maximum)
        self.views = views

    def __repr__(self) -> str:
        return f"Varint({self.maximum}, views={self.views})"

    def encode(self, message: bytes) -> bytes:
        """The length of ``message``, then the message."""
        left = len(message)
        if left < 0x80:
            return _ONE_BYTE[left] + message
        length = bytearray()
        while left >= 0x80:
            length.append(left & 0x7F | 0x80)
            left >>= 7
        length.append(left)
        return bytes(length) + message

    def decoder(self) -> VarintDecoder:
        """A new decoder, for one connection."""
        return VarintDecoder(self)


_ONE_BYTE = [bytes((length,)) for length in range(0x80)]


class VarintDecoder(SizedDecoder):
    """Cuts one connection's bytes into messages. See :class:`Varint`."""

    __slots__ = ("_maximum", "_widest")

    def __init__(self, framing: Varint) -> None:
        super().__init__(framing.views)
        self._maximum = framing.maximum
        self._widest = (framing.maximum.bit_length() + 6) // 7  # bytes of the longest length

    def feed(self, data: bytes) -> list[Any]:
        """The messages that ``data`` completes. See :meth:`Decoder.feed <forebay.wire.framing.Decoder.feed>`."""
        if not (self.pending or self._views or self.error) and data:
            length = data[0]
            if length < 0x80 and length + 1 == len(data) and length <= self._maximum:
                return [data[1:]]
        return super().feed(data)

    def _extent(self, data: bytes | bytearray, at: int) -> tuple[int, int]:
        length = 0
        for index in range(self._widest):
            if at + index == len(data):
                return -1, at + index + 1
            byte = data[at + index]
            length |= (byte & 0x7F) << 7 * index
            if length > self._maximum:
                raise FrameTooLong(f"a message is longer than {self._maximum} bytes")
            if byte < 0x80:
                if not byte and index:
                    raise FramingError("a message's length is written in more bytes than it needs")
                return at + index + 1, at + index + 1 + length
        raise FrameTooLong(f"a message's length has more than the {self._widest} bytes that {self._maximum} needs")
