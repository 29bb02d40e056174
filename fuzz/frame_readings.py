"""The frames in a stream: as our reader reads them, and as ``websockets`` does."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from forebay.errors import WebSocketError
from forebay.wire.deflate import DeflateParameters, Inflater
from tests.wire.websockets_reference import SMALL, Event, Reference, read

Reading = tuple[list[Event], WebSocketError | None]

_TAIL = b"\x00\x00\xff\xff"


class Extension(PerMessageDeflate):
    """``websockets``' compression, taught two things.

    A message may end with a block that says of itself that it is the last one (BFINAL), and an empty one (RFC 7692
    section 7.2.3.4); the next message begins anew. As it is, ``websockets`` drops without a word whatever follows such
    a block. And a message of no bytes at all, which is no compressed data, leaves the context alone.
    """

    def __init__(self, alone: bool, bits: int) -> None:
        super().__init__(False, False, bits, 15)
        self._alone = alone
        self._packed = 0  # bytes of the message under way
        self._rest: bytes | None = None  # of them, what comes after its last block
        self.had_last_block = False
        self.had_more = False
        """A message went on after it."""
        self.had_no_bytes = False

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """A frame inflated."""
        begins = frame.opcode is not Opcode.CONT and frame.rsv1
        if frame.opcode >= Opcode.CLOSE or not (begins or (frame.opcode is Opcode.CONT and self.decode_cont_data)):
            return super().decode(frame, max_size=max_size)
        if begins:
            self._packed = 0
            if self._alone or self._rest is not None:
                self.decoder = zlib.decompressobj(wbits=-self.remote_max_window_bits)
                self._rest = None
        self._packed += len(frame.data)
        if self._rest is None and (self._packed or not frame.fin):
            plain = super().decode(frame, max_size=max_size)
            if not self.decoder.eof:
                return plain
            self.had_last_block = True
            self._rest = self.decoder.unused_data.removesuffix(_TAIL if frame.fin else b"")
        else:
            if frame.rsv1 and not begins:
                raise ProtocolError("RSV1 bit set in continuation frame")
            self.decode_cont_data = not frame.fin
            plain = Frame(frame.opcode, b"", frame.fin, False, frame.rsv2, frame.rsv3)
            if self._rest is None:
                self.had_no_bytes = True
                return plain
            self._rest += bytes(frame.data)
        if frame.fin and self._rest != b"\x00":
            self.had_more = True
            raise ProtocolError("data after the last block")
        return plain


class Theirs(Reference):
    """``websockets`` as one side of a connection on which ``parameters`` were agreed on."""

    def __init__(self, parameters: DeflateParameters | None, *, masked: bool) -> None:
        self.extension = None if parameters is None else Extension(*context(parameters, masked=masked))
        super().__init__(masked=masked, deflate=self.extension)


def context(parameters: DeflateParameters, *, masked: bool) -> tuple[bool, int]:
    """How the sender of the frames compresses: whether each message by itself, and by which window.

    ``websockets`` inflates by 9 bits what was compressed by 8.
    """
    if masked:
        return parameters.client_no_context_takeover, max(9, parameters.client_max_window_bits)
    return parameters.server_no_context_takeover, max(9, parameters.server_max_window_bits)


def ours(pieces: Sequence[bytes], parameters: DeflateParameters | None, *, masked: bool) -> Reading:
    """What our reader makes of them."""
    inflater = None if parameters is None else Inflater.of(parameters, "server" if masked else "client", SMALL)
    return read(pieces, masked=masked, inflater=inflater)
