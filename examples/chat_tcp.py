"""A chat over TCP that shows what the engine does for it: event style, heartbeats, and slow readers that are evicted.

Run it, and talk to it from two terminals::

    forebay run examples.chat_tcp:server
    nc 127.0.0.1 7200

A guest that reads too slowly never holds the others up: what they say is kept for it up to ``SLOW_LIMIT``, and past
that its connection is closed (``slow-consumer`` in the log and in the metrics). A guest that is gone without a word is
found out by heartbeats: each silent minute it is sent ``/ping``, to which a program answers ``/pong``; at a terminal
any line will do, and Enter is one. Rooms live in the memory of one process, so this runs with one worker.
"""

from __future__ import annotations

import re
from itertools import count

from forebay import Connection, ConnectionHandler, TCPServer, framing
from forebay.engine import Admission, CloseReason, Heartbeat, Keepalive, Outbound, now
from forebay.policy.limits import RateLimit

LONGEST_LINE = 1000  # bytes
MOST_GUESTS = 1000
MOST_OF_ONE_ADDRESS = 50
MOST_ROOMS = 200
MOST_LISTED = 100  # names in one answer
SLOW_LIMIT = 256 * 1024  # bytes that wait for one guest
LINES_PER_SECOND, LINES_AT_ONCE = 10, 40  # of one guest
LOBBY = "lobby"
PING, PONG = "/ping", "/pong"

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,19}")  # ASCII: nobody can look like somebody else

HELP = (
    "* anything you type is said to the room; commands:",
    "*   /nick NAME       what you are called",
    "*   /join ROOM       go to another room, which is made when it is not there",
    "*   /rooms           which rooms there are",
    "*   /who             who is in this room",
    "*   /msg NAME TEXT   say something to one guest alone, in whichever room",
    "*   /quit            leave",
)


class Chat:
    """All rooms and guests. Nothing here waits, so no two guests are served at once."""

    def __init__(self, lines_per_second: float) -> None:
        self.guests: dict[str, Guest] = {}  # by name in lower case
        self.rooms: dict[str, set[Guest]] = {LOBBY: set()}
        self.limit = RateLimit(lines_per_second, LINES_AT_ONCE, max_keys=MOST_GUESTS)
        self.names = (f"guest-{number}" for number in count(1))

    def say(self, room: str, line: str, besides: Guest | None = None) -> None:
        """Tell everybody in a room."""
        for guest in self.rooms[room]:
            if guest is not besides:
                guest.tell(line)

    def go_in(self, guest: Guest, room: str) -> None:
        """Put a guest into a room, which is made when it is not there."""
        self.rooms.setdefault(room, set()).add(guest)
        guest.room = room
        self.say(room, f"* {guest.name} joined {room}")

    def go_out(self, guest: Guest, said: str) -> None:
        """Take a guest out of its room; an empty one is gone, but for the lobby."""
        members = self.rooms[guest.room]
        members.discard(guest)
        self.say(guest.room, said)
        if not members and guest.room != LOBBY:
            del self.rooms[guest.room]


class Guest(ConnectionHandler):
    """One connection, and who it is."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.name = ""
        self.room = LOBBY

    def tell(self, *lines: str) -> None:
        """Send lines without waiting; who does not read them is closed, by the server's ``outbound``."""
        for line in lines:
            self.conn.write(line)

    # What the connection calls

    def on_open(self, conn: Connection) -> None:
        self.conn = conn
        self.name = next(name for name in self.chat.names if name not in self.chat.guests)
        self.chat.guests[self.name] = self
        self.tell(f"* welcome, {self.name}; /help lists the commands")
        self.chat.go_in(self, LOBBY)

    def on_message(self, conn: Connection, line: str) -> None:
        text = "".join(character for character in line if character.isprintable()).strip()  # no control characters
        if not text:
            return
        if self.chat.limit.take(str(conn.id), now()):
            self.tell("* not so fast: that was not said")
        elif text.startswith("/"):
            command, _, argument = text.partition(" ")
            self.command(command.lower(), argument.strip())
        else:
            self.chat.say(self.room, f"{self.name}: {text}", besides=self)

    def on_drain(self, conn: Connection) -> None:
        self.tell("* the chat closes; see you later")
        conn.close(CloseReason.DRAIN)

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        del self.chat.guests[self.name.lower()]
        why = {CloseReason.SLOW_CONSUMER: " (read too slowly)", CloseReason.HEARTBEAT: " (gone)"}.get(reason, "")
        self.chat.go_out(self, f"* {self.name} left{why}")

    # Commands

    def command(self, command: str, argument: str) -> None:
        """Do what a line that begins with a slash says."""
        chat = self.chat
        match command:
            case "/nick":
                self.rename(argument)
            case "/join":
                self.join(argument.removeprefix("#").lower())
            case "/rooms":
                rooms = sorted(chat.rooms, key=lambda room: (-len(chat.rooms[room]), room))
                self.list_names(f"{len(rooms)} rooms", [f"{room} ({len(chat.rooms[room])})" for room in rooms])
            case "/who":
                names = sorted(guest.name for guest in chat.rooms[self.room])
                self.list_names(f"{len(names)} in {self.room}", names)
            case "/msg":
                self.whisper(*argument.partition(" ")[::2])
            case "/help":
                self.tell(*HELP)
            case "/quit":
                self.tell("* bye")
                self.conn.close()
            case _:
                self.tell("* there is no such command; /help lists them")

    def rename(self, name: str) -> None:
        """Take another name."""
        guests = self.chat.guests
        if not NAME.fullmatch(name):
            self.tell("* a name has 1 to 20 letters, digits, _ and -, and begins with a letter")
        elif guests.get(name.lower(), self) is not self:
            self.tell(f"* {name} is taken")
        else:
            del guests[self.name.lower()]
            before, self.name = self.name, name
            guests[name.lower()] = self
            self.chat.say(self.room, f"* {before} is now {name}")

    def join(self, room: str) -> None:
        """Go to another room."""
        rooms = self.chat.rooms
        if not NAME.fullmatch(room):
            self.tell("* a room's name has 1 to 20 letters, digits, _ and -, and begins with a letter")
        elif room == self.room:
            self.tell(f"* you are in {room}")
        elif room not in rooms and len(rooms) >= MOST_ROOMS:
            self.tell("* there are too many rooms; join one of them")
        else:
            self.chat.go_out(self, f"* {self.name} went to {room}")
            self.chat.go_in(self, room)

    def whisper(self, name: str, text: str) -> None:
        """Say something to one guest alone."""
        other = self.chat.guests.get(name.lower())
        if other is None or not text:
            self.tell("* nobody has that name" if text else "* write /msg NAME TEXT")
        else:
            other.tell(f"[{self.name} to you] {text}")
            self.tell(f"[you to {other.name}] {text}")

    def list_names(self, what: str, names: list[str]) -> None:
        """Answer with names, not too many."""
        more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
        self.tell(f"* {what}: {', '.join(names[:MOST_LISTED])}{more}")


def make_server(
    bind: str = "tcp://127.0.0.1:7200",
    *,
    heartbeat_interval: float = 60.0,
    slow_limit: int = SLOW_LIMIT,
    lines_per_second: float = LINES_PER_SECOND,
) -> TCPServer:
    """A chat of its own."""
    chat = Chat(lines_per_second)
    return TCPServer(
        lambda: Guest(chat),
        bind=bind,
        name="chat",
        framing=framing.Lines(LONGEST_LINE),
        max_connections=MOST_GUESTS,
        admission=Admission(per_peer=MOST_OF_ONE_ADDRESS),
        first_byte_timeout=None,  # guests may just listen
        idle_timeout=None,  # ... for as long as their heartbeats come
        heartbeat=Heartbeat(
            heartbeat_interval, misses=4, ping=PING, is_pong=PONG.__eq__, is_ping=PING.__eq__, pong=PONG
        ),
        keepalive=Keepalive(),
        outbound=Outbound(policy="close", high=min(64 * 1024, slow_limit), limit=slow_limit),
    )


server = make_server()
