"""Where the servers of a name are: resolvers, which say so, and again whenever it changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Protocol, runtime_checkable

from forebay.engine.address import Address, parse_address
from forebay.engine.dns_cache import DNSCache
from forebay.engine.loop import sleep
from forebay.http.client.endpoint import Endpoint, endpoint_of
from forebay.http.client.url import parse_url

__all__ = ["DNSResolver", "ResolvedTarget", "Resolver", "StaticResolver", "checked", "resolver_of"]

_UNIX = "unix://"


@dataclass(frozen=True, slots=True)
class ResolvedTarget:
    """One server, as a resolver knows it.

    :param url: its scheme, host and port: what the ``host`` field says, and whose certificate is expected. A path
        behind them says nothing.
    :param address: where to connect to, an IP address, or ``unix:///path``; empty: to whatever the host's name means.
    :param weight: its share of the work, at least 1.
    :param zone: where it is; empty: not known.
    :param backup: used only while no other can be.
    :raises ValueError: one of them is wrong.

    A ``unix:///path`` for the URL is ``http://localhost`` at that address.
    """

    url: str
    address: str = ""
    weight: int = 1
    zone: str = ""
    backup: bool = False

    def __post_init__(self) -> None:
        if self.url.startswith(_UNIX) and not self.address:
            object.__setattr__(self, "address", self.url)  # frozen for others
            object.__setattr__(self, "url", "http://localhost")
        parse_url(self.url)
        if self.address.startswith(_UNIX):
            parse_address(self.address, schemes=("unix",))
        if self.weight < 1:
            raise ValueError(f"weight {self.weight} of {self.url}: must be at least 1")

    @property
    def name(self) -> str:
        """Says which one it is, in statistics and logs."""
        origin = parse_url(self.url).origin
        return f"{origin} at {self.address}" if self.address else origin

    def endpoint(self) -> Endpoint:
        """Where connections to it lead."""
        found = endpoint_of(parse_url(self.url))
        if not self.address:
            return found
        if self.address.startswith(_UNIX):
            return replace(found, address=parse_address(self.address, schemes=("unix",)))
        return replace(found, address=Address("tcp", self.address, found.address.port))


@runtime_checkable
class Resolver(Protocol):
    """Knows where the servers of a name are."""

    @property
    def url(self) -> str:
        """The base URL of requests, as in ``http://orders/v1``: its origin stands for all of the servers together."""

    def watch(self) -> AsyncIterator[Sequence[str | ResolvedTarget]]:
        """The whole set of servers, soon, and again whenever it has changed. A URL is a server of weight 1.

        One that ends has said all that there is to say. One that raises is asked anew later.
        """


class StaticResolver:
    """Servers that stay what they are.

    :ivar targets: they.
    :raises ValueError: there is none, one is twice, or has another path than the first.
    """

    __slots__ = ("targets", "url")

    def __init__(self, *targets: str | ResolvedTarget) -> None:
        self.targets = checked(targets)
        paths = {target.name: parse_url(target.url).path.rstrip("/") for target in self.targets}
        if len(set(paths.values())) > 1:
            said = ", ".join(f"{path or '/'} at {name}" for name, path in paths.items())
            raise ValueError(f"targets of one client: must all have the same path, and have {said}")
        self.url = self.targets[0].url

    async def watch(self) -> AsyncIterator[Sequence[str | ResolvedTarget]]:
        """These, once."""
        yield self.targets


class DNSResolver:
    """Every address of a host name is a server: for names that many servers stand behind, as those of a headless
    service are. Each is asked for by the name, which its certificate is expected to be for.

    :param url: its host is the name.
    :param cache: finds the addresses, and knows how long they are good for; closed by its owner. None: one of its own,
        which asks as every program of this machine does.
    :param every: seconds above 0 between looks into the cache; a lookup is made when what it has is too old.
    :raises ValueError: a parameter is out of range.
    """

    __slots__ = ("_cache", "_every", "url")

    def __init__(self, url: str, cache: DNSCache | None = None, *, every: float = 5.0) -> None:
        parse_url(url)
        if not 0 < every < inf:
            raise ValueError(f"every {every}: must be above 0 seconds, and finite")
        self.url = url
        self._cache = cache
        self._every = every

    async def watch(self) -> AsyncIterator[Sequence[str | ResolvedTarget]]:
        """All addresses, whenever there are others than before.

        :raises LookupFailed: there are none.
        """
        url = parse_url(self.url)
        cache = DNSCache() if self._cache is None else self._cache
        known: list[str] = []
        try:
            while True:
                found = sorted({str(info[4][0]) for info in await cache(url.host, url.port)})
                if found != known:
                    known = found
                    yield [ResolvedTarget(self.url, address) for address in found]
                await sleep(self._every)
        finally:
            if self._cache is None:
                await cache.close()


def checked(targets: Sequence[str | ResolvedTarget]) -> tuple[ResolvedTarget, ...]:
    """A set of servers, none of which is a text any more.

    :raises ValueError: there is none, one is twice, or is no URL.
    """
    found: dict[str, ResolvedTarget] = {}
    for given in targets:
        target = ResolvedTarget(given) if isinstance(given, str) else given
        if not isinstance(target, ResolvedTarget):
            raise TypeError(f"target of type {type(target).__name__}: must be a URL, or a ResolvedTarget")
        if found.setdefault(target.name, target) is not target:
            raise ValueError(f"target {target.name}: is there twice")
    if not found:
        raise ValueError("no targets: must be at least one")
    return tuple(found.values())


def resolver_of(base: Sequence[str | ResolvedTarget] | Resolver) -> Resolver:
    """What a client was given for its base URL, where that is more than one URL.

    :raises TypeError: it is something else.
    """
    if isinstance(base, Resolver):
        return base
    if not isinstance(base, Sequence):
        raise TypeError(f"Client base of type {type(base).__name__}: must be a URL, a list of them, or a Resolver")
    return StaticResolver(*base)
