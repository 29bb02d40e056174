"""Connected datagram sockets."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from forebay.engine import CloseReason
from forebay.engine.address import Address
from forebay.engine.datagram import UDPServer
from forebay.engine.datagram_dial import dial_datagram
from forebay.engine.datagram_handler import DatagramHandler
from forebay.engine.datagram_session import DatagramSession
from forebay.errors import ConnectFailed, ConnectionClosed, ConnectTimeout, DeadlineExceeded
from tests.engine.datagrams import ANY
from tests.engine.support import open_sockets
from tests.support import eventually, running

pytestmark = pytest.mark.both_loops


class Echo(DatagramHandler):
    """Sends back what it gets."""

    def on_message(self, session: DatagramSession, data: bytes) -> None:
        session.write(data)


def nobody() -> Address:
    """Where no datagram socket is bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return Address("udp", "127.0.0.1", sock.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_ask_and_receive(host: str) -> None:
    """Datagrams go to the peer and come back, empty ones and the longest too; at the end no socket is left."""
    before = open_sockets()
    async with running(UDPServer(Echo, bind=f"udp://{host}:0")) as server:
        session = await dial_datagram(str(server.addresses[0]))
        assert session.peer == f"{host}:{server.addresses[0].port}"
        for data in (b"1", b"", b"x" * 65_507):
            await session.send(data)
            assert await session.receive(timeout=5) == data
        session.write(b"last")
        assert await asyncio.wait_for(anext(session), 5) == b"last"
        session.close()
        with pytest.raises(ConnectionClosed, match="app"):
            await session.receive()
        with pytest.raises(ConnectionClosed, match="app"):
            await session.send(b"x")
        session.write(b"x")
        assert session.writes_dropped == 1
    await eventually(lambda: open_sockets() == before)


async def test_event_style() -> None:
    """A handler is told of the open, of datagrams and of the close."""
    events: list[Any] = []

    class Client(DatagramHandler):
        def on_open(self, session: DatagramSession) -> None:
            events.append("open")
            session.write(b"hello")

        def on_message(self, session: DatagramSession, data: bytes) -> None:
            events.append(data)
            session.close()

        def on_close(self, session: DatagramSession, reason: CloseReason) -> None:
            events.append(reason)

    async with running(UDPServer(Echo, bind=ANY)) as server:
        session = await dial_datagram(server.addresses[0], Client())
        await eventually(lambda: events == ["open", b"hello", CloseReason.APP])
        with pytest.raises(RuntimeError, match="on_message"):
            await session.receive()


async def test_nobody_there() -> None:
    """A refusal by the peer's host reaches whoever receives, as an error that says nobody has answered."""
    before = open_sockets()
    address = nobody()
    session = await dial_datagram(address)
    session.write(b"anybody?")
    with pytest.raises(ConnectFailed, match="refuses") as caught:
        await session.receive(timeout=5)
    assert caught.value.target == str(address)
    assert session.close_reason is CloseReason.RESET
    with pytest.raises(ConnectionClosed, match="reset"):
        await session.send(b"x")
    await eventually(lambda: open_sockets() == before)


async def test_nobody_there_is_seen_while_sending() -> None:
    """A refusal that the next ``write`` finds ends the session too, and nothing is raised out of the loop."""
    session = await dial_datagram(nobody())
    for _ in range(3):  # the loop does not run meanwhile
        session.write(b"anybody?")
    assert session.closing
    assert session.writes_dropped >= 1
    with pytest.raises(ConnectFailed, match="refuses"):
        await session.receive(timeout=5)


async def test_a_peer_that_goes_away() -> None:
    """After an answer a refusal is the end of the session; what was received before is still there."""
    async with running(UDPServer(Echo, bind=ANY)) as server:
        session = await dial_datagram(server.addresses[0])
        session.write(b"1")
        await eventually(lambda: session.messages_in == 1)
    session.write(b"2")
    await eventually(lambda: session.closing)
    assert await session.receive() == b"1"
    with pytest.raises(ConnectionClosed, match="refuses datagrams now"):
        await session.receive(timeout=5)


async def test_only_the_peer_is_heard() -> None:
    """What others send to our port never arrives."""
    async with running(UDPServer(Echo, bind=ANY)) as server:
        session = await dial_datagram(server.addresses[0])
        host, port = session.local.split(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"forged", (host, int(port)))
        session.write(b"real")
        assert await session.receive(timeout=5) == b"real"
        with pytest.raises(DeadlineExceeded):
            await session.receive(timeout=0.01)
        session.close()


async def test_its_bounds() -> None:
    """What nobody receives, and what is too long, is dropped and counted."""
    async with running(UDPServer(Echo, bind=ANY)) as server:
        session = await dial_datagram(server.addresses[0], inbound_limit=2, datagram_maximum=10)
        for data in (b"x" * 11, b"1", b"2", b"3"):
            session.write(data)
        await eventually(lambda: session.messages_dropped == 2)
        assert [await session.receive() for _ in range(2)] == [b"1", b"2"]
        with pytest.raises(ValueError, match="65508"):
            session.write(b"x" * 65_508)
        session.close()


async def test_a_deadline_of_its_own() -> None:
    """``expire_in`` ends a dialled session that nobody answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        session = await dial_datagram(Address("udp", "127.0.0.1", deaf.getsockname()[1]))
        session.expire_in(0.01)
        with pytest.raises(ConnectionClosed, match="expired"):
            await session.receive(timeout=5)


async def test_names_that_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """They fail in time, whatever the resolver does."""

    async def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def hangs(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    async def nothing(*_: Any, **__: Any) -> Any:
        return []

    for resolver, error, text in (
        (unknown, ConnectFailed, "not known"),
        (hangs, ConnectTimeout, "within 0.05 s"),
        (nothing, ConnectFailed, "no address"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(f"{dial_datagram.__module__}._resolve", resolver)
            with pytest.raises(error, match=text):
                await dial_datagram("udp://nowhere.test:1", timeout=0.05)


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("tcp://127.0.0.1:1", {}),
        (Address("tcp", "127.0.0.1", 1), {}),
        ("udp://127.0.0.1:1", {"inbound_limit": 0}),
        ("udp://127.0.0.1:1", {"datagram_maximum": 70_000}),
    ],
)
async def test_arguments_that_make_no_sense(address: Any, options: dict[str, Any]) -> None:
    """They are refused before anything is opened."""
    with pytest.raises(ValueError, match=r".+"):
        await dial_datagram(address, **options)


async def test_a_dial_cancelled_at_any_step_leaves_nothing() -> None:
    """Whichever wait is cancelled, no socket stays open, and a handler that saw the open sees the close."""
    events: list[str] = []

    class Client(DatagramHandler):
        def on_open(self, session: DatagramSession) -> None:
            events.append("open")

        def on_close(self, session: DatagramSession, reason: CloseReason) -> None:
            events.append("close")

    before = open_sockets()
    address = nobody()
    for steps in range(8):
        dialling = asyncio.create_task(dial_datagram(address, Client()))
        for _ in range(steps):
            await asyncio.sleep(0)
        dialling.cancel()
        await asyncio.wait([dialling])
        if not dialling.cancelled():
            dialling.result().close()
        await eventually(lambda: open_sockets() == before)
        await eventually(lambda: events.count("open") == events.count("close"))
