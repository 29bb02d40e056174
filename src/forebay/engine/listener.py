"""Sockets that listen, and where they come from.

On its own a process opens them itself. A worker process is given its supervisor's instead, so that connections which
are queued while a worker is replaced are not lost: :func:`set_socket_source` is how it says so.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import structlog

from forebay.engine.address import ANY_HOST, Address
from forebay.engine.inherited import take_inherited
from forebay.errors import StartError

__all__ = ["SocketSource", "bound_address", "listen", "open_socket", "release", "serve_socket", "set_socket_source"]

log = structlog.get_logger("forebay.engine")

SocketSource = Callable[[Address], Awaitable[socket.socket]]

_source: SocketSource | None = None
_files: WeakKeyDictionary[socket.socket, tuple[int, int]] = WeakKeyDictionary()  # of UNIX sockets: device and inode

_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)
_FIRST_FREE_PORT = 1024


def open_socket(address: Address, backlog: int = 1024, *, reuse_port: bool = False) -> socket.socket:
    """A new non-blocking socket that listens on ``address``; for ``udp``, one that is bound to it.

    * The host ``*`` is every address of this machine: one IPv6 socket that takes IPv4 too, or where there is no IPv6,
      an IPv4 one. Otherwise an IPv6 socket takes no IPv4, so that both families can be listened on with one port.
    * A name is resolved, and the first of its addresses taken, in the system's order; that is logged when it has more.
    * A UNIX socket's file is made with the permissions that the umask leaves: with the usual one, only its owner may
      connect. The file of a program of the same user that is gone, so that nobody answers there, is replaced; anything
      else that is in the way stays. :func:`release` removes it.
    * ``fd`` gives a duplicate of the inherited descriptor, which has to listen already, or to be bound if it is for
      datagrams; see :mod:`forebay.engine.inherited`.

    :param backlog: connections the kernel queues before somebody accepts them. An inherited socket keeps its own.
    :param reuse_port: let others that ask for it too listen on the same port (``SO_REUSEPORT``): the kernel spreads
        what comes over them. For ``tcp``, ``tls`` and ``udp``.
    :raises StartError: in one line, on which address and why not.
    """
    try:
        match address.kind:
            case "fd":
                return take_inherited().open(address.host)
            case "unix":
                return _open_unix(address.host, backlog)
            case _:
                return _open_inet(address, backlog, reuse_port)
    except StartError as error:
        raise StartError(f"cannot listen on {address}: {error}") from error
    except OSError as error:
        raise StartError(f"cannot listen on {address}: {_reason(error, address)}") from error


def _open_inet(address: Address, backlog: int, reuse_port: bool) -> socket.socket:
    kind = socket.SOCK_DGRAM if address.kind == "udp" else socket.SOCK_STREAM
    if address.host == ANY_HOST:
        try:
            return _bind_inet(socket.AF_INET6, kind, ("::", address.port), backlog, reuse_port, both=True)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
        return _bind_inet(socket.AF_INET, kind, ("0.0.0.0", address.port), backlog, reuse_port)  # noqa: S104  # asked for
    found = socket.getaddrinfo(address.host, address.port, type=kind, flags=socket.AI_PASSIVE)
    family, _, _, _, where = found[0]
    if len(found) > 1:
        others = [str(other[0]) for *_, other in found[1:]]
        log.info("name has several addresses", address=str(address), listening_on=where[0], not_on=others)
    return _bind_inet(family, kind, where, backlog, reuse_port)


def _bind_inet(
    family: int, kind: socket.SocketKind, where: Any, backlog: int, reuse_port: bool, *, both: bool = False
) -> socket.socket:
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:  # for datagrams it would let others take them away
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        sock.bind(where)
        if kind == socket.SOCK_STREAM:
            sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_unix(path: str, backlog: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if path.startswith("@"):
            if sys.platform != "linux":
                raise StartError("names that are no files exist on Linux only; use a path")
            sock.bind(b"\0" + path[1:].encode())
        else:
            try:
                sock.bind(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                _remove_stale(path)
                sock.bind(path)
            there = os.stat(path)
            _files[sock] = (there.st_dev, there.st_ino)
        sock.listen(backlog)  # nobody can connect before
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket file of a program that is gone.

    :raises StartError: what is there is something else.
    """
    try:
        before = os.lstat(path)
        if not stat.S_ISSOCK(before.st_mode):
            raise StartError("something is there that is no socket")
        if _answers(path):
            raise StartError(os.strerror(errno.EADDRINUSE).lower())
        if before.st_uid != os.geteuid():
            raise StartError(f"a socket that user {before.st_uid} left behind is in the way; remove it")
        now = os.lstat(path)
        if (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino):
            os.unlink(path)
            log.info("stale socket removed", path=path)
    except FileNotFoundError:  # somebody else was faster
        return


def _answers(path: str) -> bool:
    """Whether somebody listens there, or it cannot be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except FileNotFoundError:
            raise
        except OSError:  # its queue is full, it is for datagrams, or we may not
            return True
    return True


def _reason(error: OSError, address: Address) -> str:
    if isinstance(error, socket.gaierror):
        return "its host name is not known"
    text = os.strerror(error.errno).lower() if error.errno else str(error)
    if error.errno == errno.EACCES and 0 < address.port < _FIRST_FREE_PORT:
        return f"{text} (ports below {_FIRST_FREE_PORT} need root, or the capability CAP_NET_BIND_SERVICE)"
    return text


def release(sock: socket.socket, address: Address) -> None:
    """Close a socket that :func:`open_socket` opened, and remove its file if it is a UNIX socket's.

    For who opened it: a worker that was given its supervisor's socket only closes it, and this does no more for it. The
    file stays when it is another one by now. Idempotent; right also for a socket that is closed already.
    """
    known = _files.pop(sock, None)
    if known is not None:
        with suppress(OSError):  # it is gone, or we may not: nothing can be done about it
            there = os.lstat(address.host)
            if (there.st_dev, there.st_ino) == known:
                os.unlink(address.host)
    sock.close()


def bound_address(address: Address, sock: socket.socket) -> Address:
    """Where ``sock``, which was opened for ``address``, really listens: with the port that was taken.

    For an inherited descriptor, what it is bound to: ``tcp://...``, ``udp://...`` or ``unix://...``.
    """
    where = sock.getsockname()
    if address.kind != "fd":
        return address if address.kind == "unix" else address.with_port(where[1])
    if sock.family == socket.AF_UNIX:
        name = where.decode(errors="replace") if isinstance(where, bytes) else where
        return Address("unix", name.replace("\0", "@", 1), 0)
    return Address("udp" if sock.type == socket.SOCK_DGRAM else "tcp", where[0], where[1])


def set_socket_source(source: SocketSource | None) -> None:
    """Where :func:`listen` takes sockets from in this process; ``None``: it opens them itself, as it does at first."""
    global _source
    _source = source


async def listen(address: Address, *, datagrams: bool = False) -> socket.socket:
    """A socket that listens on ``address``, from this process's source. The caller gives it to :func:`release`.

    :param datagrams: whether it is to receive datagrams, and not connections; ``udp`` always does.
    :raises StartError: it cannot be listened on.
    """
    sock = open_socket(address) if _source is None else await _source(address)
    is_datagram = sock.type == socket.SOCK_DGRAM
    if is_datagram != (datagrams or address.kind == "udp"):
        release(sock, address)
        what = "datagrams" if is_datagram else "connections"
        raise StartError(f"cannot listen on {address}: that is a socket for {what}")
    return sock


async def serve_socket(
    sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol], *, backlog: int = 1024
) -> asyncio.Server:
    """Accept connections on ``sock``, of whichever family, and give each a protocol of ``factory``.

    Closing the server closes the socket. It leaves the file of a UNIX socket alone: that is for :func:`release`, and in
    a worker it is the supervisor's.
    """
    loop = asyncio.get_running_loop()
    if sock.family != socket.AF_UNIX:
        return await loop.create_server(factory, sock=sock, backlog=backlog)
    options: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
    return await loop.create_unix_server(factory, sock=sock, backlog=backlog, **options)
