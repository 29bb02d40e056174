"""What Forebay serves in the benchmarks, started as a user starts it: ``forebay run benchmarks.apps:plain``."""

from __future__ import annotations

import msgspec

from forebay import App, Connection, ConnectionHandler, TCPServer

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
    """Event style: every chunk goes back as it came."""

    __slots__ = ()

    def on_message(self, conn: Connection, data: bytes) -> None:
        """Send it back."""
        conn.write(data)


async def echo_each(conn: Connection) -> None:
    """Coroutine style: a Task per connection, which waits while the peer is slow."""
    async for data in conn:
        await conn.send(data)


echo = TCPServer(Echo, bind="tcp://127.0.0.1:9001", name="echo")
echo_coroutine = TCPServer(echo_each, bind="tcp://127.0.0.1:9002", name="echo-coroutine")
