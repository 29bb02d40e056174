"""Transports in memory do what those of sockets do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from forebay.testing import MemoryTransport, memory_pair

pytestmark = pytest.mark.both_loops


class Recorder(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self, *, keeps_open: bool = False) -> None:
        self.keeps_open = keeps_open
        self.events: list[Any] = []
        self.data = b""
        self.ended = asyncio.Event()
        self.lost = asyncio.Event()
        self.error: Exception | None = None
        self.resumed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.events.append(len(data))

    def eof_received(self) -> bool:
        self.events.append("eof")
        self.ended.set()
        return self.keeps_open

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")
        self.resumed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.error = exc
        self.lost.set()


def connect(*, keeps_open: bool = False, **options: Any) -> tuple[Recorder, MemoryTransport, Recorder, MemoryTransport]:
    """Two recorders, connected, each with its transport."""
    client, server = Recorder(keeps_open=keeps_open), Recorder(keeps_open=keeps_open)
    ours, theirs = memory_pair(client, server, **options)
    return client, ours, server, theirs


async def turns(count: int = 20) -> None:
    """Let the loop have its turn, more often than anything here needs."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_is_written_arrives_in_order_and_joined() -> None:
    """Both ways; small writes of one turn arrive together, nothing arrives within the call that writes it."""
    client, ours, server, theirs = connect()
    for piece in (b"a", bytearray(b"b"), memoryview(b"c"), b""):
        ours.write(piece)
    theirs.write(b"d")
    assert server.data == client.data == b""
    await turns()
    assert (server.events, client.events) == (["made", 3], ["made", 1])
    assert (server.data, client.data) == (b"abc", b"d")


async def test_much_is_given_in_chunks() -> None:
    """A megabyte arrives whole, at most 64 KiB at a time."""
    _, ours, server, _ = connect()
    data = bytes(range(256)) * 4096
    ours.write(data)
    await turns(60)
    assert server.data == data
    assert max(event for event in server.events if isinstance(event, int)) == 65536


async def test_a_slow_reader_pauses_the_writer() -> None:
    """Past capacity and high watermark the writer is told to pause, once, and to resume when enough was read."""
    client, ours, server, theirs = connect(capacity=1000)
    ours.set_write_buffer_limits(high=500, low=100)
    assert ours.get_write_buffer_limits() == (100, 500)
    theirs.pause_reading()
    assert not theirs.is_reading()
    ours.write(bytes(1500))
    assert (ours.get_write_buffer_size(), client.events) == (500, ["made"])
    ours.write(bytes(1))
    ours.write(bytes(9))
    assert (ours.get_write_buffer_size(), client.events) == (510, ["made", "pause"])
    await turns()
    assert server.events == ["made"]
    theirs.resume_reading()
    await asyncio.wait_for(client.resumed.wait(), 5)
    assert client.events == ["made", "pause", "resume"]
    assert (len(server.data), ours.get_write_buffer_size()) == (1510, 0)


async def test_limits_that_are_lowered_pause_at_once() -> None:
    """As for a file that wants to know when all before it has left: limits of 0."""
    client, ours, _, theirs = connect(capacity=10)
    theirs.pause_reading()
    ours.write(bytes(11))
    ours.set_write_buffer_limits(0, 0)
    assert client.events == ["made", "pause"]
    theirs.resume_reading()
    await asyncio.wait_for(client.resumed.wait(), 5)
    with pytest.raises(ValueError, match="0 <= low <= high"):
        ours.set_write_buffer_limits(high=1, low=2)


async def test_half_close() -> None:
    """The peer hears of the end behind the data; the other direction stays open when it wants that."""
    client, ours, server, theirs = connect(keeps_open=True)
    ours.write(b"last")
    ours.write_eof()
    assert ours.can_write_eof()
    with pytest.raises(RuntimeError, match="after write_eof"):
        ours.write(b"more")
    await turns()
    assert server.events == ["made", 4, "eof"]
    theirs.write(b"answer")
    await turns()
    assert client.data == b"answer"
    theirs.close()
    await asyncio.wait_for(client.ended.wait(), 5)
    ours.close()
    await asyncio.wait_for(client.lost.wait(), 5)
    assert (client.error, server.error) == (None, None)


async def test_close_sends_what_was_written() -> None:
    """Also what waits in the buffer; the peer, which does not keep it open, closes in turn."""
    client, ours, server, theirs = connect(capacity=10)
    theirs.pause_reading()
    ours.write(bytes(100))
    ours.close()
    ours.close()
    ours.write(b"too late")
    await turns()
    assert ours.is_closing()
    assert not client.lost.is_set()
    theirs.resume_reading()
    await asyncio.wait_for(server.lost.wait(), 5)
    assert server.events == ["made", 100, "eof", "lost"]
    assert client.events == ["made", "lost"]
    assert (client.error, server.error) == (None, None)
    assert ours.lost
    assert theirs.lost


async def test_abort_is_a_reset_for_the_peer() -> None:
    """Behind what the network has; what waits in the buffer is lost, and so is all that the peer has sent."""
    client, ours, server, theirs = connect(capacity=10)
    ours.write(b"12345")
    ours.write(b"67890and more")
    ours.write(b"and more")
    theirs.write(b"unheard")
    assert not theirs.get_extra_info("forebay_reset")
    ours.abort()
    assert theirs.get_extra_info("forebay_reset")
    await turns()
    assert client.events == ["made", "lost"]
    assert client.error is None
    assert server.events == ["made", 10, "lost"]
    assert server.data == b"1234567890"
    assert isinstance(server.error, ConnectionResetError)
    ours.abort()
    await turns()
    assert client.events == ["made", "lost"]


async def test_who_does_not_read_hears_of_a_reset_at_once() -> None:
    """Though there is something it has not read."""
    _, ours, server, theirs = connect()
    theirs.pause_reading()
    ours.write(b"unread")
    ours.abort()
    await turns()
    assert server.events == ["made", "lost"]
    assert isinstance(server.error, ConnectionResetError)


async def test_writing_to_who_is_gone_is_a_reset() -> None:
    """As when a client has closed while it is answered: the first write after that breaks the connection."""
    client, ours, server, theirs = connect(keeps_open=True)
    ours.close()
    await asyncio.wait_for(client.lost.wait(), 5)
    await asyncio.wait_for(server.ended.wait(), 5)
    assert not theirs.get_extra_info("forebay_reset")
    theirs.write(b"anybody?")
    await asyncio.wait_for(server.lost.wait(), 5)
    assert isinstance(server.error, ConnectionResetError)


async def test_closing_with_data_unread_is_a_reset() -> None:
    """As systems do: the peer has what was sent to it before, then the reset."""
    client, ours, server, theirs = connect()
    ours.pause_reading()
    theirs.write(b"unread")
    ours.write(b"bye")
    ours.close()
    await asyncio.wait_for(server.lost.wait(), 5)
    assert server.data == b"bye"
    assert isinstance(server.error, ConnectionResetError)
    assert client.data == b""


async def test_a_protocol_that_raises_is_cut_off() -> None:
    """The loop's exception handler hears of it; the peer sees a reset."""

    class Failing(Recorder):
        def data_received(self, data: bytes) -> None:
            raise LookupError("no")

    heard: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: heard.append(context))
    try:
        client, server = Recorder(), Failing()
        ours, _ = memory_pair(client, server)
        ours.write(b"x")
        await asyncio.wait_for(client.lost.wait(), 5)
    finally:
        loop.set_exception_handler(None)
    assert isinstance(heard[0]["exception"], LookupError)
    assert isinstance(client.error, ConnectionResetError)
    assert server.lost.is_set()


async def test_what_transports_tell() -> None:
    """Extra information, protocols that change, their state."""
    client, ours, server, theirs = connect(server_extra={"peername": ("127.0.0.1", 5)})
    assert theirs.get_extra_info("peername") == ("127.0.0.1", 5)
    assert ours.get_extra_info("socket") is None
    assert ours.get_extra_info("peername", "nobody") == "nobody"
    assert repr(ours) == "<MemoryTransport open unsent=0>"
    other = Recorder()
    theirs.set_protocol(other)
    assert theirs.get_protocol() is other
    ours.write(b"x")
    await turns()
    assert (other.data, server.data) == (b"x", b"")
    ours.close()
    assert repr(ours) == "<MemoryTransport closing unsent=0>"
    await asyncio.wait_for(client.lost.wait(), 5)
    assert repr(ours) == "<MemoryTransport lost unsent=0>"
    with pytest.raises(ValueError, match="at least 1 byte"):
        connect(capacity=0)
