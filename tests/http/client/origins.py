"""Servers of other people, and ours, that a client is tried against. All serve the same: see :mod:`origin_app`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from forebay import App
from forebay.http import HTTPServer, Request, Response
from forebay.http.files import FileResponse
from tests.http.fronts import find
from tests.support import RawClient, free_port

ROOT = Path(__file__).parents[3]
TEXT = b"All that is there comes and goes.\n" * 4000


def _nginx(folder: Path, port: int, backend: int) -> list[str]:
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n    ".join(f"{name}_temp_path {folder}/{name};" for name in temporary)
    file = folder / "nginx.conf"
    file.write_text(f"""
daemon off;
master_process off;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 1024; }}
http {{
    {paths}
    access_log off;
    client_max_body_size 0;
    sendfile on;
    gzip on;
    gzip_min_length 1000;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location = /port {{ return 200 $remote_port; }}
        location /files/ {{ root {folder}; }}
        location / {{
            proxy_pass http://127.0.0.1:{backend};
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_request_buffering off;
            gzip off;
        }}
    }}
}}
""")
    return [find("nginx"), "-e", f"{folder}/error.log", "-p", str(folder), "-c", str(file)]


def _haproxy(folder: Path, port: int, backend: int) -> list[str]:
    file = folder / "haproxy.cfg"
    file.write_text(f"""
global
    nbthread 1
    maxconn 1000

defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout http-keep-alive 30s

frontend clients
    bind 127.0.0.1:{port}
    http-request return status 200 content-type text/plain lf-string "%[src_port]" if {{ path /port }}
    default_backend servers

backend servers
    server one 127.0.0.1:{backend}
""")
    return [find("haproxy"), "-db", "-q", "-f", str(file)]


def _caddy(folder: Path, port: int, backend: int) -> list[str]:
    file = folder / "Caddyfile"
    file.write_text(f"""
{{
    admin off
    auto_https off
    storage file_system {folder}/caddy
}}
http://127.0.0.1:{port} {{
    bind 127.0.0.1
    handle /port {{
        respond "{{http.request.remote.port}}"
    }}
    handle /files/* {{
        encode zstd gzip
        root * {folder}
        file_server
    }}
    handle {{
        reverse_proxy 127.0.0.1:{backend} {{
            flush_interval -1
        }}
    }}
}}
""")
    return [find("caddy"), "run", "--config", str(file), "--adapter", "caddyfile"]


def _uvicorn(folder: Path, port: int, backend: int) -> list[str]:
    options = ("--port", str(port), "--http", "h11", "--log-level", "warning", "--lifespan", "off")
    return [sys.executable, "-m", "uvicorn", "tests.http.client.origin_app:app", *options]


def _uvicorn_httptools(folder: Path, port: int, backend: int) -> list[str]:
    return ["httptools" if word == "h11" else word for word in _uvicorn(folder, port, backend)]


COMMANDS: dict[str, Callable[[Path, int, int], list[str]]] = {
    "nginx": _nginx,
    "haproxy": _haproxy,
    "caddy": _caddy,
    "uvicorn": _uvicorn,
    "uvicorn with httptools": _uvicorn_httptools,
}
ORIGINS = ("forebay", *COMMANDS)
"""Who can be tried."""
FRONTS = frozenset(("nginx", "haproxy", "caddy"))
"""Those that have somebody behind them."""


@asynccontextmanager
async def origin(name: str, folder: Path) -> AsyncIterator[str]:
    """Run a server of that name, which serves the files of ``folder / "files"``; its URL."""
    if name == "forebay":
        server = HTTPServer(ours(folder / "files"), bind="http://127.0.0.1:0")
        await server.start()
        try:
            yield f"http://127.0.0.1:{server.addresses[0].port}"
        finally:
            await server.stop()
    elif name in FRONTS:
        async with _process("uvicorn with httptools", folder, 0) as backend, _process(name, folder, backend) as port:
            yield f"http://127.0.0.1:{port}"
    else:
        async with _process(name, folder, 0) as port:
            yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def _process(name: str, folder: Path, backend: int) -> AsyncIterator[int]:
    port = free_port()
    output = folder / f"{name}.log"
    environment = os.environ | {"FOREBAY_ORIGIN": str(folder / "files"), "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    with output.open("wb") as file:
        process = subprocess.Popen(
            COMMANDS[name](folder, port, backend), stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                await (await RawClient.connect(port)).close()
                break
            except OSError:
                said = output.read_text(errors="replace")
                assert process.poll() is None, f"{name} ended with {process.returncode}: {said}"
                assert time.monotonic() < deadline, f"{name} does not listen: {said}"
                await asyncio.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


def ours(files: Path) -> App[object]:
    """Our own server's application."""
    app: App[object] = App("origin", body_limit=None)

    @app.get("/port")
    def port(request: Request) -> str:
        return str(request.exchange.conn.peer).rpartition(":")[2]

    @app.put("/sha")
    @app.post("/sha")
    async def sha(request: Request) -> dict[str, object]:
        digest = hashlib.sha256()
        size = 0
        async for piece in request.stream():
            digest.update(piece)
            size += len(piece)
        return {"size": size, "sha256": digest.hexdigest()}

    @app.post("/echo")
    async def echo(body: bytes) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 10_000):
                yield body[start : start + 10_000]

        return Response(pieces())

    @app.get("/chunks")
    async def chunks() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(100):
                yield b"%05d" % number * 200

        return Response(pieces())

    @app.get("/files/{name}")
    def file(name: str) -> FileResponse:
        return FileResponse(files / name)

    return app


def write_files(folder: Path, size: int) -> str:
    """A text, and a file of ``size`` bytes that no coding makes smaller; the SHA-256 of that."""
    files = folder / "files"
    files.mkdir()
    (files / "text.txt").write_bytes(TEXT)
    digest = hashlib.sha256()
    block = os.urandom(1 << 20)
    with (files / "large.bin").open("wb") as out:
        for number in range(size >> 20):
            piece = number.to_bytes(8, "big") + block[8:]
            out.write(piece)
            digest.update(piece)
    return digest.hexdigest()
