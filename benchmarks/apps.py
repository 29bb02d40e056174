"""What Forebay serves in the benchmarks, started as a user starts it: ``forebay run benchmarks.apps:plain``."""

from __future__ import annotations

from time import thread_time

import msgspec

from forebay import App, Connection, ConnectionHandler, TCPServer, framing
from forebay.engine.settings import Heartbeat
from forebay.http import HTTPServer
from forebay.http.server import ServerLimits

BODY = "Hello, world!"


class User(msgspec.Struct):
    """What the typed route answers with."""

    id: int
    name: str | None


plain = App("plain")


@plain.get("/")
def hello() -> str:
    """A response of 13 bytes."""
    return BODY


json = App("json")


@json.get("/users/{user_id:int}")
async def get_user(user_id: int, name: str | None = None) -> User:
    """A typed path parameter, a typed query parameter, and a JSON body."""
    return User(user_id, name)


class Echo(ConnectionHandler):
    """Event style: every message goes back as it came; without framing, every chunk."""

    __slots__ = ()

    def on_message(self, conn: Connection, data: bytes) -> None:
        """Send it back."""
        conn.write(data)


async def echo_each(conn: Connection) -> None:
    """Coroutine style: a Task per connection, which waits while the peer is slow."""
    async for data in conn:
        await conn.send(data)


class Burn(ConnectionHandler):
    """Uses up 200 us of CPU for each message, then sends it back."""

    __slots__ = ()

    def on_message(self, conn: Connection, data: bytes) -> None:
        """The CPU time of this thread is looked at, and not the clock's: time in which others ran does not count."""
        until = thread_time() + BURN
        while thread_time() < until:
            pass
        conn.write(data)


MANY = 20_000  # connections, which the load's descriptors do not reach
BURN = 200e-6  # seconds

# For benchmarks.idle_http: the plain response to as many connections as the engine is given.
idle_http = HTTPServer(plain, bind="http://127.0.0.1:9010", limits=ServerLimits(connections=MANY))

echo = TCPServer(Echo, bind="tcp://127.0.0.1:9001", name="echo", max_connections=MANY)
echo_coroutine = TCPServer(echo_each, bind="tcp://127.0.0.1:9002", name="echo-coroutine", max_connections=MANY)
lines = TCPServer(echo_each, bind="tcp://127.0.0.1:9003", framing=framing.Lines(), name="lines")
lines_events = TCPServer(Echo, bind="tcp://127.0.0.1:9004", framing=framing.Lines(), name="lines-events")
burn = TCPServer(Burn, bind="tcp://127.0.0.1:9005", name="burn")

# For benchmarks.idle: a heartbeat beside the defaults, then nothing but that on the timer wheel. The pongs come seconds
# apart, so that each is a chunk of its own.
alive = TCPServer(Echo, bind="tcp://127.0.0.1:9006", name="alive", max_connections=MANY, heartbeat=Heartbeat(30, 3))


def _quiet(port: int, heartbeat: Heartbeat | None) -> TCPServer:
    return TCPServer(
        Echo,
        bind=f"tcp://127.0.0.1:{port}",
        name="quiet",
        max_connections=MANY,
        idle_timeout=None,
        first_byte_timeout=None,
        message_timeout=None,
        heartbeat=heartbeat,
    )


quiet = _quiet(9007, None)
quiet_heartbeat = _quiet(9008, Heartbeat(30, 3))
quiet_pings = _quiet(9009, Heartbeat(30, 3, ping=b"ping\n", is_pong=lambda chunk: chunk == b"pong\n"))
