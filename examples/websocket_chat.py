"""A chat in the browser: rooms over WebSocket, where each message is encoded and compressed once for everybody.

Run it, and open http://127.0.0.1:8000 in two windows; what follows ``#`` in the address is the room::

    forebay run examples.websocket_chat:app

A guest that reads too slowly holds nobody else up: what they say is kept for it up to ``SLOW_LIMIT``, and past that
its connection is closed. Rooms live in the memory of one process, so this runs with one worker.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

import msgspec

from forebay import App
from forebay.engine import Outbound, now
from forebay.http import Broadcaster, FileResponse, WebSocket, WebSocketSettings
from forebay.policy.limits import RateLimit

PAGE = Path(__file__).with_suffix(".html")
MOST_ROOMS = 200
LONGEST_NAME = 20  # characters
SLOW_LIMIT = 256 * 1024  # bytes that wait for one guest
MESSAGES_PER_SECOND, MESSAGES_AT_ONCE = 5, 20  # of one guest
SETTINGS = WebSocketSettings(
    max_message=4096,  # bytes
    outbound=Outbound(policy="close", high=64 * 1024, limit=SLOW_LIMIT),
)

TRY_AGAIN_LATER, UNSUPPORTED_DATA = 1013, 1003  # RFC 6455 section 7.4.1, and IANA's registry of close codes


class Said(msgspec.Struct):
    """What a room hears. Without a ``name`` it is about the room."""

    text: str
    name: str = ""


class Chat:
    """All rooms, by name. Those with nobody in them are gone."""

    def __init__(self) -> None:
        self.rooms: dict[str, Broadcaster] = {}
        self.limit = RateLimit(MESSAGES_PER_SECOND, MESSAGES_AT_ONCE)
        self.numbers = count(1)

    async def visit(self, ws: WebSocket, room: str) -> None:
        """One guest, from coming to leaving."""
        guests = self.rooms.get(room)
        if guests is None:
            if len(self.rooms) >= MOST_ROOMS:
                await ws.close(TRY_AGAIN_LATER, "there are too many rooms")
                return
            guests = self.rooms[room] = Broadcaster()
        name = _clean(dict(ws.query).get("name", ""))[:LONGEST_NAME] or f"guest-{next(self.numbers)}"
        guests.add(ws)
        try:
            _say(guests, Said(f"{name} joined {room}"))
            await self._listen(ws, name, guests)
        finally:
            guests.discard(ws)
            if guests:
                _say(guests, Said(f"{name} left"))
            else:
                del self.rooms[room]

    async def _listen(self, ws: WebSocket, name: str, guests: Broadcaster) -> None:
        async for message in ws:
            if not isinstance(message, str):
                await ws.close(UNSUPPORTED_DATA, "text only")
            elif self.limit.take(str(ws.conn.id), now()):
                await ws.send(msgspec.json.encode(Said("not so fast: that was not said")).decode())
            elif text := _clean(message):
                _say(guests, Said(text, name))


def _say(guests: Broadcaster, said: Said) -> None:
    guests.publish(msgspec.json.encode(said).decode())


def _clean(text: str) -> str:
    return "".join(character for character in text if character.isprintable()).strip()


def make_app() -> App:
    """A chat of its own."""
    app = App("chat")
    app.websocket("/rooms/{room}", SETTINGS)(Chat().visit)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE)

    return app


app = make_app()
