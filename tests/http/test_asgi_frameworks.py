"""Unmodified applications of well-known frameworks give the same answers under ``forebay run`` as under uvicorn."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.support import free_port

ROOT = Path(__file__).parent.parent.parent
SERVERS = ("forebay", "uvicorn")
SAME = {"PYTHONHASHSEED": "0"}  # frameworks send sets


@dataclass
class Served:
    """An application in the hands of a server, which is a process of its own."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def end(self) -> int:
        """Terminate it, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@contextmanager
def serving(server: str, target: str, folder: Path, *options: str) -> Iterator[Served]:
    """Run ``target`` under ``server``, from the moment it answers."""
    port = free_port()
    if server == "forebay":
        command = ["forebay", "run", target, "--bind", f"http://127.0.0.1:{port}", "--admin", "off"]
    else:
        command = ["uvicorn", target, "--port", str(port), "--no-proxy-headers"]
    log = folder / f"{server}-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *options], cwd=ROOT, env={**os.environ, **SAME}, stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield Served(process, port, log)
    finally:
        process.kill()
        process.wait(20)


Pair = dict[str, Served]


@pytest.fixture(
    scope="module", params=["starlette_app:app", "starlette_app:wrapped", "fastapi_app:app", "django_app:app"]
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """One application, under both servers. They end well."""
    folder = tmp_path_factory.mktemp("logs")
    target = f"tests.asgi_apps.{request.param}"
    with serving("forebay", target, folder) as ours, serving("uvicorn", target, folder) as theirs:
        yield {"forebay": ours, "uvicorn": theirs}
        assert ours.end() == 0, ours.log.read_text()


Answer = tuple[int, list[tuple[str, str]], bytes]

# What differs between servers, and may: who they are, the time, and how content is framed where it is not said
_OF_THE_SERVER = ("date", "server", "transfer-encoding", "connection", "content-length")


def ask(served: Served, method: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
    """One request; its answer without what is the server's."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    try:
        connection.request(method, path, body, headers, encode_chunked=isinstance(body, list))
        response = connection.getresponse()
        content = response.read()
        assert len(response.headers.get_all("date") or []) == 1
        length = response.headers["content-length"]
        assert method == "HEAD" or length is None or int(length) == len(content)
        own = sorted((k.lower(), v) for k, v in response.getheaders() if k.lower() not in _OF_THE_SERVER)
        return response.status, own, content
    finally:
        connection.close()


@dataclass
class Case:
    """A request, and what its answer must be wherever it is served."""

    name: str
    method: str
    path: str
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    only: tuple[str, ...] = ()  # frameworks that can do it


_BOUNDARY = "x1y2z3"


def multipart(content: bytes) -> bytes:
    """A form with a file in it."""
    head = 'Content-Disposition: form-data; name="file"; filename="b.bin"\r\nContent-Type: application/x-thing'
    return f"--{_BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + f"\r\n--{_BOUNDARY}--\r\n".encode()


FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MULTIPART = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
NAMED = b"name=J%C3%B6rg&color=red&color=dark+blue"
LIFESPAN = ("starlette", "fastapi")

CASES = [
    Case("route", "GET", "/items/42?q=a%20b", 200),
    Case("head", "HEAD", "/items/42", 200, content=b"", only=("starlette", "django")),
    Case("no such route", "GET", "/nowhere", 404),
    Case("no such method", "DELETE", "/items/42", 405),
    Case("no such item", "GET", "/items/x/y/z", 404),
    Case("unknown method", "PURGE", "/items/1", 405),
    Case("form", "POST", "/form", 200, NAMED, FORM),
    Case("small upload", "POST", "/upload", 200, multipart(b"\x00\xff\r\n" * 10), MULTIPART),
    Case("large upload", "POST", "/upload", 200, multipart(bytes(range(256)) * 20_000), MULTIPART),
    Case("chunked upload", "POST", "/raw", 200, [b"x" * 70_000] * 10, {"Transfer-Encoding": "chunked"}, b"700000"),
    Case("body", "POST", "/raw", 200, b"x" * 300_000, content=b"300000"),
    Case("no body", "POST", "/raw", 200, content=b"0"),
    Case("stream", "GET", "/stream", 200, content=b"".join(b"line %d\n" % n * 500 for n in range(20))),
    Case("slow stream", "GET", "/slow-stream", 200, only=("starlette", "django")),
    Case("no static file", "GET", "/static/nothing.css", 404, only=("starlette",)),
    Case("file by static", "GET", "/static/broken.py", 200, only=("starlette",)),
    Case("part by static", "GET", "/static/broken.py", 206, headers={"Range": "bytes=1-9"}, only=("starlette",)),
    Case("static head", "HEAD", "/static/broken.py", 200, content=b"", only=("starlette",)),
    Case("static post", "POST", "/static/broken.py", 405, b"x", only=("starlette",)),
    Case("origin", "GET", "/state", 200, headers={"Origin": "https://shop.example"}, only=LIFESPAN),
    Case("bytes in the path", "GET", "/%ff%c3", 404),
    Case("huge upload", "POST", "/upload", 200, multipart(bytes(range(256)) * 204_800), MULTIPART),
    Case("gzip", "GET", "/stream", 200, headers={"Accept-Encoding": "gzip"}),
    Case("state", "GET", "/state", 200, content=b"good morning", only=LIFESPAN),
    Case("cookies", "GET", "/cookies", 200, headers={"Cookie": "c=3; d=4"}),
    Case("no content", "GET", "/nothing", 204, content=b""),
    Case("file", "GET", "/file", 200),
    Case("file head", "HEAD", "/file", 200, content=b"", only=("starlette", "django")),
    Case("range", "GET", "/file", 206, headers={"Range": "bytes=10-29"}, only=LIFESPAN),
    Case("unsatisfiable range", "GET", "/file", 416, headers={"Range": "bytes=99999999-"}, only=LIFESPAN),
    Case("error", "GET", "/error", 500),
    Case(
        "scope", "GET", "/sub/scope/%C3%A4/b%20c?x=1&y=%20", 200, headers={"X-Two-Words": "a, b"}, only=("starlette",)
    ),
    Case("schema", "GET", "/openapi.json", 200, only=("fastapi",)),
    Case("validation", "GET", "/items/abc", 422, only=("fastapi",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_answers(pair: Pair, case: Case, request: pytest.FixtureRequest) -> None:
    """Status, headers and content; and they are what they should be."""
    framework = request.node.callspec.params["pair"].partition("_")[0]
    if case.only and framework not in case.only:
        return
    ours, theirs = (ask(pair[server], case.method, case.path, case.body, case.headers) for server in SERVERS)
    if (
        "file" in case.path or "static" in case.path
    ):  # its compression leaves files alone that it passes to the server by their path
        ours, theirs = ((code, [p for p in own if p[0] != "vary"], content) for code, own, content in (ours, theirs))
    if case.headers.get("Accept-Encoding") == "gzip" and framework == "django":  # it adds random bytes against BREACH
        ours, theirs = ((status, headers, b"") for status, headers, _ in (ours, theirs))
    assert ours == theirs
    assert ours[0] == case.status
    if case.content is not None:
        assert ours[2] == case.content


def test_a_redirect_leads_on(pair: Pair) -> None:
    """By the same path."""
    ours, theirs = (ask(pair[server], "GET", "/redirect", None, {}) for server in SERVERS)
    assert ours == theirs
    assert ("location", "/items/1") in ours[1]


def test_work_after_the_answer(pair: Pair, request: pytest.FixtureRequest) -> None:
    """Is done."""
    if "django" in request.node.callspec.id:
        return
    for server in SERVERS:
        assert ask(pair[server], "POST", "/background/k", b"", {})[0] == 202
        deadline = time.monotonic() + 5
        while ask(pair[server], "GET", "/background/k", None, {})[2] != b"done":
            assert time.monotonic() < deadline


@pytest.mark.parametrize("path", ["/events", "/long-poll"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_leaves_is_missed(pair: Pair, request: pytest.FixtureRequest, path: str, method: str) -> None:
    """By whoever sends events to it, or asks whether it is still there, in the way of the framework."""
    app = request.node.callspec.id
    if "fastapi" in app or ("wrapped" in app and path == "/long-poll"):  # whose middleware does not let it ask
        return
    key = f"left-{method}-{path[1:]}"
    for server in SERVERS:
        with socket.create_connection(("127.0.0.1", pair[server].port), timeout=10) as client:
            client.sendall(f"{method} {path}/{key} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            if path == "/events":
                assert client.recv(100).startswith(b"HTTP/1.1 200")
            else:
                time.sleep(0.1)  # it has begun to wait
        deadline = time.monotonic() + 5
        while ask(pair[server], "GET", f"/background/{key}", None, {})[2] != b"done":
            assert time.monotonic() < deadline, server
            time.sleep(0.02)


def test_many_requests_on_one_connection(pair: Pair) -> None:
    """One after the other."""
    for server in SERVERS:
        connection = http.client.HTTPConnection("127.0.0.1", pair[server].port, timeout=20)
        for number in range(20):
            connection.request("GET", f"/items/{number}")
            response = connection.getresponse()
            assert json.loads(response.read())["id"] == number
            assert response.headers["connection"] is None
        connection.close()


Talk = list[Any]


def dial(served: Served, path: str, **options: Any) -> ClientConnection:
    client: ClientConnection = connect(f"ws://127.0.0.1:{served.port}{path}", proxy=None, open_timeout=10, **options)
    return client


def talk(served: Served) -> Talk:
    """Everything a client sees of the echo."""
    seen: Talk = []
    protocols = [Subprotocol("one"), Subprotocol("two")]
    with dial(served, "/ws", subprotocols=protocols, max_size=None) as ws:
        assert ws.response is not None
        seen.append((ws.subprotocol, ws.response.status_code, ws.response.headers["x-from"]))
        for message in ("hello", "grün", b"\x00\x01", "x" * 200_000, bytes(range(256)) * 5_000, ""):
            ws.send(message)
            seen.append(ws.recv(10))
        ws.send(["in ", "three ", "fragments"])
        seen.append(ws.recv(10))
        assert ws.ping().wait(10)
        ws.send("close")
        seen.append(closing(ws))
    with dial(served, "/ws") as ws:
        seen.append(ws.subprotocol)
    for path in ("/ws/deny", "/ws/words", "/nowhere"):
        with pytest.raises(InvalidStatus) as caught:
            dial(served, path)
        response = caught.value.response
        own = response.body if path == "/ws/words" else b""
        seen.append((path, response.status_code, own))
    return seen


def closing(ws: ClientConnection) -> tuple[int | None, str | None]:
    """How the server closed."""
    with pytest.raises(ConnectionClosed):
        ws.recv(10)
    return ws.close_code, ws.close_reason


def test_the_same_websockets(pair: Pair, request: pytest.FixtureRequest) -> None:
    """Messages, subprotocols, closes and denials."""
    if "django" in request.node.callspec.id:  # it has none, and says so to either server
        for server in SERVERS:
            with pytest.raises(InvalidStatus) as caught:
                dial(pair[server], "/ws")
            assert caught.value.response.status_code == 500
        return
    ours, theirs = (talk(pair[server]) for server in SERVERS)
    assert ours == theirs
    assert ours[0] == ("two", 101, "app")
    assert ours[7:9] == ["IN THREE FRAGMENTS", (4002, "as you wish")]
    assert ours[10:] == [("/ws/deny", 403, b""), ("/ws/words", 401, ours[11][2]), ("/nowhere", 403, b"")]
    with dial(pair["forebay"], "/ws") as ws:  # where uvicorn cuts, with 1006
        ws.send("fail")
        assert closing(ws) == (1011, "")


@pytest.mark.parametrize("server", SERVERS)
def test_a_root_path(server: str, tmp_path: Path) -> None:
    """The application is told the same by both."""
    with serving(server, "tests.asgi_apps.starlette_app:make", tmp_path, "--factory", "--root-path", "/api") as served:
        status, _, content = ask(served, "GET", "/sub/scope/x", None, {})
        assert status == 200
        shown = json.loads(content)
        assert (shown["root_path"], shown["path"]) == ("/api/sub", "/api/sub/scope/x")


def test_a_start_that_fails_is_told_in_one_line() -> None:
    """And exits with 3."""
    command = ["forebay", "run", "tests.asgi_apps.broken:app", "--bind", f"http://127.0.0.1:{free_port()}"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--admin", "off"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].startswith("forebay: ")
    assert "startup failed: ConnectionError: the database does not answer" in done.stderr.splitlines()[-1]


def test_no_factory_is_told_in_one_line() -> None:
    """And exits with 3."""
    command = ["forebay", "run", "tests.asgi_apps.broken:make_with", "--factory", "--admin", "off"]
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 3, done.stderr
    assert "has parameters (name): with --factory it must have none" in done.stderr


def test_work_after_the_answer_outlives_the_end_of_serving(tmp_path: Path) -> None:
    """A drain waits for it; the exit is clean."""
    with serving("forebay", "tests.asgi_apps.starlette_app:app", tmp_path) as served:
        assert ask(served, "POST", "/background/k", b"", {})[0] == 202
        assert served.end() == 0, served.log.read_text()
        assert "cancelled" not in served.log.read_text()
