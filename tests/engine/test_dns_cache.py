"""Names to addresses: how long they are kept, in which order they are tried, and what happens when nobody answers."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from forebay.engine import dns_cache as module
from forebay.engine.connection import Connection
from forebay.engine.dial import dial
from forebay.engine.dns_backends import Found
from forebay.engine.dns_cache import DNSCache, DNSSettings, LookupFailed
from forebay.engine.dns_entries import Entries
from forebay.engine.happy_eyeballs import AddressInfo
from forebay.engine.server import TCPServer
from forebay.engine.tunnel import Tunnel
from forebay.errors import ConnectFailed, ConnectTimeout, MissingExtra
from tests.engine.name_server import REFUSED, SERVFAIL, NameServer
from tests.engine.support import open_sockets
from tests.support import eventually, free_port, running

UNKNOWN = LookupFailed("unknown", unknown=True)
BROKEN = LookupFailed("broken")


def info(address: str) -> AddressInfo:
    """An address as a backend finds it."""
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 0, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 0)


def hosts(found: list[AddressInfo]) -> list[str]:
    """Only the addresses."""
    return [one[4][0] for one in found]


# Entries: the time is passed in


def test_an_answer_is_good_for_its_ttl() -> None:
    """Within the bounds of the settings; without a TTL for the one of the settings."""
    for ttl, seconds in ((None, 30), (7, 7), (0, 2), (1, 2), (99_999, 600)):
        entries = Entries(DNSSettings(ttl=30, least_ttl=2, most_ttl=600))
        assert entries.get("a.example", 100) is None
        entries.found("a.example", [info("192.0.2.1")], ttl, 100)
        found = entries.get("a.example", 100 + seconds - 0.001)
        assert found is not None
        assert hosts(found.ordered(80, 101)) == ["192.0.2.1"]
        assert entries.get("a.example", 100 + seconds) is None


def test_the_port_is_put_in() -> None:
    """One answer serves all ports; scopes of IPv6 addresses stay."""
    scoped: AddressInfo = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 0, 0, 2))
    entry = Entries(DNSSettings()).found("a.example", [info("192.0.2.1"), scoped], 60, 0)
    assert [one[4] for one in entry.ordered(8080, 1)] == [("192.0.2.1", 8080), ("fe80::1", 8080, 0, 2)]


def test_the_families_take_turns_and_failures_come_last() -> None:
    """What failed is tried last for a while, the latest failure at the very end; what works again is back at once."""
    entries = Entries(DNSSettings(avoid=30))
    found = [info("2001:db8::1"), info("2001:db8::2"), info("192.0.2.1"), info("192.0.2.2")]
    entry = entries.found("a.example", found, 300, 0)
    assert hosts(entry.ordered(80, 0)) == ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"]
    entries.failed("a.example", "2001:db8::1", 5)
    assert hosts(entry.ordered(80, 6)) == ["192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::1"]
    entries.failed("a.example", "192.0.2.1", 10)
    assert hosts(entry.ordered(80, 11)) == ["2001:db8::2", "192.0.2.2", "2001:db8::1", "192.0.2.1"]
    assert hosts(entry.ordered(80, 35)) == ["2001:db8::1", "2001:db8::2", "192.0.2.2", "192.0.2.1"]
    entries.worked("a.example", "192.0.2.1")
    assert hosts(entry.ordered(80, 36)) == ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"]
    entries.failed("a.example", "198.51.100.1", 37)  # none of its addresses, any more
    entries.failed("b.example", "192.0.2.1", 37)
    entries.worked("b.example", "192.0.2.1")
    assert entry.bad == {}


def test_failures_are_remembered_across_answers() -> None:
    """A new answer with the same addresses does not make them work; of those that are gone nothing is kept."""
    entries = Entries(DNSSettings(avoid=30))
    entries.found("a.example", [info("192.0.2.1"), info("192.0.2.2"), info("192.0.2.3")], 5, 0)
    entries.failed("a.example", "192.0.2.1", 4)
    entries.failed("a.example", "192.0.2.3", 4)
    entry = entries.found("a.example", [info("192.0.2.1"), info("192.0.2.2")], 5, 6)
    assert hosts(entry.ordered(80, 7)) == ["192.0.2.2", "192.0.2.1"]
    assert set(entry.bad) == {"192.0.2.1"}


def test_when_no_address_answers_the_name_is_looked_up_again() -> None:
    """It may have moved; but never more often than every ``least_ttl`` seconds."""
    entries = Entries(DNSSettings(least_ttl=2))
    entries.found("a.example", [info("192.0.2.1"), info("192.0.2.2")], 300, 100)
    entries.failed("a.example", "192.0.2.1", 101)
    assert entries.get("a.example", 150) is not None
    entries.failed("a.example", "192.0.2.2", 101)
    assert entries.get("a.example", 101.9) is not None
    assert entries.get("a.example", 102) is None


def test_unknown_names_are_kept_shortly() -> None:
    """So are failures; both in place of an answer that is too old."""
    for error in (UNKNOWN, BROKEN):
        entries = Entries(DNSSettings(negative_ttl=1, stale_if_error=10))
        entries.found("a.example", [info("192.0.2.1")], 5, 0)
        entry, first = entries.missed("a.example", error, 15)
        assert (entry.error, first) == (error, True)
        assert entries.get("a.example", 15.9) is entry
        assert entries.get("a.example", 16) is None


def test_stale_if_error() -> None:
    """An old answer serves while lookups fail, is rechecked now and then, and not for ever."""
    entries = Entries(DNSSettings(stale_if_error=60, recheck=10))
    entries.found("a.example", [info("192.0.2.1")], 30, 0)
    assert entries.get("a.example", 30) is None
    entry, first = entries.missed("a.example", BROKEN, 33)
    assert (entry.stale, first, entry.error) == (True, True, None)
    assert entries.get("a.example", 42.9) is entry
    assert entries.get("a.example", 43) is None
    entry, first = entries.missed("a.example", BROKEN, 85)
    assert (entry.stale, first) == (True, False)
    assert entries.get("a.example", 89.9) is entry
    assert entries.get("a.example", 90) is None, "it serves for 60 s past its time, and then it is over"
    entry, _ = entries.missed("a.example", BROKEN, 90)
    assert entry.error is BROKEN
    entry = entries.found("a.example", [info("192.0.2.2")], 30, 100)
    assert not entry.stale


def test_an_unknown_name_has_no_stale_answer() -> None:
    """That it is gone is an answer (RFC 8767 section 4)."""
    entries = Entries(DNSSettings())
    entries.found("a.example", [info("192.0.2.1")], 5, 0)
    entry, _ = entries.missed("a.example", UNKNOWN, 6)
    assert entry.error is UNKNOWN


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.floats(0, 50)), max_size=60), st.integers(1, 5))
def test_never_more_than_the_bound(steps: list[tuple[int, bool, float]], bound: int) -> None:
    """Whatever happens, only so many names are kept, and nothing is used past its time."""
    entries = Entries(DNSSettings(entries=bound, ttl=5, stale_if_error=0))
    at = 0.0
    for number, works, later in steps:
        at += later
        host = f"{number}.example"
        known = entries.get(host, at)
        if known is not None:
            assert at < known.good_until <= known.found_at + 5
        elif works:
            entries.found(host, [info("192.0.2.1")], None, at)
        else:
            assert entries.missed(host, BROKEN, at)[0].error is BROKEN
        assert len(entries) <= bound


def test_the_least_recently_used_is_forgotten() -> None:
    """Using a name keeps it."""
    entries = Entries(DNSSettings(entries=2))
    for host in ("a", "b"):
        entries.found(host, [info("192.0.2.1")], 60, 0)
    assert entries.get("a", 1)
    entries.found("c", [info("192.0.2.1")], 60, 2)
    assert entries.get("a", 3)
    assert entries.get("b", 3) is None
    assert entries.evicted == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "udp"}, "backend 'udp': must be 'system' or 'dns'"),
        ({"nameservers": ["10.0.0.2"]}, "only the backend 'dns'"),
        ({"backend": "dns", "nameservers": "10.0.0.2"}, "must be a sequence"),
        ({"backend": "dns", "nameservers": ["ns.example"]}, "nameservers 'ns.example': must be an address"),
        ({"backend": "dns", "nameservers": ["10.0.0.2:0"]}, "must be an address"),
        ({"backend": "dns", "nameservers": ["10.0.0.2:x"]}, "must be an address"),
        ({"backend": "dns", "nameservers": ["[::1"]}, "must be an address"),
        ({"backend": "dns", "nameservers": ["[::1]53"]}, "must be an address"),
        ({"entries": 0}, "entries 0: must be at least 1"),
        ({"ttl": 0}, "ttl 0: must be above 0"),
        ({"least_ttl": -1}, "least_ttl -1: must be above 0"),
        ({"timeout": float("inf")}, "timeout inf: must be above 0 and finite"),
        ({"negative_ttl": -1}, "negative_ttl -1: must be at least 0"),
        ({"avoid": float("nan")}, "avoid nan: must be at least 0"),
        ({"most_ttl": 0.5}, r"most_ttl 0\.5: must be at least least_ttl, 1\.0"),
    ],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    """Each mistake has an error that says what would be right."""
    with pytest.raises(ValueError, match=message):
        DNSSettings(**settings)


def test_nameservers() -> None:
    """Their port is 53 unless it is given."""
    given = ["10.0.0.2", "127.0.0.1:5353", "::1", "[::1]:54", "[::1]"]
    expected = ("10.0.0.2:53", "127.0.0.1:5353", "[::1]:53", "[::1]:54", "[::1]:53")
    assert DNSSettings(backend="dns", nameservers=given).nameservers == expected


# The cache, over a backend that is told what to find


class Fake:
    """A backend."""

    def __init__(self) -> None:
        self.answer: Callable[[], Found] = lambda: ([info("192.0.2.1")], 10.0)
        self.asked: list[str] = []
        self.hold: asyncio.Event | None = None
        self.closed = False

    async def find(self, host: str) -> Found:
        self.asked.append(host)
        if self.hold is not None:
            await self.hold.wait()
        return self.answer()

    async def close(self) -> None:
        self.closed = True


def failing(error: LookupFailed) -> Callable[[], Found]:
    """Raises."""

    def fail() -> Found:
        raise error

    return fail


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The cache's clock."""
    time = [1000.0]
    monkeypatch.setattr(module, "now", lambda: time[0])
    return time


async def test_a_name_is_looked_up_once(time: list[float]) -> None:
    """Until its time is over; whatever its spelling."""
    fake = Fake()
    async with DNSCache(backend=fake) as cache:
        assert await cache.look_up("a.example", 80) == ([(*info("192.0.2.1")[:4], ("192.0.2.1", 80))], False)
        assert (await cache.look_up("A.Example", 443))[1] is True
        time[0] += 9.9
        assert hosts(await cache("a.example", 80)) == ["192.0.2.1"]
        assert fake.asked == ["a.example"]
        time[0] += 0.1
        assert (await cache.look_up("a.example", 80))[1] is False
        assert fake.asked == ["a.example"] * 2
        statistics = cache.statistics()
        assert (statistics["entries"], statistics["hits"], statistics["lookups"]) == (1, 2, 2)
        cache.clear()
        await cache("a.example", 80)
        assert len(fake.asked) == 3
    assert fake.closed


async def test_concurrent_lookups_are_one() -> None:
    """Who is cancelled leaves the others alone."""
    fake = Fake()
    fake.hold = asyncio.Event()
    cache = DNSCache(backend=fake)
    tasks = [asyncio.create_task(cache("a.example", port)) for port in range(80, 90)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks[0].cancel()
    fake.hold.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert [found[0][4] for found in results[1:] if isinstance(found, list)] == [
        ("192.0.2.1", port) for port in range(81, 90)
    ]
    assert fake.asked == ["a.example"]
    assert cache.statistics()["shared"] == 9


async def test_an_unknown_name(time: list[float]) -> None:
    """It is asked for again only after the negative TTL; each caller has an error of its own."""
    fake = Fake()
    fake.answer = failing(UNKNOWN)
    cache = DNSCache(backend=fake)
    errors = []
    for _ in range(3):
        with pytest.raises(LookupFailed) as caught:
            await cache("a.example", 80)
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert all(error.unknown for error in errors)
    assert len(fake.asked) == 1
    fake.answer = lambda: ((), None)
    time[0] += 1
    with pytest.raises(LookupFailed, match="has no address"):
        await cache("a.example", 80)
    statistics = cache.statistics()
    assert (statistics["negative_hits"], statistics["failed"], statistics["lookups"]) == (2, 2, 2)


async def test_a_lookup_that_fails_or_hangs(time: list[float]) -> None:
    """The old answer serves, is logged once, and not waited for again before the recheck."""
    fake = Fake()
    cache = DNSCache(DNSSettings(timeout=0.05, recheck=10), backend=fake)
    await cache("a.example", 80)
    time[0] += 10
    fake.hold = asyncio.Event()
    with capture_logs() as logs:
        assert await cache.look_up("a.example", 80) == (await cache("a.example", 80), True)
        time[0] += 10
        fake.hold, fake.answer = None, failing(BROKEN)
        await cache("a.example", 80)
        await cache("a.example", 80)
    assert len(fake.asked) == 3
    assert [(log["event"], log["host"], log["age"]) for log in logs] == [
        ("lookup failed, an older answer serves", "a.example", 10.0)
    ]
    assert "within 0.05 s" in logs[0]["reason"]
    statistics = cache.statistics()
    assert (statistics["stale"], statistics["timed_out"], statistics["failed"]) == (4, 1, 1)
    time[0] += 1000
    with pytest.raises(LookupFailed, match="broken"):
        await cache("a.example", 80)


async def test_a_hanging_lookup_without_an_older_answer() -> None:
    """It ends in time, and dial says that the lookup was it."""
    fake = Fake()
    fake.hold = asyncio.Event()
    cache = DNSCache(DNSSettings(timeout=0.05, negative_ttl=0), backend=fake)
    with pytest.raises(LookupFailed, match=r"within 0\.05 s") as caught:
        await cache("a.example", 80)
    assert caught.value.timed_out
    with pytest.raises(
        ConnectTimeout, match=r"tcp://a\.example:80: its host name could not be looked up within 0\.05 s"
    ):
        await dial("tcp://a.example:80", resolve=cache)
    fake.hold, fake.answer = None, failing(UNKNOWN)
    with pytest.raises(ConnectFailed, match=r"^cannot connect to tcp://a\.example:80: unknown$") as failed:
        await dial("tcp://a.example:80", resolve=cache)
    assert not isinstance(failed.value, ConnectTimeout)


async def test_literals() -> None:
    """There is nothing to look up."""
    fake = Fake()
    cache = DNSCache(backend=fake)
    assert await cache.look_up("192.0.2.7", 80) == ([(*info("192.0.2.1")[:4], ("192.0.2.7", 80))], True)
    assert hosts(await cache("2001:db8::7", 80)) == ["2001:db8::7"]
    assert fake.asked == []
    assert hosts(await cache("web1", 80)) == ["192.0.2.1"]


@pytest.mark.both_loops
async def test_the_system() -> None:
    """``/etc/hosts`` is looked into, and what is unknown there is."""
    async with DNSCache() as cache:
        assert "127.0.0.1" in hosts(await cache("localhost", 80))
        with pytest.raises(LookupFailed, match="host name"):
            await cache("name.invalid", 80)
        with pytest.raises(LookupFailed, match="is none") as caught:
            await cache(f"{'x' * 64}.example", 80)
        assert caught.value.unknown


# Dialling


async def hang_up(conn: Connection) -> None:
    """End at once."""


@pytest.mark.both_loops
async def test_lookups_that_hang_hold_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither other lookups, up to a bound, nor whatever else takes threads, nor the end of the loop."""
    hold = threading.Event()
    began: list[str] = []

    def look_up(host: str, port: int, **_: Any) -> list[AddressInfo]:
        began.append(host)
        if host.startswith("hang"):
            hold.wait()
        return [info("192.0.2.1")]

    async def main() -> None:
        async with DNSCache(DNSSettings(timeout=0.1)) as cache:
            hanging = [cache(f"hang{number}.example", 80) for number in range(15)]
            errors = await asyncio.gather(*hanging, return_exceptions=True)
            assert all(isinstance(error, LookupFailed) and error.timed_out for error in errors)
            assert hosts(await cache("fine.example", 80)) == ["192.0.2.1"]
            assert await asyncio.to_thread(lambda: 5) == 5
            more = [cache(f"hang{number}.example", 80) for number in range(15, 40)]
            errors = await asyncio.gather(*more, return_exceptions=True)
            assert all(isinstance(error, LookupFailed) and error.timed_out for error in errors)
            assert len(began) == 17, "there is a bound"

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    ended = threading.Event()

    def run() -> None:
        asyncio.run(main())
        ended.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        assert await asyncio.get_running_loop().run_in_executor(None, ended.wait, 5)
    finally:
        hold.set()
        thread.join(5)


@pytest.mark.both_loops
async def test_a_turn_for_each_of_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those past the bound wait for their turn, and those whose caller has gone take none."""
    threads: list[int] = []

    def look_up(host: str, port: int, **_: Any) -> list[AddressInfo]:
        threads.append(sum(thread.name == "forebay-dns" for thread in threading.enumerate()))
        return [info("192.0.2.1")]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with DNSCache() as cache:
        tasks = [asyncio.create_task(cache(f"name{number}.example", 80)) for number in range(200)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.wait(tasks)
        assert [hosts(task.result()) for task in tasks[1::2]] == [["192.0.2.1"]] * 100
        assert max(threads) <= 16


@pytest.mark.both_loops
async def test_dial_tells_which_addresses_answer() -> None:
    """A refused address is tried last the next time, and the other one alone."""
    async with running(TCPServer(hang_up, bind="tcp://127.0.0.1:0")) as server:
        port = server.addresses[0].port
        fake = Fake()
        fake.answer = lambda: ([info("127.0.0.2"), info("127.0.0.3"), info("127.0.0.1")], 60)
        cache = DNSCache(backend=fake)
        tried: list[str] = []

        def watch(step: str, at: float, detail: dict[str, Any]) -> None:
            if step == "connect-start":
                tried.append(detail["address"].partition(":")[0])
            elif step == "dns-done":
                tried.append("cached" if detail["cached"] else "asked")

        for _ in range(2):
            (await dial(f"tcp://a.example:{port}", resolve=cache, watch=watch)).abort()
        assert tried == ["asked", "127.0.0.2", "127.0.0.3", "127.0.0.1", "cached", "127.0.0.1"]
        (await dial(f"tcp://a.example:{port}", resolve=cache)).abort()
    with pytest.raises(ConnectFailed, match="connection refused"):
        await dial(f"tcp://a.example:{free_port()}", resolve=cache)


async def test_dial_keeps_the_order_of_the_cache() -> None:
    """Also where that is not the families taking turns: what failed comes last."""
    port = free_port()
    fake = Fake()
    fake.answer = lambda: ([info("::1"), info("127.0.0.2"), info("127.0.0.3")], 60)
    cache = DNSCache(backend=fake)
    await cache("a.example", port)
    cache.failed("a.example", info("::1"))
    tried: list[str] = []

    def watch(step: str, at: float, detail: dict[str, Any]) -> None:
        if step == "connect-start":
            tried.append(detail["address"].rpartition(":")[0])

    with pytest.raises(ConnectFailed):
        await dial(f"tcp://a.example:{port}", resolve=cache, watch=watch)
    assert tried == ["127.0.0.2", "127.0.0.3", "[::1]"]


async def test_an_address_that_is_slower_than_a_later_one() -> None:
    """Its head start did not help: it is tried last, whichever way it did not answer."""
    with socket.socket() as full:
        full.bind(("127.0.0.2", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.2", port)):
            async with running(TCPServer(hang_up, bind=f"tcp://127.0.0.1:{port}")):
                fake = Fake()
                fake.answer = lambda: ([info("127.0.0.2"), info("127.0.0.1")], 60)
                cache = DNSCache(backend=fake)
                (await dial(f"tcp://a.example:{port}", resolve=cache)).abort()
                assert hosts(await cache("a.example", port)) == ["127.0.0.1", "127.0.0.2"]
            fake.answer = lambda: ([info("127.0.0.2"), info("127.0.0.3")], 60)
            with pytest.raises(ConnectTimeout):
                await dial(f"tcp://b.example:{port}", resolve=cache, timeout=0.1)
            assert hosts(await cache("b.example", port)) == ["127.0.0.3", "127.0.0.2"]


async def test_an_address_that_lost_is_not_blamed_for_a_proxy_that_hangs() -> None:
    """It is given up when an earlier one answers after all: that the proxy there says nothing is no fault of it."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.2", 0))
        port = first.getsockname()[1]
        second.bind(("127.0.0.3", port))
        first.listen(0)
        second.listen(0)
        with socket.create_connection(("127.0.0.2", port)), socket.create_connection(("127.0.0.3", port)):
            accepted: list[socket.socket] = []
            steps: list[tuple[str, Any]] = []

            def watch(step: str, at: float, detail: dict[str, Any]) -> None:
                steps.append((step, detail.get("error")))
                if step == "connect-start" and detail["address"].startswith("127.0.0.3"):
                    accepted.append(first.accept()[0])  # the next attempt at it finds room

            fake = Fake()
            fake.answer = lambda: ([info("127.0.0.2"), info("127.0.0.3"), info("127.0.0.4")], 60)
            cache = DNSCache(backend=fake)
            with pytest.raises(ConnectTimeout):
                tunnel = Tunnel(f"tcp://proxy.example:{port}")
                await dial("tcp://nowhere.example:80", tunnel=tunnel, resolve=cache, watch=watch, timeout=2.0)
            assert [step for step, error in steps if error == "given up"] == ["connect-done", "tunnel-done"]
            assert hosts(await cache("proxy.example", port))[0] == "127.0.0.2"
            assert hosts(await cache("proxy.example", port))[1] == "127.0.0.3"
            for sock in accepted:
                sock.close()


# Name servers


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    """A name server that runs."""
    names = NameServer()
    async with running(names.server):
        yield names


def asking(names: NameServer, **settings: Any) -> DNSCache:
    """A cache that asks it."""
    return DNSCache(DNSSettings(backend="dns", nameservers=[names.address], **{"timeout": 0.6, **settings}))


@pytest.mark.both_loops
async def test_the_ttl_of_an_answer_counts(names: NameServer, time: list[float]) -> None:
    """The least of all its addresses, of both families."""
    names.records["a.example"] = [("192.0.2.1", 60), ("192.0.2.2", 7), ("2001:db8::1", 30)]
    async with asking(names) as cache:
        found = await cache("a.example", 80)
        assert sorted(hosts(found)) == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
        assert {one[4][1] for one in found} == {80}
        assert sorted(names.asked) == [("a.example", 1), ("a.example", 28)]
        time[0] += 6.9
        assert (await cache.look_up("a.example", 80))[1] is True
        time[0] += 0.1
        assert (await cache.look_up("a.example", 80))[1] is False


@pytest.mark.both_loops
async def test_the_ttl_of_an_alias_counts_too(names: NameServer, time: list[float]) -> None:
    """A name that stands for another may soon stand for a third, however long that one's addresses are good for."""
    names.aliases["a.example"] = ("b.example", 0)  # good for the least that is kept, 1 s
    names.records["b.example"] = [("192.0.2.1", 600)]
    async with asking(names) as cache:
        assert hosts(await cache("a.example", 80)) == ["192.0.2.1"]
        names.aliases["a.example"] = ("c.example", 0)
        names.records["c.example"] = [("192.0.2.2", 600)]
        time[0] += 0.9
        assert hosts(await cache("a.example", 80)) == ["192.0.2.1"]
        time[0] += 0.2
        assert hosts(await cache("a.example", 80)) == ["192.0.2.2"]


@pytest.mark.parametrize("failing", [1, 28])
async def test_half_an_answer(names: NameServer, time: list[float], failing: int) -> None:
    """When one family's lookup fails, the addresses of the other count; where it has none, the lookup has failed: that
    is no answer that there are none."""
    there, other = [("192.0.2.1", 0), ("2001:db8::1", 0)][:: 1 if failing == 28 else -1]
    names.records["both.example"] = [there, other]
    names.records["one.example"] = [other]
    async with asking(names) as cache:
        assert hosts(await cache("one.example", 80)) == [other[0]]
        names.failing = failing
        assert hosts(await cache("both.example", 80)) == [there[0]]
        time[0] += 2
        assert hosts(await cache("one.example", 80)) == [other[0]]
        assert cache.statistics()["stale"] == 1


@pytest.mark.both_loops
async def test_name_servers_that_fail(names: NameServer) -> None:
    """Each way is a clear error within the timeout; a name that is unknown is one, and so is one without addresses."""
    names.records["a.example"] = [("192.0.2.1", 1)]
    names.records["empty.example"] = []
    async with asking(names, negative_ttl=0) as cache:
        for name in ("unknown.example", "empty.example"):
            with pytest.raises(LookupFailed, match=r"^its host name is not known$") as caught:
                await cache(name, 80)
            assert caught.value.unknown
        with pytest.raises(LookupFailed, match=r"^its host name is none$"):
            await cache(f"{'x' * 64}.example", 80)
        for number, (status, garbage) in enumerate(
            ((SERVFAIL, None), (REFUSED, None), (0, b""), (0, b"\xff" * 40), (0, b"\x81\x80" + b"\xc0\x0c" * 20))
        ):
            names.status, names.garbage = status, garbage
            with pytest.raises(LookupFailed, match=r"looked up|does not answer") as caught:
                await cache(f"{number}.example", 80)
            assert not caught.value.unknown
        names.status, names.garbage = 0, None
        names.silent = True
        with pytest.raises(LookupFailed) as caught:
            await cache("silent.example", 80)
        assert caught.value.timed_out
        names.silent = False
        assert hosts(await cache("a.example", 80)) == ["192.0.2.1"]


async def test_a_name_server_that_fails_for_a_while(names: NameServer, time: list[float]) -> None:
    """The old answer serves until it works again."""
    names.records["a.example"] = [("127.0.0.1", 0)]
    async with running(TCPServer(hang_up, bind="tcp://127.0.0.1:0")) as server, asking(names) as cache:
        address = f"tcp://a.example:{server.addresses[0].port}"
        (await dial(address, resolve=cache)).abort()
        time[0] += 100
        names.status = SERVFAIL
        with capture_logs() as logs:
            (await dial(address, resolve=cache)).abort()
        assert [log["log_level"] for log in logs] == ["warning"]
        time[0] += 10
        names.status = 0
        names.records["a.example"] = [("127.0.0.2", 0), ("127.0.0.1", 0)]
        assert hosts(await cache("a.example", 80)) == ["127.0.0.2", "127.0.0.1"]


@pytest.mark.both_loops
async def test_hosts_come_before_name_servers(names: NameServer) -> None:
    """``localhost`` is nobody's to say."""
    names.records["localhost"] = [("192.0.2.1", 60)]
    async with asking(names) as cache:
        assert "127.0.0.1" in hosts(await cache("localhost", 80))
        assert names.asked == []


@pytest.mark.both_loops
async def test_lookups_that_are_cancelled(names: NameServer) -> None:
    """At any moment; nothing is left, and the next one works."""
    before = open_sockets()
    names.records["a.example"] = [("192.0.2.1", 0)]
    names.delay = 0.02
    async with asking(names) as cache:
        for moment in range(12):
            task = asyncio.create_task(cache("a.example", 80))
            for _ in range(moment):
                await asyncio.sleep(0)
            if moment > 8:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert hosts(await cache("a.example", 80)) == ["192.0.2.1"]
        hanging = asyncio.create_task(cache("b.example", 80))
        await asyncio.sleep(0.01)
    with pytest.raises(LookupFailed):
        await hanging
    await eventually(lambda: open_sockets() <= before)


def test_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names it."""
    monkeypatch.setitem(sys.modules, "aiodns", None)
    with pytest.raises(MissingExtra, match=r"forebay\[dns\]"):
        DNSCache(DNSSettings(backend="dns"))
