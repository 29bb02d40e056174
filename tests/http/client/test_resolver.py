"""Where the servers of a name are: lists, names with many addresses, and resolvers of others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import pytest

from forebay.engine.dns_cache import DNSCache, DNSSettings, LookupFailed
from forebay.engine.loop import now
from forebay.http.client.resolver import DNSResolver, ResolvedTarget, Resolver, StaticResolver, resolver_of
from forebay.testing.virtual_clock import VirtualClock
from tests.http.client.target_servers import Names

A, B = "http://a:1", "http://b:1"


async def test_a_list_of_urls() -> None:
    """Is a set that never changes; the first stands for all."""
    resolver = resolver_of([f"{A}/v1", f"{B}/v1/"])
    assert isinstance(resolver, Resolver)
    assert resolver.url == f"{A}/v1"
    assert [found async for found in resolver.watch()] == [(ResolvedTarget(f"{A}/v1"), ResolvedTarget(f"{B}/v1/"))]
    assert resolver_of(resolver) is resolver


@pytest.mark.parametrize(("made", "said"), [
    (lambda: StaticResolver(), "no targets: must be at least one"),
    (lambda: StaticResolver(A, f"{A}/"), "target http://a:1: is there twice"),
    (lambda: StaticResolver(f"{A}/v1", f"{B}/v2"), "must all have the same path, and have /v1 at http://a:1, /v2"),
    (lambda: StaticResolver("a:1"), "a:1"),
    (lambda: ResolvedTarget(A, weight=0), "weight 0 of http://a:1: must be at least 1"),
    (lambda: StaticResolver("http://ann:secret@a", B), r"'http://\*\*\*@a': must be without a user"),
    (lambda: StaticResolver("unix:///a.sock", "unix:///a.sock"), "localhost at unix:///a.sock: is there twice"),
    (lambda: ResolvedTarget("unix://a.sock"), "relative path"),
    (lambda: ResolvedTarget(A, "unix://"), "has no path"),
    (lambda: DNSResolver("orders"), "orders"),
    (lambda: DNSResolver(A, every=0), "every 0: must be above 0"),
])  # fmt: skip
def test_what_cannot_be(made: Callable[[], Any], said: str) -> None:
    """Is refused at once, with what would be right."""
    with pytest.raises(ValueError, match=said):
        made()


def test_where_a_target_is() -> None:
    """By its own name, wherever it is connected to."""
    plain = ResolvedTarget("https://orders:8443/v1")
    endpoint = plain.endpoint()
    assert (plain.name, endpoint.authority, str(endpoint.address)) == (
        "https://orders:8443", "orders:8443", "tcp://orders:8443",
    )  # fmt: skip
    found = ResolvedTarget("https://orders:8443", "10.0.0.1")
    endpoint = found.endpoint()
    assert found.name == "https://orders:8443 at 10.0.0.1"
    assert (endpoint.scheme, endpoint.authority, endpoint.host) == ("https", "orders:8443", "orders")
    assert str(endpoint.address) == "tcp://10.0.0.1:8443"
    assert str(ResolvedTarget("http://orders", "fd00::1").endpoint().address) == "tcp://[fd00::1]:80"


def test_a_target_on_a_unix_socket() -> None:
    """Is called ``localhost``, or as it is said."""
    plain, called = ResolvedTarget("unix:///run/a.sock"), ResolvedTarget("http://orders", "unix:///run/a.sock")
    assert [str(target.endpoint().address) for target in (plain, called)] == ["unix:///run/a.sock"] * 2
    assert [target.endpoint().authority for target in (plain, called)] == ["localhost", "orders"]
    assert plain.name == "http://localhost at unix:///run/a.sock"


@pytest.mark.parametrize("base", [5, None, [5], b"http://a", [None]])
def test_what_is_no_resolver(base: Any) -> None:
    """Is refused by its type."""
    with pytest.raises(TypeError, match=r"of type (int|NoneType): must be a URL"):
        resolver_of(base)


def addresses(found: Sequence[Any]) -> list[str]:
    """Of a set."""
    return [target.address for target in found]


def test_every_address_of_a_name() -> None:
    """Is a target of that name; the name is looked up when its time is over, and a set is given when it is another."""

    async def main() -> None:
        names = Names("10.0.0.2", "10.0.0.1", ttl=60.0)
        cache = DNSCache(DNSSettings(stale_if_error=0), backend=names)
        resolver = DNSResolver("http://orders:8080/v1", cache, every=5.0)
        watch: AsyncIterator[Any] = resolver.watch()
        first = await anext(watch)
        assert addresses(first) == ["10.0.0.1", "10.0.0.2"]
        assert str(first[0].endpoint().address) == "tcp://10.0.0.1:8080"
        assert first[0].endpoint().authority == "orders:8080"
        began = now()
        names.addresses = ("10.0.0.1", "10.0.0.2")  # the same ones
        asyncio.get_running_loop().call_later(100.0, partial(setattr, names, "addresses", ("10.0.0.3", "10.0.0.1")))
        assert addresses(await anext(watch)) == ["10.0.0.1", "10.0.0.3"]
        assert now() - began == pytest.approx(120.0, abs=5.1)
        assert names.asked == 3
        names.addresses = ()
        with pytest.raises(LookupFailed, match="nobody knows"):
            await anext(watch)
        assert names.closed == 0  # it is its owner's
        await cache.close()

    with VirtualClock(packages=(__name__,)) as clock:
        clock.run(main())


async def test_a_literal_address_needs_no_name_server() -> None:
    """It is a set of one, and what was made for it is closed."""
    watch: Any = DNSResolver("http://127.0.0.1:81").watch()
    assert addresses(await anext(watch)) == ["127.0.0.1"]
    await watch.aclose()
