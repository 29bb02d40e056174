"""One message to many WebSockets: encoded once, compressed once."""

from __future__ import annotations

from forebay.http.websocket import WebSocket
from forebay.wire.deflate import DeflateParameters, compress_once
from forebay.wire.websocket import Opcode, encode_frame, encode_message

__all__ = ["Broadcaster"]

_Sockets = dict[WebSocket, None]
_Needs = tuple[int, int, int, bool]  # bits of the window, level, least size; whether no context is kept


class Broadcaster:
    """Sends messages to all WebSockets of a server that were added, as the same bytes.

    It never waits: a peer that is slow is dealt with by its own ``settings.outbound``, and the others do not notice.
    WebSockets leave by themselves when either side closes.
    """

    __slots__ = ("_compressed", "_plain")

    def __init__(self) -> None:
        self._plain: _Sockets = {}
        self._compressed: dict[_Needs, _Sockets] = {}  # by what a message has to be compressed for

    def __repr__(self) -> str:
        return f"<Broadcaster to {len(self)}>"

    def __len__(self) -> int:
        return len(self._plain) + sum(map(len, self._compressed.values()))

    def __contains__(self, ws: object) -> bool:
        return isinstance(ws, WebSocket) and ws in self._sockets(ws)

    def _sockets(self, ws: WebSocket) -> _Sockets:
        """Those it is among, or would be."""
        deflate = ws.deflate
        if deflate is None:
            return self._plain
        return self._compressed.get(_needs(deflate), {})

    def add(self, ws: WebSocket) -> None:
        """Send ``ws`` what is published from now on. Nothing happens when it is closed, or was added already.

        :raises ValueError: it is a client's, whose messages must each be masked their own way (RFC 6455 section 5.3).
        """
        if ws.is_client:
            raise ValueError(f"{ws!r} is a client's: only a server's can be sent the same bytes as others")
        if ws.phase or ws in self:
            return
        deflate = ws.deflate
        if deflate is None:
            self._plain[ws] = None
        else:
            self._compressed.setdefault(_needs(deflate), {})[ws] = None
        ws.joined(self)

    def discard(self, ws: WebSocket) -> None:
        """Send ``ws`` nothing more. Nothing happens when it was not added."""
        if self._sockets(ws).pop(ws, self) is None:
            ws.left(self)

    def publish(self, message: str | bytes) -> int:
        """Send ``message`` to all: ``str`` as text, ``bytes`` as binary.

        :return: how many connections took it; those it waits for, as their peers are slow, are among them.
        :raises UnicodeEncodeError: the text has lone surrogates.
        """
        frame = encode_message(message)
        count = _write(frame, self._plain)
        if self._compressed:
            payload = message.encode() if isinstance(message, str) else message
            opcode = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
            for (window_bits, level, min_size, alone), sockets in self._compressed.items():
                compressed = payload
                if sockets and len(payload) >= min_size:
                    compressed = compress_once(payload, window_bits, level)
                if len(compressed) >= len(payload):
                    count += _write(frame, sockets)
                    continue
                count += _write(encode_frame(opcode, compressed, rsv1=True), sockets)
                if not alone:
                    for ws in sockets:
                        ws.new_context()
        return count


def _needs(deflate: DeflateParameters) -> _Needs:
    alone = deflate.server_no_context_takeover
    return deflate.server_max_window_bits, deflate.level, deflate.min_size, alone


def _write(frame: bytes, sockets: _Sockets) -> int:
    count = 0
    for ws in list(sockets):  # writing may close one, which leaves
        conn = ws.conn
        if not conn.closing:
            conn.write(frame)
            count += 1
    return count
