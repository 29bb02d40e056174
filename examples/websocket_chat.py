"""A chat in the browser: rooms over WebSocket, where each message is encoded and compressed once for everybody.

Run it, and open http://127.0.0.1:8000 in two windows; what follows ``#`` in the address is the room::

    forebay run examples.websocket_chat:app

A guest that reads too slowly holds nobody else up: what they say is kept for it up to ``SLOW_LIMIT``, and past that
its connection is closed. A guest that comes back, after its network was away or the server was reloaded, says which
message it had last, and gets those behind it. Rooms live in the memory of one process, so this runs with one worker,
and what was said is forgotten when that is replaced; pages keep what they show.
"""

from __future__ import annotations

from collections import deque
from itertools import count
from pathlib import Path
from secrets import token_hex
from time import time

import msgspec

from forebay import App
from forebay.engine import Outbound, now
from forebay.http import Broadcaster, FileResponse, WebSocket, WebSocketSettings
from forebay.http.middleware import SecurityHeaders
from forebay.policy.limits import RateLimit

PAGE = Path(__file__).with_suffix(".html")
MOST_ROOMS, MOST_GUESTS = 200, 100  # guests of one room
HISTORY = 50  # messages kept of each room
MOST_NAMES = 20  # of those in a room, that all are told
LONGEST_NAME, LONGEST_ROOM = 20, 30  # characters
SLOW_LIMIT = 256 * 1024  # bytes that wait for one guest
MESSAGES_PER_SECOND, MESSAGES_AT_ONCE = 5, 20  # of one guest
SETTINGS = WebSocketSettings(
    max_message=4096,  # bytes
    outbound=Outbound(policy="close", high=64 * 1024, limit=SLOW_LIMIT),
)

TRY_AGAIN_LATER, UNSUPPORTED_DATA = 1013, 1003  # RFC 6455 section 7.4.1, and IANA's registry of close codes


class Said(msgspec.Struct, tag_field="kind", tag="said"):
    """What somebody said. ``id`` is what a guest that comes back says it had last."""

    id: str
    name: str
    text: str
    at: float
    """Seconds since the epoch."""


class Notice(msgspec.Struct, tag_field="kind", tag="notice"):
    """About the room, or to the guest alone. It is not kept."""

    text: str


class People(msgspec.Struct, tag_field="kind", tag="people"):
    """Who is there: how many, and the names of some of them."""

    count: int
    names: list[str]


class Welcome(msgspec.Struct, tag_field="kind", tag="welcome"):
    """The first that a guest gets: what it is called here."""

    name: str
    room: str


class Listed(msgspec.Struct):
    """A room in the list of rooms."""

    name: str
    guests: int


class Room:
    """Its guests, and what they said last. ``name`` is for those who read it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.guests: dict[WebSocket, str] = {}
        self.everybody = Broadcaster()
        self.history: deque[Said] = deque(maxlen=HISTORY)
        self._life = token_hex(4)  # ids of one that was forgotten mean nothing to the next
        self._numbers = count(1)

    def say(self, name: str, text: str) -> None:
        """Tell everybody, and those who come later."""
        said = Said(f"{self._life}-{next(self._numbers)}", name, text, time())
        self.history.append(said)
        self.tell(said)

    def tell(self, what: Said | Notice | People) -> None:
        """Tell everybody who is there."""
        self.everybody.publish(_encoded(what))

    def tell_who_is_there(self) -> None:
        """After somebody has come or gone."""
        self.tell(People(len(self.guests), list(self.guests.values())[:MOST_NAMES]))

    def missed(self, last: str) -> list[Said]:
        """What was said behind the message with this id; all that is kept, when nobody knows it."""
        for place, said in enumerate(self.history):
            if said.id == last:
                return list(self.history)[place + 1 :]
        return list(self.history)


class Chat:
    """All rooms, by name. An empty one is kept, with what was said in it, until its place is needed."""

    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        self.limit = RateLimit(MESSAGES_PER_SECOND, MESSAGES_AT_ONCE)
        self.numbers = count(1)

    def listed(self) -> list[Listed]:
        """The rooms that have guests, the fullest first."""
        taken = sorted((room for room in self.rooms.values() if room.guests), key=lambda room: -len(room.guests))
        return [Listed(room.name, len(room.guests)) for room in taken[:MOST_ROOMS]]

    async def visit(self, ws: WebSocket, room: str, name: str = "", last: str = "") -> None:
        """One guest, from coming to leaving. ``last`` is the id of what it has heard last."""
        found = self._room(_clean(room)[:LONGEST_ROOM] or "lobby")
        if found is None:
            await ws.close(TRY_AGAIN_LATER, "there are too many rooms")
        elif len(found.guests) >= MOST_GUESTS:
            await ws.close(TRY_AGAIN_LATER, "the room is full")
        else:
            name = _clean(name)[:LONGEST_NAME] or f"guest-{next(self.numbers)}"
            await self._stay(ws, found, name, last)

    def _room(self, name: str) -> Room | None:
        found = self.rooms.get(name)
        if found is None:
            if len(self.rooms) >= MOST_ROOMS:
                empty = next((room.name for room in self.rooms.values() if not room.guests), None)
                if empty is None:
                    return None
                del self.rooms[empty]
            found = self.rooms[name] = Room(name)
        return found

    async def _stay(self, ws: WebSocket, room: Room, name: str, last: str) -> None:
        ws.write(_encoded(Welcome(name, room.name)))
        for said in room.missed(last):
            ws.write(_encoded(said))
        room.guests[ws] = name
        room.everybody.add(ws)
        room.tell(Notice(f"{name} joined"))
        room.tell_who_is_there()
        try:
            await self._listen(ws, room, name)
        finally:
            room.everybody.discard(ws)
            del room.guests[ws]
            room.tell(Notice(f"{name} left"))
            room.tell_who_is_there()

    async def _listen(self, ws: WebSocket, room: Room, name: str) -> None:
        async for message in ws:
            if not isinstance(message, str):
                await ws.close(UNSUPPORTED_DATA, "text only")
            elif self.limit.take(str(ws.conn.id), now()):
                await ws.send(_encoded(Notice("not so fast: that was not said")))
            elif text := _clean(message):
                room.say(name, text)


def _encoded(what: Said | Notice | People | Welcome) -> str:
    return msgspec.json.encode(what).decode()


def _clean(text: str) -> str:
    return "".join(character for character in text if character.isprintable()).strip()


def make_app() -> App:
    """A chat of its own."""
    chat = Chat()
    app = App("chat", middleware=[SecurityHeaders()])
    app.websocket("/rooms/{room}", SETTINGS)(chat.visit)

    @app.get("/rooms")
    def rooms() -> list[Listed]:
        return chat.listed()

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE)

    return app


app = make_app()
