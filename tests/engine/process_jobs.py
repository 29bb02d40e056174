"""Jobs for other processes. Imports little: each process imports it anew."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any


def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


def pid() -> int:
    """The process it runs in."""
    return os.getpid()


def length(data: bytes) -> tuple[int, bytes]:
    """How long it is, and itself."""
    return len(data), data


def divide(number: int) -> float:
    """Fails for 0."""
    return 1 / number


def exit_at_once(code: int) -> None:
    """End the process with no clean-up."""
    os._exit(code)


def leave() -> None:
    """End the process, as far as its program lets one."""
    sys.exit(3)


def kill_self() -> None:
    """As the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang(file: str) -> None:
    """Write the process id to a file and never return."""
    Path(file).write_text(str(os.getpid()))
    time.sleep(3600)


def hang_with_a_child(file: str) -> None:
    """As `hang`, with a forked child that holds everything this process has open for some seconds more."""
    if os.fork() == 0:
        time.sleep(5)
        os._exit(0)
    hang(file)


def unpicklable() -> Any:
    """A lock."""
    return threading.Lock()


class Picky(Exception):
    """Cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raise_picky() -> None:
    """Fail with what cannot be unpickled."""
    raise Picky(1, 2)


def interrupt_self() -> str:
    """Get the signals that a terminal or a service manager sends to everybody."""
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0)
    return "still here"
