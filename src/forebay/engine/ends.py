"""Who is at the two ends of a connection."""

from __future__ import annotations

import asyncio
import socket
import struct
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from forebay.engine.address import join_host_port

if TYPE_CHECKING:
    from forebay.engine.certificates import TLSInfo
    from forebay.wire.proxy_header import ProxyHeader

__all__ = ["Ends", "host_of"]

_numbers = count(1)
_UCRED = struct.Struct("3i")  # pid, uid, gid: socket(7), SO_PEERCRED
_UNIX = "unix"
_UNKNOWN = "unknown"
_MAPPED = "::ffff:"  # an IPv4 peer of a socket that takes both families (RFC 4291 section 2.5.5.2)


def host_of(name: Any) -> str:
    """The host in what ``getpeername`` gives, an IPv4 one as such, whichever family the socket is of."""
    host: str = name[0]
    return host.removeprefix(_MAPPED) if "." in host else host


class Ends:
    """The part of a :class:`~forebay.engine.connection.Connection` that says who is connected.

    ``peer_host`` is the peer's address, or ``unix``; ``proxy_header`` what a trusted proxy said of the peer, which then
    counts instead of the proxy's own address.
    """

    __slots__ = ("_id", "_peer_port", "peer_host", "proxy_header", "transport")

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._id = 0
        self.peer_host = _UNKNOWN  # the peer may be gone before we could ask who it is
        self._peer_port = 0
        self.proxy_header: ProxyHeader | None = None

    @property
    def id(self) -> int:
        """A number that no other connection of this process has."""
        if not self._id:
            self._id = next(_numbers)
        return self._id

    @property
    def peer(self) -> str:
        """The other end: ``host:port``; on a UNIX socket ``unix:`` and its process id."""
        return join_host_port(self.peer_host, self._peer_port) if self._peer_port else self.peer_host

    @property
    def local(self) -> str:
        """Our end: ``host:port``, or a path."""
        name = self.transport.get_extra_info("sockname")
        if isinstance(name, tuple):
            return join_host_port(host_of(name), name[1])
        if isinstance(name, bytes):  # an abstract UNIX socket
            name = name.replace(b"\0", b"@", 1).decode(errors="replace")
        return name or _UNKNOWN

    @property
    def tls(self) -> TLSInfo | None:
        """How it is encrypted, and who the peer is; ``None``: it is not."""
        return cast("TLSInfo | None", self.transport.get_extra_info("forebay_tls"))

    @property
    def identity(self) -> str | None:
        """Who the peer is by its verified certificate, or by what a trusted proxy verified; ``None``: nobody knows."""
        header = self.proxy_header
        if header is not None and header.command == "proxy":  # its own certificate would be the proxy's
            return header.tls.identity if header.tls is not None else None
        return self.tls.identity if self.tls is not None else None

    @property
    def credentials(self) -> tuple[int, int, int] | None:
        """The peer's process, user and group id as of its connect, on a UNIX socket; ``None`` on any other."""
        return _credentials(self.transport)

    def name_peer(self) -> None:
        """Find out who the peer is. Called once, when there is a transport."""
        header = self.proxy_header
        name = self.transport.get_extra_info("peername")
        if header is not None and header.source is not None:
            self.peer_host, self._peer_port = header.source if header.source[0] else (_UNIX, 0)
        elif isinstance(name, tuple):
            self.peer_host, self._peer_port = host_of(name), name[1]
        elif (known := self.credentials) is not None:
            self.peer_host, self._peer_port = _UNIX, known[0]


def _credentials(transport: asyncio.BaseTransport) -> tuple[int, int, int] | None:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    try:
        pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except OSError:  # it is closed already
        return None
    return pid, uid, gid
