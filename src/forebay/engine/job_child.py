"""The program that a job process runs: one job after the other, until its owner closes the socket.

Run as a file and not as a module, and importing nothing of Forebay, so that it is ready in a few milliseconds. A frame
is a kind (one byte), a length (eight bytes, big-endian) and that many bytes.
"""

# ruff: noqa: S301 - what is unpickled here comes from the process that started this one, over a socket pair

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import sys
import threading
import traceback
from queue import SimpleQueue
from typing import Protocol

HEAD = struct.Struct("!cQ")
LARGEST_READ = 1 << 18

SETUP = b"S"  # to the child: what to set up before the first job, pickled
MAIN = (
    b"M"  # to the child: where the owner's __main__ comes from, pickled; sent once, before the first job that needs it
)
JOB = b"J"  # to the child: (function, arguments), pickled
BEGUN = b"B"  # from the child: the job is being run
RESULT = b"R"  # from the child: its result, pickled
ERROR = b"E"  # from the child: (exception, traceback), pickled
UNSENDABLE = b"U"  # from the child: (what cannot be sent and why, traceback), pickled


class Pipe(Protocol):
    """What frames are sent and received with: a blocking socket, or what looks like one."""

    def recv(self, count: int, /) -> bytes:
        """At least one byte, at most ``count``; none at the end."""

    def sendall(self, data: bytes, /) -> None:
        """Send all of ``data``."""


def send(pipe: Pipe, kind: bytes, body: bytes = b"") -> None:
    """Send a frame, however long that takes."""
    pipe.sendall(HEAD.pack(kind, len(body)))
    if body:
        pipe.sendall(body)


def receive(pipe: Pipe) -> tuple[bytes, bytearray]:
    """Receive a frame.

    :raises EOFError: there is none, or not the whole of one.
    """
    kind, length = HEAD.unpack(_exactly(pipe, HEAD.size))
    return kind, _exactly(pipe, length)


def _exactly(pipe: Pipe, count: int) -> bytearray:
    data = bytearray()
    while len(data) < count:  # grows with what arrives
        part = pipe.recv(min(count - len(data), LARGEST_READ))
        if not part:
            raise EOFError
        data += part
    return data


class _Child:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.frames: SimpleQueue[tuple[bytes, bytearray] | None] = SimpleQueue()
        self.busy = False
        self.trouble = ""  # why the owner's __main__ is not there

    def read(self) -> None:
        """Runs in a thread of its own, so that a process whose owner is gone ends even while it is at work."""
        try:
            while True:
                frame = receive(self.sock)
                self.busy = True
                self.frames.put(frame)
        except (OSError, EOFError):
            if self.busy:
                os._exit(1)
        self.frames.put(None)

    def work(self) -> None:
        """Run jobs until there are no more."""
        while (frame := self.frames.get()) is not None:
            kind, body = frame
            del frame
            if kind == SETUP:
                sys.path[:], sys.argv[:] = pickle.loads(body)
            elif kind == MAIN:
                self.import_main(body)
            else:
                send(self.sock, BEGUN)
                answer = _run(body, self.trouble)
                self.busy = False  # before the answer: the owner may close the socket as soon as it has it
                send(self.sock, *answer)
                del answer
            del body

    def import_main(self, body: bytearray) -> None:
        """Import the owner's main program, as multiprocessing does: its name is not ``__main__`` then."""
        from multiprocessing import process, spawn

        this = process.current_process()
        this._inheriting = True  # type: ignore[attr-defined]  # a program without the usual guard starts no processes
        try:
            spawn.prepare(pickle.loads(body))
        except BaseException as error:
            self.trouble = f" (the main program cannot be imported: {_text(error)})"
        finally:
            del this._inheriting  # type: ignore[attr-defined]


def _run(body: bytearray, trouble: str) -> tuple[bytes, bytes]:
    try:
        function, args = pickle.loads(body)
    except BaseException as error:
        return _unsendable(f"the function or its arguments cannot be read there: {_text(error)}{trouble}")
    try:
        result = function(*args)
    except BaseException as error:
        return _failed(error)
    try:
        return RESULT, pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    except BaseException as error:
        return _unsendable(f"its result, a {type(result).__qualname__}, cannot be sent: {_text(error)}")


def _failed(error: BaseException) -> tuple[bytes, bytes]:
    trace = traceback.format_exc()
    if not isinstance(error, Exception):  # SystemExit and the like end a program, not its owner
        return _unsendable(f"it raised {_text(error)}", trace)
    try:
        body = pickle.dumps((error, trace), pickle.HIGHEST_PROTOCOL)
        pickle.loads(body)  # many exceptions can be pickled, but not unpickled
    except BaseException as why:
        return _unsendable(f"it raised {_text(error)}, which cannot be sent: {_text(why)}", trace)
    return ERROR, body


def _unsendable(message: str, trace: str = "") -> tuple[bytes, bytes]:
    return UNSENDABLE, pickle.dumps((message, trace or traceback.format_exc()))


def _text(error: BaseException) -> str:
    try:
        return f"{type(error).__qualname__}: {error}"
    except Exception:
        return type(error).__qualname__


def main() -> None:
    """Serve the owner on the socket whose descriptor is the first argument."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Meant for the owner, which decides what becomes of jobs. A function, and not SIG_IGN, which what jobs start
        # would inherit.
        signal.signal(number, lambda *_: None)
    child = _Child(socket.socket(fileno=int(sys.argv[1])))
    threading.Thread(target=child.read, name="read", daemon=True).start()
    try:
        child.work()
    except OSError:
        os._exit(1)  # the owner is gone


if __name__ == "__main__":
    main()
