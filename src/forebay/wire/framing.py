"""Framings: how a stream of bytes is cut into messages, and messages become bytes again."""

from __future__ import annotations

from typing import Any, Protocol

from forebay.errors import FrameTooLong, FramingError

__all__ = ["Decoder", "Framing", "Lines"]


class Decoder(Protocol):
    """Cuts the bytes of one connection into messages."""

    @property
    def error(self) -> FramingError | None:
        """Why nothing more can be read, once :meth:`feed` met bytes that are not a message."""

    def feed(self, data: bytes) -> list[Any]:
        """The messages that ``data`` completes, in order.

        When messages stood before the bytes that are not one, they are returned, and :attr:`error` is set.

        :raises FramingError: there were none, or :attr:`error` was set before.
        """

    def eof(self) -> None:
        """The peer sends nothing more.

        :raises FramingError: it stopped in the middle of a message.
        """


class Framing(Protocol):
    """The two directions of one framing. It holds no state of a connection; the decoders it makes do."""

    @property
    def maximum(self) -> int:
        """Bytes of the longest message accepted from a peer."""

    def encode(self, message: Any) -> bytes:
        """``message`` as it goes over the wire.

        :raises ValueError: it cannot be written in this framing.
        """

    def decoder(self) -> Decoder:
        """A new decoder, for one connection."""


class Lines:
    """One message per line. A line ends with LF or CRLF; which one it was is not part of the message.

    :param maximum: bytes of the longest line accepted, without its end. A longer one is :class:`FrameTooLong`.
    :param encoding: messages are ``str`` in this encoding, and bytes that are not valid in it are a
        :class:`FramingError`; ``None``: messages are ``bytes``.
    :param strict: lines end with CRLF only, both ways; a lone LF is a :class:`FramingError`. Else LF is sent.

    :raises ValueError: a parameter makes no sense.
    :raises LookupError: there is no such encoding.

    Bytes after the last line's end are no message: a peer that leaves in the middle of a line is a
    :class:`FramingError`, since what it meant to say is not known.
    """

    __slots__ = ("_end", "encoding", "maximum", "strict")

    def __init__(self, maximum: int = 64 * 1024, *, encoding: str | None = "utf-8", strict: bool = False) -> None:
        if maximum < 1:
            raise ValueError(f"Lines maximum {maximum}: must be at least 1")
        if encoding is not None and "\n".encode(encoding) != b"\n":  # LookupError: there is no such encoding
            raise ValueError(f"Lines encoding {encoding!r}: must write a line feed as one byte, as ASCII does")
        self.maximum = maximum
        self.encoding = encoding
        self.strict = strict
        self._end = b"\r\n" if strict else b"\n"

    def __repr__(self) -> str:
        return f"Lines(maximum={self.maximum}, encoding={self.encoding!r}, strict={self.strict})"

    def encode(self, message: str | bytes) -> bytes:
        """``message`` and a line's end.

        :raises ValueError: it contains a line feed, or characters the encoding does not have.
        """
        if isinstance(message, str):
            broken = "\n" in message
            message = message.encode(self.encoding or "utf-8")
        else:
            broken = b"\n" in message
        if broken:
            raise ValueError("a line cannot contain a line feed: it would be two lines")
        return message + self._end

    def decoder(self) -> LinesDecoder:
        """A new decoder, for one connection."""
        return LinesDecoder(self)


class LinesDecoder:
    """Cuts one connection's bytes into lines. See :class:`Lines`."""

    __slots__ = ("_encoding", "_maximum", "_plain", "_rest", "_strict", "error")

    def __init__(self, framing: Lines) -> None:
        self.error: FramingError | None = None
        self._maximum = framing.maximum
        self._encoding = framing.encoding or ""
        self._strict = framing.strict
        self._plain = framing.encoding is not None and not framing.strict
        self._rest = bytearray()  # the line that has not ended yet

    def feed(self, data: bytes) -> list[Any]:
        """The lines that ``data`` completes. See :meth:`Decoder.feed`."""
        if self.error is not None:
            raise self.error
        if self._plain and not self._rest and len(data) <= self._maximum and data[-1:] == b"\n":
            # the usual case, whole lines of which none can be too long, in one go
            try:
                text = data.decode(self._encoding)
            except UnicodeDecodeError:
                return self._feed(data)  # the lines before the bad one may be good
            if "\r" not in text:
                texts = text.split("\n")
                texts.pop()
                return texts
        return self._feed(data)

    def _feed(self, data: bytes) -> list[Any]:
        lines = data.split(b"\n")
        rest = lines.pop()
        messages: list[Any] = []
        try:
            if lines and self._rest:
                self._check(len(self._rest) + len(lines[0]) - 1)  # before they are joined; one may be the CR
                lines[0] = bytes(self._rest) + lines[0]
                self._rest.clear()
            for line in lines:
                messages.append(self._message(line))
            if rest:
                self._check(len(self._rest) + len(rest) - 1)
                self._rest += rest
        except FramingError as error:
            self.error = error
            self._rest = bytearray()
            if not messages:
                raise
        return messages

    def _message(self, line: bytes) -> str | bytes:
        if line[-1:] == b"\r":
            line = line[:-1]
        elif self._strict:
            raise FramingError("a line ended with LF alone, where CRLF is expected")
        self._check(len(line))
        if not self._encoding:
            return line
        try:
            return line.decode(self._encoding)
        except UnicodeDecodeError as error:
            raise FramingError(f"a line is not valid {self._encoding}: {error.reason}") from None

    def _check(self, length: int) -> None:
        if length > self._maximum:
            raise FrameTooLong(f"a line is longer than {self._maximum} bytes")

    def eof(self) -> None:
        """See :meth:`Decoder.eof`."""
        if self.error is not None:
            raise self.error
        if self._rest:
            raise FramingError(f"the connection ended in the middle of a line, after {len(self._rest)} bytes of it")
