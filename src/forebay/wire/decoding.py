"""What the decoders of the framings share: what they hold of a message that is not complete, and how they fail."""

from __future__ import annotations

from typing import Any

from forebay.errors import FramingError

__all__ = ["HoldingDecoder", "SizedDecoder", "check_maximum"]


def check_maximum(framing: str, maximum: int, least: int = 1) -> int:
    """``maximum``, when it can be one.

    :raises ValueError: it cannot.
    """
    if maximum < least:
        raise ValueError(f"{framing} maximum {maximum}: must be at least {least}")
    return maximum


class HoldingDecoder:
    """A decoder that keeps the beginning of a message until the rest of it comes. There is one for each connection, so
    it is small, and its buffer exists only while there is something in it."""

    __slots__ = ("_held", "error", "pending")

    UNIT = "message"  # what is cut, in words

    def __init__(self) -> None:
        self.error: FramingError | None = None
        self.pending = 0
        self._held: bytearray | None = None

    def eof(self) -> None:
        """See :meth:`Decoder.eof <forebay.wire.framing.Decoder.eof>`."""
        if self.error is not None:
            raise self.error
        if self.pending:
            raise FramingError(f"the connection ended in the middle of a {self.UNIT}, after {self.pending} bytes of it")

    def _hold(self, data: bytes | memoryview) -> None:
        """Add ``data``, which is not empty, to what is held."""
        if self._held is None:
            self._held = bytearray(data)
        else:
            self._held += data
        self.pending = len(self._held)

    def _release(self) -> bytes:
        """What is held, as a message; nothing is held any more."""
        data = bytes(self._held or b"")
        self._held = None
        self.pending = 0
        return data

    def _fail(self, error: FramingError, messages: list[Any]) -> list[Any]:
        """Nothing more can be read because of ``error``; ``messages`` came before."""
        self.error = error
        self._held = None
        self.pending = 0
        if not messages:
            raise error
        return messages


class SizedDecoder(HoldingDecoder):
    """A decoder of messages whose first bytes tell how long they are.

    Memory is taken for bytes that came, never for bytes that were promised.
    """

    __slots__ = ("_views",)

    def __init__(self, views: bool) -> None:
        super().__init__()
        self._views = views

    def _extent(self, data: bytes | bytearray, at: int) -> tuple[int, int]:
        """Where the message begins and ends whose frame begins at ``at``.

        When its length cannot be told yet, the beginning is -1, and the end is up to where bytes are needed to go on.

        :raises FramingError: there is no such message, or it is too long.
        """
        raise NotImplementedError

    def feed(self, data: bytes) -> list[Any]:
        """The messages that ``data`` completes. See :meth:`Decoder.feed <forebay.wire.framing.Decoder.feed>`."""
        if self.error is not None:
            raise self.error
        messages: list[Any] = []
        size = len(data)
        at = 0
        try:
            if self.pending:
                at = self._complete(data, messages)
            source = memoryview(data) if self._views else data
            while at < size:
                start, end = self._extent(data, at)
                if start < 0 or end > size:
                    self._hold(memoryview(data)[at:])
                    break
                messages.append(source[start:end])
                at = end
        except FramingError as error:
            return self._fail(error, messages)
        return messages

    def _complete(self, data: bytes, messages: list[Any]) -> int:
        """Add to what is held from ``data`` until it is a message. Gives how much was taken."""
        held = self._held
        assert held is not None
        at = 0
        while True:
            start, end = self._extent(held, 0)
            missing = end - len(held)
            if missing <= 0:
                break
            piece = data[at : at + missing]
            held += piece
            at += len(piece)
            if len(piece) < missing:
                self.pending = len(held)
                return at
        del held[:start]
        message = self._release()
        messages.append(memoryview(message) if self._views else message)
        return at
