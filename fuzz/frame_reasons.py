"""Why our reader of frames and ``websockets`` may differ.

Each reason is recognised from the bytes, by a reader of its own that knows nothing but how frames are laid out (RFC
6455 section 5.2), and by zlib.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from forebay.wire.deflate import DeflateParameters
from fuzz.frame_readings import context
from tests.wire.websockets_reference import SMALL


@dataclass(slots=True)
class FrameAt:
    """A frame, and how things stood when it came."""

    opcode: int
    fin: bool
    compressed: bool
    """It belongs to a compressed message."""
    length: int
    width: int
    """Bytes of its length beyond the first."""
    within: bool
    """A message has begun, and not ended, before it."""
    payload: bytes
    end: int
    """Where in the stream it ends, or will."""
    packed: int = 0
    """Of a compressed message: its bytes up to the end of this frame."""
    before: int = 0
    """What the message under way comes to without this frame, inflated,"""
    after: int = 0
    """and with it. Less than 0: it does not inflate."""
    far: bool = False
    """It inflates only by a larger window than was agreed on."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one of the two refuses a frame that the other takes.

    :param section: of the RFC that lets it, or makes it.
    :param we_refuse: we do, and ``websockets`` does not; False: the other way round.
    :param test: recognises it.
    """

    name: str
    section: str
    why: str
    we_refuse: bool
    test: Callable[[FrameAt], bool]


def _has_long_length(frame: FrameAt) -> bool:
    return frame.width > 0 and frame.length < {2: 126, 8: 65536}[frame.width]


def _is_counted_otherwise(frame: FrameAt) -> bool:
    """They want a frame's compressed bytes to be no more than what is left of the maximum, and stop at the maximum
    before the end of the data that comes to exactly that.
    """
    if not frame.compressed or frame.opcode >= 8 or not 0 <= frame.before <= SMALL:
        return False
    if frame.length > SMALL - frame.before:
        return frame.packed <= SMALL + SMALL // 8 + 64
    return frame.after == SMALL


REASONS = (
    Reason(
        "long-length",
        "RFC 6455 section 5.2",
        "A length has to be sent in the fewest bytes. websockets takes it in more.",
        True,
        _has_long_length,
    ),
    Reason(
        "close-within-message",
        "RFC 6455 section 5.4",
        "Control frames may stand between the fragments of a message, and a close frame is one.",
        False,
        lambda frame: frame.opcode == 8 and frame.within,
    ),
    Reason(
        "control-frame-counted",
        "RFC 6455 section 5.4",
        "A control frame is no part of the message that it stands in. websockets has it fit into what is left of that.",
        False,
        lambda frame: frame.opcode >= 8 and frame.within and frame.length > SMALL - frame.before,
    ),
    Reason(
        "far-reference",
        "RFC 7692 section 7.1.2",
        "A reference beyond the agreed window is the sender's fault. zlib follows it while what it leads to is at"
        " hand: in one call for a message, as we inflate it, that is more than in one for each frame.",
        False,
        lambda frame: frame.far,
    ),
    Reason(
        "inflated-size",
        "RFC 6455 section 7.4.1",
        "The message is longer than it may be. websockets bounds what it inflates of each frame, and what zlib has held"
        " back of one comes on top of that with the next.",
        True,
        lambda frame: frame.compressed and frame.opcode < 8 and frame.after > SMALL,
    ),
    Reason(
        "compressed-size",
        "RFC 6455 section 7.4.1",
        "How long a message may be is everyone's own matter. We count what it inflates to; websockets also its bytes.",
        False,
        _is_counted_otherwise,
    ),
)

LAST_BLOCK = "last-block"
"""RFC 7692 section 7.2.3.4: a message may end with a block marked as the last one (BFINAL) and an empty one, and we
read those that follow. ``websockets`` takes the message, and reads nothing any more from those behind it."""

MORE_BLOCKS = "blocks-after-the-last"
"""RFC 7692 section 7.2.1: after a block marked as the last one others may follow. Each would cost a new zlib stream and
a copy of the rest, two bytes are enough for one, and no sender is known to make them. We refuse the message;
``websockets`` takes it without them."""


NO_BYTES = "no-bytes"
"""RFC 7692 section 7.2.3.6: an empty message is compressed to one byte. No bytes at all would leave zlib waiting for
the rest of a block. We read an empty message and keep the context; ``websockets`` reads one too, but spoils it."""


def frame_at(stream: bytes, at: int, *, masked: bool, parameters: DeflateParameters | None) -> FrameAt:
    """The frame that byte ``at`` belongs to."""
    inflating = _Inflating(*context(parameters, masked=masked)) if parameters else None
    begin = size = 0
    within = compressed = False
    while True:
        frame = _frame(stream, begin, 4 if masked else 0)
        frame.within = within
        frame.before = frame.after = size
        if frame.opcode < 8:
            if not within:
                compressed = inflating is not None and bool(stream[begin] & 64)
                if inflating is not None and compressed:
                    inflating.begin()
            frame.compressed = compressed
            if inflating is not None and compressed:
                inflating.add(frame)
            else:
                frame.after += frame.length
            within = not frame.fin
            size = frame.after if within else 0
        if at < frame.end:
            return frame
        begin = frame.end


def _frame(stream: bytes, begin: int, mask_size: int) -> FrameAt:
    first, second = stream[begin : begin + 2].ljust(2, b"\x00")
    length = second & 127
    width = {126: 2, 127: 8}.get(length, 0)
    if width:
        length = int.from_bytes(stream[begin + 2 : begin + 2 + width].ljust(width, b"\x00"), "big")
    payload_at = begin + 2 + width + mask_size
    end = payload_at + length
    mask = stream[payload_at - mask_size : payload_at] or b"\x00"
    payload = bytes(byte ^ mask[at % len(mask)] for at, byte in enumerate(stream[payload_at:end]))
    return FrameAt(first & 15, first >= 128, False, length, width, False, payload, end)


class _Inflating:
    """The compressed messages of a connection, frame by frame."""

    def __init__(self, alone: bool, bits: int) -> None:
        self._alone = alone
        self._bits = bits
        self._zlib, self._wide = zlib.decompressobj(-bits), zlib.decompressobj(-15)
        self._packed = 0

    def begin(self) -> None:
        """A message begins."""
        if self._alone or self._zlib.eof:
            self._zlib, self._wide = zlib.decompressobj(-self._bits), zlib.decompressobj(-15)
        self._packed = 0

    def add(self, frame: FrameAt) -> None:
        """One of its frames."""
        self._packed += frame.length
        frame.packed = self._packed
        tail = b"\x00\x00\xff\xff" if frame.fin and self._packed else b""
        try:
            frame.after += len(self._zlib.decompress(frame.payload + tail))
        except zlib.error:
            frame.after = -1 << 32
        with suppress(zlib.error):
            self._wide.decompress(frame.payload + tail)
            frame.far = frame.after < 0
