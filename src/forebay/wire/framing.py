"""Framings: how a stream of bytes is cut into messages, and messages become bytes again.

=========================  =============================================================================================
:class:`Lines`             text, one message per line
:class:`Delimited`         messages that end with bytes of your choice
:class:`Fixed`             messages of one size
:class:`LengthPrefixed`    binary messages after their length, with or without a header of their own
:class:`Varint`            messages after their length as a varint, as in protobuf's delimited streams
``framing=None``           no framing: a server hands on what arrives, as it was cut by the network
=========================  =============================================================================================

**Maximum.** Every framing has a maximum. It protects the reader: a longer message of the peer is :class:`FrameTooLong`
as soon as that can be known, and no more than the maximum, the framing's own bytes and one chunk are ever held. It says
nothing about what may be *sent*: small requests with large answers are common, and how much the peer takes only the
peer knows. ``encode`` refuses what the framing cannot express, and nothing else.

**Copies.** The binary framings give messages as ``bytes``, which costs one copy of each, or with ``views=True`` as
read-only memoryviews of the chunk they arrived in. A view of a message that lies in one chunk copies nothing. But
making a view costs as much as copying 10 KiB, it keeps its whole chunk (up to 256 KiB) in memory for as long as it
lives, and it is no ``bytes``: it has no ``startswith``, cannot be added to, and many libraries do not take it. Views
pay for messages of more than 10 KiB that are passed on, parsed or written to a file at once. A message that came in
pieces is put together in either case.

**A framing of your own** is an object with ``maximum``, ``encode`` and ``decoder``, as :class:`Framing` says. This one
has messages that are lists of the fields between tabs, one to a line; it leaves the cutting to :class:`Lines`::

    from forebay.errors import FramingError
    from forebay.wire.framing import Decoder, Lines

    class Records:
        def __init__(self, fields: int, maximum: int = 4096) -> None:
            self.fields = fields
            self.maximum = maximum
            self._lines = Lines(maximum)

        def encode(self, message: list[str]) -> bytes:
            if len(message) != self.fields or any("\\t" in field for field in message):
                raise ValueError(f"a record has {self.fields} fields, without tabs")
            return self._lines.encode("\\t".join(message))

        def decoder(self) -> Decoder:
            return RecordsDecoder(self.fields, self._lines.decoder())

    class RecordsDecoder:
        def __init__(self, fields: int, lines: Decoder) -> None:
            self._fields = fields
            self._lines = lines
            self._error: FramingError | None = None

        @property
        def error(self) -> FramingError | None:
            return self._error or self._lines.error

        @property
        def pending(self) -> int:
            return self._lines.pending

        def feed(self, data: bytes) -> list[list[str]]:
            if self.error is not None:
                raise self.error
            records = [line.split("\\t") for line in self._lines.feed(data)]
            for number, record in enumerate(records):
                if len(record) != self._fields:
                    self._error = FramingError(f"a record has {len(record)} fields, where {self._fields} are expected")
                    if not number:
                        raise self._error
                    return records[:number]  # what came before the bad one is good
            return records

        def eof(self) -> None:
            self._lines.eof()

    assert Records(2).decoder().feed(b"a\\tb\\nc\\td\\n") == [["a", "b"], ["c", "d"]]
"""

from __future__ import annotations

from typing import Any, Protocol

from forebay.errors import FrameTooLong, FramingError
from forebay.wire.delimited import Delimited
from forebay.wire.lines import Lines
from forebay.wire.prefixed import LengthPrefixed
from forebay.wire.sized import Fixed, Varint

__all__ = [
    "Decoder",
    "Delimited",
    "Fixed",
    "FrameTooLong",
    "Framing",
    "FramingError",
    "LengthPrefixed",
    "Lines",
    "Varint",
]


class Decoder(Protocol):
    """Cuts the bytes of one connection into messages."""

    @property
    def error(self) -> FramingError | None:
        """Why nothing more can be read, once :meth:`feed` met bytes that are not a message."""

    @property
    def pending(self) -> int:
        """Bytes held of a message that is not complete yet; 0 when there is none, and after an error.

        It is read after every :meth:`feed`, so it is best an attribute.
        """

    def feed(self, data: bytes) -> list[Any]:
        """The messages that ``data`` completes, in order. ``data`` may be kept: it never changes.

        When messages stood before the bytes that are not one, they are returned, and :attr:`error` is set.

        :raises FramingError: there were none, or :attr:`error` was set before.
        """

    def eof(self) -> None:
        """The peer sends nothing more.

        :raises FramingError: it stopped in the middle of a message, or :attr:`error` was set before.
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
