"""An open file that several connections may be sending from at once."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["OpenFile"]

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class OpenFile:
    """A regular file, open for reading; counted references close its descriptor with the last user.

    ``fd`` is its descriptor, ``path`` where it was found, ``size`` (bytes), ``mtime_ns`` and ``identity`` what it was
    like then: as long as ``identity`` of the path is the same, it is still this file, unchanged.

    :raises OSError: it cannot be opened.
    :raises ValueError: it is a directory, a device, a FIFO or a socket.
    """

    __slots__ = ("_users", "fd", "identity", "mtime_ns", "path", "size")

    def __init__(self, path: str | Path) -> None:
        self.path = path
        _check(path, os.stat(path))  # opening alone lets the writer of a FIFO go on, and may start a device
        self.fd = os.open(path, _FLAGS)
        try:
            found = os.fstat(self.fd)
            _check(path, found)  # it may have become another one since
        except BaseException:
            os.close(self.fd)
            raise
        self.size = found.st_size
        self.mtime_ns = found.st_mtime_ns
        self.identity = identity_of(found)
        self._users = 1

    def __repr__(self) -> str:
        return f"<OpenFile {self.path} size={self.size} users={self._users}>"

    def acquire(self) -> None:
        """One more user, who will call :meth:`release`.

        :raises ValueError: it is closed.
        """
        if not self._users:
            raise ValueError(f"{self.path} is closed")
        self._users += 1

    def release(self) -> None:
        """One user less; the last one closes the file.

        :raises ValueError: it is closed already.
        """
        if not self._users:
            raise ValueError(f"{self.path} is closed already")
        self._users -= 1
        if not self._users:
            os.close(self.fd)
            self.fd = -1


def _check(path: str | Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is no regular file, and no other can be sent")


def identity_of(found: os.stat_result) -> tuple[int, int, int, int, int]:
    """What changes when a path leads to another file, or the file is changed."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
