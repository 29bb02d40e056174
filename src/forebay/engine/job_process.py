"""A process that runs jobs, seen from its owner."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from forebay.engine import job_child
from forebay.engine.job_child import ERROR, JOB, MAIN, RESULT, SETUP, receive, send
from forebay.errors import NotTransferable, ProcessDied

__all__ = ["JobProcess", "pack"]

_POLL = 1.0  # seconds; how often a process that says nothing is looked at


def pack(function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    """The function and its arguments, as they are now.

    :raises NotTransferable: one of them cannot be pickled. Functions are sent by name: a lambda or a function that is
        defined in another one has none.
    """
    try:
        return pickle.dumps((function, args), pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # pickle lets anything through that __reduce__ or __getstate__ raises
        raise NotTransferable(f"{function!r} or its arguments cannot be sent to another process: {error}") from error


class JobProcess:
    """Runs one job at a time, in a fresh interpreter that is started with the first one.

    :meth:`call` and :meth:`close` wait, so they are called in a thread; :meth:`kill` in any.
    """

    def __init__(self) -> None:
        self.killed = False
        self._line: _Line | None = None
        self._knows_main = False
        self._lock = threading.Lock()  # between starting and killing

    def __repr__(self) -> str:
        return f"<JobProcess pid={self.pid}>"

    @property
    def pid(self) -> int:
        """0 while it does not run."""
        line = self._line
        return line.popen.pid if line is not None else 0

    def call(self, packed: bytes) -> Any:
        """Run a job and return its result, or raise what it raised, with the traceback there as a note.

        A process that ended between two jobs is replaced, and the new one gets this job.

        :raises ProcessDied: it ended before the job did.
        :raises NotTransferable: the function was not found there, or its result or its error cannot be sent.
        """
        while True:
            fresh = self._line is None
            begun = False
            try:
                line = self._line or self._start()
                self._send(line, packed)
                receive(line)  # BEGUN
                begun = True
                kind, body = receive(line)
                break
            except (OSError, EOFError) as error:
                how = self._reap()
                if begun or fresh or self.killed:
                    raise ProcessDied(f"the process ended before its job did: {how}") from error
        return self._result(kind, body)

    def _send(self, line: _Line, packed: bytes) -> None:
        if not self._knows_main and b"__main__" in packed:
            self._knows_main = True
            send(line, MAIN, pickle.dumps(_where_main_is()))
        send(line, JOB, packed)

    def _result(self, kind: bytes, body: bytearray) -> Any:
        try:
            value = pickle.loads(body)  # noqa: S301 - from our own process
        except Exception as error:
            raise NotTransferable(f"what the job gave cannot be read: {type(error).__qualname__}: {error}") from error
        if kind == RESULT:
            return value
        failure, trace = value
        if kind != ERROR:
            failure = NotTransferable(f"a job in another process: {failure}")
        failure.add_note(f"In process {self.pid}:\n{trace}")
        try:
            raise failure
        finally:
            del value, failure  # its traceback refers to this frame

    def kill(self) -> None:
        """Kill it now, for good: whoever waits in :meth:`call` gets :class:`ProcessDied`."""
        with self._lock:
            self.killed = True
            if self._line is not None:
                self._line.cut()

    def close(self, timeout: float) -> None:
        """Let an idle process exit; one that has not after ``timeout`` seconds is killed."""
        with self._lock:
            self.killed = True
        if self._line is not None:
            self._line.socket.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._line.popen.wait(timeout)
            self._reap()

    def _start(self) -> _Line:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise ProcessDied("a main program that is imported starts no processes: guard it by its __name__")
        with self._lock:
            if self.killed:
                raise EOFError
            self._knows_main = False
            self._line = line = _Line()
        send(line, SETUP, pickle.dumps(([path or os.getcwd() for path in sys.path], sys.argv)))
        return line

    def _reap(self) -> str:
        """Make sure that it is gone; return how it ended."""
        with self._lock:
            line, self._line = self._line, None
        if line is None:
            return "it could not be started"
        line.socket.close()
        # It has closed its end, so it is ending. One that is stuck there, or closed it itself, is helped on.
        with contextlib.suppress(subprocess.TimeoutExpired):
            line.popen.wait(_POLL)
        line.popen.kill()
        code = line.popen.wait()
        return f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"


class _Line:
    """A process that was just started, and the way to talk to it. Ends for us when the process has ended.

    :raises OSError: it cannot be started.
    """

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        try:
            self.popen = subprocess.Popen(  # noqa: S603 - our own interpreter and our own file
                # -P: nothing of that file's directory is taken for a module of the standard library.
                [sys.executable, "-P", job_child.__file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        except BaseException:
            self.socket.close()
            raise
        finally:
            theirs.close()
        self.socket.settimeout(_POLL)

    def recv(self, count: int) -> bytes:
        """See :class:`forebay.engine.job_child.Pipe`."""
        while True:
            try:
                return self.socket.recv(count)
            except TimeoutError:
                self._check()

    def sendall(self, data: bytes) -> None:
        """See :class:`forebay.engine.job_child.Pipe`."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.socket.send(rest) :]
            except TimeoutError:
                self._check()

    def cut(self) -> None:
        """Kill the process and end whatever we send or receive."""
        self.popen.kill()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def _check(self) -> None:
        # What the process forked may hold its end of the socket, which does not end with it then.
        if self.popen.poll() is not None:
            raise EOFError


def _where_main_is() -> dict[str, str]:
    """How to import our ``__main__``, as :func:`multiprocessing.spawn.prepare` wants it; empty: there is no way."""
    main = sys.modules["__main__"]
    if name := getattr(getattr(main, "__spec__", None), "name", None):
        return {"init_main_from_name": name}
    if path := getattr(main, "__file__", None):
        return {"init_main_from_path": os.path.abspath(path)}
    return {}
