"""A file that is being downloaded: what is there of it, and of what. Its methods are called in threads."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from contextlib import suppress
from io import BufferedRandom, FileIO
from pathlib import Path

import msgspec

__all__ = ["PartialFile", "Source", "hash_name", "made_mode", "replaced_mode"]

_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_READ_NOTE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_WRITE_NOTE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_BUFFER = 256 * 1024
_TRIES = 5  # to get hold of a file that another download ends just then
_LONGEST_NOTE = 64 * 1024


class Source(msgspec.Struct, frozen=True):
    """What the bytes are of.

    ``url`` is a hash of it, since there may be secrets in it, "" while it is not known; ``validator`` what ``if-range``
    says, "" when a part of this cannot be asked for; ``total`` its bytes, where they are known.
    """

    url: str = ""
    validator: str = ""
    total: int | None = None


def hash_name(digest: str) -> tuple[str, str]:
    """Name and hexadecimal value of ``sha256:...``.

    :raises ValueError: it is not like that.
    """
    name, _, value = digest.partition(":")
    try:
        size = hashlib.new(name).digest_size
    except ValueError:
        size = 0
    if not size or len(value) != 2 * size or not set(value.lower()) <= set("0123456789abcdef"):
        raise ValueError(f"digest {digest!r}: must be like sha256:, and {2 * (size or 32)} hexadecimal digits")
    return name, value.lower()


def replaced_mode(path: Path) -> int | None:
    """The permissions of the file that is to be replaced; None: there is none.

    :raises OSError: it is no regular file: a directory, or such as ``/dev/null``, which nobody wants replaced.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "must be a regular file, or none, since it is replaced", str(path))
    return found.st_mode & 0o777


def made_mode(replaced: int | None) -> int:
    """The permissions of a file while it is written: nobody may read it who may not in the end."""
    return 0o666 if replaced is None else 0o600 | replaced & 0o066


class PartialFile:
    """``NAME.part`` beside the file that it is to be, with ``NAME.part.json``, which says what it is of.

    Nobody else writes it meanwhile: it is locked. Whoever gives up waiting for a thread leaves it at work; the buffered
    file has a lock of its own, so that closing it waits for a write under way.
    """

    __slots__ = ("_file", "_gone", "_mode", "_note", "_part", "path", "size", "source")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.part.json")
        self._file: BufferedRandom | None = None
        self._gone = False
        self._mode: int | None = None  # of the file that is replaced
        self.size = 0  # bytes that are there
        self.source = Source()  # of which

    def open(self, *, resume: bool) -> None:
        """Find what is there.

        :param resume: whether that is wanted; else it begins anew.
        :raises OSError: it cannot be written there; BlockingIOError: another download does.
        """
        self._mode = replaced_mode(self.path)
        self._file = file = self._locked()
        if self._gone:
            file.close()
            return
        found = self._noted() if resume else None
        if found is None or not found.validator:
            self.begin(Source())
        else:
            self.source = found
        self.size = file.seek(0, os.SEEK_END)

    def _locked(self) -> BufferedRandom:
        for _ in range(_TRIES):
            file = BufferedRandom(FileIO(os.open(self._part, _OPEN, made_mode(self._mode)), "r+"), _BUFFER)
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self._part)):
                    return file
            except BlockingIOError:
                file.close()
                raise BlockingIOError(errno.EAGAIN, "another download writes this file", str(self._part)) from None
            except FileNotFoundError:
                pass  # it was the other's, which is complete by now
            except BaseException:
                file.close()
                raise
            file.close()
        raise BlockingIOError(errno.EAGAIN, "other downloads write this file", str(self._part))

    def _noted(self) -> Source | None:
        try:
            with os.fdopen(os.open(self._note, _READ_NOTE), "rb") as file:
                return msgspec.json.decode(file.read(_LONGEST_NOTE), type=Source)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None  # then nobody knows what it is of

    def begin(self, source: Source) -> None:
        """Forget what is there; what comes is of ``source``."""
        file = self._there()
        file.truncate(0)  # before it is said what it is of, and not after
        file.seek(0)
        self.size = 0
        self.source = source
        self._note.unlink(missing_ok=True)
        if source.validator:
            with os.fdopen(os.open(self._note, _WRITE_NOTE, made_mode(self._mode)), "wb") as note:
                note.write(msgspec.json.encode(source))

    def write(self, data: bytes) -> None:
        """Add to its end. What was written stays when this fails, and is resumed from.

        :raises OSError: the disk is full, or broken.
        """
        file = self._there()
        try:
            file.write(data)
            file.flush()
        except OSError:
            self.size = os.fstat(file.fileno()).st_size
            raise
        self.size += len(data)

    def check(self, name: str, expected: str) -> str:
        """The hash of all of it; when it is not ``expected``, the file is gone."""
        file = self._there()
        file.seek(0)
        found = hashlib.file_digest(file, name).hexdigest()
        if found != expected:
            self.discard()
        return found

    def finish(self, *, fsync: bool) -> None:
        """It is complete: give it its name.

        :param fsync: have the disk have it first.
        """
        file = self._there()
        if self._mode is not None:
            os.fchmod(file.fileno(), self._mode)
        if fsync:
            os.fsync(file.fileno())
        os.replace(self._part, self.path)
        self._note.unlink(missing_ok=True)
        if fsync:
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def discard(self) -> None:
        """Forget all of it, and leave nothing."""
        self._part.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def leave(self) -> None:
        """Nobody waits for it any more; called on the loop, before :meth:`close` in a thread."""
        self._gone = True

    def close(self) -> None:
        """Let go of it, after what is under way. Nothing is left of one that is empty."""
        file = self._file
        if file is None or file.closed:
            return
        with suppress(OSError):  # the disk may be full: what it has not taken is asked for again
            if not os.fstat(file.fileno()).st_size and os.path.samestat(os.fstat(file.fileno()), os.stat(self._part)):
                self.discard()
        with suppress(OSError):
            file.close()

    def _there(self) -> BufferedRandom:
        assert self._file is not None, "it was opened"
        return self._file
