"""The reader of WebSocket frames beside websockets: ``python -m fuzz.frames``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from forebay.wire.websocket import encode_frame
from fuzz.command import command
from fuzz.frame_inputs import AGREED, MASKED, WORDS, inputs, seeds
from fuzz.frame_readings import Reading, Theirs, ours
from fuzz.frame_reasons import LAST_BLOCK, MORE_BLOCKS, NO_BYTES, REASONS, FrameAt, frame_at
from fuzz.target import Disagreement, Target, byte_by_byte, decode
from tests.wire.websockets_reference import SMALL, Event


class _Case:
    """A stream, and how it is to be read."""

    def __init__(self, data: bytes) -> None:
        flags, self.pieces = decode(data)
        self.stream = b"".join(self.pieces)
        self.masked = bool(flags & MASKED)
        self.parameters = AGREED[flags >> 1 & 3]

    def ours(self, pieces: Sequence[bytes]) -> Reading:
        return ours(pieces, self.parameters, masked=self.masked)

    def theirs(self, pieces: Sequence[bytes]) -> Theirs:
        reading = Theirs(self.parameters, masked=self.masked)
        for piece in pieces:
            if not reading.refused:
                reading.feed(piece)
        return reading

    def we_refuse_at(self) -> int | None:
        """The first byte that we do not take."""
        for end in range(1, len(self.stream) + 1):
            if self.ours([self.stream[:end]])[1] is not None:
                return end - 1
        return None

    def they_refuse_at(self) -> int | None:
        """The same of theirs."""
        reading = self.theirs(())
        for at, byte in enumerate(byte_by_byte(self.stream)):
            reading.feed(byte)
            if reading.refused:
                return at
        return None


def check(data: bytes) -> list[str]:
    """Read an input in several ways. See :class:`fuzz.target.Target`."""
    case = _Case(data)
    mine = events, error = case.ours(case.pieces)
    for way, pieces in (("whole", [case.stream]), ("byte by byte", byte_by_byte(case.stream))):
        other = case.ours(pieces)
        if _comparable(other) != _comparable(mine):
            raise Disagreement(f"two readings in pieces {case.pieces} and {way}: {mine} and {other}")
    theirs = case.theirs(case.pieces)
    reasons = []
    if theirs.extension is not None and theirs.extension.had_last_block:
        reasons.append(MORE_BLOCKS if theirs.extension.had_more else LAST_BLOCK)
    if theirs.extension is not None and theirs.extension.had_no_bytes:
        reasons.append(NO_BYTES)
    if (events, error is not None) != (theirs.events, theirs.refused):
        reasons += _why(case, mine, theirs)
    return reasons


def _comparable(reading: Reading) -> tuple[list[Event], int | None]:
    events, error = reading
    return events, None if error is None else error.code


def _why(case: _Case, mine: Reading, theirs: Theirs) -> Iterable[str]:
    """They differ: either one refuses a frame only later, or there is a reason."""
    shown = f"we: {mine}; websockets: {theirs.events}, {'refused' if theirs.refused else 'not refused'}"
    we_at, they_at = case.we_refuse_at(), case.they_refuse_at()
    if they_at is None or (we_at is not None and we_at < they_at):
        if we_at is None:
            raise Disagreement(f"events differ: {shown}")
        at, we_refuse = we_at, True
    elif we_at == they_at:
        raise Disagreement(f"events differ: {shown}")
    else:
        at, we_refuse = they_at, False
    frame = frame_at(case.stream, at, masked=case.masked, parameters=case.parameters)
    if _they_refuse_it_complete(case, at) if we_refuse else _we_refuse_it_complete(case, at, frame):
        return
    found = [each.name for each in REASONS if each.we_refuse is we_refuse and each.test(frame)]
    if not found:
        who = "we refuse" if we_refuse else "websockets refuses"
        raise Disagreement(f"{who} byte {at}, of {frame}, and the other does not: {shown}")
    yield found[0]


def _they_refuse_it_complete(case: _Case, at: int) -> bool:
    """We refuse a frame by its header or at its first bad byte, they once it is complete: so complete it."""
    events, _ = case.ours([case.stream[: at + 1]])
    theirs = case.theirs([case.stream[: at + 1]])
    if theirs.events[: len(events)] != events:
        raise Disagreement(f"events before we refuse byte {at}: {events} and {theirs.events}")
    for _ in range(SMALL + 20):
        if theirs.refused or len(theirs.events) > len(events):
            break
        theirs.feed(b"\x00")
    return theirs.refused and theirs.events == events


def _we_refuse_it_complete(case: _Case, at: int, frame: FrameAt) -> bool:
    """They inflate each fragment, we a whole message: so complete it.

    What they see at the end of a frame is in the bytes that came; in the middle of one it can only be that those before
    come to too much.
    """
    theirs = case.theirs([case.stream[: at + 1]])
    events, error = case.ours([case.stream[: at + 1]])
    if error is None and theirs.events not in (events, events[:-1]):
        raise Disagreement(f"events before websockets refuses byte {at}: {events} and {theirs.events}")
    left = bytes(min(frame.end - at - 1, 2 * SMALL))
    if not frame.compressed or (left and frame.before <= SMALL):
        return False
    end = b"" if frame.fin else encode_frame(0, b"", mask=bytes(4) if case.masked else None)
    events, error = case.ours([case.stream[: at + 1], left, end])
    return error is not None and events == theirs.events


TARGET = Target("fuzz.frames", check, inputs(), seeds, WORDS)

if __name__ == "__main__":
    command(TARGET)
