"""The listening sockets that a supervisor holds for its workers, so that they outlive them."""

from __future__ import annotations

import socket
from collections.abc import Container

from forebay.engine.address import Address
from forebay.engine.listener import bound_address, open_socket, release
from forebay.engine.process import Process, SocketKey

__all__ = ["HeldSockets"]


class HeldSockets:
    """Sockets by what they are for.

    Of a socket for connections there is one, which all workers accept from; the kernel gives each connection to one of
    them. For datagrams each worker's place has its own socket on the same port (``SO_REUSEPORT``): the kernel always
    gives what comes from one peer to the same one, and a restarted worker finds what was queued for the one before.
    """

    def __init__(self) -> None:
        self._held: dict[SocketKey, tuple[socket.socket, Address]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def give(self, process: Process, address: Address, *, may_open: bool) -> socket.socket | None:
        """The socket for ``process`` to listen on ``address``, noted as one of its ``listens``.

        :param may_open: whether one that is not held is opened; else the answer is ``None`` then.
        :raises StartError: it cannot be opened.
        """
        key = _key(process, address)
        if key not in self._held:
            if not may_open:
                return None
            self._held[key] = self._open(key, address)
        sock, _ = self._held[key]
        process.listens[key] = bound_address(address, sock)
        return sock

    def _open(self, key: SocketKey, address: Address) -> tuple[socket.socket, Address]:
        if key.kind != "udp":
            return open_socket(address), address
        if key.port == 0:  # the port is the one that the first worker of this kind got
            for other, (sock, _) in self._held.items():
                if (other.kind, other.host, other.spec, other.nth) == ("udp", key.host, key.spec, key.nth):
                    address = address.with_port(sock.getsockname()[1])
                    break
        return open_socket(address, reuse_port=True), address

    def close(self, *, but_for: Container[SocketKey] = ()) -> None:
        """Close them. Files of UNIX sockets go with them."""
        for key in [key for key in self._held if key not in but_for]:
            release(*self._held.pop(key))


def _key(process: Process, address: Address) -> SocketKey:
    kind = address.kind
    spec, nth = "", 0
    if address.port == 0 and kind in ("tcp", "udp"):  # any port, but after a restart the same one again
        spec = process.spec.name
        nth = sum(1 for key in process.listens if key.port == 0 and key.kind in ("tcp", "udp"))
    return SocketKey(kind, address.host, address.port, spec, nth, process.name if kind == "udp" else "")
