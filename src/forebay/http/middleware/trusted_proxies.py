"""Who the client is, behind proxies: ``Forwarded`` (RFC 7239) or ``X-Forwarded-*``, if those who write it are known."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal, NamedTuple

from forebay.http.messages import Request
from forebay.http.request_hook import RequestHook
from forebay.wire.http1 import HeaderPairs

__all__ = ["TrustedProxies"]

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_PAIR = rf"{_NAME}=(?:{_NAME}|{_QUOTED})"
_ELEMENT = re.compile(rf"(?:{_PAIR})?(?:;(?:{_PAIR})?)*")  # RFC 7239 section 4
_PAIRS = re.compile(rf"({_NAME})=({_NAME}|{_QUOTED})")
_QUOTED_COMMAS = 16  # an element with more commas inside of quoted strings is taken as malformed

_PORT = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
_NODE = re.compile(rf"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\]){_PORT}")  # RFC 7239 section 6
_LONGEST_NODE = 64  # characters
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class _Origin(NamedTuple):
    """What proxies say of a request; empty where they do not say."""

    client: str
    scheme: str = ""
    host: str = ""


class TrustedProxies(RequestHook):
    """Sets ``request.client``, ``request.scheme`` and ``request.host`` to what trusted proxies say of the client.

    The outermost middleware, before all that asks who the client is: rate limits, logs, HSTS. What the proxies write is
    a list to which each adds who has connected to *it*, so it is read from its right end: as long as the one who wrote
    an element is trusted, the element is believed. The client is the first who is not trusted, or whoever the list
    begins with. An element that is malformed, or names nobody (``unknown``, ``_hidden``), ends the reading. From peers
    that are not trusted none of it counts.

    The scheme and the host are those of the element that names the client. ``X-Forwarded-Proto`` and ``-Host`` belong
    to it where they have as many elements as ``X-Forwarded-For``, else their last one is used, which the nearest proxy
    has written. What is not well-formed is left out. The client is also noted in the access log, as ``client``.

    Only one kind of header is read: a proxy that writes the one kind passes the other on as the client has sent it.

    :param trusted: addresses (``127.0.0.1``) and networks (``10.0.0.0/8``) of the proxies, and ``unix`` for peers on
        UNIX sockets. Where nobody else can connect, ``0.0.0.0/0`` and ``::/0`` are everybody.
    :param header: ``"x-forwarded"`` (default) or ``"forwarded"``: the kind that the proxies write. They must add to
        ``X-Forwarded-For`` and set ``X-Forwarded-Proto`` and ``-Host``, or remove what clients have sent of them.
    :raises ValueError: nobody is trusted, or one is not an address, network or ``unix``; or there is no such header.
    """

    __slots__ = ("_header", "_read", "_trusted", "_trusts", "_unix")

    def __init__(self, trusted: Iterable[str], *, header: Literal["x-forwarded", "forwarded"] = "x-forwarded") -> None:
        if isinstance(trusted, str):
            raise ValueError(f"TrustedProxies: trusted={trusted!r} must be a list, such as [{trusted!r}]")
        self._trusted = tuple(trusted)
        if not self._trusted:
            raise ValueError("TrustedProxies: trusted is empty; list addresses, networks such as 10.0.0.0/8, or unix")
        networks = [_network(one) for one in self._trusted if one != "unix"]
        self._unix = "unix" in self._trusted
        if header not in ("x-forwarded", "forwarded"):
            raise ValueError(f"TrustedProxies: header={header!r} must be 'x-forwarded' or 'forwarded'")
        self._header = header

        @lru_cache(1024)
        def trusts(address: str) -> bool:
            try:
                found = ip_address(_unmapped(address))
            except ValueError:
                return False
            return any(found in network for network in networks)

        self._trusts: Callable[[str], bool] = trusts
        self._read = self._forwarded if header == "forwarded" else self._x_forwarded

    def __repr__(self) -> str:
        return f"TrustedProxies({list(self._trusted)}, header={self._header!r})"

    def before(self, request: Request) -> None:
        """Set what is known."""
        exchange = request.exchange
        peer = exchange.client
        if self._unix if peer == "unix" else self._trusts(peer):
            client, scheme, host = self._read(peer, exchange.headers)
            if client != peer:
                request.client = client
                request.note("client", client)
            if scheme:
                request.scheme = scheme
            if host:
                request.host = host

    def _x_forwarded(self, peer: str, headers: HeaderPairs) -> _Origin:
        clients: list[str] = []
        schemes: list[str] = []
        hosts: list[str] = []
        for name, value in headers:
            if len(name) in (15, 16, 17):
                key = name.lower()
                if key == b"x-forwarded-for":
                    clients += _split(value)
                elif key == b"x-forwarded-proto":
                    schemes += _split(value)
                elif key == b"x-forwarded-host":
                    hosts += _split(value)
        client = peer
        depth = 0  # the element of the client, counted from the right
        for number, text in enumerate(reversed(clients)):
            node = _address(text, bare=True)
            if not node:
                break
            client, depth = node, number
            if not self._trusts(node):
                break
        scheme = _SCHEMES.get(_at(schemes, depth, len(clients)).lower(), "")
        host = _at(hosts, depth, len(clients))
        return _Origin(client, scheme, host if _HOST.fullmatch(host) else "")

    def _forwarded(self, peer: str, headers: HeaderPairs) -> _Origin:
        text = ",".join(value.decode("latin-1") for name, value in headers if name.lower() == b"forwarded")
        found = _Origin(peer)
        while text:
            element, text = _last_element(text)
            if element is None:
                break
            if not element:
                continue
            node = _address(element.get("for", ""), bare=False)
            host = element.get("host", "")
            scheme = _SCHEMES.get(element.get("proto", "").lower(), "")
            found = _Origin(node or found.client, scheme, host if _HOST.fullmatch(host) else "")
            if not node or not self._trusts(node):
                break
        return found


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(
            f"TrustedProxies: {text!r} must be an address, a network such as 10.0.0.0/8, or unix ({error})"
        ) from None


def _unmapped(address: str) -> str:
    """An IPv4 address that is written as IPv6 (``::ffff:10.0.0.1``) in its own way."""
    if ":" not in address:
        return address
    found = ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return address if mapped is None else str(mapped)


def _split(value: bytes) -> list[str]:
    return [element.strip(" \t") for element in value.decode("latin-1").split(",")]


def _at(values: list[str], depth: int, count: int) -> str:
    """The element that belongs to the client."""
    if not values:
        return ""
    return values[-1 - depth] if len(values) == count else values[-1]


def _address(text: str, *, bare: bool) -> str:
    """The IP address of a node, in its usual form; empty when it is none.

    :param bare: an IPv6 address may come without brackets.
    """
    return _read_address(text, bare) if 0 < len(text) <= _LONGEST_NODE else ""


@lru_cache(1024)
def _read_address(text: str, bare: bool) -> str:
    found = _NODE.fullmatch(text)
    if found is not None:
        address = found[1] or found[2]
        if (found[2] is not None) != (":" in address):
            return ""
    elif bare and text.count(":") > 1 and "%" not in text:
        address = text
    else:
        return ""
    try:
        return str(ip_address(_unmapped(address)))
    except ValueError:
        return ""


def _last_element(text: str) -> tuple[dict[str, str] | None, str]:
    """The last element of a ``Forwarded`` list, and what comes before it. None: it is malformed.

    It is looked for from the right: whatever a client has sent, an open quoted string for example, is on the left of
    what the proxies have added, and must not change how that is read. No part of a well-formed element that begins
    behind a comma in a quoted string is well-formed itself, because the quote at its end would have no beginning.
    """
    comma = len(text)
    for _ in range(_QUOTED_COMMAS + 1):
        comma = text.rfind(",", 0, comma)
        candidate = text[comma + 1 :].strip(" \t")
        if _ELEMENT.fullmatch(candidate):
            return _pairs(candidate), text[: max(0, comma)]
        if comma < 0:
            break
    return None, ""


def _pairs(element: str) -> dict[str, str] | None:
    """Its parameters, names in lower case; None where one comes twice."""
    pairs: dict[str, str] = {}
    for name, value in _PAIRS.findall(element):
        key = name.lower()
        if key in pairs:
            return None
        pairs[key] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] == '"' else value
    return pairs
