"""The whole shop, started as ``make run`` starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from forebay.config import load_system
from tests.support import RawClient, free_port, raw_client

ROOT = Path(__file__).parent.parent.parent
CONFIG = ROOT / "examples" / "shop" / "forebay.toml"


def on_free_ports(folder: Path) -> tuple[Path, dict[int, int]]:
    """The shop's configuration with other ports, and which port became which."""
    text = CONFIG.read_text()
    ports = {port: free_port() for port in (7001, 7002, 7100, 8080, 9900)}
    file = folder / "forebay.toml"
    file.write_text(re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda match: str(ports[int(match[0])]), text))
    return file, ports


@contextmanager
def shop(file: Path, gateway_port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The system in ``file``, from answering through its gateway to the end that Ctrl-C brings."""
    environment = {**os.environ, "SHOP_DB": str(file.parent / "var" / "shop.db")}
    log = file.with_suffix(".log")
    with log.open("ab") as output:
        command = [sys.executable, "-m", "forebay", "up", str(file)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 30
        while (answer := ask(gateway_port, "GET", "/api/users/1")) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
        assert answer[0] == 200, log.read_text()
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(30)
    assert status == 0, log.read_text()


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, Any] | None:
    """The status and the decoded body of an answer; None while nobody listens."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    content = None if body is None else json.dumps(body)
    try:
        connection.request(method, path, content, {} if body is None else {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()


async def heard(guest: RawClient, expected: str) -> None:
    """Read up to a line."""
    while (line := await guest.line()) != expected.encode() + b"\n":
        assert line, "the connection ended"


def test_the_configuration_is_valid() -> None:
    """``forebay check`` accepts the shop's file."""
    assert load_system(CONFIG).system.name == "shop"


async def test_the_shop_runs_and_remembers(tmp_path: Path) -> None:
    """Users come through the gateway, one that was created is there after a restart, and two guests chat."""
    file, ports = on_free_ports(tmp_path)
    gateway = ports[8080]
    created = {"name": "Barbara Liskov", "email": "barbara@example.com"}
    with shop(file, gateway):
        for _ in range(5):  # both instances
            assert ask(gateway, "GET", "/api/users/1") == (
                200,
                {"id": 1, "name": "Ada Lovelace", "email": "ada@example.com"},
            )
        assert ask(gateway, "POST", "/api/users", created) == (201, {"id": 4, **created})
        missing = ask(gateway, "GET", "/api/users/99")
        assert missing is not None
        assert missing[0] == 404
        ready = HTTPConnection("127.0.0.1", ports[9900], timeout=5)
        ready.request("GET", "/readyz")
        assert ready.getresponse().status == 200
        ready.close()
        async with raw_client(ports[7100]) as ada, raw_client(ports[7100]) as alan:
            await ada.send(b"/nick ada\n/join music\n")
            await heard(ada, "* ada joined music")
            await alan.send(b"/nick alan\n/join music\nhello\n")
            await heard(ada, "alan: hello")
    with shop(file, gateway):
        for _ in range(5):
            assert ask(gateway, "GET", "/api/users/4") == (200, {"id": 4, **created})
