"""Who is measured doing what: the scenarios, and how each server is started, with the settings its makers recommend."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import http_load, tcp_load
from benchmarks.processes import ROOT, BenchError

FOREBAY = "Forebay"
UVICORN = "uvicorn + Starlette"
BARE = "bare uvloop Protocol"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one server runs: its port, a folder of its own, and what it may need."""

    port: int
    folder: Path
    backend_port: int = 0  # of the server that proxies pass requests on to
    go: Path | None = None  # the Go peers, when they could be built


@dataclass(frozen=True, slots=True)
class Peer:
    """A server. ``command`` writes the files it needs into the folder, and says how it is started."""

    name: str
    command: Callable[[Place], list[str]]
    needs_go: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """Forebay's CPU time for each request is to be at most ``ratio`` of that of the peer."""

    peer: str
    ratio: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """The same work for several servers; the first is Forebay."""

    name: str
    title: str
    load: Callable[[int, int], list[str]]  # port, seconds
    peers: tuple[Peer, ...]
    target: Target | None
    has_backend: bool = False


def find_nginx() -> str | None:
    """Where nginx is; not every user has ``sbin`` on the path."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def find_go() -> str | None:
    """Where the Go toolchain is; its archive unpacks to a place that is on no path."""
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")


def _forebay_run(name: str, scheme: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        bind = f"{scheme}://127.0.0.1:{place.port}"
        forebay = [sys.executable, "-m", "forebay", "run", f"benchmarks.apps:{name}"]
        return [*forebay, "--bind", bind, "--workers", "1", "--admin", "off"]

    return command


def _forebay_gateway(place: Place) -> list[str]:
    file = place.folder / "gateway.toml"
    file.write_text(f"""
[system]
name = "benchmark"
admin = "off"

[gateway]
bind = ["http://127.0.0.1:{place.port}"]
workers = 1

[upstreams.backend]
targets = [{{ url = "http://127.0.0.1:{place.backend_port}" }}]

[[routes]]
name = "all"
match = {{ path = "/*" }}
upstream = "backend"
""")
    return [sys.executable, "-m", "forebay", "gateway", str(file)]


def _nginx(place: Place, server: str, http: str = "") -> list[str]:
    # nginx closes a connection after 1,000 requests unless told otherwise: reconnecting is not what is measured.
    nginx = find_nginx()
    if nginx is None:
        raise BenchError("nginx is needed; `make bench` fetches it")
    folder = place.folder
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n    ".join(f"{name}_temp_path {folder}/{name};" for name in temporary)
    file = folder / "nginx.conf"
    file.write_text(f"""
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    {paths}
    access_log off;
    default_type text/plain;
    keepalive_requests 1000000000;
    {http}
    server {{
        listen 127.0.0.1:{place.port};
        location / {{ {server} }}
    }}
}}
""")
    return [nginx, "-e", f"{folder}/error.log", "-p", str(folder), "-c", str(file)]


def nginx_return(place: Place) -> list[str]:
    """The least nginx can do; also the backend of the proxies."""
    return _nginx(place, 'return 200 "Hello, world!";')


def _nginx_proxy(place: Place) -> list[str]:
    upstream = f"server 127.0.0.1:{place.backend_port}; keepalive 64; keepalive_requests 1000000000;"
    headers = {
        "Connection": '""',
        "Host": "$host",
        "X-Forwarded-For": "$proxy_add_x_forwarded_for",
        "X-Forwarded-Proto": "$scheme",
        "X-Forwarded-Host": "$http_host",
    }
    sets = " ".join(f"proxy_set_header {name} {value};" for name, value in headers.items())
    passes = f"proxy_pass http://backend; proxy_http_version 1.1; {sets}"
    return _nginx(place, passes, f"upstream backend {{ {upstream} }}")


def _uvicorn(place: Place) -> list[str]:
    uvicorn = [sys.executable, "-m", "uvicorn", "benchmarks.servers.starlette_app:app", "--port", str(place.port)]
    return [*uvicorn, "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]


def _python_echo(style: str) -> Callable[[Place], list[str]]:
    return lambda place: [sys.executable, "-m", "benchmarks.servers.echo", str(place.port), style]


def _go(mode: str) -> Callable[[Place], list[str]]:
    return lambda place: [str(place.go), mode, str(place.port)]


def build_go(folder: Path) -> Path | None:
    """Build the Go peers into ``folder``; None without a toolchain."""
    go = find_go()
    if go is None:
        return None
    binary = folder / "go-peers"
    built = subprocess.run(
        [go, "build", "-o", str(binary), "."],
        cwd=ROOT / "benchmarks" / "go",
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise BenchError(f"the Go peers do not build: {built.stderr.strip()}")
    return binary


SCENARIOS = (
    Scenario(
        name="plain",
        title="Plain 13-byte response",
        load=lambda port, seconds: http_load(port, "/", seconds),
        peers=(
            Peer(FOREBAY, _forebay_run("plain", "http")),
            Peer("nginx", nginx_return),
            Peer("Go net/http", _go("http"), needs_go=True),
            Peer(UVICORN, _uvicorn),
        ),
        target=Target("nginx", 2.0),
    ),
    Scenario(
        name="plain-varied",
        title="Plain 13-byte response, no two requests alike",
        load=lambda port, seconds: http_load(port, "/", seconds, varied=True),
        peers=(
            Peer(FOREBAY, _forebay_run("plain", "http")),
            Peer("nginx", nginx_return),
            Peer(UVICORN, _uvicorn),
        ),
        target=None,
    ),
    Scenario(
        name="json",
        title="Typed JSON route `/users/42?name=bob`",
        load=lambda port, seconds: http_load(port, "/users/42?name=bob", seconds),
        peers=(
            Peer(FOREBAY, _forebay_run("json", "http")),
            Peer("Go net/http", _go("http"), needs_go=True),
            Peer(UVICORN, _uvicorn),
        ),
        target=Target(UVICORN, 0.40),
    ),
    Scenario(
        name="proxy",
        title="Reverse proxy, keep-alive on both sides",
        load=lambda port, seconds: http_load(port, "/", seconds),
        peers=(Peer(FOREBAY, _forebay_gateway), Peer("nginx", _nginx_proxy)),
        target=Target("nginx", 1.8),
        has_backend=True,
    ),
    Scenario(
        name="proxy-varied",
        title="Reverse proxy, no two requests alike",
        load=lambda port, seconds: http_load(port, "/", seconds, varied=True),
        peers=(Peer(FOREBAY, _forebay_gateway), Peer("nginx", _nginx_proxy)),
        target=None,
        has_backend=True,
    ),
    Scenario(
        name="tcp",
        title="TCP echo, 64 bytes",
        load=tcp_load,
        peers=(
            Peer(FOREBAY, _forebay_run("echo", "tcp")),
            Peer(BARE, _python_echo("protocol")),
            Peer(f"{BARE}, allocator tuned", _python_echo("protocol-tuned")),
            Peer("Go net", _go("echo"), needs_go=True),
            Peer("asyncio streams on uvloop", _python_echo("streams")),
            Peer(f"{FOREBAY}, coroutine style", _forebay_run("echo_coroutine", "tcp")),
        ),
        target=Target(BARE, 1.2),
    ),
)
