"""The channel between a supervisor and a worker: both ends in one process, or one end hostile."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from forebay.engine import control as module
from forebay.engine.control import ControlChannel, Failure, Message
from forebay.errors import ConfigError, ConnectionClosed, FrameTooLong, FramingError, Overloaded, Problem, StartError
from tests.support import eventually, open_descriptors


class Pair:
    """Two connected ends, ``a`` and ``b``. What ``b`` receives is in ``received``, and answered by ``answer``."""

    def __init__(self) -> None:
        one, other = socket.socketpair()
        self.received: list[tuple[str, Any]] = []
        self.answer: Callable[[Message], None] = lambda request: None
        self.a = ControlChannel(one, lambda message: None, who="b")
        self.b = ControlChannel(other, self._on_message, who="a")

    def _on_message(self, message: Message) -> None:
        self.received.append((message.kind, msgspec.msgpack.decode(message.body)))
        if message.id:
            self.answer(message)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Two connected ends."""
    made = Pair()
    yield made
    made.a.close()
    made.b.close()


@pytest.fixture
async def raw() -> AsyncIterator[tuple[socket.socket, ControlChannel]]:
    """A socket to say anything on, and the channel that hears it. Messages of kind "number" have to hold one."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    channel = ControlChannel(theirs, lambda message: _check(message.decode(int)), who="us")
    yield ours, channel
    channel.close()
    ours.close()


def _check(number: int) -> None:
    assert isinstance(number, int)


def frame(content: object) -> bytes:
    """``content`` as it is on the wire."""
    encoded = msgspec.msgpack.encode(content)
    return struct.pack("!I", len(encoded)) + encoded


def frames(data: bytes) -> list[tuple[str, Any]]:
    """Kind and body of each frame in ``data``, which ends with the last one."""
    found = []
    while data:
        (length,) = struct.unpack_from("!I", data)
        kind, _, _, _, body = msgspec.msgpack.decode(data[4 : 4 + length])
        found.append((kind, body))
        data = data[4 + length :]
    return found


@pytest.mark.both_loops
async def test_notices_arrive_in_order(pair: Pair) -> None:
    """What is sent arrives, whole and in order, also when it is larger than the socket's buffer."""
    large = "x" * 3_000_000
    for body in (1, large, None, {"a": [1, 2]}):
        pair.a.send("notice", body)
    await eventually(lambda: len(pair.received) == 4)
    assert pair.received == [("notice", 1), ("notice", large), ("notice", None), ("notice", {"a": [1, 2]})]


async def test_a_request_gets_its_own_reply(pair: Pair) -> None:
    """Replies find their requests, in whichever order they come."""
    requests: list[Message] = []
    pair.answer = requests.append
    first = asyncio.create_task(pair.a.request("q", 1, timeout=5))
    second = asyncio.create_task(pair.a.request("q", 2, timeout=5))
    await eventually(lambda: len(requests) == 2)
    for request in reversed(requests):
        pair.b.reply(request, request.decode(int) * 10)
    assert [(await one).decode(int) for one in (first, second)] == [10, 20]


async def test_failures_are_raised_where_they_were_asked_for(pair: Pair) -> None:
    """A ConfigError arrives with all it knew, anything else as one line of a StartError."""
    problem = Problem("too many", key="a.b", line=7, remedy="take less")
    pair.answer = lambda request: pair.b.reply(request, failure=Failure.of(ConfigError("f.toml", [problem])))
    with pytest.raises(ConfigError) as caught:
        await pair.a.request("q", timeout=5)
    assert (caught.value.file, caught.value.problems) == ("f.toml", (problem,))
    pair.answer = lambda request: pair.b.reply(request, failure=Failure.of(KeyError("x\n y")))
    with pytest.raises(StartError, match=r"^KeyError: 'x\\n y'$"):
        await pair.a.request("q", timeout=5)
    pair.answer = lambda request: pair.b.reply(request, failure=Failure.of(StartError("one\n two")))
    with pytest.raises(StartError, match=r"^one; two$"):
        await pair.a.request("q", timeout=5)


async def test_a_request_times_out(pair: Pair) -> None:
    """No reply in time is a TimeoutError; one that comes too late harms nobody."""
    late: list[Message] = []
    pair.answer = late.append
    with pytest.raises(TimeoutError):
        await pair.a.request("q", timeout=0.02)
    pair.b.reply(late.pop(), "late")
    pair.answer = lambda request: pair.b.reply(request, "in time")
    assert (await pair.a.request("q", timeout=5)).decode(str) == "in time"


async def test_the_end_of_the_other_side_ends_requests(pair: Pair) -> None:
    """Whoever waits for a reply hears that there will be none, and nothing can be sent any more."""
    waiting = asyncio.create_task(pair.a.request("q", timeout=5))
    await eventually(lambda: pair.received)
    pair.b.close()
    with pytest.raises(ConnectionClosed, match="end of stream"):
        await waiting
    assert pair.a.reason == "end of stream"
    with pytest.raises(ConnectionClosed):
        pair.a.send("notice")
    with pytest.raises(ConnectionClosed):
        pair.a.post("notice", msgspec.Raw(b"\x01"))


async def test_what_was_said_before_the_end_is_heard(pair: Pair) -> None:
    """A side that sends and goes is heard, although the other one cannot send to it any more."""
    pair.a.send("last words")
    pair.a.close()
    pair.b.send("too late")
    await asyncio.wait_for(pair.b.ended.wait(), 5)
    assert pair.received == [("last words", None)]


@pytest.mark.both_loops
async def test_a_socket_is_passed_on(pair: Pair) -> None:
    """The socket that arrives is the one that was sent, and outlives it."""
    listener = socket.create_server(("127.0.0.1", 0))
    where = listener.getsockname()
    pair.answer = lambda request: pair.b.reply(request, sock=listener)
    got = await pair.a.request_socket("listen", timeout=5)
    listener.close()
    with got, socket.create_connection(where, timeout=5):
        assert got.getsockname() == where
        assert not got.get_inheritable()


async def test_a_reply_without_the_socket_is_an_error(pair: Pair) -> None:
    """Who asks for a socket does not get anything else."""
    pair.answer = lambda request: pair.b.reply(request, "none for you")
    with pytest.raises(FramingError, match="no socket"):
        await pair.a.request_socket("listen", timeout=5)


async def test_no_descriptor_is_left_behind() -> None:
    """Sockets nobody waits for any more, or that could not be sent, are closed."""
    before = open_descriptors()
    pair = Pair()
    late: list[Message] = []
    pair.answer = late.append
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(TimeoutError):
            await pair.a.request_socket("listen", timeout=0.02)
        pair.b.reply(late[0], sock=listener)  # too late
        pair.answer = lambda request: pair.b.reply(request, sock=listener)
        await pair.a.request("listen", timeout=5)  # does not want it
        pair.a.close()
        pair.b.reply(late[0], sock=listener)  # nobody there
        await asyncio.wait_for(pair.b.ended.wait(), 5)
        pair.b.reply(late[0], sock=listener)
    pair.b.close()
    assert open_descriptors() == before


async def test_of_what_is_posted_only_the_latest_is_kept(raw: tuple[socket.socket, ControlChannel]) -> None:
    """While the other side does not read, posts replace each other, and come after what was sent."""
    ours, channel = raw
    channel.send("sent", "x" * 4_000_000)
    for number in range(1000):
        channel.post("metrics", msgspec.Raw(msgspec.msgpack.encode(number)))
        channel.post("other", msgspec.Raw(msgspec.msgpack.encode(number)))
    channel.send("sent", "y")
    channel.unpost("other")
    received = b""
    while b"metrics" not in received:
        received += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, 1 << 20), 5)
    await channel.flush(5)
    assert frames(received) == [("sent", "x" * 4_000_000), ("sent", "y"), ("metrics", 999)]


async def test_flush_waits_for_the_other_side(raw: tuple[socket.socket, ControlChannel]) -> None:
    """flush() returns when all has gone out, or when its time is over."""
    ours, channel = raw
    loop = asyncio.get_running_loop()
    channel.send("sent", "x" * 4_000_000)
    started = loop.time()
    await channel.flush(0.05)
    assert loop.time() - started >= 0.04
    flushing = asyncio.create_task(channel.flush(5))
    left = 4_000_000
    while left > 0:
        left -= len(await asyncio.wait_for(loop.sock_recv(ours, 1 << 20), 5))
    await flushing
    assert "queued=0" in repr(channel)


async def test_a_side_that_does_not_read_is_not_buffered_for_without_end(
    raw: tuple[socket.socket, ControlChannel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the limit of what may wait, sending is refused."""
    monkeypatch.setattr(module, "_MAXIMUM_QUEUED", 3_000_000)
    _, channel = raw
    with pytest.raises(Overloaded, match="us does not read"):
        for _ in range(10):
            channel.send("sent", "x" * 1_000_000)


async def test_a_message_past_the_maximum_is_not_sent(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender hears of it, and the channel goes on."""
    monkeypatch.setattr(module, "MAXIMUM_FRAME", 100)
    with pytest.raises(FrameTooLong, match="at most 100"):
        pair.a.send("notice", "x" * 100)
    pair.a.send("notice", "y")
    await eventually(lambda: pair.received == [("notice", "y")])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\0", "a frame of 0 bytes"),
        (b"\xff\xff\xff\xff", "a frame of 4294967295 bytes"),
        (struct.pack("!I", module.MAXIMUM_FRAME + 1), "are allowed"),
        (b"\0\0\0\x03\xc1\xc1\xc1", "malformed frame"),
        (frame("text"), "malformed frame"),
        (frame([1, 2]), "malformed frame"),
        (frame(["number", -1, False, None]), "malformed frame"),
        (frame(["number", 0, False, None, "seven"]), "malformed 'number' message"),
        (frame(["number", 0, True, None, 7]), "announced a socket that did not come"),
    ],
)
async def test_malformed_frames_end_the_channel(
    raw: tuple[socket.socket, ControlChannel], data: bytes, reason: str
) -> None:
    """Whatever is no message ends the channel, and the reason is told; what came before it was heard."""
    ours, channel = raw
    ours.send(frame(["number", 0, False, None, 7]) + data + frame(["number", 0, False, None, 7]))
    await asyncio.wait_for(channel.ended.wait(), 5)
    assert reason in channel.reason


async def test_a_frame_cut_short_is_told_from_an_end(raw: tuple[socket.socket, ControlChannel]) -> None:
    """The end in the middle of a message is not a clean one."""
    ours, channel = raw
    ours.send(frame(["number", 0, False, None, 7])[:-1])
    ours.shutdown(socket.SHUT_WR)
    await asyncio.wait_for(channel.ended.wait(), 5)
    assert channel.reason == "cut in the middle of a message"


async def test_descriptors_nobody_announced_end_the_channel(raw: tuple[socket.socket, ControlChannel]) -> None:
    """They do not pile up."""
    ours, channel = raw
    before = open_descriptors()
    for _ in range(3):
        socket.send_fds(ours, [frame(["number", 0, False, None, 7])], [ours.fileno()] * 7)
    await asyncio.wait_for(channel.ended.wait(), 5)
    assert "descriptors" in channel.reason
    assert open_descriptors() == before - 1  # the channel's own


async def test_bytes_one_at_a_time(raw: tuple[socket.socket, ControlChannel]) -> None:
    """However the bytes are cut, the messages are the same."""
    ours, channel = raw
    answer = asyncio.create_task(channel.request("q", timeout=5))
    await asyncio.sleep(0)
    for byte in frame(["number", 0, False, None, 7]) + frame(["reply", 1, False, None, "yes"]):
        ours.send(bytes([byte]))
        await asyncio.sleep(0)
    assert (await answer).decode(str) == "yes"
