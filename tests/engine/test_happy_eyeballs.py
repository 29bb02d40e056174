"""Happy Eyeballs: which address is tried when, and that nothing is left of those that lost."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.engine import happy_eyeballs
from forebay.engine.address import Address
from forebay.engine.happy_eyeballs import AddressInfo, NoneAnswered, Race, connect_first, interleave
from forebay.engine.listener import open_socket
from tests.engine.support import open_sockets
from tests.support import eventually, free_port

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")


def v4(host: str, port: int = 80) -> AddressInfo:
    """An IPv4 address as ``getaddrinfo`` gives it."""
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)


def v6(host: str, port: int = 80) -> AddressInfo:
    """The same for IPv6."""
    return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0)


def test_the_families_take_turns() -> None:
    """The first address's family begins; addresses keep their order within it, and come once."""
    found = [v6("::1"), v6("::2"), v6("::3"), v4("127.0.0.1"), v6("::1"), v4("127.0.0.2")]
    assert [info[4][0] for info in interleave(found)] == ["::1", "127.0.0.1", "::2", "127.0.0.2", "::3"]
    assert interleave([]) == []


def test_a_name_with_very_many_addresses() -> None:
    """Only so many are tried."""
    assert len(interleave([v4(f"127.0.{n // 256}.{n % 256}") for n in range(5000)])) == 32


def test_attempts_are_staggered() -> None:
    """Each attempt has its head start, and the next is due neither before nor after it is over."""
    race = Race(["a", "b", "c"], 0.25)
    assert race.wait(10.0) == 0
    assert race.start(10.0) == "a"
    assert race.start(10.0) is None
    assert race.wait(10.0) == 0.25
    assert race.wait(10.2) == pytest.approx(0.05)
    assert race.start(10.25) == "b"
    assert race.wait(10.25) == 0.25
    assert race.start(10.5) == "c"
    assert race.wait(10.5) is None
    assert race.start(99.0) is None
    assert not race.lost


def test_a_failure_starts_the_next_at_once() -> None:
    """So does it when an earlier one is still under way; when all have failed, the race is lost."""
    race = Race(["a", "b", "c"], 0.25)
    race.start(1.0)
    race.failed("a", REFUSED, 1.01)
    assert race.wait(1.01) == 0
    assert race.start(1.01) == "b"
    assert race.start(1.26) == "c"
    race.failed("c", REFUSED, 1.3)
    assert not race.lost
    race.failed("b", REFUSED, 1.4)
    assert [race.lost] == [True]
    assert [candidate for candidate, _ in race.failures] == ["a", "c", "b"]


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=60), st.integers(0, 8))
def test_every_race_ends(steps: list[tuple[bool, float]], count: int) -> None:
    """Whatever fails when: each candidate is tried once, in order, and all failed means lost."""
    race = Race(list(range(count)), 0.25)
    now = 5.0
    started: list[int] = []
    running: list[int] = []
    for fails, seconds in steps:
        while (candidate := race.start(now)) is not None:
            started.append(candidate)
            running.append(candidate)
        if running and fails:
            race.failed(running.pop(0), REFUSED, now)
        now += seconds
    while not race.lost:
        candidate = race.start(now)
        if candidate is not None:
            started.append(candidate)
            running.append(candidate)
        elif running:
            race.failed(running.pop(), REFUSED, now)
    assert started == list(range(count))
    assert len(race.failures) == count


@contextmanager
def dead_end() -> Iterator[int]:
    """A port of 127.0.0.1 that does not answer: its queue is full."""
    with ExitStack() as stack:
        port = stack.enter_context(open_socket(Address("tcp", "127.0.0.1", 0), backlog=0)).getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port


@contextmanager
def listening() -> Iterator[int]:
    """A port of 127.0.0.1 that answers."""
    with open_socket(Address("tcp", "127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


@pytest.mark.both_loops
async def test_the_first_that_answers_wins() -> None:
    """Addresses that refuse or say nothing cost a moment each, and leave nothing open."""
    with dead_end() as dead, listening() as port:
        before = open_sockets()
        addresses = [v6("::1", free_port()), v4("127.0.0.1", dead), v4("127.0.0.1", port)]
        began = asyncio.get_running_loop().time()
        with await asyncio.wait_for(connect_first(addresses, 0.1), 5) as sock:
            assert sock.getpeername() == ("127.0.0.1", port)
            assert not sock.getblocking()
            assert 0.09 <= asyncio.get_running_loop().time() - began < 2
            assert open_sockets() == before + 1


@pytest.mark.both_loops
async def test_none_answers() -> None:
    """The text says for each address why not; equal reasons are told once."""
    port = free_port()
    before = open_sockets()
    with pytest.raises(NoneAnswered, match=r"^connection refused \(127\.0\.0\.1, 127\.0\.0\.2\)$"):
        await connect_first([v4("127.0.0.1", port), v4("127.0.0.2", port)])
    with pytest.raises(NoneAnswered, match=r"^connection refused$"):
        await connect_first([v4("127.0.0.1", port)])
    with pytest.raises(NoneAnswered, match=r"127\.0\.0\.8\), and 12 more$"):
        await connect_first([v4(f"127.0.0.{n}", port) for n in range(1, 21)])
    assert open_sockets() == before


@pytest.mark.both_loops
async def test_cancelled() -> None:
    """All attempts are closed at once, also the one that was to start next."""
    with dead_end() as dead:
        before = open_sockets()
        addresses = [v4("127.0.0.1", dead), v4("127.0.0.2", free_port()), v4("127.0.0.1", dead)]
        task = asyncio.create_task(connect_first([addresses[0], addresses[2]], 0.01))
        await eventually(lambda: open_sockets() > before)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert open_sockets() == before
        await asyncio.sleep(0.02)  # no attempt starts after the end
        assert open_sockets() == before


@pytest.mark.both_loops
async def test_cancelled_in_the_moment_of_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """A winner that nobody fetches is closed."""
    won = happy_eyeballs._Runners._won

    def win_and_cancel(self: Any, sock: socket.socket) -> None:
        won(self, sock)
        task.cancel()

    monkeypatch.setattr(happy_eyeballs._Runners, "_won", win_and_cancel)
    with listening() as port:
        before = open_sockets()
        task = asyncio.create_task(connect_first([v4("127.0.0.1", port)]))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert open_sockets() == before


class Seen:
    """An observer that notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def started(self, info: AddressInfo) -> None:
        self.heard.append(("started", info[4][0]))

    def ended(self, info: AddressInfo, error: OSError | None) -> None:
        self.heard.append(("won" if error is None else type(error).__name__, info[4][0]))

    def given_up(self, info: AddressInfo) -> None:
        self.heard.append(("given up", info[4][0]))


@pytest.mark.both_loops
async def test_an_observer_hears_of_each_attempt() -> None:
    """That it starts, and how it ends, in this order; one that is overtaken or cancelled was given up."""
    with dead_end() as dead, listening() as port:
        seen = Seen()
        addresses = [v4("127.0.0.2", free_port()), v4("127.0.0.1", dead), v4("127.0.0.3", port), v4("127.0.0.1", port)]
        with await connect_first(addresses, 0.05, observer=seen):
            assert seen.heard == [
                ("started", "127.0.0.2"),
                ("ConnectionRefusedError", "127.0.0.2"),
                ("started", "127.0.0.1"),
                ("started", "127.0.0.3"),
                ("ConnectionRefusedError", "127.0.0.3"),
                ("started", "127.0.0.1"),
                ("won", "127.0.0.1"),
                ("given up", "127.0.0.1"),
            ]
        seen = Seen()
        task = asyncio.create_task(connect_first([v4("127.0.0.1", dead)], observer=seen))
        await eventually(lambda: seen.heard)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen.heard == [("started", "127.0.0.1"), ("given up", "127.0.0.1")]


async def test_an_order_that_is_given_is_kept() -> None:
    """As far as the bound."""
    refused = free_port()
    seen = Seen()
    addresses = [v4("127.0.0.1", refused), v4("127.0.0.2", refused), v6("::1", refused)]
    with pytest.raises(NoneAnswered):
        await connect_first(addresses, in_order=True, observer=seen)
    assert [host for step, host in seen.heard if step == "started"] == ["127.0.0.1", "127.0.0.2", "::1"]
    seen = Seen()
    many = [v4(f"127.0.0.{n}", refused) for n in range(1, 41)]
    with pytest.raises(NoneAnswered):
        await connect_first(many, in_order=True, observer=seen)
    assert len(seen.heard) == 64
