"""What a header of the PROXY protocol says, in either version. See :mod:`forebay.wire.proxy_header`."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

__all__ = [
    "WITH_CERTIFICATE",
    "WITH_SESSION_CERTIFICATE",
    "WITH_TLS",
    "Command",
    "Endpoint",
    "Family",
    "ProxyHeader",
    "ProxyTLS",
    "Transport",
    "as_inet6",
    "check_port",
    "inet6_host",
    "parse_host",
]

Endpoint = tuple[str, int]
"""Host and port. An IPv4 address in IPv6's clothes (``::ffff:192.0.2.1``) is given as IPv4. Of a UNIX socket: its path
and 0; the path of an abstract one begins with NUL, and that of one without a name is empty."""

Command = Literal["local", "proxy"]
Family = Literal["unspec", "inet", "inet6", "unix"]
Transport = Literal["unspec", "stream", "dgram"]

WITH_TLS = 0x01
WITH_CERTIFICATE = 0x02
WITH_SESSION_CERTIFICATE = 0x04


@dataclass(frozen=True, slots=True)
class ProxyTLS:
    """What the proxy says about TLS between the client and itself (section 2.2.6).

    ``flags`` and ``verify`` are the numbers as received; :attr:`verified` reads them. ``common_name`` is that of the
    client's certificate *whether it was verified or not*: take :attr:`identity` to decide who somebody is.
    """

    flags: int = WITH_TLS
    verify: int = 0
    version: str | None = None
    common_name: str | None = None
    cipher: str | None = None
    signature_algorithm: str | None = None
    key_algorithm: str | None = None

    @property
    def encrypted(self) -> bool:
        """The client came over TLS."""
        return bool(self.flags & WITH_TLS)

    @property
    def verified(self) -> bool:
        """The client showed a certificate, on this connection or earlier in its session, and the proxy verified it.

        ``verify`` alone does not tell: proxies also send its 0 for clients that showed none.
        """
        return self.verify == 0 and bool(self.flags & (WITH_CERTIFICATE | WITH_SESSION_CERTIFICATE))

    @property
    def identity(self) -> str | None:
        """The common name of the client's verified certificate; ``None`` without one."""
        return self.common_name if self.verified else None


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """One header.

    ``source`` is the client, ``destination`` what it connected to. Both are ``None`` when the connection's own ends
    count: the proxy made it on its own account (``command`` is ``"local"``, such as a health check), or could not say
    (``family`` or ``transport`` is ``"unspec"``; in version 1 ``UNKNOWN``). Whatever else such a header holds is
    skipped, as the specification says.

    Of version 2's extras, ``alpn``, ``authority`` (what the client called the server, its SNI), ``unique_id`` (at most
    128 bytes), ``tls`` and ``crc32c`` (which was right) are ``None`` when they were not sent. ``tlvs`` holds the
    others, as pairs of type and value, in their order.
    """

    version: Literal[1, 2] = 2
    command: Command = "proxy"
    family: Family = "unspec"
    transport: Transport = "unspec"
    source: Endpoint | None = None
    destination: Endpoint | None = None
    alpn: bytes | None = None
    authority: str | None = None
    crc32c: int | None = None
    unique_id: bytes | None = None
    tls: ProxyTLS | None = None
    tlvs: tuple[tuple[int, bytes], ...] = ()

    @classmethod
    def between(cls, source: Endpoint, destination: Endpoint) -> ProxyHeader:
        """The header of a stream from ``source`` to ``destination``: IP addresses with ports, or UNIX paths with 0.

        :raises ValueError: a host is no IP address, a port no port, or one end is a UNIX socket and the other is not.
        """
        families = {_family(source), _family(destination)}
        if "unix" in families and len(families) > 1:
            raise ValueError(f"one of {source} and {destination} is a UNIX socket, the other is not")
        family: Family = "inet6" if len(families) > 1 else families.pop()
        return cls(family=family, transport="stream", source=source, destination=destination)


def _family(end: Endpoint) -> Family:
    host, port = end
    check_port(port)
    if host[:1] in ("", "/", "\0"):
        return "unix"
    return "inet" if parse_host(host).version == 4 else "inet6"


def parse_host(host: str) -> IPv4Address | IPv6Address:
    """The address ``host`` spells.

    :raises ValueError: it is none, or has a scope (``%eth0``).
    """
    try:
        if "%" in host:
            raise ValueError("a scope has no meaning on another host")
        return ip_address(host)
    except ValueError:
        raise ValueError(f"host {host!r}: must be an IP address, or the absolute path of a UNIX socket") from None


def as_inet6(host: str) -> IPv6Address:
    """The address ``host`` spells; an IPv4 one in IPv6's clothes (RFC 4291 section 2.5.5.2).

    :raises ValueError: it is none, or has a scope.
    """
    address = parse_host(host)
    return address if isinstance(address, IPv6Address) else IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)


def check_port(port: int) -> None:
    """Raise :class:`ValueError` when ``port`` is none."""
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"port {port}: must be 0 to 65535")


def inet6_host(address: IPv6Address) -> str:
    """How ``address`` is spelled in an :data:`Endpoint`."""
    return str(address.ipv4_mapped or address)
