"""Sockets that whoever started this program opened for it: systemd's socket activation, ``sd_listen_fds(3)``.

systemd listens before the service runs and hands its sockets over as descriptors 3, 4, ..., described by variables:
``LISTEN_PID`` (for which process they are), ``LISTEN_FDS`` (how many) and ``LISTEN_FDNAMES`` (their names, between
colons: ``FileDescriptorName=``, or the socket unit's name). ``fd://3`` and ``fd://NAME`` stand for them.

Other starters that just leave descriptors open are served as well, by number.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

import structlog

from forebay.errors import StartError

__all__ = ["Inherited", "take_inherited"]

log = structlog.get_logger("forebay.engine")

FIRST = 3
"""``SD_LISTEN_FDS_START``: descriptors before it are standard input, output and error."""

_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_MOST = 1024
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class Inherited:
    """The descriptors that were passed to this process, and which of them somebody has asked for.

    Made from the environment, whose variables about it are removed: they are for this process, not for its children.
    Descriptors are closed when this process executes another program. Variables that make no sense are logged and taken
    for none.

    :param pid: this process's.
    :param first: the first descriptor's number.
    """

    def __init__(self, environ: MutableMapping[str, str], pid: int, *, first: int = FIRST) -> None:
        found = {name: environ.pop(name) for name in _VARIABLES if name in environ}
        self.names: dict[int, str] = {}  # by descriptor; "" when it has none
        self._used: set[int] = set()
        if "LISTEN_FDS" not in found or found.get("LISTEN_PID") != str(pid):
            return  # there are none, or they were meant for the process that started us
        text = found["LISTEN_FDS"]
        if not (text.isascii() and text.isdigit()) or not 0 <= int(text[:6]) <= _MOST:
            log.warning("inherited sockets ignored", reason=f"LISTEN_FDS is {text!r}, not a number up to {_MOST}")
            return
        count = int(text)
        names = found["LISTEN_FDNAMES"].split(":") if found.get("LISTEN_FDNAMES") else [""] * count
        if len(names) != count:
            log.warning("names of inherited sockets ignored", names=len(names), sockets=count)
            names = [""] * count
        for number, name in enumerate(names, first):
            try:
                os.set_inheritable(number, False)
            except OSError:
                log.warning("inherited socket ignored", descriptor=number, reason="it is not open")
            else:
                self.names[number] = name

    def unused(self) -> dict[int, str]:
        """Those that nobody has asked for: numbers and names."""
        return {number: name for number, name in self.names.items() if number not in self._used}

    def find(self, which: str) -> int:
        """The descriptor that ``fd://which`` stands for.

        :raises StartError: none or several have that name. A number is not looked for: it is what it is.
        """
        if which.isdigit():
            number = int(which)
        else:
            numbers = [number for number, name in self.names.items() if name == which]
            if not numbers:
                there = ", ".join(f"{number} ({name})" if name else str(number) for number, name in self.names.items())
                raise StartError(f"no inherited descriptor has that name; there are: {there or 'none'}")
            if len(numbers) > 1:
                several = " and ".join(f"fd://{number}" for number in numbers)
                raise StartError(f"{len(numbers)} inherited descriptors have that name; listen on {several} instead")
            number = numbers[0]
        self._used.add(number)
        return number

    def open(self, which: str) -> socket.socket:
        """A duplicate of the descriptor that ``fd://which`` stands for, non-blocking and not inheritable.

        It listens for connections, or is bound and receives datagrams. What is inherited stays open, so that it can be
        opened again after a reload.

        :raises StartError: there is no such descriptor, or it is not that.
        """
        number = self.find(which)
        try:
            sock = socket.socket(fileno=os.dup(number))
        except OSError as error:
            raise StartError(f"descriptor {number} is {'no socket' if _is_open(number) else 'not open'}") from error
        try:
            if reason := _unfit(sock):
                raise StartError(f"descriptor {number} {reason}")
            os.set_inheritable(number, False)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        return sock


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _unfit(sock: socket.socket) -> str:
    """Why connections or datagrams cannot come to ``sock``; empty when they can."""
    if sock.family not in _FAMILIES:
        return f"is a socket of another family ({sock.family})"
    if sock.type == socket.SOCK_STREAM:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return ""
        try:
            sock.getpeername()
        except OSError:
            return "is a socket that does not listen"
        return "is a connection, not a listening socket (with systemd: Accept=no)"
    if sock.type == socket.SOCK_DGRAM:
        where = sock.getsockname()
        bound = where[1] != 0 if isinstance(where, tuple) else bool(where)
        return "" if bound else "is a datagram socket that is not bound"
    return f"is a socket of another type ({sock.type})"


_inherited: Inherited | None = None


def take_inherited() -> Inherited:
    """What this process inherited. The environment is read, and cleared of it, by the first call."""
    global _inherited
    if _inherited is None:
        _inherited = Inherited(os.environ, os.getpid())
    return _inherited
