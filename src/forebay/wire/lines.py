"""The framing :class:`Lines`. See :mod:`forebay.wire.framing`."""

from __future__ import annotations

import codecs
from typing import Any

from forebay.errors import FrameTooLong, FramingError
from forebay.wire.decoding import HoldingDecoder, check_maximum

__all__ = ["Lines", "LinesDecoder"]

_BY_CHARACTER = frozenset({"utf-8", "ascii", "iso8859-1"})
"""Encodings in which several lines may be decoded at once: what a line means does not depend on the one before."""


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

    __slots__ = ("_codec", "_end", "_utf8", "encoding", "maximum", "strict")

    def __init__(self, maximum: int = 64 * 1024, *, encoding: str | None = "utf-8", strict: bool = False) -> None:
        if encoding is not None and "\n".encode(encoding) != b"\n":  # LookupError: there is no such encoding
            raise ValueError(f"Lines encoding {encoding!r}: must write a line feed as one byte, as ASCII does")
        self.maximum = check_maximum("Lines", maximum)
        self.encoding = encoding
        self.strict = strict
        self._end = b"\r\n" if strict else b"\n"
        self._codec = codecs.lookup(encoding).name if encoding else None
        self._utf8 = self._codec == "utf-8" and not strict

    def __repr__(self) -> str:
        return f"Lines({self.maximum}, encoding={self.encoding!r}, strict={self.strict})"

    def encode(self, message: str | bytes) -> bytes:
        """``message`` and a line's end.

        :raises ValueError: it contains a line feed; or it ends with CR, which would become part of the line's end
            (``strict`` lines may); or it has characters the encoding does not have.
        """
        if isinstance(message, str):
            if self._utf8 and "\n" not in message and "\r" not in message:  # the usual case
                return (message + "\n").encode()
            message = message.encode(self.encoding or "utf-8")
        if 10 in message:
            raise ValueError("a line cannot contain a line feed: it would be two lines")
        if not self.strict and message[-1:] == b"\r":
            raise ValueError("a line cannot end with CR: it would be taken for a part of the line's end")
        return message + self._end

    def decoder(self) -> LinesDecoder:
        """A new decoder, for one connection."""
        return LinesDecoder(self)


class LinesDecoder(HoldingDecoder):
    """Cuts one connection's bytes into lines. See :class:`Lines`."""

    __slots__ = ("_framing", "_quick", "_text")

    UNIT = "line"

    def __init__(self, framing: Lines) -> None:
        super().__init__()
        self._framing = framing
        # Bytes up to which a chunk of whole lines cannot hold one that is too long. -1: look at each line
        self._quick = framing.maximum if framing._utf8 or (framing._codec is None and not framing.strict) else -1
        self._text = framing._utf8

    def feed(self, data: bytes) -> list[Any]:
        """The lines that ``data`` completes. See :meth:`Decoder.feed <forebay.wire.framing.Decoder.feed>`."""
        try:
            if data[-1] == 10 and len(data) <= self._quick and not self.pending:  # the usual case: whole lines
                if self._text:
                    text = data.decode()
                    line = text[:-1]
                    if "\n" not in line:
                        return [line] if "\r" not in line else [line.removesuffix("\r")]
                    if "\r" in line:
                        text = text.replace("\r\n", "\n")
                    lines = text.split("\n")
                    lines.pop()
                    return lines
                raw = data[:-1]
                if 10 not in raw:
                    return [raw.removesuffix(b"\r")]
        except (IndexError, UnicodeDecodeError):
            pass
        return self._feed(data)

    def _feed(self, data: bytes) -> list[Any]:
        if self.error is not None:
            raise self.error
        end = data.rfind(b"\n") + 1
        messages: list[Any] = []
        try:
            if end:
                if self.pending:  # its line ends with the first line feed
                    self._check(self.pending + data.find(b"\n") - 1)  # before they are joined; one may be the CR
                    self._hold(memoryview(data)[:end])
                    self._read(self._release(), messages)
                else:
                    self._read(data[:end], messages)
            if end < len(data):
                self._check(self.pending + len(data) - end - 1)
                self._hold(memoryview(data)[end:])
        except FramingError as error:
            self._quick = -1
            return self._fail(error, messages)
        return messages

    def _read(self, block: bytes, messages: list[Any]) -> None:
        """Add the lines of ``block``, which ends with a line feed, up to the first bad one."""
        lines = self._all(block)
        if lines is not None:
            messages += lines
            return
        for line in block[:-1].split(b"\n"):
            messages.append(self._message(line))

    def _all(self, block: bytes) -> list[Any] | None:
        """The lines of ``block``; ``None`` when they have to be looked at one by one, since one of them may be bad."""
        maximum = self._framing.maximum
        if len(block) > maximum and max(map(len, block.split(b"\n"))) > maximum:
            return None
        codec = self._framing._codec
        line_feed: Any = "\n"
        both: Any = "\r\n"
        text: Any
        if codec is None:
            text, line_feed, both = block, b"\n", b"\r\n"
        elif codec in _BY_CHARACTER:
            try:
                text = block.decode(codec)
            except UnicodeDecodeError:
                return None
        else:
            return None
        if not self._framing.strict:
            if both in text:  # to replace costs as much as to split, even when nothing is found
                text = text.replace(both, line_feed)
        elif text.count(line_feed) != text.count(both):
            return None
        lines: list[Any] = text.split(both if self._framing.strict else line_feed)
        lines.pop()
        return lines

    def _message(self, line: bytes) -> str | bytes:
        framing = self._framing
        alone = line[-1:] != b"\r"
        if not alone:
            line = line[:-1]
        self._check(len(line))
        if alone and framing.strict:
            raise FramingError("a line ended with LF alone, where CRLF is expected")
        if framing._codec is None:
            return line
        try:
            return line.decode(framing._codec)
        except UnicodeDecodeError as error:
            raise FramingError(f"a line is not valid {framing.encoding}: {error.reason}") from None

    def _check(self, length: int) -> None:
        if length > self._framing.maximum:
            raise FrameTooLong(f"a line is longer than {self._framing.maximum} bytes")
