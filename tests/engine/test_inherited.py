"""Sockets of whoever started us, down to a whole program that systemd (played by the test) starts."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from forebay.engine import Address, open_socket
from forebay.engine import inherited as module
from forebay.engine.inherited import Inherited
from forebay.engine.listener import bound_address
from forebay.errors import StartError
from tests.support import RawClient, eventually

FIRST = 700  # where the tests put what is inherited: 3 is in use in a process that runs tests
PID = os.getpid()


@pytest.fixture
def put() -> Iterator[Callable[[socket.socket | int], int]]:
    """Put a socket at the next descriptor that is to be inherited; its number."""
    numbers: list[int] = []

    def dup(what: socket.socket | int) -> int:
        number = fcntl.fcntl(what, fcntl.F_DUPFD, FIRST)
        if isinstance(what, socket.socket):
            what.close()
        numbers.append(number)
        return number

    yield dup
    for number in numbers:
        os.close(number)


def passed(count: int, names: str | None = None, **others: str) -> Inherited:
    """What is inherited when systemd passes ``count`` descriptors to this process."""
    environ = {"LISTEN_PID": str(PID), "LISTEN_FDS": str(count), "HOME": "/", **others}
    if names is not None:
        environ["LISTEN_FDNAMES"] = names
    found = Inherited(environ, PID, first=FIRST)
    assert environ == {"HOME": "/"}, "children would be told"
    return found


def tcp() -> socket.socket:
    """A socket that listens, and is inheritable, as it is after an exec."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.set_inheritable(True)
    return sock


def test_what_systemd_passes(put: Callable[[socket.socket], int]) -> None:
    """It is found by number and by name, is not inherited by children, and can be opened again and again."""
    one, two = put(tcp()), put(tcp())
    inherited = passed(2, "web:Admin.socket")
    assert inherited.names == {one: "web", two: "Admin.socket"}
    assert not os.get_inheritable(one)
    for which in (str(one), "web", "web"):
        with inherited.open(which) as sock:
            assert sock.fileno() != one
            assert not sock.getblocking()
            assert not sock.get_inheritable()
            with socket.create_connection(sock.getsockname(), timeout=5):
                sock.settimeout(5)
                sock.accept()[0].close()
    assert inherited.unused() == {two: "Admin.socket"}


def test_nothing_is_passed() -> None:
    """No variables, or some that are for another process: nothing is inherited, and the variables go all the same."""
    assert Inherited({}, PID).names == {}
    for pid in ("1", "", "x"):
        assert passed(2, LISTEN_PID=pid).names == {}
    assert passed(0).names == {}


@pytest.mark.parametrize("count", ["x", "-1", "1e3", "9" * 5000, "", "²"])
def test_nonsense_is_ignored(count: str) -> None:
    """It is logged, and nothing is inherited."""
    with capture_logs() as logs:
        assert passed(0, LISTEN_FDS=count).names == {}
    assert [entry["event"] for entry in logs] == ["inherited sockets ignored"]


def test_names_that_are_not_as_many(put: Callable[[socket.socket], int]) -> None:
    """They are ignored: whose is whose cannot be told."""
    one = put(tcp())
    with capture_logs() as logs:
        inherited = passed(1, "a:b")
    assert inherited.names == {one: ""}
    assert [entry["event"] for entry in logs] == ["names of inherited sockets ignored"]


def test_a_descriptor_that_is_closed(put: Callable[[socket.socket], int]) -> None:
    """It is logged; the others are inherited."""
    one = put(tcp())
    with capture_logs() as logs:
        assert passed(2, "a:b").names == {one: "a"}
    assert [entry["descriptor"] for entry in logs] == [one + 1]


def refused(url_host: str, inherited: Inherited, monkeypatch: pytest.MonkeyPatch) -> str:
    """Why ``fd://url_host`` cannot be listened on."""
    monkeypatch.setattr(module, "_inherited", inherited)
    with pytest.raises(StartError) as caught:
        open_socket(Address("fd", url_host, 0))
    text = str(caught.value)
    assert text.startswith(f"cannot listen on fd://{url_host}: ")
    assert "\n" not in text
    return text.partition(": ")[2]


def test_names_that_do_not_lead_to_one(put: Callable[[socket.socket], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown: the error lists those there are. Of several: it lists their numbers."""
    numbers = [put(tcp()) for _ in range(3)]
    inherited = passed(3, "web:web:")
    said = refused("other", inherited, monkeypatch)
    first, second, third = numbers
    assert said == f"no inherited descriptor has that name; there are: {first} (web), {second} (web), {third}"
    said = refused("web", inherited, monkeypatch)
    assert said == f"2 inherited descriptors have that name; listen on fd://{first} and fd://{second} instead"
    assert refused("web", Inherited({}, PID), monkeypatch).endswith("there are: none")


def test_what_is_no_listening_socket(
    put: Callable[[socket.socket | int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file, a connection, a socket that was never bound, one of another type: each is refused for what it is."""
    nobody = Inherited({}, PID)
    with ExitStack() as stack:
        with open(os.devnull) as file:
            assert refused(str(put(file.fileno())), nobody, monkeypatch).endswith("is no socket")
        left, right = socket.socketpair()
        stack.enter_context(right)
        assert "is a connection, not a listening socket" in refused(str(put(left)), nobody, monkeypatch)
        assert refused(str(put(socket.socket())), nobody, monkeypatch).endswith("does not listen")
        unbound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        assert refused(str(put(unbound)), nobody, monkeypatch).endswith("is a datagram socket that is not bound")
        packets = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        assert "of another type" in refused(str(put(packets)), nobody, monkeypatch)
        other = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM)
        assert "of another family" in refused(str(put(other)), nobody, monkeypatch)
    assert refused("4096", nobody, monkeypatch) == "descriptor 4096 is not open"
    assert refused("2147483647", nobody, monkeypatch) == "descriptor 2147483647 is not open"


def test_every_kind_is_known_by_what_it_is_bound_to(
    put: Callable[[socket.socket], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that is reported is the real one. Descriptors nobody announced are served by number."""
    monkeypatch.setattr(module, "_inherited", Inherited({}, PID))
    for address in (
        Address("tcp", "127.0.0.1", 0),
        Address("tcp", "::1", 0),
        Address("udp", "127.0.0.1", 0),
        Address("unix", str(tmp_path / "x.sock"), 0),
        Address("unix", f"@forebay-inherited-{PID}", 0),
    ):
        sock = open_socket(address)
        real = bound_address(address, sock)
        number = put(sock)
        by_number = Address("fd", str(number), 0)
        with open_socket(by_number) as opened:
            assert bound_address(by_number, opened) == real


PROGRAM = """
from forebay import ConnectionHandler, TCPServer

class Echo(ConnectionHandler):
    def on_message(self, conn, data):
        conn.write(data)

server = TCPServer(Echo, bind="tcp://127.0.0.1:0")
"""

START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "forebay", "run", "echo:server", *sys.argv[2:]])
"""


@pytest.mark.timeout(60)
async def test_a_program_under_systemd(tmp_path: Path) -> None:
    """It serves what it is handed, says when it is ready, reloads and ends, and its workers know nothing of it."""
    private = "{'LISTEN_FDS', 'LISTEN_PID', 'NOTIFY_SOCKET', 'WATCHDOG_USEC'}"
    (tmp_path / "echo.py").write_text(f"{PROGRAM}\nimport os\nassert not {private} & os.environ.keys()\n")
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.setblocking(False)
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    told: list[str] = []

    def heard(word: str) -> bool:
        try:
            while True:
                told.append(manager.recv(4096).decode())
        except BlockingIOError:
            pass
        return any(word in message for message in told)

    environ = {
        **os.environ,
        "LISTEN_FDS": "1",
        "LISTEN_FDNAMES": "echo",
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "400000",
    }
    arguments = [str(sock.fileno()), "--bind", "fd://echo", "--admin", "off", "--workers", "2"]
    program = subprocess.Popen(
        [sys.executable, "-c", START, *arguments],
        cwd=tmp_path,
        env=environ,
        pass_fds=(sock.fileno(),),
        stderr=subprocess.PIPE,
    )
    sock.close()  # the program has it
    try:
        await eventually(lambda: heard("READY=1") or program.poll() is not None, 20)
        client = await RawClient.connect(port)
        await client.send(b"hello")
        assert await client.exactly(5) == b"hello"
        await eventually(lambda: heard("WATCHDOG=1"), 10)
        program.send_signal(signal.SIGHUP)
        await eventually(lambda: heard("RELOADING=1"), 10)
        await eventually(lambda: heard("STATUS=running; reloaded"), 20)
        await client.close()
        program.send_signal(signal.SIGTERM)
        await eventually(lambda: heard("STOPPING=1"), 10)
        await asyncio.get_running_loop().run_in_executor(None, program.wait, 20)
        assert program.returncode == 0
    finally:
        if program.poll() is None:
            program.kill()
        said = program.communicate(timeout=10)[1].decode()
        manager.close()
    assert "listening" in said
    assert "inherited socket not used" not in said
    states = [message.partition("\n")[0] for message in told if not message.startswith("WATCHDOG")]
    assert states == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
