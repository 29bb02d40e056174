"""``docs/web.md`` is followed word for word: its files are written into an empty folder, its commands are run in their
order, and what they print is what the page shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.support import free_port

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "web.md"
BLOCK = re.compile(r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)
SET_UP = ("python3 -m venv", ". .venv/", "pip install")  # done already where the tests run


@dataclass(frozen=True)
class Step:
    """A file to write (``title``), or a command and what it prints."""

    line: int
    title: str
    text: str
    printed: str = ""


def steps_of(markdown: str) -> Iterator[Step]:
    """What a page has its reader do, in order. Python without a title stands on its own: ``tests/test_docs.py``."""
    for block in BLOCK.finditer(markdown):
        line = markdown.count("\n", 0, block.start()) + 2
        if block["title"]:
            yield Step(line, block["title"], block["text"])
        elif block["language"] != "python":
            assert block["language"] == "console", f"web.md:{line}: a block that is neither a file nor a command"
            for part in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
                command, _, printed = part.partition("\n")
                yield Step(line, "", command, printed)


def parts_of_page() -> tuple[str, str]:
    """The tutorial and the reference."""
    tutorial, _, reference = PAGE.read_text().partition("\n# Reference")
    assert reference
    return tutorial, reference


class Reader:
    """Somebody who does what the page says, in one folder, with two terminals."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.server: subprocess.Popen[bytes] | None = None
        self.ran: list[str] = []
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": ""}
        self.environment.pop("PYTHONPATH", None)

    def follow(self, step: Step) -> None:
        """Do one thing."""
        if step.title:
            (self.folder / step.title).write_text(step.text)
        elif step.text.startswith("forebay run"):
            self.stop()
            self.serve(step, "--bind", f"http://127.0.0.1:{self.port}", "--admin", "off")
            self.ran.append("forebay run")
        elif not step.text.startswith(SET_UP):
            self.run(step)

    def serve(self, step: Step, *options: str) -> None:
        """A server, until it is ready; on a port of our own."""
        command = [*step.text.split(), *options]
        with (self.folder / "server.log").open("wb") as log:
            self.server = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        end = time.monotonic() + 30
        while not self.answers():
            assert self.server.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < end, f"web.md:{step.line}: {step.text} serves nothing"
            time.sleep(0.05)

    def answers(self) -> bool:
        """Is the server there?"""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/no/such/path", timeout=5):
                return True
        except HTTPError:
            return True
        except OSError:
            return False

    def stop(self) -> None:
        """Ctrl-C in the first terminal."""
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            assert self.server.wait(20) in (0, -signal.SIGINT), (self.folder / "server.log").read_text()
            self.server = None

    def kill(self) -> None:
        """Leave nothing behind."""
        if self.server is not None:
            self.server.kill()
            self.server.wait(10)

    def run(self, step: Step) -> None:
        """A command of the second terminal. What it assigns to variables is kept."""
        command = step.text.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")
        script = f"set -a\n{command}\nstatus=$?; env -0 > variables; exit $status"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        where = f"web.md:{step.line}: {step.text}\n{done.stdout}{done.stderr}"
        assert matches(step.printed, done.stdout), f"{where}\ninstead of\n{step.printed}"
        variables = (self.folder / "variables").read_text().split("\0")
        self.environment.update({name: value for name, _, value in (pair.partition("=") for pair in variables) if name})
        self.ran.append(command.split()[0])


def matches(shown: str, printed: str) -> bool:
    """Is it what the page shows? ``...`` there stands for anything; a last line without its end, for one with it."""
    pattern = re.escape(shown.rstrip("\n")).replace(re.escape("..."), ".*")
    return re.fullmatch(pattern, printed.rstrip("\n"), re.DOTALL) is not None


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """In an empty folder."""
    reader = Reader(tmp_path)
    try:
        yield reader
    finally:
        reader.kill()


@pytest.mark.timeout(180)
def test_the_tutorial_is_followed(reader: Reader) -> None:
    """From the empty folder to the end of the tutorial: nothing has to be known that is not there."""
    for step in steps_of(parts_of_page()[0]):
        reader.follow(step)
    reader.stop()
    assert reader.ran.count("forebay run") == 3
    assert reader.ran.count("pytest") == 1
    assert reader.ran.count("curl") >= 10


@pytest.mark.timeout(120)
def test_the_commands_of_the_reference_work(reader: Reader) -> None:
    """Each starts a server for the tutorial's application, which answers."""
    tutorial, reference = parts_of_page()
    for step in steps_of(tutorial):
        if step.title:
            reader.follow(step)
    commands = list(steps_of(reference))
    for step in commands:
        reader.serve(step, "--port", str(reader.port))
        reader.run(Step(step.line, "", "curl -s http://127.0.0.1:8000/notes", '{"type":...401...}\n'))
        reader.stop()
    assert [step.text.split()[0] for step in commands] == ["uvicorn", "granian"]


def test_output_is_compared() -> None:
    """What is printed has to be there word for word, but for what ``...`` stands for."""
    assert matches('{"token":"...","lives":5}\n', '{"token":"abc","lives":5}')
    assert matches("...\n8 passed in ...\n", "........ [100%]\n8 passed in 0.51s\n")
    assert not matches('{"id":1}\n', '{"id":2}')
    assert not matches("8 passed in ...\n", "1 failed, 8 passed in 3s\n")
