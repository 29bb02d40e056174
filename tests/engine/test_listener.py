"""Listening sockets of every kind, and their source."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from forebay.engine import Address, listen, open_socket, set_socket_source
from forebay.engine.listener import bound_address, release, serve_socket
from forebay.errors import StartError
from tests.engine.support import open_sockets

ANY = Address("tcp", "127.0.0.1", 0)


def accepts(sock: socket.socket, client: socket.socket) -> str:
    """Accept the connection of ``client``; say what the peer's address is."""
    sock.settimeout(5)
    accepted, peer = sock.accept()
    accepted.close()
    client.close()
    return str(peer[0]) if peer else ""


def connect(path: str | bytes) -> socket.socket:
    """A client of a UNIX socket."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    client.connect(path)
    return client


@contextmanager
def nobody() -> Iterator[None]:
    """Do something without root's rights, also where tests are run by root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("scheme", ["tcp", "tls", "http", "https"])
def test_listens_without_blocking(scheme: str) -> None:
    """The socket accepts connections, and is not inherited."""
    with open_socket(Address(scheme, "127.0.0.1", 0)) as sock:
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        assert accepts(sock, socket.create_connection(sock.getsockname(), timeout=5)) == "127.0.0.1"


def test_a_port_is_free_again_at_once() -> None:
    """Connections of the one before that are not quite forgotten do not keep a port taken."""
    with open_socket(ANY) as sock, socket.create_connection(sock.getsockname(), timeout=5):
        port = sock.getsockname()[1]
        sock.settimeout(5)
        sock.accept()[0].close()  # we close first: it is our side that lingers
    open_socket(ANY.with_port(port)).close()


def test_both_families_on_one_port() -> None:
    """An IPv6 socket leaves IPv4 alone."""
    with open_socket(Address("tcp", "::", 0)) as six:
        port = six.getsockname()[1]
        open_socket(Address("tcp", "0.0.0.0", port)).close()
        open_socket(Address("tcp", "::1", 0)).close()


def test_both_families_on_one_socket() -> None:
    """The host * takes connections of both."""
    with open_socket(Address("tcp", "*", 0)) as sock:
        port = sock.getsockname()[1]
        assert accepts(sock, socket.create_connection(("127.0.0.1", port), timeout=5)) == "::ffff:127.0.0.1"
        assert accepts(sock, socket.create_connection(("::1", port), timeout=5)) == "::1"
        assert str(bound_address(Address("tcp", "*", 0), sock)) == f"tcp://*:{port}"
        with pytest.raises(StartError, match="address already in use"):
            open_socket(Address("tcp", "0.0.0.0", port))


def test_every_address_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no IPv6, the host * is IPv4 alone."""
    real = socket.socket.bind

    def bind(sock: socket.socket, where: tuple[str, int]) -> None:
        if sock.family == socket.AF_INET6:
            raise OSError(99, "cannot assign requested address")
        real(sock, where)

    monkeypatch.setattr(socket.socket, "bind", bind)
    before = open_sockets()
    with open_socket(Address("tcp", "*", 0)) as sock:
        assert accepts(sock, socket.create_connection(("127.0.0.1", sock.getsockname()[1]), timeout=5)) == "127.0.0.1"
    assert open_sockets() == before


def test_a_name_with_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is listened on, and the log says on which it is not."""
    stream = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
    other = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [stream, other])
    with capture_logs() as logs, open_socket(Address("tcp", "two.example", 0)) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
    assert [(entry["listening_on"], entry["not_on"]) for entry in logs] == [("127.0.0.1", ["127.0.0.2"])]


def test_errors_name_address_and_reason() -> None:
    """An address in use, one that is not ours, and a name nobody knows: one readable line each, and nothing leaks."""
    before = open_sockets()
    with open_socket(ANY) as sock:
        taken = ANY.with_port(sock.getsockname()[1])
        with pytest.raises(StartError, match=f"^cannot listen on {taken}: address already in use$"):
            open_socket(taken)
    with pytest.raises(StartError, match=r"^cannot listen on tcp://192\.0\.2\.1:0: cannot assign requested address$"):
        open_socket(Address("tcp", "192.0.2.1", 0))
    with pytest.raises(StartError, match="its host name is not known"):
        open_socket(Address("tcp", "name.invalid", 0))
    assert open_sockets() == before


def test_a_port_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what a low port needs; a high one that is forbidden needs something else."""

    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", forbidden)
    with pytest.raises(StartError, match=r"127\.0\.0\.1:80: permission denied \(ports below 1024 need root"):
        open_socket(ANY.with_port(80))
    with pytest.raises(StartError, match=r"permission denied$"):
        open_socket(ANY.with_port(8000))


# Sharing a port


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_a_port_may_be_shared(scheme: str) -> None:
    """With reuse_port on all sides; one that did not say so is left alone."""
    with open_socket(Address(scheme, "127.0.0.1", 0), reuse_port=True) as first:
        shared = Address(scheme, "127.0.0.1", first.getsockname()[1])
        open_socket(shared, reuse_port=True).close()
        with pytest.raises(StartError, match="address already in use"):
            open_socket(shared)


# UDP


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "*"])
def test_datagrams(host: str) -> None:
    """The socket receives, does not block, and nobody else gets its port."""
    address = Address("udp", host, 0)
    with open_socket(address) as sock:
        assert sock.type == socket.SOCK_DGRAM
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        at = bound_address(address, sock)
        for family, to in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            if host in (to, "*"):
                with socket.socket(family, socket.SOCK_DGRAM) as client:
                    client.sendto(b"hello", (to, at.port))
                    sock.settimeout(5)
                    assert sock.recv(100) == b"hello"
        with pytest.raises(StartError, match=rf"^cannot listen on udp://\S+:{at.port}: address already in use$"):
            open_socket(at)


# UNIX sockets


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where there is no file yet."""
    return str(tmp_path / "app.sock")


def test_a_unix_socket(path: str) -> None:
    """It accepts, only its owner may connect, and it is gone when it is released."""
    address = Address("unix", path, 0)
    before = os.umask(0o022)
    try:
        sock = open_socket(address)
    finally:
        os.umask(before)
    with closing(sock):
        assert not stat.S_IMODE(os.stat(path).st_mode) & 0o022
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        assert accepts(sock, connect(path)) == ""
        assert bound_address(address, sock) == address
        release(sock, address)
        assert not os.path.exists(path)
        assert sock.fileno() == -1
        release(sock, address)


def test_the_umask_decides_who_may_connect(path: str) -> None:
    """A group may, when the umask leaves it the right to write."""
    before = os.umask(0o007)
    try:
        sock = open_socket(Address("unix", path, 0))
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) & 0o022 == 0o020
    release(sock, Address("unix", path, 0))


def test_a_unix_socket_beside_the_file_system() -> None:
    """A name of the abstract namespace is no file; it is free when the socket is closed."""
    address = Address("unix", f"@forebay-test-{os.getpid()}", 0)
    for _ in range(2):
        with open_socket(address) as sock:
            assert accepts(sock, connect("\0" + address.host[1:])) == ""
            with pytest.raises(StartError, match="address already in use"):
                open_socket(address)
        release(sock, address)
    assert not os.path.exists(address.host)


def test_a_stale_file_is_replaced(path: str) -> None:
    """Nobody answers there any more; that is logged."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    with capture_logs() as logs, open_socket(Address("unix", path, 0)) as sock:
        accepts(sock, connect(path))
        release(sock, Address("unix", path, 0))
    assert [entry["event"] for entry in logs] == ["stale socket removed"]


@pytest.mark.parametrize("full", [False, True])
def test_a_live_socket_is_left_alone(path: str, full: bool) -> None:
    """Also one whose queue is full; and whoever listens there goes on."""
    with open_socket(Address("unix", path, 0), backlog=0) as live:
        waiting = [connect(path)] if full else []
        with pytest.raises(StartError, match=f"^cannot listen on unix://{path}: address already in use$"):
            open_socket(Address("unix", path, 0))
        for client in waiting:
            client.close()
        live.settimeout(5)
        live.accept()[0].close()
        if not full:
            accepts(live, connect(path))


def test_a_datagram_socket_is_left_alone(path: str) -> None:
    """It cannot be told whether somebody uses it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(StartError, match="address already in use"):
            open_socket(Address("unix", path, 0))


def test_what_is_no_socket_is_left_alone(path: str) -> None:
    """A file, a folder, a symbolic link to a stale socket: none is removed."""
    Path(path).write_text("precious")
    with pytest.raises(StartError, match=f"^cannot listen on unix://{path}: something is there that is no socket$"):
        open_socket(Address("unix", path, 0))
    assert Path(path).read_text() == "precious"
    with pytest.raises(StartError, match="no socket"):
        open_socket(Address("unix", os.path.dirname(path), 0))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{path}.dead")
    os.symlink(f"{path}.dead", f"{path}.link")
    with pytest.raises(StartError, match="no socket"):
        open_socket(Address("unix", f"{path}.link", 0))


def test_a_stale_socket_of_somebody_else(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not ours to remove."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StartError, match=f"user {os.getuid()} left behind is in the way; remove it"):
        open_socket(Address("unix", path, 0))
    assert os.path.exists(path)


def test_folders_that_are_missing_or_forbidden(path: str, tmp_path: Path) -> None:
    """The system's reason, in one line."""
    with pytest.raises(StartError, match=rf"^cannot listen on unix://{path}/x: no such file or directory$"):
        open_socket(Address("unix", f"{path}/x", 0))
    (tmp_path / "locked").mkdir(mode=0o500)
    before = open_sockets()
    with nobody(), pytest.raises(StartError, match=r"permission denied$"):
        open_socket(Address("unix", str(tmp_path / "locked" / "x"), 0))
    assert open_sockets() == before


def test_the_file_of_another_is_not_removed(path: str) -> None:
    """Somebody replaced ours; a duplicate of ours, as a worker has it, removes nothing either."""
    address = Address("unix", path, 0)
    ours = open_socket(address)
    release(ours.dup(), address)
    assert os.path.exists(path)
    os.rename(path, f"{path}.old")
    with open_socket(address) as theirs:
        release(ours, address)
        accepts(theirs, connect(path))
        release(theirs, address)
    assert not os.path.exists(path)


# Sources


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


async def test_the_wrong_kind_of_socket() -> None:
    """A server of connections is not given a socket for datagrams, nor the other way round; it is closed."""
    handed_out: list[socket.socket] = []

    async def source(address: Address) -> socket.socket:
        handed_out.append(open_socket(Address(address.host, "127.0.0.1", 0)))
        return handed_out[-1]

    set_socket_source(source)
    try:
        with pytest.raises(StartError, match=r"^cannot listen on fd://udp: that is a socket for datagrams$"):
            await listen(Address("fd", "udp", 0))
        with pytest.raises(StartError, match=r"^cannot listen on fd://tcp: that is a socket for connections$"):
            await listen(Address("fd", "tcp", 0), datagrams=True)
        assert [sock.fileno() for sock in handed_out] == [-1, -1]
        (await listen(Address("fd", "udp", 0), datagrams=True)).close()
    finally:
        set_socket_source(None)
    with await listen(Address("udp", "127.0.0.1", 0)) as sock:
        assert sock.type == socket.SOCK_DGRAM


class Greeter(asyncio.Protocol):
    """Says hello and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        transport.write(b"hello")
        transport.close()


@pytest.mark.both_loops
@pytest.mark.parametrize("scheme", ["tcp", "unix"])
async def test_serving(scheme: str, path: str) -> None:
    """Connections of every family get a protocol; closing the server leaves a UNIX socket's file to its owner."""
    address = ANY if scheme == "tcp" else Address("unix", path, 0)
    before = open_sockets()
    sock = await listen(address)
    at = bound_address(address, sock)
    server = await serve_socket(sock, Greeter, backlog=10)
    opening = asyncio.open_unix_connection(path) if scheme == "unix" else asyncio.open_connection(at.host, at.port)
    reader, writer = await asyncio.wait_for(opening, 5)
    assert await asyncio.wait_for(reader.read(), 5) == b"hello"
    writer.close()
    await asyncio.wait_for(writer.wait_closed(), 5)
    server.close()
    await asyncio.wait_for(server.wait_closed(), 5)
    assert os.path.exists(path) == (scheme == "unix")
    release(sock, address)
    await asyncio.sleep(0)
    assert not os.path.exists(path)
    assert open_sockets() == before
