"""Talking with a client that runs in a process of its own: it is given orders, and answers each when it is done.

One line each way: a name and a number, and JSON. While it is at work it may say how far it has got.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from benchmarks.processes import ROOT, BenchError, pinned

__all__ = ["Client", "client", "obey", "tell_progress"]


class Client:
    """Our end. Made by :func:`client`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin: IO[str] = process.stdin
        self._stdout: IO[str] = process.stdout

    def order(self, name: str, number: float, advance: Callable[[float], None] = lambda done: None) -> dict[str, Any]:
        """Have something done, and return what came of it.

        :param advance: called with the part that is done, from 0 to 1.
        :raises BenchError: it failed; with what it said.
        """
        said = []
        try:
            self._stdin.write(f"{name} {number}\n")
            self._stdin.flush()
            for line in self._stdout:
                word, _, rest = line.partition(" ")
                if word == "progress":
                    advance(float(rest))
                elif word == "result":
                    advance(1.0)
                    answer: dict[str, Any] = json.loads(rest)
                    return answer
                else:
                    said.append(line)
        except BrokenPipeError:
            pass
        raise BenchError(f"the client ended over {name!r}: {''.join(said).strip() or 'it said nothing'}")


@contextmanager
def client(module: str, arguments: Sequence[object], *, core: int | None = None) -> Iterator[Client]:
    """Run ``python -m module arguments`` until the block ends. It ends by itself when there are no more orders."""
    command = [*pinned(core), sys.executable, "-m", module, *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    made = Client(process)
    try:
        yield made
    finally:
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def obey(orders: dict[str, Callable[[float], dict[str, Any]]]) -> None:
    """The client's end: carry out orders until there are no more."""
    for line in sys.stdin:
        name, _, number = line.partition(" ")
        print("result", json.dumps(orders[name](float(number))), flush=True)


def tell_progress(done: float) -> None:
    """Say how far the order is carried out, from 0 to 1."""
    print("progress", round(min(done, 1.0), 4), flush=True)
