"""A file server with a protocol of lines; the files go from the page cache to the socket without a copy (sendfile).

Run it on a folder, and ask it::

    FILES_ROOT=docs forebay run examples.file_server:server
    nc 127.0.0.1 7500

======================================  ================================================================================
``LIST [FOLDER]``                       ``OK 2``, then as many lines: ``SIZE NAME`` for a file, ``- NAME/`` for a folder
``GET NAME [OFFSET [COUNT]]``           ``OK COUNT``, then as many bytes, as they are in the file
``QUIT``                                the end
======================================  ================================================================================

What cannot be done is answered with ``ERR`` and why. Names are percent-encoded (``a%20b.txt``) and relative to the
root. No symlink is followed: each part of a name is opened on its own, below the one before it, so nothing leads out of
the root, whoever changes the folder meanwhile.

With ``FILES_CERTIFICATE`` (a file with certificate and key, in PEM format) it speaks TLS: ``openssl s_client -quiet
-connect 127.0.0.1:7500``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from forebay import Connection, TCPServer, framing
from forebay.engine import TLS, Admission, Certificate
from forebay.errors import FramingError

LONGEST_LINE = 4096  # bytes
DEEPEST = 32  # folders
MOST_LISTED = 1000  # entries
MOST_CONNECTIONS = 1000
MOST_OF_ONE_ADDRESS = 100

_WHY = {
    errno.ENOENT: "there is no such file",
    errno.ELOOP: "symlinks are not followed",
    errno.ENOTDIR: "a part of the name is no folder",
    errno.EACCES: "that may not be read",
    errno.ENAMETOOLONG: "the name is too long",
}


class Refused(Exception):
    """What is answered with ``ERR``."""


class Files:
    """The files below a root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def serve(self, conn: Connection) -> None:
        """One connection: a command, its answer, the next command."""
        try:
            async for line in conn:
                if line.strip().upper() == "QUIT":
                    return
                try:
                    await self._answer(conn, line.split())
                except Refused as error:
                    await conn.send(f"ERR {error}")
        except FramingError as error:
            conn.write(f"ERR {error}")
            raise

    async def _answer(self, conn: Connection, words: list[str]) -> None:
        match [words[0].upper() if words else "", *words[1:]]:
            case ["LIST", *folder] if len(folder) <= 1:
                for entry in self._list(folder[0] if folder else ""):
                    await conn.send(entry)
            case ["GET", name, *numbers] if len(numbers) <= 2:
                with self._opened(name) as fd:
                    offset, count = _part(fd, numbers)
                    conn.pause_reading()  # a peer that waits for a large file is not idle
                    try:
                        await conn.send(f"OK {count}")
                        await conn.send_file(f"/proc/self/fd/{fd}", offset, count)
                    finally:
                        conn.resume_reading()
            case _:
                raise Refused("expected LIST [FOLDER], GET NAME [OFFSET [COUNT]] or QUIT")

    def _list(self, folder: str) -> list[str]:
        with self._opened(folder, os.O_DIRECTORY) as fd, os.scandir(fd) as found:
            entries = []
            for entry in islice(found, MOST_LISTED):
                with suppress(OSError):  # it was removed just now
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        entries.append(f"- {_encoded(entry.name)}/")
                    elif stat.S_ISREG(status.st_mode):
                        entries.append(f"{status.st_size} {_encoded(entry.name)}")
        return [f"OK {len(entries)}", *sorted(entries, key=lambda entry: entry.partition(" ")[2])]

    @contextmanager
    def _opened(self, name: str, flags: int = 0) -> Iterator[int]:
        """Open what ``name`` names, a part at a time, and following no symlink."""
        parts = [part for part in unquote_to_bytes(name).split(b"/") if part]
        if any(part in (b".", b"..") or b"\0" in part for part in parts) or len(parts) > DEEPEST:
            raise Refused("that is no name of a file here")
        with ExitStack() as opened:
            try:
                fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                opened.callback(os.close, fd)
                for number, part in enumerate(parts, 1):
                    extra = os.O_DIRECTORY if number < len(parts) else flags
                    fd = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | extra, dir_fd=fd)
                    opened.callback(os.close, fd)
            except OSError as error:
                raise Refused(_WHY.get(error.errno or 0, "that cannot be read")) from None
            yield fd


def _part(fd: int, numbers: list[str]) -> tuple[int, int]:
    """Offset and count of what is asked for."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise Refused("that is no file; LIST shows what is in a folder")
    if not all(text.isascii() and text.isdigit() and len(text) <= 18 for text in numbers):
        raise Refused("offset and count are numbers from 0 on")
    offset = int(numbers[0]) if numbers else 0
    if offset > status.st_size:
        raise Refused(f"it has {status.st_size} bytes only")
    rest = status.st_size - offset
    return offset, min(int(numbers[1]), rest) if len(numbers) == 2 else rest


def _encoded(name: str) -> str:
    return quote(os.fsencode(name))


def make_server(root: str | Path, bind: str | None = None, *, certificate: str | Path | None = None) -> TCPServer:
    """A file server of its own."""
    return TCPServer(
        Files(Path(root)).serve,
        bind=bind or ("tcp" if certificate is None else "tls") + "://127.0.0.1:7500",
        name="files",
        framing=framing.Lines(LONGEST_LINE, encoding="ascii"),
        max_connections=MOST_CONNECTIONS,
        admission=Admission(per_peer=MOST_OF_ONE_ADDRESS),
        inbound_limit=16,
        tls=None if certificate is None else TLS(Certificate(certificate)),
    )


server = make_server(os.environ.get("FILES_ROOT", "docs"), certificate=os.environ.get("FILES_CERTIFICATE"))
