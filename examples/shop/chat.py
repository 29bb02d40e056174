"""A chat over TCP, one line per message: ``nc 127.0.0.1 7100``.

A reader that is slow never holds the others up: while its buffer is full it misses what is said, and is told how much
once it reads again. Rooms live in the memory of one process, so this service runs with one worker.
"""

from __future__ import annotations

import re
from itertools import count

from forebay import Connection, TCPServer, framing
from forebay.errors import FramingError

LONGEST_LINE = 1000  # bytes
MOST_GUESTS = 500
MOST_ROOMS = 200
LOBBY = "lobby"

NAME = re.compile(r"\w[\w-]{0,19}")
UNPRINTABLE = re.compile(  # would let one guest write anywhere on another's terminal, or from right to left
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)

HELP = (
    "* anything you type is said to the room; commands:",
    "*   /nick NAME   what you are called",
    "*   /join ROOM   go to another room, which is made when it is not there",
    "*   /who         who is in this room",
    "*   /quit        leave",
)


class Guest:
    """One connection, and who it is."""

    __slots__ = ("conn", "missed", "name", "room")

    def __init__(self, conn: Connection, name: str) -> None:
        self.conn = conn
        self.name = name
        self.room = LOBBY
        self.missed = 0  # lines that were said while this guest did not read

    def tell(self, *lines: str) -> None:
        """Send lines, if the guest keeps up with reading."""
        if not self.conn.writable:
            self.missed += len(lines)
            return
        if self.missed:
            self.conn.write(f"* you missed {self.missed} lines")
            self.missed = 0
        for line in lines:
            self.conn.write(line)


class Chat:
    """All rooms. Nothing here waits, so no two guests are served at once."""

    def __init__(self) -> None:
        self._guests: dict[str, Guest] = {}  # by name in lower case
        self._rooms: dict[str, set[Guest]] = {LOBBY: set()}
        self._numbers = count(1)

    def enter(self, conn: Connection) -> Guest:
        """Let somebody in, under a name of our choice."""
        name = next(name for number in self._numbers if (name := f"guest-{number}") not in self._guests)
        guest = self._guests[name] = Guest(conn, name)
        guest.tell(f"* welcome, {guest.name}; /help lists the commands")
        self._go_in(guest, LOBBY)
        return guest

    def leave(self, guest: Guest) -> None:
        """Somebody is gone."""
        del self._guests[guest.name.lower()]
        self._go_out(guest, f"* {guest.name} left")

    def on_line(self, guest: Guest, line: str) -> bool:
        """Do what a line says; False when the guest wants to leave."""
        text = UNPRINTABLE.sub("", line).strip()
        if not text.startswith("/"):
            if text:
                self._say(guest.room, f"{guest.name}: {text}", besides=guest)
            return True
        command, _, argument = text.partition(" ")
        match command:
            case "/nick":
                self._rename(guest, argument.strip())
            case "/join":
                self._join(guest, argument.strip().removeprefix("#").lower())
            case "/who":
                names = sorted(other.name for other in self._rooms[guest.room])
                guest.tell(f"* {len(names)} in {guest.room}: {', '.join(names)}")
            case "/help":
                guest.tell(*HELP)
            case "/quit":
                guest.tell("* bye")
                return False
            case _:
                guest.tell(f"* there is no {command}; /help lists the commands")
        return True

    def _rename(self, guest: Guest, name: str) -> None:
        if not NAME.fullmatch(name):
            guest.tell("* a name has 1 to 20 letters, digits, _ and -")
        elif self._guests.get(name.lower(), guest) is not guest:
            guest.tell(f"* {name} is taken")
        else:
            del self._guests[guest.name.lower()]
            before, guest.name = guest.name, name
            self._guests[name.lower()] = guest
            self._say(guest.room, f"* {before} is now {name}")

    def _join(self, guest: Guest, room: str) -> None:
        if not NAME.fullmatch(room):
            guest.tell("* a room's name has 1 to 20 letters, digits, _ and -")
        elif room == guest.room:
            guest.tell(f"* you are in {room}")
        elif room not in self._rooms and len(self._rooms) >= MOST_ROOMS:
            guest.tell("* there are too many rooms; join one of them")
        else:
            self._go_out(guest, f"* {guest.name} went to {room}")
            self._go_in(guest, room)

    def _go_in(self, guest: Guest, room: str) -> None:
        self._rooms.setdefault(room, set()).add(guest)
        guest.room = room
        self._say(room, f"* {guest.name} joined {room}")

    def _go_out(self, guest: Guest, said: str) -> None:
        members = self._rooms[guest.room]
        members.discard(guest)
        self._say(guest.room, said)
        if not members and guest.room != LOBBY:
            del self._rooms[guest.room]

    def _say(self, room: str, line: str, besides: Guest | None = None) -> None:
        for guest in self._rooms[room]:
            if guest is not besides:
                guest.tell(line)


chat = Chat()


async def session(conn: Connection) -> None:
    """One guest, from coming in to leaving."""
    guest = chat.enter(conn)
    try:
        async for line in conn:
            if not chat.on_line(guest, line):
                return
    except FramingError as error:
        guest.tell(f"* goodbye: {error}")
        raise
    finally:
        chat.leave(guest)


server = TCPServer(
    session,
    bind="tcp://127.0.0.1:7100",
    name="chat",
    framing=framing.Lines(LONGEST_LINE),
    max_connections=MOST_GUESTS,
    idle_timeout=3600,
)
