"""What puts load on servers, and what it says of them, beside servers that misbehave."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import golang
from benchmarks.echo_load import LoadError, echoes, load, open_connections
from benchmarks.load import BODY_HEADERS, HEADERS, ORDER, ORIGIN_HEADERS, http_load, measure, tcp_load
from benchmarks.orders import client
from benchmarks.processes import BenchError, free_port, started
from tests.benchmarks.misbehaving import server


def test_a_wrong_echo_is_no_echo() -> None:
    """A server that answers something else is not measured."""
    with (
        server(lambda sock: sock.sendall(sock.recv(100).upper())) as port,
        pytest.raises(LoadError, match=r"sent b'hello'... and got b'HELLO'"),
    ):
        open_connections(port, 1, echoes(b"hello"))


def test_a_connection_that_is_refused_is_said() -> None:
    """Nobody listens: the load ends, and says which connection failed."""
    with pytest.raises(LoadError, match="connection 1 failed"):
        open_connections(free_port(), 3, echoes(b"hello"))


def test_a_connection_that_ends_is_counted() -> None:
    """A server that closes in the middle costs a failed connection, not the measurement."""

    def once(sock: socket.socket) -> None:
        sock.sendall(sock.recv(100))
        sock.recv(100)

    with server(once) as port:
        (sock,) = open_connections(port, 1, echoes(b"hello"))
        with sock:
            latencies, failed, _ = load({sock.fileno(): sock}, b"hello", 5.0, 5)
    assert (len(latencies), failed) == (0, 1)


@pytest.mark.parametrize("size", [64, 16 * 1024])
def test_an_echo_is_measured(size: int, tmp_path: Path) -> None:
    """Requests, CPU time, and how busy both sides were are there for a server that echoes."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.servers.echo", str(port), "protocol"]
    with started(command, port=port, log=tmp_path / "log") as pid:
        measured = measure(tcp_load(port, 1, connections=8, size=size), server=pid)
    assert measured.per_second > 100
    assert measured.errors == 0
    assert 0 < measured.server_busy <= 1.1
    assert measured.load_busy is not None
    assert 0 < measured.load_busy <= 1.1
    assert measured.cpu_us == pytest.approx(measured.server_busy * 1e6 / measured.per_second, rel=0.01)


@pytest.mark.parametrize("style", ["readline", "protocol-lines", "streams", "twisted"])
def test_every_echo_of_the_peers_echoes(style: str, tmp_path: Path) -> None:
    """They give lines back as they came, whole and in order."""
    port = free_port()
    module = ["benchmarks.servers.twisted_lines"] if style == "twisted" else ["benchmarks.servers.echo"]
    command = [sys.executable, "-m", *module, str(port), *([] if style == "twisted" else [style])]
    with (
        started(command, port=port, log=tmp_path / "log"),
        socket.create_connection(("127.0.0.1", port), timeout=10) as sock,
        sock.makefile("rb") as lines,
    ):
        for sent in (b"one\n", b"\n", b"t", b"wo\nthree\n"):
            sock.sendall(sent)
        assert [lines.readline() for _ in range(4)] == [b"one\n", b"\n", b"two\n", b"three\n"]


def test_a_load_that_fails_says_why(tmp_path: Path) -> None:
    """Its last words are in the error."""
    with pytest.raises(BenchError, match="connection 1 failed"):
        measure(tcp_load(free_port(), 1), server=1)


def test_a_server_that_refuses_is_not_measured() -> None:
    """Refusing is quick: where most requests fail there is no figure, but an error that says so."""
    said = 'print(\'result {"requests": 4, "seconds": 1.0, "p50_us": 1, "p99_us": 1, "errors": 3}\')'
    with pytest.raises(BenchError, match="3 of 4 requests were refused or failed"):
        measure([sys.executable, "-c", said], server=1)


@pytest.mark.parametrize(
    ("headers", "body", "added"),
    [(HEADERS, None, 1), (ORIGIN_HEADERS, None, 1), (BODY_HEADERS, ORDER, 2)],
    ids=["plain", "of another origin", "with a body"],
)
def test_requests_carry_eight_headers(
    headers: Sequence[str], body: Path | None, added: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is given to wrk once; it adds Host, and the length of content. The content is named behind the rest."""
    monkeypatch.setattr(shutil, "which", lambda name: name)
    command = http_load(80, "/", 1, headers=headers, body=body)
    given = [command[at + 1].partition(":")[0].lower() for at, word in enumerate(command) if word == "-H"]
    assert len(set(given)) == len(given) == 8 - added
    assert not {"host", "content-length"} & set(given)
    assert command[-2:] == (["--", str(body)] if body else [f"{headers[-1]}", "http://127.0.0.1:80/"])


def test_a_client_that_ends_says_why() -> None:
    """An order that cannot be carried out is an error with what the client said, not a wait."""
    with (
        client("benchmarks.idle_load", [free_port()]) as crowd,
        pytest.raises(BenchError, match=r"the client ended over 'open'.*connection 1 failed"),
    ):
        crowd.order("open", 1)


NO_GIN = "Gin is left out, it does not build: it needs Debian's packages golang-go and golang-github-gin-gonic-gin-dev"


def test_go_peers_are_left_out_where_there_is_no_toolchain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That is said, and is no error."""
    monkeypatch.setattr(golang, "find_go", lambda: None)
    monkeypatch.setattr(golang, "debian_go", lambda: None)
    built = golang.build(tmp_path)
    assert not built.programs
    assert built.notes == ["no Go toolchain: its peers are left out", NO_GIN]


def test_gnet_alone_is_left_out_where_it_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The other Go peers are built without it, and the output says so."""
    monkeypatch.setattr(golang, "find_go", lambda: "go")
    monkeypatch.setattr(golang, "build_gin", lambda binary: "")
    monkeypatch.setattr(
        golang, "_build", lambda go, name, binary: "a\ndial tcp: refused" if name == golang.GNET else ""
    )
    built = golang.build(tmp_path)
    assert list(built.programs) == [golang.GO, golang.GIN]
    assert built.notes == ["gnet is left out, it does not build: dial tcp: refused"]


@pytest.mark.parametrize("lacking", ["debian_go", "DEBIAN_SOURCES"])
def test_gin_alone_is_left_out_without_debians_packages(
    lacking: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both are needed, its sources and Debian's own toolchain, whichever other one there is."""
    (tmp_path / "src/github.com/gin-gonic/gin").mkdir(parents=True)
    monkeypatch.setattr(golang, "find_go", lambda: "go")
    monkeypatch.setattr(golang, "debian_go", lambda: None if lacking == "debian_go" else "go")
    monkeypatch.setattr(golang, "DEBIAN_SOURCES", tmp_path / ("none" if lacking == "DEBIAN_SOURCES" else ""))
    monkeypatch.setattr(golang, "_build", lambda go, name, binary, env=None: "")
    built = golang.build(tmp_path)
    assert list(built.programs) == [golang.GO, golang.GNET]
    assert built.notes == [NO_GIN]


def test_gin_is_built_of_debians_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By Debian's toolchain, which looks for them in no module; its version is that of the sources."""
    sources = tmp_path / "src/github.com/gin-gonic/gin"
    sources.mkdir(parents=True)
    (sources / "version.go").write_text('package gin\n\nconst Version = "v1.8.1"\n')
    monkeypatch.setattr(golang, "find_go", lambda: None)
    monkeypatch.setattr(golang, "debian_go", lambda: "/usr/lib/go/bin/go")
    monkeypatch.setattr(golang, "DEBIAN_SOURCES", tmp_path)
    told: list[tuple[str, str, Path, dict[str, str]]] = []

    def build(go: str, name: str, binary: Path, env: dict[str, str]) -> str:
        told.append((go, name, binary, env))
        return ""

    monkeypatch.setattr(golang, "_build", build)
    assert list(golang.build(tmp_path).programs) == [golang.GIN]
    ((go, name, binary, env),) = told
    assert (go, name, binary) == ("/usr/lib/go/bin/go", "gin", tmp_path / "gin")
    assert (env["GO111MODULE"], env["GOPATH"]) == ("off", str(tmp_path))
    assert golang.gin_version() == "1.8.1"


def test_go_peers_that_do_not_build_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They need nothing but the toolchain: then the fault is ours."""
    monkeypatch.setattr(golang, "find_go", lambda: "go")
    monkeypatch.setattr(golang, "_build", lambda go, name, binary: "syntax error")
    with pytest.raises(BenchError, match="syntax error"):
        golang.build(tmp_path)


def test_the_version_of_gnet_is_read() -> None:
    """It is that of go.mod."""
    assert golang.gnet_version() == "2.9.1"
