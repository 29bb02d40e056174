"""Names to addresses, with a memory."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from forebay.engine.dns_backends import Backend, NameServers, System, numeric
from forebay.engine.dns_entries import Entries, Entry
from forebay.engine.dns_settings import DNSSettings, LookupFailed
from forebay.engine.happy_eyeballs import AddressInfo
from forebay.engine.loop import now
from forebay.engine.single_flight import SingleFlight

__all__ = ["DNSCache", "DNSSettings", "LookupFailed"]

log = structlog.get_logger("forebay.engine")

_SETTINGS = DNSSettings()


class DNSCache:
    """Finds the addresses of names, and keeps them while they are good. For ``resolve`` of
    :func:`~forebay.engine.dial.dial`, which tells it in turn which addresses answered: those that did not are tried
    last for a while. To be used from one loop at a time.

    Concurrent lookups of one name are one. When a lookup fails, an older answer serves for a while; the first time in
    a row that is logged. Literal addresses are returned as they are.

    :raises MissingExtra: the settings ask for ``dns``, and its extra is not installed.
    """

    __slots__ = ("_backend", "_counts", "_entries", "_flight", "settings")

    def __init__(self, settings: DNSSettings = _SETTINGS, *, backend: Backend | None = None) -> None:
        self.settings = settings
        if backend is None:
            backend = NameServers(settings) if settings.backend == "dns" else System()
        self._backend = backend
        self._entries = Entries(settings)
        self._flight: SingleFlight[tuple[Entry, bool]] = SingleFlight()
        self._counts = dict.fromkeys(("hits", "negative_hits", "lookups", "failed", "timed_out", "stale"), 0)

    def __repr__(self) -> str:
        return f"<DNSCache {self.settings.backend} {len(self._entries)} names>"

    async def __call__(self, host: str, port: int) -> list[AddressInfo]:
        """The addresses of ``host``, in the order to try them in.

        :raises LookupFailed: there are none.
        """
        return (await self.look_up(host, port))[0]

    async def look_up(self, host: str, port: int) -> tuple[list[AddressInfo], bool]:
        """The same, and whether they were known already, or are those of an earlier lookup because this one failed.

        :raises LookupFailed: there are none.
        """
        if (host[-1:].isdigit() or ":" in host) and (literal := numeric(host, port)):
            return literal, True
        host = host.lower()
        entry = self._entries.get(host, now())
        if entry is not None:
            cached = True
            self._counts["hits" if entry.error is None else "negative_hits"] += 1
        else:
            entry, cached = await self._flight.run(host, lambda: self._ask(host))
        if entry.error is not None:
            raise entry.error.again()
        if entry.stale:
            self._counts["stale"] += 1
        return entry.ordered(port, now()), cached

    async def _ask(self, host: str) -> tuple[Entry, bool]:
        """What a lookup comes to, and whether that was known before."""
        self._counts["lookups"] += 1
        try:
            try:
                async with asyncio.timeout(self.settings.timeout):
                    addresses, ttl = await self._backend.find(host)
                if not addresses:
                    raise LookupFailed("its host name has no address", unknown=True)
            except TimeoutError:
                text = f"its host name could not be looked up within {self.settings.timeout:g} s"
                raise LookupFailed(text, timed_out=True) from None
        except LookupFailed as error:
            self._counts["timed_out" if error.timed_out else "failed"] += 1
            entry, first = self._entries.missed(host, error, now())
            if entry.stale and first:
                age = round(now() - entry.found_at, 1)
                log.warning("lookup failed, an older answer serves", host=host, age=age, reason=str(error))
            return entry, entry.stale
        return self._entries.found(host, addresses, ttl, now()), False

    def failed(self, host: str, info: AddressInfo) -> None:
        """An address of ``host`` did not answer. Called by dial."""
        self._entries.failed(host.lower(), info[4][0], now())

    def worked(self, host: str, info: AddressInfo) -> None:
        """An address of ``host`` answered. Called by dial."""
        self._entries.worked(host.lower(), info[4][0])

    def clear(self) -> None:
        """Forget all that is known."""
        self._entries.clear()

    def statistics(self) -> dict[str, Any]:
        """How many names are known, and counts since the start: answers from memory (``hits``; ``negative_hits``: that
        a name is unknown), ``lookups``, callers that shared one, what they failed by, and ``stale`` answers given."""
        known = {"entries": len(self._entries), "evicted": self._entries.evicted, "shared": self._flight.shared}
        return {**known, **self._counts}

    async def close(self) -> None:
        """Stop asking. Lookups under way fail."""
        await self._backend.close()

    async def __aenter__(self) -> DNSCache:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
