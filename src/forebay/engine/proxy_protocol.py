"""The PROXY protocol on connections that come in: who is behind the proxy that connected.

:mod:`forebay.wire.proxy_header` reads the header; here is decided from whom it is expected, and for how long. What does
so is a layer: a protocol that has the raw transport until the header is there, and then makes room for the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from math import inf
from typing import Any, Protocol, cast

from forebay.engine.address import join_host_port
from forebay.engine.handler import CloseReason
from forebay.engine.loop import Ticker
from forebay.errors import ProxyHeaderError
from forebay.wire.proxy_header import ProxyHeader, ProxyHeaderParser

__all__ = ["ProxyHeaderReader", "ProxyProtocol"]

_UNIX = "unix"

Connect = Callable[[asyncio.Transport, ProxyHeader | None, bytes], asyncio.BaseProtocol]
"""Given the raw transport, the header (``None``: none was expected of this peer) and the bytes that came after it, put
the next protocol on the transport, call its ``connection_made``, feed it the bytes, and return it."""


@dataclass(frozen=True, slots=True)
class ProxyProtocol:
    """Whose PROXY header is read, version 1 or 2.

    A trusted peer has to begin every connection with one: a server that guessed whether there is one could be told
    anything by anybody (section 5 of the specification). What the header says then counts as the connection's ends;
    when it says ``LOCAL`` or ``UNKNOWN``, its own ends do. What others send is not looked at.

    :param trusted: addresses and networks of the proxies, as in ``"10.0.0.0/8"``; ``"unix"``: everybody who may connect
        to a UNIX socket of ours.
    :param required: refuse everybody else.
    :param timeout: seconds in which the whole header has to be there.
    :raises ValueError: an argument makes no sense.
    """

    trusted: Sequence[str] = ("127.0.0.0/8", "::1/128", _UNIX)
    required: bool = False
    timeout: float = 3.0
    _networks: tuple[IPv4Network | IPv6Network, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.trusted, str) or not self.trusted:
            raise ValueError('ProxyProtocol: trusted must list proxies, as in ("10.0.0.0/8",)')
        if self.timeout <= 0:
            raise ValueError("ProxyProtocol: timeout must be more than 0")
        try:
            networks = tuple(ip_network(one) for one in self.trusted if one != _UNIX)
        except ValueError as error:
            raise ValueError(f"ProxyProtocol: trusted: {error}") from None
        object.__setattr__(self, "trusted", tuple(self.trusted))
        object.__setattr__(self, "_networks", networks)

    def trusts(self, host: str) -> bool:
        """Whether ``host``, an address, is one of the proxies; empty: the peer of a UNIX socket."""
        if not host:
            return _UNIX in self.trusted
        try:
            address = ip_address(host)
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped  # it came to a socket of both families
        return any(address in network for network in self._networks)


class LayerOwner(Protocol):
    """Whom the layer tells what becomes of it."""

    @property
    def ticker(self) -> Ticker:
        """The loop's."""

    def arrived(self, layer: ProxyHeaderReader) -> bool:
        """A connection came. False: it is closed at once, and not spoken of again."""

    def left(self, layer: ProxyHeaderReader, reason: CloseReason, detail: str) -> None:
        """It ended before the next protocol was connected. Called at most once, and last."""


class ProxyHeaderReader(asyncio.Protocol):
    """Reads a connection's PROXY header, if its peer is to send one, and then connects the next protocol.

    ::

        new -> reading -> connected        the header is there: the next protocol has the transport
          \\        \\--> ended              no header, a broken one, too late, or aborted: the owner is told
           \\-------> connected            nobody expects a header of this peer
            \\------> ended                ... but it is required, or the owner did not let it in

    At most one header and one read of the network are held.

    :param connect: called when the header is there; see :data:`Connect`.
    """

    __slots__ = (
        "_connect", "_connected", "_detail", "_owner", "_parser", "_reason", "_settings", "_transport", "due_at",
        "expires_at", "peer", "peer_host", "upper",
    )  # fmt: skip

    def __init__(self, owner: LayerOwner, settings: ProxyProtocol, connect: Connect) -> None:
        self.peer = ""  # "host:port": of the proxy, and once the header is there of whom it speaks for
        self.peer_host = ""
        self.upper: asyncio.BaseProtocol | None = None
        self.expires_at = inf
        self.due_at = inf
        self._owner = owner
        self._settings = settings
        self._connect = connect
        self._parser = ProxyHeaderParser()
        self._transport: asyncio.Transport | None = None
        self._connected = False
        self._reason: CloseReason | None = None  # why it ends
        self._detail = ""

    def __repr__(self) -> str:
        state = "connected" if self._connected else self._reason or "reading"
        return f"<ProxyHeaderReader {self.peer or 'unix'} {state}>"

    def abort(self, reason: CloseReason) -> None:
        """Reset the connection. Nothing happens when the next protocol has it, or it has ended."""
        self._end(reason, "")

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection came."""
        self._transport = transport = cast(asyncio.Transport, transport)
        self._name(transport.get_extra_info("peername"))
        if not self._owner.arrived(self):
            self._transport = None
            transport.abort()
        elif self._reason is not None:
            return  # it was aborted on arrival
        elif self._settings.trusts(self.peer_host):
            self._owner.ticker.arm(self, self._settings.timeout)
        elif self._settings.required:
            self._end(CloseReason.PROXY_HEADER, "it is not a trusted proxy, and nobody else may connect")
        else:
            self._go_on(None, b"")

    def data_received(self, data: bytes) -> None:
        """Some of the header, and perhaps of what follows."""
        if self._reason is not None or self._transport is None:
            return  # it was on its way when we gave up
        try:
            found = self._parser.feed(data)
        except ProxyHeaderError as error:
            self._end(CloseReason.PROXY_HEADER, str(error))
            return
        if found is not None:
            header, length = found
            if header.source is not None:
                self._name(header.source)
            self._go_on(header, data[length:])

    def eof_received(self) -> None:
        """The peer sends nothing more: a port scan or a probe when it sent nothing at all."""
        if self._parser.pending:
            try:
                self._parser.eof()
            except ProxyHeaderError as error:
                self._end(CloseReason.PROXY_HEADER, str(error))
        else:
            self._end(CloseReason.PEER, "it sent nothing")

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._owner.ticker.discard(self)
        transport, self._transport = self._transport, None
        if transport is None:
            return  # it was not let in, or the next protocol has it
        if self._reason is None:
            self._reason = CloseReason.RESET if error is not None else CloseReason.PEER
            self._detail = f"in its header: {error}" if error is not None else ""
        self._owner.left(self, self._reason, self._detail)

    # The timer wheel

    def on_expired(self) -> None:
        """The header did not come in time."""
        had = self._parser.pending
        came = f"{had} bytes of one came" if had else "nothing came"
        self._end(CloseReason.PROXY_HEADER, f"no PROXY header within {self._settings.timeout:g} s, {came}")

    def _name(self, end: Any) -> None:
        """Take ``end``, a socket's address or one of a header, for the peer's."""
        if isinstance(end, tuple) and end[0] and not end[0].startswith(("/", "\0")):
            self.peer_host = end[0]
            self.peer = join_host_port(end[0], end[1])

    def _end(self, reason: CloseReason, detail: str) -> None:
        if self._reason is None and not self._connected and self._transport is not None:
            self._reason = reason
            self._detail = detail
            self._transport.abort()

    def _go_on(self, header: ProxyHeader | None, rest: bytes) -> None:
        transport, self._transport = self._transport, None
        assert transport is not None
        self._owner.ticker.discard(self)
        self._connected = True
        self.upper = self._connect(transport, header, rest)
