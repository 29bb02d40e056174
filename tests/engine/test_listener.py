"""Listening sockets, and their source."""

from __future__ import annotations

import socket

import pytest

from forebay.engine import Address, listen, open_socket, set_socket_source
from forebay.errors import StartError

ANY = Address("tcp", "127.0.0.1", 0)


def test_listens_without_blocking() -> None:
    """The socket accepts connections, and is not inherited."""
    with open_socket(ANY) as sock, socket.create_connection(sock.getsockname(), timeout=5):
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        sock.settimeout(5)
        sock.accept()[0].close()


def test_both_families_on_one_port() -> None:
    """An IPv6 socket leaves IPv4 alone."""
    with open_socket(Address("tcp", "::", 0)) as six:
        port = six.getsockname()[1]
        open_socket(Address("tcp", "0.0.0.0", port)).close()
        open_socket(Address("tcp", "::1", 0)).close()


def test_errors_name_address_and_reason() -> None:
    """An address in use, one that is not ours, and a name nobody knows: one readable line each."""
    with open_socket(ANY) as sock:
        taken = ANY.with_port(sock.getsockname()[1])
        with pytest.raises(StartError, match=f"^cannot listen on {taken}: address already in use$"):
            open_socket(taken)
    with pytest.raises(StartError, match=r"^cannot listen on tcp://192\.0\.2\.1:0: cannot assign requested address$"):
        open_socket(Address("tcp", "192.0.2.1", 0))
    with pytest.raises(StartError, match="its host name is not known"):
        open_socket(Address("tcp", "name.invalid", 0))


async def test_source() -> None:
    """Sockets come from the source that was set, and are opened here when there is none."""
    mine = open_socket(ANY)
    asked = []

    async def source(address: Address) -> socket.socket:
        asked.append(address)
        return mine

    set_socket_source(source)
    try:
        assert await listen(ANY) is mine
    finally:
        set_socket_source(None)
        mine.close()
    assert asked == [ANY]
    with await listen(ANY) as own:
        assert own is not mine
