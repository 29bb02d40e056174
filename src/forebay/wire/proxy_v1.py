"""Version 1 of the PROXY protocol (section 2.1): one line of text. See :mod:`forebay.wire.proxy_header`."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from forebay.errors import ProxyHeaderError
from forebay.wire.proxy_fields import Endpoint, Family, ProxyHeader, as_inet6, inet6_host

__all__ = ["encode_v1", "end_of_v1", "read_v1"]

_START = b"PROXY "
_LONGEST = 107
_ADDRESSES = re.compile(rb"PROXY TCP([46]) (\S+) (\S+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})")


def encode_v1(source: Endpoint | None = None, destination: Endpoint | None = None) -> bytes:
    """The line of version 1 (section 2.1) for a TCP connection; ``UNKNOWN`` when an end is not known.

    :raises ValueError: a host is not an IP address, or a port no port.
    """
    if source is None or destination is None:
        return b"PROXY UNKNOWN\r\n"
    header = ProxyHeader.between(source, destination)
    if header.family == "unix":
        raise ValueError("version 1 has no UNIX sockets")
    if header.family == "inet":
        name, hosts = "TCP4", (source[0], destination[0])
    else:
        name, hosts = "TCP6", (str(as_inet6(source[0])), str(as_inet6(destination[0])))
    return f"PROXY {name} {hosts[0]} {hosts[1]} {source[1]} {destination[1]}\r\n".encode()


def end_of_v1(held: bytearray) -> int:
    """Where the line ends; 0: not yet."""
    if not _START.startswith(held[: len(_START)]):
        raise ProxyHeaderError("this is no PROXY header")
    line = held[:_LONGEST]
    at = line.find(b"\r\n")
    if at >= 0:
        return at + 2
    if b"\n" in line or b"\r" in line[:-1]:
        raise ProxyHeaderError("the PROXY line ends with CR or LF alone")
    if len(line) == _LONGEST:
        raise ProxyHeaderError(f"the PROXY line does not end within {_LONGEST} bytes")
    return 0


def read_v1(line: bytes) -> ProxyHeader:
    """The meaning of a line, whose end is known to be CRLF."""
    line = line[:-2]
    if b"\n" in line or b"\r" in line:
        raise ProxyHeaderError("the PROXY line holds a CR or LF")
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return ProxyHeader(version=1)
    match = _ADDRESSES.fullmatch(line)
    if match is None:
        raise ProxyHeaderError("the PROXY line is not of the form PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT")
    number, source, destination, source_port, destination_port = match.groups()
    ports = int(source_port), int(destination_port)
    if max(ports) > 0xFFFF:
        raise ProxyHeaderError("the PROXY line holds a port past 65535")
    try:
        hosts = [_host(number, source), _host(number, destination)]
    except ValueError:
        raise ProxyHeaderError(f"the PROXY line holds an address that is not one of TCP{number.decode()}") from None
    family: Family = "inet" if number == b"4" else "inet6"
    return ProxyHeader(1, "proxy", family, "stream", (hosts[0], ports[0]), (hosts[1], ports[1]))


def _host(number: bytes, text: bytes) -> str:
    if number == b"4":
        return str(IPv4Address(text.decode("ascii")))
    if b"%" in text:
        raise ValueError("a scope has no meaning on another host")
    return inet6_host(IPv6Address(text.decode("ascii")))
