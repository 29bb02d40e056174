"""Telling systemd how the program does: ``sd_notify(3)`` and ``sd_watchdog_enabled(3)``, without its library.

For a unit with ``Type=notify`` (or ``notify-reload``, and ``WatchdogSec=``). Without systemd nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

import structlog

__all__ = ["Notifier"]

log = structlog.get_logger("forebay.engine")

_PATIENCE = 1.0  # seconds for a change of state to be taken; a manager that is well takes it at once
_LONGEST_STATUS = 200


class Notifier:
    """Sends states to the service manager that started this process.

    What goes wrong is logged once, and never raised: a program does its work also when nobody hears how.

    :param environ: ``NOTIFY_SOCKET`` (a path, or ``@`` and a name), ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are read
        and removed: they are for this process, not for its children.
    :param pid: this process's.
    """

    def __init__(self, environ: MutableMapping[str, str], pid: int) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        self._sock: socket.socket | None = None
        self._warned = False
        self.watchdog_interval: float | None = None
        """Seconds between two calls of :meth:`alive`: half of what systemd allows. ``None``: it does not watch us."""

        limit, whose = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        if not self._address:
            return
        if self._address[0] not in "/@" or len(self._address) == 1:
            self._fail(f"NOTIFY_SOCKET is {self._address!r}, expected a path or @name")
            return
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if limit and whose in ("", str(pid)):
            if limit.isascii() and limit.isdigit() and len(limit) <= 16 and int(limit):
                self.watchdog_interval = int(limit) / 2_000_000
            else:
                self._fail(f"WATCHDOG_USEC is {limit!r}, expected a number of microseconds")

    @classmethod
    def of_this_process(cls) -> Notifier:
        """The one for this process's environment, which is cleared of it: a second one sends nothing."""
        return cls(os.environ, os.getpid())

    def __bool__(self) -> bool:
        """Whether somebody is told anything."""
        return self._sock is not None

    def ready(self, status: str) -> None:
        """It does its work: after the start, and again after a reload."""
        self._send(f"READY=1\nSTATUS={_line(status)}", _PATIENCE)

    def reloading(self) -> None:
        """It reads its configuration again; :meth:`ready` is to follow."""
        moment = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={moment}\nSTATUS=reloading", _PATIENCE)

    def stopping(self, status: str) -> None:
        """It begins to end."""
        self._send(f"STOPPING=1\nSTATUS={_line(status)}", _PATIENCE)

    def alive(self) -> None:
        """For the watchdog. One that cannot be sent at once is left out: the next one comes in time as well."""
        self._send("WATCHDOG=1", 0.0)

    def close(self) -> None:
        """Send nothing more. Idempotent."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def _send(self, message: str, patience: float) -> None:
        if self._sock is None:
            return
        name = os.fsencode(self._address)
        try:
            self._sock.settimeout(patience)
            self._sock.sendto(message.encode(errors="replace"), b"\0" + name[1:] if name[:1] == b"@" else name)
        except OSError as error:
            self._fail(os.strerror(error.errno).lower() if error.errno else str(error))

    def _fail(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("service manager not told", socket=self._address, reason=reason)


def _line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_STATUS]
