"""How long the addresses of names are kept, and whom they are asked of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from ipaddress import ip_address
from math import inf
from typing import Literal

from forebay.engine.address import join_host_port

__all__ = ["DNSSettings", "LookupFailed"]

_DNS_PORT = 53


class LookupFailed(OSError):
    """The addresses of a name were not found.

    :param unknown: there is no such name, or it has no address: an answer, and not a failure to get one.
    :param timed_out: the answer did not come in time.
    """

    def __init__(self, message: str, *, unknown: bool = False, timed_out: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown
        self.timed_out = timed_out

    def again(self) -> LookupFailed:
        """The same, to be raised once more."""
        return LookupFailed(str(self), unknown=self.unknown, timed_out=self.timed_out)


@dataclass(frozen=True, slots=True)
class DNSSettings:
    """The settings of a :class:`~forebay.engine.dns_cache.DNSCache`. Times are in seconds, finite.

    :param backend: ``system`` asks as every program of this machine does, by ``getaddrinfo``, which says nothing of how
        long an answer is good for. ``dns`` asks the name servers, and honours the TTLs of their answers; ``/etc/hosts``
        counts as well. It needs the extra ``dns``.
    :param nameservers: addresses to ask, with a port where that is not 53: ``10.0.0.2``, ``127.0.0.1:5353``,
        ``[::1]:53``; empty: those of ``/etc/resolv.conf``. For ``dns`` only.
    :param entries: names that are kept, at least 1; past them, the one used least recently is forgotten.
    :param ttl: how long an answer without a TTL is kept, above 0.
    :param least_ttl: how long every answer is kept, whatever its TTL, above 0.
    :param most_ttl: how long none is kept longer, at least ``least_ttl``.
    :param negative_ttl: how long it is kept that a name is unknown or that its lookup failed, at least 0.
    :param stale_if_error: how long past its time an answer still serves when a lookup fails, at least 0. That a name is
        unknown now is no failure (RFC 8767 section 4).
    :param recheck: how long a stale answer serves before the next lookup is tried, at least 0.
    :param avoid: how long an address that did not answer is tried last, at least 0.
    :param timeout: for one lookup, above 0.
    :raises ValueError: one is out of range, or no address.
    """

    backend: Literal["system", "dns"] = "system"
    nameservers: Sequence[str] = ()
    entries: int = 1024
    ttl: float = 30.0
    least_ttl: float = 1.0
    most_ttl: float = 3600.0
    negative_ttl: float = 1.0
    stale_if_error: float = 300.0
    recheck: float = 10.0
    avoid: float = 30.0
    timeout: float = 3.0

    def __post_init__(self) -> None:
        if self.backend not in ("system", "dns"):
            raise ValueError(f"DNSSettings backend {self.backend!r}: must be 'system' or 'dns'")
        if isinstance(self.nameservers, str):
            raise ValueError(f"DNSSettings nameservers {self.nameservers!r}: must be a sequence of addresses")
        if self.nameservers and self.backend != "dns":
            raise ValueError("DNSSettings nameservers: only the backend 'dns' asks those that it is given")
        object.__setattr__(self, "nameservers", tuple(_nameserver(text) for text in self.nameservers))
        if self.entries < 1:
            raise ValueError(f"DNSSettings entries {self.entries}: must be at least 1")
        above_zero = ("ttl", "least_ttl", "timeout")
        for field in fields(self):
            if field.name in ("backend", "nameservers", "entries"):
                continue
            seconds = getattr(self, field.name)
            if not 0 <= seconds < inf or (seconds == 0 and field.name in above_zero):
                bound = "above 0" if field.name in above_zero else "at least 0"
                raise ValueError(f"DNSSettings {field.name} {seconds}: must be {bound} and finite")
        if self.most_ttl < self.least_ttl:
            raise ValueError(f"DNSSettings most_ttl {self.most_ttl}: must be at least least_ttl, {self.least_ttl}")


def _nameserver(text: str) -> str:
    """``text`` with its port."""
    host, port = text, str(_DNS_PORT)
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            host = ""  # said below
        port = rest[1:] if rest else port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        ip_address(host)
        if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"DNSSettings nameservers {text!r}: must be an address like 10.0.0.2, 127.0.0.1:5353 or [::1]:53"
        ) from None
    return join_host_port(host, int(port))
