"""The UDP server: sessions in both styles, and their end."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from forebay.engine import Address, CloseReason, set_socket_source
from forebay.engine.datagram import UDPServer
from forebay.engine.datagram_handler import DatagramHandler
from forebay.engine.datagram_session import DatagramSession
from forebay.engine.settings import Admission
from forebay.errors import ConnectionClosed, DeadlineExceeded, StartError
from forebay.service import Service, State
from tests.conftest import LOOPS
from tests.engine.datagrams import ANY, peer_of
from tests.engine.support import open_sockets
from tests.support import eventually, running

pytestmark = pytest.mark.both_loops


class Echo(DatagramHandler):
    """Sends back what it gets, and closes when told ``bye``."""

    def on_message(self, session: DatagramSession, data: bytes) -> None:
        session.write(data)
        if data == b"bye":
            session.close()


class Recorder(DatagramHandler):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_open(self, session: DatagramSession) -> None:
        self.events.append("open")

    def on_message(self, session: DatagramSession, data: bytes) -> None:
        self.events.append(data)
        session.write(data)

    def on_drain(self, session: DatagramSession) -> None:
        self.events.append("drain")
        super().on_drain(session)

    def on_tick(self, session: DatagramSession) -> None:
        self.events.append("tick")

    def on_close(self, session: DatagramSession, reason: CloseReason) -> None:
        self.events.append(reason)


async def echo(session: DatagramSession) -> None:
    """The same in coroutine style."""
    async for data in session:
        await session.send(data)
        if data == b"bye":
            return


@pytest.mark.parametrize("handler", [Echo, echo])
async def test_echo(handler: Any) -> None:
    """Datagrams come back whole, to whoever sent them, in both styles."""
    async with running(UDPServer(handler, bind=ANY)) as server:
        with peer_of(server.addresses[0]) as one, peer_of(server.addresses[0]) as two:
            one.send(b"1")
            two.send(b"2")
            assert await one.receive() == b"1"
            assert await two.receive() == b"2"
            assert await one.ask(b"x" * 65_507) == b"x" * 65_507
            assert await one.ask(b"") == b""
        assert server.sessions == 2
        assert server.statistics()["messages_in"] == server.statistics()["messages_out"] == 4
        assert isinstance(server, Service)


async def test_what_a_session_knows() -> None:
    """Who is at both ends, how much went by, and a place for the handler's own things."""
    seen: list[DatagramSession] = []

    async def handler(session: DatagramSession) -> None:
        seen.append(session)
        session.state = "mine"
        await echo(session)

    async with running(UDPServer(handler, bind=ANY)) as server:
        with peer_of(server.addresses[0]) as peer:
            await peer.ask(b"abc")
            (session,) = seen
            assert session.peer == peer.name
            assert session.peer_host == "127.0.0.1"
            assert session.local == f"127.0.0.1:{server.addresses[0].port}"
            assert (session.bytes_in, session.bytes_out, session.messages_in, session.messages_out) == (3, 3, 1, 1)
            assert session.writable
            assert session.write_buffer_size() == 0
            assert session.state == "mine"
            assert peer.name in repr(session)
            assert "sessions=1" in repr(server)


@pytest.mark.parametrize("handler", [Echo, echo])
async def test_a_closed_session_is_followed_by_another(handler: Any) -> None:
    """Nothing tells the peer of the close: what it sends next opens a new session."""
    async with running(UDPServer(handler, bind=ANY)) as server:
        with peer_of(server.addresses[0]) as peer:
            for _ in range(3):
                assert await peer.ask(b"bye") == b"bye"
            await eventually(lambda: server.statistics()["closed"] == {"app": 3})
            assert server.sessions == 0
            assert server.statistics()["opened"] == 3


async def test_events_in_their_order() -> None:
    """Open first, close last and once, with the reason; ticks in between."""
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    async with running(UDPServer(make, bind=ANY, tick=0.05)) as server:
        with peer_of(server.addresses[0]) as peer:
            await peer.ask(b"one")
            await eventually(lambda: "tick" in made[0].events)
            await asyncio.wait_for(server.drain(), 5)
    events = [event for event in made[0].events if event != "tick"]
    assert events == ["open", b"one", "drain", CloseReason.DRAIN]


@pytest.mark.parametrize("handler", [Echo, echo])
async def test_silence_expires_a_session(handler: Any) -> None:
    """A session ends once nothing was received for its timeout; one that is used does not."""
    async with running(UDPServer(handler, bind=ANY, session_timeout=0.3)) as server:
        with peer_of(server.addresses[0]) as silent, peer_of(server.addresses[0]) as busy:
            await silent.ask(b"x")
            while server.statistics()["closed"] != {"expired": 1}:
                await busy.ask(b"y")
            assert server.sessions == 1
        await eventually(lambda: server.statistics()["closed"] == {"expired": 2})
        await eventually(lambda: not server.tasks)


async def test_expiry_ends_a_coroutine_that_waits_for_something_else() -> None:
    """A coroutine that does not receive is cancelled when its peer is gone; one that does sees the end."""
    ends: list[str] = []

    async def handler(session: DatagramSession) -> None:
        try:
            if await session.receive() == b"wait":
                await asyncio.Event().wait()
            with pytest.raises(ConnectionClosed, match="expired"):
                await session.receive()
            ends.append("told")
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async with running(UDPServer(handler, bind=ANY, session_timeout=0.1)) as server:
        with peer_of(server.addresses[0]) as one, peer_of(server.addresses[0]) as two:
            one.send(b"wait")
            two.send(b"receive")
            await eventually(lambda: sorted(ends) == ["cancelled", "told"])
        assert server.statistics()["closed"] == {"expired": 2}


async def test_a_backlog_is_not_the_peers_silence() -> None:
    """A session does not expire while its coroutine is behind with what came."""
    gate = asyncio.Event()
    sessions: list[DatagramSession] = []
    got: list[bytes] = []

    async def handler(session: DatagramSession) -> None:
        sessions.append(session)
        await gate.wait()
        async for data in session:
            got.append(data)

    async with running(UDPServer(handler, bind=ANY)) as server:
        with peer_of(server.addresses[0]) as peer:
            peer.send(b"1")
            await eventually(lambda: sessions)
            sessions[0].on_expired()  # as the timer wheel does
            assert not sessions[0].closing
            assert sessions[0].expires_at > sessions[0].opened_at + 60
            gate.set()
            await eventually(lambda: got == [b"1"])
            sessions[0].on_expired()
            await eventually(lambda: server.statistics()["closed"] == {"expired": 1})


async def test_a_handler_may_set_its_own_deadline() -> None:
    """``expire_in`` replaces the session timeout, in either direction."""
    timeouts: list[bytes] = []

    class Custom(Echo):
        def on_message(self, session: DatagramSession, data: bytes) -> None:
            session.state = data
            session.expire_in(0.05 if data == b"soon" else None)
            session.write(data)

        def on_timeout(self, session: DatagramSession) -> None:
            timeouts.append(session.state)
            super().on_timeout(session)

    async with running(UDPServer(Custom, bind=ANY, session_timeout=0.2)) as server:
        with peer_of(server.addresses[0]) as soon, peer_of(server.addresses[0]) as never:
            await never.ask(b"never")
            for _ in range(3):
                await soon.ask(b"soon")
                await eventually(lambda: server.sessions == 1)
        assert timeouts == [b"soon"] * 3


async def test_receive_has_a_timeout() -> None:
    """``receive`` gives up after its timeout, and the session lives on."""
    late = asyncio.Event()

    async def handler(session: DatagramSession) -> None:
        await session.receive()
        with pytest.raises(DeadlineExceeded, match="no datagram within"):
            await session.receive(timeout=0.01)
        late.set()
        await session.send(await session.receive(timeout=5))

    async with running(UDPServer(handler, bind=ANY)) as server:
        with peer_of(server.addresses[0]) as peer:
            peer.send(b"1")
            await asyncio.wait_for(late.wait(), 5)
            assert await peer.ask(b"2") == b"2"


async def test_event_style_does_not_receive() -> None:
    """An event-style handler that calls ``receive`` is told what to do instead, and its session closes."""

    class Confused(DatagramHandler):
        def on_message(self, session: DatagramSession, data: bytes) -> None:
            session.__aiter__().receive().send(None)

    with capture_logs() as logs:
        async with running(UDPServer(Confused, bind=ANY)) as server:
            with peer_of(server.addresses[0]) as peer:
                peer.send(b"x")
                await eventually(lambda: server.statistics()["closed"] == {"error": 1})
    assert "on_message" in str(next(entry for entry in logs if entry["event"] == "handler failed")["exc_info"])


@pytest.mark.parametrize("style", ["event", "coroutine", "factory"])
async def test_failing_handlers_cost_their_session_alone(style: str) -> None:
    """What a handler raises is logged, at most once a second, and the server serves on."""

    class Fails(Echo):
        def on_message(self, session: DatagramSession, data: bytes) -> None:
            if data == b"bad":
                raise LookupError("broken")
            super().on_message(session, data)

    async def fails(session: DatagramSession) -> None:
        async for data in session:
            if data == b"bad":
                raise KeyError("broken")
            await session.send(data)

    made = 0

    def make() -> Echo:
        nonlocal made
        made += 1
        if made % 2 == 0:
            raise ValueError("broken")
        return Echo()

    handler: Any = {"event": Fails, "coroutine": fails, "factory": make}[style]
    with capture_logs() as logs:
        async with running(UDPServer(handler, bind=ANY)) as server:
            for _ in range(5):
                with peer_of(server.addresses[0]) as good, peer_of(server.addresses[0]) as bad:
                    assert await good.ask(b"good") == b"good"
                    bad.send(b"bad")
                    if style == "factory":
                        await eventually(lambda: server.statistics()["dropped"].get("error") == made // 2)
            statistics = server.statistics()
            assert server.sessions == (
                5 if style == "factory" else await eventually(lambda: server.sessions == 5) and 5
            )
            if style != "factory":
                await eventually(lambda: server.statistics()["closed"] == {"error": 5})
            assert statistics["opened"] >= 5
    assert len([entry for entry in logs if entry.get("exc_info")]) == 1


@pytest.mark.parametrize("fails", ["on_open", "on_timeout", "on_drain", "on_tick", "on_close"])
async def test_every_event_may_fail(fails: str) -> None:
    """Whichever event raises: it is logged, the session ends, and what it held is given back."""

    def broken(*_: Any) -> None:
        raise ValueError("broken")

    handler = type("Broken", (Echo,), {fails: broken})
    with capture_logs() as logs:
        async with running(UDPServer(handler, bind=ANY, session_timeout=0.05, tick=0.02)) as server:
            with peer_of(server.addresses[0]) as peer:
                peer.send(b"x")
                await eventually(lambda: server.statistics()["opened"] == 1)
                if fails == "on_drain":
                    await asyncio.wait_for(server.drain(), 5)
                await eventually(lambda: not server.sessions)
        reason = "expired" if fails == "on_close" else "error"
        assert server.statistics()["closed"] == {reason: 1}
    assert [entry["event"] for entry in logs].count("handler failed") == 1


async def test_another_sessions_end_is_a_failure() -> None:
    """``ConnectionClosed`` of one's own session is an end; that of another's is not passed over in silence."""
    first: list[DatagramSession] = []

    async def forward(session: DatagramSession) -> None:
        if not first:
            first.append(session)
            return
        await first[0].send(b"x")

    with capture_logs() as logs:
        async with running(UDPServer(forward, bind=ANY)) as server:
            with peer_of(server.addresses[0]) as one, peer_of(server.addresses[0]) as two:
                one.send(b"1")
                await eventually(lambda: server.statistics()["closed"] == {"app": 1})
                two.send(b"2")
                await eventually(lambda: server.statistics()["closed"] == {"app": 1, "error": 1})
    assert "handler failed" in [entry["event"] for entry in logs]


async def test_several_addresses_of_both_families() -> None:
    """One server on several sockets; each answers from the one it was called at."""
    async with running(UDPServer(Echo, bind=[ANY, ANY, "udp://[::1]:0"])) as server:
        assert len({address.port for address in server.addresses}) >= 2
        for address in server.addresses:
            assert address.port
            with peer_of(address) as peer:
                assert await peer.ask(b"x") == b"x"
        assert server.sessions == 3


async def test_both_families_on_one_socket() -> None:
    """On ``*`` an IPv4 peer is named as one."""
    names: list[str] = []

    class Named(Echo):
        def on_open(self, session: DatagramSession) -> None:
            names.append(session.peer)

    async with running(UDPServer(Named, bind="udp://*:0")) as server:
        port = server.addresses[0].port
        with peer_of(Address("udp", "127.0.0.1", port)) as four, peer_of(Address("udp", "::1", port)) as six:
            assert await four.ask(b"4") == b"4"
            assert await six.ask(b"6") == b"6"
            assert names == [four.name, f"[::1]:{six.sock.getsockname()[1]}"]


async def test_an_address_in_use_is_a_start_error() -> None:
    """Then nothing is bound, and no socket is left."""
    before = open_sockets()
    async with running(UDPServer(Echo, bind=ANY)) as server:
        second = UDPServer(Echo, bind=[ANY, str(server.addresses[0])])
        with pytest.raises(StartError, match="in use"):
            await second.start()
        assert second.state is State.STOPPED
    await eventually(lambda: open_sockets() == before)


async def test_a_stream_socket_is_refused() -> None:
    """A socket source that gives the wrong kind of socket is told so, and the socket is closed."""
    before = open_sockets()

    async def source(address: Address) -> socket.socket:
        return socket.socket()

    set_socket_source(source)
    try:
        with pytest.raises(StartError):
            await UDPServer(Echo, bind=ANY).start()
    finally:
        set_socket_source(None)
    gc.collect()
    assert open_sockets() == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"bind": []},
        {"bind": "tcp://127.0.0.1:1"},
        {"max_sessions": 0},
        {"inbound_limit": 0},
        {"session_timeout": 0.0},
        {"tick": -1.0},
        {"datagram_maximum": 70_000},
        {"send_limit": -1},
        {"receive_buffer": 0},
        {"buffer_memory": -1},
        {"handler": 3},
        {"handler": 3, "stateless": True},
    ],
)
def test_arguments_that_make_no_sense(wrong: dict[str, Any]) -> None:
    """They are refused when the server is made."""
    with pytest.raises(ValueError, match=r".+"):
        UDPServer(**{"handler": Echo, "bind": ANY, **wrong})


async def test_admission() -> None:
    """One host may have only so many sessions, and new ones come only so fast."""
    bounded = UDPServer(Echo, bind=ANY, admission=Admission(per_peer=2))
    async with running(bounded) as server:
        with ExitStack() as stack:
            peers = [stack.enter_context(peer_of(server.addresses[0])) for _ in range(3)]
            for peer in peers:
                peer.send(b"x")
            with peer_of(server.addresses[0], "127.0.0.2") as other:
                assert await other.ask(b"y") == b"y"
            assert server.statistics()["dropped"] == {"per-peer": 1}
            for peer in peers[:2]:
                assert await peer.receive() == b"x"
            await eventually(lambda: server.sessions == 3)
            for session in list(server._sessions):
                session.close()
            await eventually(lambda: not server.sessions)
            assert await peers[2].ask(b"z") == b"z"
    async with running(UDPServer(Echo, bind=ANY, admission=Admission(rate=0.001, burst=2))) as server:
        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(peer_of(server.addresses[0])).send(b"x")
            await eventually(lambda: server.statistics()["dropped"] == {"rate": 3})
            assert server.sessions == 2


async def test_metrics() -> None:
    """Every number of the statistics is a family, with every reason from the start."""
    async with running(UDPServer(Echo, bind=ANY, name="game")) as server:
        with peer_of(server.addresses[0]) as peer:
            await peer.ask(b"abc")
        families = {family.name: family for family in server.collect()}
        assert families["forebay_udp_sessions"].samples[0].value == 1
        assert families["forebay_udp_received_bytes"].samples[0].value == 3
        assert families["forebay_udp_sent_messages"].samples[0].value == 1
        reasons = {dict(sample.labels)["reason"] for sample in families["forebay_udp_dropped"].samples}
        assert {"kernel", "inbox", "max-sessions", "length", "memory", "drain"} <= reasons
        assert all(("server", "game") in sample.labels for family in families.values() for sample in family.samples)


async def test_a_thousand_sessions() -> None:
    """Every peer has its own session, and its own answers."""
    async with running(UDPServer(echo, bind=ANY, receive_buffer=1 << 20)) as server:
        with ExitStack() as stack:
            peers = [
                stack.enter_context(peer_of(server.addresses[0], f"127.0.{n // 200}.{n % 200 + 2}"))
                for n in range(1000)
            ]
            for start in range(0, 1000, 100):
                for number in range(start, start + 100):
                    peers[number].send(b"%d" % number)
                for number in range(start, start + 100):
                    assert await peers[number].receive() == b"%d" % number
            assert server.sessions == 1000
            await asyncio.wait_for(server.drain(), 10)
        assert server.statistics()["closed"] == {"drain": 1000}


@settings(max_examples=25)
@given(payloads=st.lists(st.binary(max_size=3000), max_size=20), loop=st.sampled_from(sorted(LOOPS)))
def test_any_payloads_come_back_in_order(payloads: list[bytes], loop: str) -> None:
    """Whatever bytes, empty ones included, over either loop."""

    async def exchange() -> list[bytes]:
        async with running(UDPServer(Echo, bind=ANY)) as server:
            with peer_of(server.addresses[0]) as peer:
                for payload in payloads:
                    peer.send(payload)
                return [await peer.receive() for _ in payloads]

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        assert runner.run(exchange()) == payloads
