"""What lies in a socket, unread."""

from __future__ import annotations

import asyncio
import socket
import struct
import time

import pytest

from forebay.engine import CloseReason, Connection, ConnectionHandler, dial
from forebay.engine.address import Address
from forebay.engine.unread import Unread, read_rest

pytestmark = pytest.mark.both_loops


class Heard(ConnectionHandler):
    """What came, and what was left at the end."""

    def __init__(self, most: int = 1 << 20) -> None:
        self.most = most
        self.data = self.rest = b""
        self.closed = asyncio.Event()
        self.reason: CloseReason | None = None

    def on_message(self, conn: Connection, data: bytes) -> None:
        self.data += data

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self.reason = reason
        self.rest = b"".join(read_rest(conn, self.most))
        self.closed.set()


async def connected(heard: Heard) -> tuple[Connection, socket.socket]:
    """A connection, and its other end, which says nothing by itself."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        conn = await dial(Address("tcp", "127.0.0.1", listening.getsockname()[1]), heard)
        return conn, listening.accept()[0]


@pytest.mark.parametrize("what", ["bytes", "end", "reset"])
async def test_something_is_there(what: str) -> None:
    """Bytes, an orderly end, and a reset, before the loop has had a turn to see them."""
    heard = Heard()
    conn, peer = await connected(heard)
    unread = Unread(conn)
    assert not unread.there()
    if what == "bytes":
        peer.send(b"x")
    else:
        if what == "reset":
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
    time.sleep(0.01)  # the loop must not run
    assert unread.there()
    for _ in range(3):
        await asyncio.sleep(0)
    if what == "bytes":
        assert heard.data == b"x"
        assert not unread.there()
    conn.close()
    peer.close()
    await heard.closed.wait()


@pytest.mark.parametrize(("most", "found"), [(1 << 20, 100_000), (1, 65_536)])
async def test_the_rest_of_a_connection_that_broke(most: int, found: int) -> None:
    """What the peer had said before its reset is there after a write has failed, up to a bound."""
    heard = Heard(most)
    conn, peer = await connected(heard)
    conn.write(b"unread by the peer")
    time.sleep(0.01)  # the loop must not run
    peer.sendall(bytes(100_000))
    peer.close()
    time.sleep(0.01)  # as above
    for _ in range(3):
        conn.write(b"x")
    await heard.closed.wait()
    assert heard.reason is CloseReason.RESET
    assert len(heard.rest) == found


async def test_a_connection_that_ended_well_has_no_rest() -> None:
    """All of it was delivered."""
    heard = Heard()
    _, peer = await connected(heard)
    peer.sendall(b"last words")
    peer.close()
    await heard.closed.wait()
    assert (heard.data, heard.rest, heard.reason) == (b"last words", b"", CloseReason.PEER)
