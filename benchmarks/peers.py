"""How each server is started, with the settings its makers recommend."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.golang import GIN, GNET, GO
from benchmarks.processes import BenchError

FILE_PATH = "/file.bin"
FILE_BYTES = 100 * 1024


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


def forebay_run(
    name: str, scheme: str, workers: int = 1, module: str = "benchmarks.apps"
) -> Callable[[Place], list[str]]:
    """What is called ``name`` in ``module``, as a user starts it."""

    def command(place: Place) -> list[str]:
        bind = f"{scheme}://127.0.0.1:{place.port}"
        forebay = [sys.executable, "-m", "forebay", "run", f"{module}:{name}"]
        return [*forebay, "--bind", bind, "--workers", str(workers), "--admin", "off"]

    return command


def forebay_web(name: str, *, log: bool = False) -> Callable[[Place], list[str]]:
    """What is called ``name`` in :mod:`benchmarks.web_apps`.

    :param log: with an access log, in a file.
    """
    run = forebay_run(name, "http", module="benchmarks.web_apps")
    return lambda place: [*run(place), *(["--access-log", str(place.folder / "access.log")] if log else [])]


def forebay_websocket(name: str) -> Callable[[Place], list[str]]:
    """What is called ``name`` in :mod:`benchmarks.websocket_apps`."""
    return forebay_run(name, "http", module="benchmarks.websocket_apps")


def forebay_asgi(place: Place) -> list[str]:
    """The ASGI application of :mod:`benchmarks.servers.asgi_app`."""
    return forebay_run("app", "http", module="benchmarks.servers.asgi_app")(place)


def forebay_file(place: Place) -> list[str]:
    """One file, which the application learns of by its environment."""
    file = _write_file(place)
    return ["env", f"BENCH_FILE={file}", *forebay_run("app", "http", module="benchmarks.file_app")(place)]


def _write_file(place: Place) -> Path:
    folder = place.folder / "files"
    folder.mkdir(exist_ok=True)
    file = folder / FILE_PATH.removeprefix("/")
    file.write_bytes(bytes(range(256)) * (FILE_BYTES // 256))
    return file


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


def nginx_file(place: Place) -> list[str]:
    """A file, by sendfile, kept open, and sent in full packets."""
    _write_file(place)
    place.folder.chmod(0o755)  # nginx's workers, where root starts them, are nobody
    cache = "open_file_cache max=1000 inactive=60s; open_file_cache_valid 60s;"
    return _nginx(place, f"root {place.folder}/files;", f"sendfile on; tcp_nopush on; {cache}")


def nginx_proxy(place: Place) -> list[str]:
    """A reverse proxy that keeps the connections to its backend."""
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


STARLETTE_APP = "benchmarks.servers.starlette_app:app"
FASTAPI_APP = "benchmarks.servers.fastapi_app:app"
BLACKSHEEP_APP = "benchmarks.servers.blacksheep_app:app"
ASGI_APP = "benchmarks.servers.asgi_app:app"
RSGI_APP = "benchmarks.servers.rsgi_app:app"


def uvicorn(app: str, *options: str) -> Callable[[Place], list[str]]:
    """uvicorn at its fastest."""
    fastest = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    run = [sys.executable, "-m", "uvicorn", app]
    return lambda place: [*run, "--port", str(place.port), *fastest, *options]


def granian(interface: str, app: str) -> Callable[[Place], list[str]]:
    """granian for HTTP/1.1 alone, with ``rsgi``, its own interface, or ``asgi``. The runtime's mode is its choice."""
    run = [sys.executable, "-m", "granian", "--interface", interface, "--workers", "1", "--runtime-threads", "1"]
    fastest = ["--loop", "uvloop", "--http", "1", "--no-ws", "--no-access-log", "--log-level", "warning"]
    return lambda place: [*run, *fastest, "--port", str(place.port), app]


def websocket_server(module: str, *arguments: str) -> Callable[[Place], list[str]]:
    """A module of :mod:`benchmarks.servers`."""
    return lambda place: [sys.executable, "-m", f"benchmarks.servers.{module}", str(place.port), *arguments]


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


def gin(place: Place) -> list[str]:
    """Gin, in release mode, without middleware."""
    return [str(place.programs[GIN]), str(place.port)]
