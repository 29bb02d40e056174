"""What helps against a worker whose event loop is blocked, whatever blocks it: nothing needs its Python code to run.

A worker hands a file over to the C code of :mod:`faulthandler`, which writes the stacks of all threads into it when a
signal comes, from within the signal handler: also in the middle of ``time.sleep``, of a busy loop, of a call into C
that keeps the interpreter's lock. Its supervisor sends the signal and reads the file, which both have open.

And when the supervisor dies, the kernel itself sets an alarm in each of its workers; see :func:`end_with_supervisor`.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import os
import re
import signal
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["ORPHAN_SECONDS", "StackFile", "allow_dumps", "blocked_at", "end_with_supervisor"]

_REALTIME = int(getattr(signal, "SIGRTMIN", signal.SIGUSR1))  # which nobody else uses, where there are such signals

DUMP_SIGNAL = _REALTIME + 1
"""What makes a worker dump its stacks."""

ORPHAN_SIGNAL = _REALTIME
"""What a worker gets when its supervisor dies."""

ORPHAN_SECONDS = ORPHAN_SIGNAL
"""Seconds after which a worker that is blocked is killed when its supervisor has died."""

_DUMP_TIMEOUT = 1.0
_LOOK_AGAIN = 0.02
_LONGEST_FILE = 1024 * 1024
_LONGEST_DUMP = 64 * 1024
_CURRENT = b"Current thread"
_PR_SET_PDEATHSIG = 1


# The worker's side


def allow_dumps(fd: int) -> None:
    """From now on ``DUMP_SIGNAL`` has the stacks of this process's threads, of up to 100 of them, written to ``fd``."""
    os.set_inheritable(fd, False)
    faulthandler.register(DUMP_SIGNAL, file=fd, all_threads=True, chain=False)


def end_with_supervisor() -> bool:
    """Do not outlive the process that started this one for ever, even if the event loop is blocked then.

    A worker that is not blocked hears of its supervisor's end, drains and exits. For one that is, there is this: the
    kernel sends ``ORPHAN_SIGNAL`` when the supervisor ends, and the handler of that signal is the C library's
    ``alarm``, which takes the signal's number for a number of seconds. When they are over the kernel ends the process,
    unless it was not blocked after all, and has set the alarm to the end of its drain.

    :return: whether that could be arranged: it can on Linux.
    """
    try:
        libc = ctypes.CDLL(None)
        handler = ctypes.cast(libc.alarm, ctypes.c_void_p)
        libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        libc.signal(ORPHAN_SIGNAL, handler)
        return bool(libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(ORPHAN_SIGNAL)) == 0)
    except (OSError, AttributeError):
        return False


# The supervisor's side


class StackFile:
    """The file into which one worker's stacks are dumped. The worker inherits ``fd``.

    :raises OSError: it cannot be made.
    """

    __slots__ = ("fd",)

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("forebay-stacks")
        else:
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())

    async def take(self, pid: int, send: Callable[[int], None]) -> tuple[str, str]:
        """Have the process dump its stacks.

        :param send: sends it a signal.
        :return: the dump, its main thread first, cut at 64 KiB; and if there is none, why.
        """
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)  # the worker's, too: it has not opened the file, but inherited it
        if _state(pid) in "Tt":
            return "", "it is stopped"
        send(DUMP_SIGNAL)
        data = await self._read()
        if not data:
            return "", f"it did not answer within {_DUMP_TIMEOUT:g} s (state {_state(pid) or 'unknown'})"
        return _main_thread_first(data.decode(errors="replace")), ""

    async def _read(self) -> bytes:
        """What is in the file once that is whole; after a second what there is."""
        data = b""
        for _ in range(round(_DUMP_TIMEOUT / _LOOK_AGAIN)):
            await asyncio.sleep(_LOOK_AGAIN)
            if self.fd < 0:  # the process has ended meanwhile
                break
            size = os.fstat(self.fd).st_size
            before, data = data, os.pread(self.fd, _LONGEST_FILE, max(0, size - _LONGEST_FILE))
            if data == before and _CURRENT in data:
                break
        return data

    def close(self) -> None:
        """Close our end of it. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _state(pid: int) -> str:
    """The letter of ``/proc``: ``T`` for stopped. Empty when it cannot be told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _main_thread_first(dump: str) -> str:
    """The main thread is the one that the signal interrupted; if that was another one, it is the oldest, the last."""
    threads = [thread.strip("\n") for thread in dump.split("\n\n")]
    main = next((thread for thread in threads if thread.startswith(_CURRENT.decode())), threads[-1])
    threads.remove(main)
    whole = "\n\n".join([main, *threads])
    if len(whole) <= _LONGEST_DUMP:
        return whole
    return f"{whole[:_LONGEST_DUMP]}\n... and {len(whole) - _LONGEST_DUMP} characters more"


_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$', re.MULTILINE)

_LIBRARY = tuple(os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib"))
_INSTALLED = ("/site-packages/", "/dist-packages/")
_OURS = os.path.join(Path(__file__).parent.parent, "")


def blocked_at(dump: str, cwd: str = "") -> str:
    """Where the main thread is: ``app/handlers.py:12 in on_message``.

    That is its innermost frame outside of Forebay, the standard library and, if there is one, installed packages.

    :param dump: as :meth:`StackFile.take` returns it.
    :param cwd: files below this folder are told relative to it.
    :return: empty when the dump shows no frame.
    """
    frames = list(_FRAME.finditer(dump.partition("\n\n")[0]))
    if not frames:
        return ""
    frame = _first(frames, _is_application) or _first(frames, _is_foreign) or frames[0]
    file = frame["file"]
    if cwd and file.startswith(os.path.join(cwd, "")):
        file = os.path.relpath(file, cwd)
    return f"{file}:{frame['line']} in {frame['function']}"


def _first(frames: Sequence[re.Match[str]], fits: Callable[[str], bool]) -> re.Match[str] | None:
    return next((frame for frame in frames if fits(frame["file"])), None)


def _is_foreign(file: str) -> bool:
    if any(part in file for part in _INSTALLED):
        return not file.startswith(_OURS)
    return not file.startswith((_OURS, "<frozen ", *_LIBRARY))


def _is_application(file: str) -> bool:
    return _is_foreign(file) and not any(part in file for part in _INSTALLED)
