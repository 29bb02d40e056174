"""The framing :class:`Delimited`. See :mod:`forebay.wire.framing`."""

from __future__ import annotations

from typing import Any

from forebay.errors import FrameTooLong, FramingError
from forebay.wire.decoding import HoldingDecoder, check_maximum

__all__ = ["Delimited", "DelimitedDecoder"]


class Delimited:
    """Messages that end with ``delimiter``, which is not part of them. For text there is :class:`Lines`.

    :param delimiter: one byte or more.
    :param maximum: bytes of the longest message accepted, without its delimiter. A longer one is :class:`FrameTooLong`.
    :param views: messages are memoryviews; see :mod:`forebay.wire.framing`.

    :raises ValueError: a parameter makes no sense.
    """

    __slots__ = ("delimiter", "maximum", "views")

    def __init__(self, delimiter: bytes, maximum: int = 64 * 1024, *, views: bool = False) -> None:
        if not isinstance(delimiter, bytes) or not delimiter:
            raise ValueError(f"Delimited delimiter {delimiter!r}: must be one byte or more")
        self.delimiter = delimiter
        self.maximum = check_maximum("Delimited", maximum)
        self.views = views

    def __repr__(self) -> str:
        return f"Delimited({self.delimiter!r}, {self.maximum}, views={self.views})"

    def encode(self, message: bytes) -> bytes:
        """``message`` and the delimiter.

        :raises ValueError: the delimiter would be found before the message's end.
        """
        data = b"%b%b" % (message, self.delimiter)
        if data.find(self.delimiter) != len(message):
            raise ValueError(f"a message cannot contain its delimiter {self.delimiter!r}, nor end as it begins")
        return data

    def decoder(self) -> DelimitedDecoder:
        """A new decoder, for one connection."""
        return DelimitedDecoder(self)


class DelimitedDecoder(HoldingDecoder):
    """Cuts one connection's bytes into messages. See :class:`Delimited`."""

    __slots__ = ("_delimiter", "_maximum", "_views")

    def __init__(self, framing: Delimited) -> None:
        super().__init__()
        self._delimiter = framing.delimiter
        self._maximum = framing.maximum
        self._views = framing.views

    def feed(self, data: bytes) -> list[Any]:
        """The messages that ``data`` completes. See :meth:`Decoder.feed <forebay.wire.framing.Decoder.feed>`."""
        if self.error is not None:
            raise self.error
        messages: list[Any] = []
        at = 0
        try:
            if self.pending:
                at = self._complete(data, messages)
            at = self._views_of(data, at, messages) if self._views else self._copies_of(data, at, messages)
            if at < len(data):
                self._check(self.pending + len(data) - at - len(self._delimiter) + 1)  # its end may begin a delimiter
                self._hold(memoryview(data)[at:])
        except FramingError as error:
            return self._fail(error, messages)
        return messages

    def _complete(self, data: bytes, messages: list[Any]) -> int:
        """End the message that is held, if its delimiter is there. Gives how much of ``data`` that took."""
        held = self._held
        assert held is not None
        delimiter = self._delimiter
        width = len(delimiter)
        before = max(len(held) - width + 1, 0)  # where a delimiter may begin that ends in data
        at = (held[before:] + data[: width - 1]).find(delimiter)
        if at >= 0:
            length = before + at
        else:
            at = data.find(delimiter)
            if at < 0:
                return 0
            length = len(held) + at
        self._check(length)
        taken = length + width - len(held)
        held += memoryview(data)[:taken]
        del held[length:]
        message = self._release()
        messages.append(memoryview(message) if self._views else message)
        return taken

    def _copies_of(self, data: bytes, at: int, messages: list[Any]) -> int:
        """Add the messages from ``at`` on. Gives where the last one ends."""
        if self.pending:
            return at
        found = (data[at:] if at else data).split(self._delimiter)
        rest = len(found.pop())
        if len(data) - at > self._maximum:
            for message in found:
                self._check(len(message))
                messages.append(message)
        else:
            messages += found
        return len(data) - rest

    def _views_of(self, data: bytes, at: int, messages: list[Any]) -> int:
        """The same, as views."""
        if self.pending:
            return at
        delimiter = self._delimiter
        source = memoryview(data)
        while (end := data.find(delimiter, at)) >= 0:
            self._check(end - at)
            messages.append(source[at:end])
            at = end + len(delimiter)
        return at

    def _check(self, length: int) -> None:
        if length > self._maximum:
            raise FrameTooLong(f"a message is longer than {self._maximum} bytes")
