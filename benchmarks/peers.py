"""How each server is started, with the settings its makers recommend."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.golang import GNET, GO
from benchmarks.processes import BenchError


@dataclass(frozen=True, slots=True)
class Place:
    """Where one server runs: its port, a folder of its own, and what it may need."""

    port: int
    folder: Path
    backend_port: int = 0  # of the server that proxies pass requests on to
    programs: Mapping[str, Path] = field(default_factory=dict)  # that were built, by name


@dataclass(frozen=True, slots=True)
class Peer:
    """A server. ``command`` writes the files it needs into the folder, and says how it is started.

    ``needs`` is the name of the built program without which it is left out; empty: none.
    """

    name: str
    command: Callable[[Place], list[str]]
    needs: str = ""


def find_nginx() -> str | None:
    """Where nginx is; not every user has ``sbin`` on the path."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def forebay_run(name: str, scheme: str, workers: int = 1) -> Callable[[Place], list[str]]:
    """What is called ``name`` in :mod:`benchmarks.apps`, as a user starts it."""

    def command(place: Place) -> list[str]:
        bind = f"{scheme}://127.0.0.1:{place.port}"
        forebay = [sys.executable, "-m", "forebay", "run", f"benchmarks.apps:{name}"]
        return [*forebay, "--bind", bind, "--workers", str(workers), "--admin", "off"]

    return command


def forebay_gateway(place: Place) -> list[str]:
    """The gateway with one route and one target."""
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


def nginx_proxy(place: Place) -> list[str]:
    """The same with nginx."""
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


def uvicorn(place: Place) -> list[str]:
    """uvicorn at its fastest, with Starlette."""
    command = [sys.executable, "-m", "uvicorn", "benchmarks.servers.starlette_app:app", "--port", str(place.port)]
    return [*command, "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]


def python_echo(style: str) -> Callable[[Place], list[str]]:
    """One of the styles of :mod:`benchmarks.servers.echo`."""
    return lambda place: [sys.executable, "-m", "benchmarks.servers.echo", str(place.port), style]


def twisted_lines(place: Place) -> list[str]:
    """Twisted's ``LineReceiver``."""
    return [sys.executable, "-m", "benchmarks.servers.twisted_lines", str(place.port)]


def go(mode: str) -> Callable[[Place], list[str]]:
    """The standard library's servers, ``http`` or ``echo``."""
    return lambda place: [str(place.programs[GO]), mode, str(place.port)]


def gnet(place: Place) -> list[str]:
    """gnet's TCP echo, on one event loop."""
    return [str(place.programs[GNET]), str(place.port)]
