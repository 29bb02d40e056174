"""What is known of names, and until when. No clock and no network: the time is passed in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from forebay.engine.dns_settings import DNSSettings, LookupFailed
from forebay.engine.happy_eyeballs import MOST_ADDRESSES, AddressInfo, interleave

__all__ = ["Entries", "Entry"]


class Entry:
    """What is known of one name.

    :ivar addresses: in the order of Happy Eyeballs; empty: ``error`` says why.
    :ivar good_until: it is used without asking anybody until then.
    :ivar expired_at: when the answer's own time is over.
    :ivar stale: the last lookup failed, and this is the answer of an earlier one.
    """

    __slots__ = ("addresses", "bad", "error", "expired_at", "found_at", "good_until", "stale")

    def __init__(self, addresses: Sequence[AddressInfo], at: float, seconds: float, error: LookupFailed | None) -> None:
        self.addresses = list(addresses)
        self.error = error
        self.found_at = at
        self.good_until = self.expired_at = at + seconds
        self.stale = False
        self.bad: dict[str, float] = {}  # addresses that did not answer, and until when they are tried last

    def ordered(self, port: int, at: float) -> list[AddressInfo]:
        """The addresses in the order to try them in: those that failed lately come last, the latest at the end."""
        addresses = self.addresses
        if self.bad:
            self.bad = {address: until for address, until in self.bad.items() if until > at}
            addresses = sorted(addresses, key=lambda info: self.bad.get(info[4][0], 0.0))  # stable: else as they were
        return [_with_port(info, port) for info in addresses]


def _with_port(info: AddressInfo, port: int) -> AddressInfo:
    family, kind, protocol, name, where = info
    return family, kind, protocol, name, (where[0], port, *where[2:])


class Entries:
    """All names that are known. Those used least recently are forgotten past the bound of the settings."""

    __slots__ = ("_entries", "_settings", "evicted")

    def __init__(self, settings: DNSSettings) -> None:
        self._settings = settings
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # the last used comes last
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, host: str, at: float) -> Entry | None:
        """What is good enough to be used now; ``None``: somebody has to be asked."""
        entry = self._entries.get(host)
        if entry is None or at >= entry.good_until:
            return None
        self._entries.move_to_end(host)
        return entry

    def found(self, host: str, addresses: Sequence[AddressInfo], ttl: float | None, at: float) -> Entry:
        """A lookup had this answer, good for ``ttl`` seconds; ``None``: it does not say."""
        settings = self._settings
        seconds = settings.ttl if ttl is None else ttl
        seconds = min(max(seconds, settings.least_ttl), settings.most_ttl)
        before = self._entries.get(host)
        entry = Entry(interleave(addresses)[:MOST_ADDRESSES], at, seconds, None)
        if before is not None and before.bad:
            known = {info[4][0] for info in entry.addresses}
            entry.bad = {address: until for address, until in before.bad.items() if address in known}
        self._keep(host, entry)
        return entry

    def missed(self, host: str, error: LookupFailed, at: float) -> tuple[Entry, bool]:
        """A lookup had no answer: what is used instead, an older answer where there is one, and else the error; and
        whether this is the first failure in a row."""
        settings = self._settings
        entry = self._entries.get(host)
        if entry is not None and entry.addresses and not error.unknown:
            left = entry.expired_at + settings.stale_if_error - at
            if left > 0:
                first = not entry.stale
                entry.stale = True
                entry.good_until = at + min(settings.recheck, left)
                self._entries.move_to_end(host)
                return entry, first
        entry = Entry((), at, settings.negative_ttl, error)
        self._keep(host, entry)
        return entry, True

    def _keep(self, host: str, entry: Entry) -> None:
        self._entries[host] = entry
        self._entries.move_to_end(host)
        if len(self._entries) > self._settings.entries:
            self._entries.popitem(last=False)
            self.evicted += 1

    def failed(self, host: str, address: str, at: float) -> None:
        """``address`` did not answer. When none of the name's does, it is soon looked up anew: it may have moved."""
        entry = self._entries.get(host)
        if entry is None or all(info[4][0] != address for info in entry.addresses):
            return
        entry.bad[address] = at + self._settings.avoid
        if not entry.stale and all(entry.bad.get(info[4][0], 0.0) > at for info in entry.addresses):
            entry.good_until = min(entry.good_until, entry.found_at + self._settings.least_ttl)

    def worked(self, host: str, address: str) -> None:
        """``address`` answered."""
        entry = self._entries.get(host)
        if entry is not None:
            entry.bad.pop(address, None)

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
