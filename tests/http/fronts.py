"""nginx and HAProxy in front of a server, each passing requests on over few connections that all clients share.

Each request they pass on carries two fields which no client can forge, as they replace what came under these names:
``X-Tag``, different for each request, and ``X-Read``, method and target as the front has read them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support import RawClient, free_port

ROOT = Path(__file__).parents[2]
_PLACES = (ROOT / ".tools/usr/sbin", ROOT / ".tools/usr/bin", "/usr/local/sbin", "/usr/sbin")
_TIMEOUT = 1.0  # seconds a front waits for a client


def find(program: str) -> str:
    """Where a front's program is. The test fails without it."""
    found = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, _PLACES)]))
    if found is None:
        pytest.fail(f"{program} is needed and is not there: `tools/need {program} {program}` fetches it")
    return found


def _nginx(folder: Path, port: int, backend: int, options: str) -> list[str]:
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n    ".join(f"{name}_temp_path {folder}/{name};" for name in temporary)
    wait = f"{_TIMEOUT * 1000:.0f}ms"
    file = folder / "nginx.conf"
    file.write_text(f"""
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 2048; }}
http {{
    {paths}
    access_log off;
    client_header_timeout {wait};
    client_body_timeout {wait};
    keepalive_timeout {wait};
    lingering_timeout {wait};
    client_max_body_size 2m;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream backend {{
        server 127.0.0.1:{backend};
        keepalive 8;
        keepalive_requests 1000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        {options}
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_next_upstream off;
            proxy_read_timeout 5s;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Tag $request_id;
            proxy_set_header X-Read "$request_method $request_uri";
        }}
    }}
}}
""")
    return [find("nginx"), "-e", f"{folder}/error.log", "-p", str(folder), "-c", str(file)]


def _haproxy(folder: Path, port: int, backend: int, options: str) -> list[str]:
    wait = f"{_TIMEOUT * 1000:.0f}ms"
    file = folder / "haproxy.cfg"
    file.write_text(f"""
global
    nbthread 1
    maxconn 2000

defaults
    mode http
    timeout connect 5s
    timeout client {wait}
    timeout http-request {wait}
    timeout http-keep-alive {wait}
    timeout server 5s
    retries 0
    http-reuse always

frontend clients
    bind 127.0.0.1:{port}
    {options}
    http-request set-header X-Tag %[uuid()]
    http-request set-header X-Read "%[method] %[url]"
    default_backend servers

backend servers
    server one 127.0.0.1:{backend}
""")
    return [find("haproxy"), "-db", "-q", "-f", str(file)]


_LENIENT = "proxy_request_buffering off; ignore_invalid_headers off; underscores_in_headers on; merge_slashes off;"

FRONTS: dict[str, tuple[Callable[[Path, int, int, str], list[str]], str]] = {
    "nginx": (_nginx, ""),
    "nginx, lenient and without buffers": (_nginx, _LENIENT),
    "haproxy": (_haproxy, ""),
    "haproxy, lenient": (_haproxy, "option accept-invalid-http-request"),
}
"""What is put in front, by name: what makes its command, and the options beside the ones all have."""


@asynccontextmanager
async def in_front(name: str, folder: Path, backend: int) -> AsyncIterator[int]:
    """Run a front before ``backend``; gives its port."""
    folder.mkdir()
    port = free_port()
    command_of, options = FRONTS[name]
    command = command_of(folder, port, backend, options)
    output = folder / "output.log"
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=folder)
    try:
        deadline = time.monotonic() + 10
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
        assert process.poll() is None, f"{name} ended with {process.returncode}: {output.read_text(errors='replace')}"
    finally:
        process.kill()
        process.wait()
