"""What the service manager is told; the test plays it, with a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from forebay.engine.notify import Notifier

PID = os.getpid()


class Manager:
    """Receives what a service says."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.sock.settimeout(5)

    def receive(self) -> dict[str, str]:
        """The next message."""
        return dict(line.split("=", 1) for line in self.sock.recv(4096).decode().split("\n"))

    def environ(self, **others: str) -> dict[str, str]:
        """A service's environment."""
        return {"NOTIFY_SOCKET": self.address, **others}


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """A manager at each kind of address."""
    found = Manager(str(tmp_path / "notify") if request.param == "path" else f"@forebay-notify-{PID}")
    yield found
    found.sock.close()


def test_states(manager: Manager) -> None:
    """Each is one message, of lines; a status is one line whatever it is made of, and is cut."""
    notifier = Notifier(manager.environ(), PID)
    assert notifier
    notifier.ready("running")
    assert manager.receive() == {"READY": "1", "STATUS": "running"}
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    said = manager.receive()
    assert said.pop("RELOADING") == "1"
    assert before <= int(said.pop("MONOTONIC_USEC")) <= before + 10_000_000
    notifier.stopping("draining\nREADY=1\n" + "é" * 1000)
    said = manager.receive()
    assert said["STOPPING"] == "1"
    assert said["STATUS"].startswith("draining READY=1 é")
    assert len(said["STATUS"]) == 200
    notifier.ready("\udc80")
    assert manager.receive()["STATUS"] == "?"
    notifier.alive()
    assert manager.receive() == {"WATCHDOG": "1"}
    notifier.close()
    notifier.close()
    notifier.ready("too late")
    assert not notifier


def test_without_a_manager() -> None:
    """Nothing is sent, and nothing is said about it."""
    with capture_logs() as logs:
        notifier = Notifier({"WATCHDOG_USEC": "1000"}, PID)
        notifier.ready("running")
        notifier.alive()
    assert not notifier
    assert notifier.watchdog_interval is None
    assert logs == []


def test_children_are_not_told(manager: Manager) -> None:
    """The variables are for one process, and for the first that asks."""
    environ = manager.environ(WATCHDOG_USEC="1000", WATCHDOG_PID=str(PID), HOME="/")
    Notifier(environ, PID).close()
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    ("limit", "pid", "seconds"),
    [
        ("30000000", "ours", 15.0),
        ("400000", "", 0.2),
        ("30000000", "1", None),
        ("0", "ours", None),
        ("-5", "ours", None),
        ("9" * 5000, "ours", None),
        ("soon", "ours", None),
        ("", "ours", None),
    ],
)
def test_the_watchdog(tmp_path: Path, limit: str, pid: str, seconds: float | None) -> None:
    """Pings come twice as often as they must; none when it watches another process, or nobody knows how often."""
    watched = str(PID) if pid == "ours" else pid
    with capture_logs() as logs:
        environ = {"NOTIFY_SOCKET": str(tmp_path / "x"), "WATCHDOG_USEC": limit, "WATCHDOG_PID": watched}
        notifier = Notifier(environ, PID)
    notifier.close()
    assert notifier.watchdog_interval == seconds
    assert bool(logs) == (limit in ("0", "-5", "9" * 5000, "soon"))


@pytest.mark.parametrize("address", ["relative", "@", "vsock:2:1234", "/" + "x" * 200, "/no/such/folder/notify"])
def test_a_manager_that_cannot_be_told(address: str) -> None:
    """That is logged once, and raises nothing."""
    with capture_logs() as logs:
        notifier = Notifier({"NOTIFY_SOCKET": address}, PID)
        for _ in range(3):
            notifier.ready("running")
        notifier.close()
    assert [entry["event"] for entry in logs] == ["service manager not told"]


def test_a_manager_that_does_not_read(tmp_path: Path) -> None:
    """Pings that find its queue full are left out at once, which is logged once; a state waits, for a while."""
    manager = Manager(str(tmp_path / "notify"))
    notifier = Notifier(manager.environ(), PID)
    began = time.monotonic()
    with capture_logs() as logs:
        for _ in range(5000):
            notifier.alive()
        assert time.monotonic() - began < 1.0
        notifier.ready("running")
    assert 0.9 < time.monotonic() - began < 5.0
    assert len(logs) == 1
    for _ in range(5):
        manager.receive()
    notifier.ready("again")
    notifier.close()
    manager.sock.close()
