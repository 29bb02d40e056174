"""Sockets that listen, and where they come from.

On its own a process opens them itself. A worker process is given its supervisor's instead, so that connections which
are queued while a worker is replaced are not lost: :func:`set_socket_source` is how it says so.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable

from forebay.engine.address import Address
from forebay.errors import StartError

__all__ = ["SocketSource", "listen", "open_socket", "set_socket_source"]

SocketSource = Callable[[Address], Awaitable[socket.socket]]

_source: SocketSource | None = None


def open_socket(address: Address, backlog: int = 1024) -> socket.socket:
    """A new non-blocking socket that listens on ``address``.

    A name is resolved, and the first of its addresses taken. An IPv6 socket takes no IPv4 connections, so that both
    families can be listened on with one port.

    :param backlog: connections the kernel queues before somebody accepts them.
    :raises StartError: in one line, on which address and why not.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartError(f"cannot listen on {address}: {_reason(error)}") from error
    family, kind, protocol, _, where = found[0]
    sock = None
    try:
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(backlog)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise StartError(f"cannot listen on {address}: {_reason(error)}") from error
    return sock


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "its host name is not known"
    return os.strerror(error.errno).lower() if error.errno else str(error)


def set_socket_source(source: SocketSource | None) -> None:
    """Where :func:`listen` takes sockets from in this process; ``None``: it opens them itself, as it does at first."""
    global _source
    _source = source


async def listen(address: Address) -> socket.socket:
    """A socket that listens on ``address``, from this process's source. The caller closes it.

    :raises StartError: it cannot be listened on.
    """
    return open_socket(address) if _source is None else await _source(address)
