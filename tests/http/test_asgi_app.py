"""One application under our server and under the ASGI servers uvicorn and granian: clients see the same."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.support import free_port

ROOT = Path(__file__).parent.parent.parent
APPS = "tests.http.asgi_face_apps"
LARGE_SIZE = 3_000_000

FACE = Path(__file__).with_name("asgi_face_apps.py")

HEAD = b" HTTP/1.1\r\nHost: test\r\n"

# What differs, because the server has it so:
LOST = {"forebay": 1006, "uvicorn": 1005, "granian": 1005}  # the close code of a connection that broke
NO_REASON = ("granian",)  # does not tell the reason of the client's close frame
HINTS = ("forebay",)  # sends early hints; the others do not offer it


@dataclass
class Served:
    """The application in the hands of a server, which is a process of its own."""

    server: str
    process: subprocess.Popen[bytes]
    port: int
    output: Path
    log: Path

    def end(self) -> int:
        """Terminate it, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, body, headers or {}, encode_chunked=isinstance(body, list))
            response = connection.getresponse()
            content = response.read()
            found: dict[str, str] = {}
            for name, value in response.getheaders():
                found[name.lower()] = f"{found[name.lower()]}, {value}" if name.lower() in found else value
            return response.status, found, content

    def get(self, path: str, **headers: str) -> Any:
        """The JSON at ``path``."""
        status, _, content = self.ask("GET", path, None, headers)
        assert status == 200, content
        return json.loads(content)

    def raw(self, data: bytes = b"") -> socket.socket:
        """A connection on which ``data`` was sent."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        sock.sendall(data)
        return sock

    def requested(self, path: str) -> socket.socket:
        """A GET of which no answer is read."""
        return self.raw(b"GET " + path.encode() + HEAD + b"\r\n")

    def upgraded(self, path: str) -> socket.socket:
        """A WebSocket of which nothing is read but the handshake."""
        lines = b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
        key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        sock = self.raw(b"GET " + path.encode() + HEAD + lines + key)
        assert sock.recv(12) == b"HTTP/1.1 101"
        return sock

    def connect(self, path: str, **options: Any) -> ClientConnection:
        """A WebSocket."""
        ws: ClientConnection = connect(f"ws://127.0.0.1:{self.port}{path}", open_timeout=10, close_timeout=5, **options)
        return ws


def command(server: str, target: str, port: int) -> list[str]:
    """What runs ``target``."""
    if server == "forebay":
        return ["forebay", "run", target, "--bind", f"http://127.0.0.1:{port}", "--admin", "off"]
    if server == "uvicorn":
        return ["uvicorn", target, "--port", str(port), "--no-proxy-headers", "--lifespan", "auto"]
    return ["granian", "--interface", "asgi", "--port", str(port), target]


@contextmanager
def serving(server: str, folder: Path, *options: str, target: str = f"{APPS}:app") -> Iterator[Served]:
    """Run it, from the moment it listens."""
    port = free_port()
    output, log, large = folder / f"{server}.out", folder / f"{server}.log", folder / "large.bin"
    large.write_bytes(bytes(range(256)) * (LARGE_SIZE // 256 + 1))
    os.truncate(large, LARGE_SIZE)
    environment = {**os.environ, "FACE_LARGE": str(large), "FACE_LOG": str(log)}
    with output.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command(server, target, port), *options],
            cwd=ROOT, env=environment, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        until(lambda: process.poll() is not None or _listens(port), 30)
        assert process.poll() is None, output.read_text()
        yield Served(server, process, port, output, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(predicate: Callable[[], Any], timeout: float = 10.0) -> None:
    """Return once it is true."""
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.02)


def rest(sock: socket.socket) -> bytes:
    """All up to the end of the connection."""
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def reset(sock: socket.socket) -> None:
    """Cut it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


SERVERS = ("forebay", "uvicorn", "granian")


@pytest.fixture(scope="module", params=SERVERS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The application under one of the servers."""
    with serving(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found
        said = found.output.read_text()
    assert "never retrieved" not in said
    assert "never awaited" not in said


def test_json(served: Served) -> None:
    """JSON, with its type and length, through the middleware."""
    status, headers, content = served.ask("GET", "/")
    assert (status, json.loads(content)) == (200, {"hello": "world"})
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(content))
    assert headers["x-mark"] == "GET"
    assert len(headers["date"].split("GMT")) == 2
    assert headers["server"] == served.server


def test_binding(served: Served) -> None:
    """Path and query parameters are bound."""
    assert served.get("/items/7?q=a%20b&tags=1&tags=2") == {"number": 7, "q": "a b", "tags": [1, 2]}


def test_binding_errors(served: Served) -> None:
    """What does not fit is 422 with every field."""
    status, headers, content = served.ask("GET", "/items/7?tags=x")
    assert (status, headers["content-type"]) == (422, "application/problem+json")
    assert json.loads(content)["errors"][0]["name"] == "tags"


def test_body(served: Served) -> None:
    """A JSON body becomes a Struct and back; what does not fit is 422, what is no JSON 400."""
    kind = {"content-type": "application/json"}
    assert json.loads(served.ask("POST", "/items", '{"name": "a", "price": 1}', kind)[2]) == {"name": "a", "price": 1}
    assert served.ask("POST", "/items", '{"name": "a", "price": -1}', kind)[0] == 422
    assert served.ask("POST", "/items", "{", kind)[0] == 400
    assert served.ask("POST", "/items", "{}", {"content-type": "text/plain"})[0] == 415


def test_chunked_body(served: Served) -> None:
    """Content in chunks is content."""
    kind = {"content-type": "application/json", "transfer-encoding": "chunked"}
    status, _, content = served.ask("POST", "/items", [b'{"name": "b", ', b'"price": 2}'], kind)
    assert (status, json.loads(content)) == (200, {"name": "b", "price": 2})


def test_what_comes(served: Served) -> None:
    """A request's parts are as the client has sent them."""
    with closing(served.raw(b"GET /what/a%2Fb/%C3%A4?x=1&x=%20" + HEAD + b"X-Given:  v \r\n"
                            b"Cookie: a=b\r\nConnection: close\r\n\r\n")) as sock:  # fmt: skip
        found = json.loads(rest(sock).partition(b"\r\n\r\n")[2])
    assert found == {
        "rest": "a/b/ä",
        "path": "/what/a/b/ä",
        "raw": "/what/a%2Fb/%C3%A4",
        "query": [["x", "1"], ["x", " "]],
        "client": "127.0.0.1",
        "scheme": "http",
        "host": "test",
        "header": "v",
        "cookies": {"a": "b"},
    }


@pytest.mark.parametrize("path", [b"/a/../b", b"/a/%2e%2e/b", b"/a%00", b"/a%zz", b"/a\\b"])
def test_bad_paths(served: Served, path: bytes) -> None:
    """What servers read differently is refused, also where the server takes it."""
    with closing(served.raw(b"GET " + path + HEAD + b"Connection: close\r\n\r\n")) as sock:
        assert rest(sock).split(b" ")[1] == b"400"


@pytest.mark.parametrize("lines", [b"", b"Host: a b\r\n", b"Host: a\r\nHost: b\r\n"])
def test_bad_hosts(served: Served, lines: bytes) -> None:
    """Exactly one valid Host."""
    with closing(served.raw(b"GET / HTTP/1.1\r\n" + lines + b"Connection: close\r\n\r\n")) as sock:
        assert rest(sock).split(b" ")[1] == b"400"


def test_cookies(served: Served) -> None:
    """Values of one name stay apart."""
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)) as connection:
        connection.request("GET", "/cookies")
        response = connection.getresponse()
        assert [value[:3] for value in response.headers.get_all("set-cookie") or []] == ["a=1", "b=2"]


def test_head(served: Served) -> None:
    """HEAD is GET without the content."""
    status, headers, content = served.ask("HEAD", "/")
    assert (status, headers["content-length"], headers["x-mark"], content) == (200, "17", "HEAD", b"")
    status, headers, content = served.ask("HEAD", "/file")
    assert (status, int(headers["content-length"]), content) == (200, FACE.stat().st_size, b"")
    assert served.ask("HEAD", "/stream")[::2] == (200, b"")


def test_keep_alive(served: Served) -> None:
    """A connection serves one request after the other, with and without content."""
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)) as connection:
        for method, path, body in (
            ("HEAD", "/", None), ("GET", "/empty", None), ("GET", "/stream", None), ("POST", "/upload", b"abc"),
            ("HEAD", "/large", None), ("GET", "/nothing", None), ("GET", "/", None),
        ):  # fmt: skip
            connection.request(method, path, body)
            response = connection.getresponse()
            response.read()
            assert not response.will_close, path


def test_statuses(served: Served) -> None:
    """404, 405 with Allow, OPTIONS, 204, a redirect, an error that is meant."""
    status, headers, content = served.ask("GET", "/nothing")
    assert (status, json.loads(content)["status"], headers["x-mark"]) == (404, 404, "GET")
    status, headers, _ = served.ask("DELETE", "/")
    assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    status, headers, content = served.ask("OPTIONS", "/items")
    assert (status, headers["allow"], content) == (204, "OPTIONS, POST", b"")
    status, headers, content = served.ask("GET", "/empty")
    assert (status, content) == (204, b"")
    assert "content-length" not in headers
    status, headers, _ = served.ask("GET", "/move")
    assert (status, headers["location"]) == (307, "/")
    status, headers, content = served.ask("GET", "/refuse")
    assert (status, headers["x-why"], json.loads(content)["detail"]) == (409, "because", "not now")


def test_a_failure(served: Served) -> None:
    """An exception is a 500 that does not tell what it was."""
    status, headers, content = served.ask("GET", "/fail")
    assert (status, headers["content-type"]) == (500, "application/problem+json")
    assert b"secret" not in content
    assert "a secret" in served.output.read_text()


def test_streams(served: Served) -> None:
    """Pieces of unknown and of known length."""
    status, headers, content = served.ask("GET", "/stream?count=500")
    assert content == b"".join(b"%d\n" % number for number in range(500))
    assert "content-length" not in headers
    status, headers, content = served.ask("GET", "/sized")
    assert (status, headers["content-length"], content) == (200, "10", b"0\n1\n2\n3\n4\n")
    assert "transfer-encoding" not in headers


@pytest.mark.parametrize("path", ["/cut", "/cut-sized", "/slow-stream"])
def test_cut_answers(served: Served, path: str) -> None:
    """An answer that breaks off is not taken for a whole one."""
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        served.ask("GET", path)


def test_deadline(served: Served) -> None:
    """An answer that takes too long is 504."""
    began = time.monotonic()
    assert served.ask("GET", "/slow")[0] == 504
    assert 0.25 < time.monotonic() - began < 3


def test_upload(served: Served) -> None:
    """Content that is read piece by piece."""
    assert json.loads(served.ask("POST", "/upload", bytes(900_000))[2]) == {"size": 900_000}
    assert served.ask("POST", "/echo", b"ab" * 100_000)[2] == b"ab" * 100_000
    assert served.ask("POST", "/ignore", bytes(1000))[2] == b"ignored"


def test_body_limit(served: Served) -> None:
    """413 for too much content, by what is announced and by what comes."""
    with closing(served.raw(b"POST /upload" + HEAD + b"Content-Length: 1000001\r\n\r\n")) as sock:
        assert sock.recv(65536).split(b" ")[1] == b"413"
    with closing(served.raw(b"POST /upload" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n")) as sock:
        try:
            for _ in range(16):
                sock.sendall(b"%x\r\n%b\r\n" % (65536, bytes(65536)))
        except ConnectionError:
            pass  # it was answered, and closed
        assert sock.recv(65536).split(b" ")[1] == b"413"


def test_expectations(served: Served) -> None:
    """A client that waits to be asked for its content is asked, once it is read."""
    lines = b"Content-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    with closing(served.raw(b"POST /upload" + HEAD + lines)) as sock:
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert json.loads(rest(sock).partition(b"\r\n\r\n")[2]) == {"size": 3}


def test_early_hints(served: Served) -> None:
    """An early hint is never in the way."""
    with closing(served.raw(b"GET /hints" + HEAD + b"Connection: close\r\n\r\n")) as sock:
        answer = rest(sock)
    assert answer.endswith(b"hinted")
    assert answer.startswith(b"HTTP/1.1 103") == (served.server in HINTS)


def test_files(served: Served) -> None:
    """Small and large files, whole, in part, or not at all."""
    own = FACE.read_bytes()
    status, headers, content = served.ask("GET", "/file")
    assert (status, content, headers["accept-ranges"]) == (200, own, "bytes")
    etag = headers["etag"]
    assert served.ask("GET", "/file", None, {"if-none-match": etag})[::2] == (304, b"")
    status, headers, content = served.ask("GET", "/file", None, {"range": "bytes=10-19"})
    assert (status, headers["content-range"], content) == (206, f"bytes 10-19/{len(own)}", own[10:20])
    assert served.ask("GET", "/file", None, {"range": "bytes=999999-"})[0] == 416
    status, headers, content = served.ask("GET", "/large")
    assert (status, len(content), headers["content-length"]) == (200, LARGE_SIZE, str(LARGE_SIZE))
    whole = content
    status, headers, content = served.ask("GET", "/large", None, {"range": "bytes=1000-2000000"})
    assert (status, content) == (206, whole[1000:2000001])
    status, headers, content = served.ask("GET", "/large", None, {"range": "bytes=0-1,70000-70001"})
    assert (status, headers["content-type"].split(";")[0]) == (206, "multipart/byteranges")
    assert content.count(b"content-range") == 2
    assert int(headers["content-length"]) == len(content)


@pytest.mark.parametrize("path", ["/wait", "/endless", "/ws/flood"])
def test_clients_that_leave(served: Served, path: str) -> None:
    """The handler of a client that is gone is cancelled, be it silent or sending."""
    before = served.get("/state")
    socket_of = served.upgraded if path.startswith("/ws") else served.requested
    sock = socket_of(path)
    what, count = ("waiting", 0) if path == "/wait" else ("pushed", 2)
    until(lambda: served.get("/state")[what] > before[what] + count)
    reset(sock)
    until(lambda: served.get("/state")["cancelled"] == before["cancelled"] + 1)


def test_clients_that_leave_within_content(served: Served) -> None:
    """A handler that waits for content is told that the client is gone."""
    before = served.get("/state")
    sock = served.raw(b"POST /half" + HEAD + b"Content-Length: 100\r\n\r\nabc")
    until(lambda: served.get("/state")["waiting"] > before["waiting"])
    reset(sock)
    until(lambda: served.get("/state")["cancelled"] == before["cancelled"] + 1)


def test_slow_clients(served: Served) -> None:
    """A handler waits for a client that does not read, and goes on when it does."""
    before = served.get("/state")["pushed"]
    with closing(served.requested("/endless")) as sock:
        until(lambda: _stands_still(served))
        pushed = served.get("/state")["pushed"]
        assert pushed - before < 400  # of 64 KiB; what kernels keep
        for _ in range(400):
            sock.recv(65536)
        until(lambda: served.get("/state")["pushed"] > pushed)


def _stands_still(served: Served) -> bool:
    first = served.get("/state")["pushed"]
    time.sleep(0.3)
    return bool(served.get("/state")["pushed"] == first)


def test_websocket_echo(served: Served) -> None:
    """Texts and bytes, short and long, in order; the client's close ends the handler."""
    before = len(served.get("/state")["closed"])
    messages: list[str | bytes] = ["", "a", "ä" * 200, b"", b"\0\xff", bytes(70_000), "x" * 70_000]
    with served.connect("/ws/echo") as ws:
        for message in messages:
            ws.send(message)
        assert [ws.recv(10) for _ in messages] == messages
        ws.close(4321, "bye")
    until(lambda: len(served.get("/state")["closed"]) == before + 1)
    assert served.get("/state")["closed"][-1] == [4321, "" if served.server in NO_REASON else "bye"]


def test_websocket_request(served: Served) -> None:
    """The handler knows the request, and its return closes with 1000."""
    with served.connect("/ws/about/me?x=%20y", additional_headers={"x-given": "v"}) as ws:
        assert json.loads(ws.recv(10)) == ["/ws/about/me", [["x", " y"]], "me", "v", "127.0.0.1"]
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1000


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_websocket_close_codes(served: Served, code: int) -> None:
    """The handler's close reaches the client with its code and reason, and ends."""
    before = len(served.get("/state")["closed"])
    with served.connect(f"/ws/close/{code}") as ws:
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(10)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, "as asked")
    until(lambda: len(served.get("/state")["closed"]) == before + 1)
    assert served.get("/state")["closed"][-1] == [code, "ours"]


def test_websocket_failure(served: Served) -> None:
    """A handler that fails closes with 1011."""
    with served.connect("/ws/fail") as ws, pytest.raises(ConnectionClosed) as closed:
        ws.recv(10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011


def test_websocket_lost(served: Served) -> None:
    """A connection that breaks ends the iteration, and cancels a handler that waits for something else."""
    before = served.get("/state")
    reset(served.upgraded("/ws/echo"))
    lazy = served.upgraded("/ws/lazy")
    until(lambda: served.get("/state")["waiting"] == before["waiting"] + 1)
    reset(lazy)
    until(lambda: len(served.get("/state")["closed"]) == len(before["closed"]) + 1)
    assert served.get("/state")["closed"][-1][0] == LOST[served.server]
    until(lambda: served.get("/state")["cancelled"] == before["cancelled"] + 1)


def test_websocket_subprotocols(served: Served) -> None:
    """The first of ours that the client offers."""
    for offered, chosen in (["a", "b", "c"], "b"), (["c"], "c"), (["x"], None):
        with served.connect("/ws/sub", subprotocols=[Subprotocol(one) for one in offered]) as ws:
            assert ws.subprotocol == chosen
            assert ws.recv(10) == (chosen or "none")


def test_websocket_long_message(served: Served) -> None:
    """A message past the handler's limit closes with 1009; one within it does not."""
    with served.connect("/ws/sub") as ws:
        assert ws.recv(10) == "none"
        ws.send("x" * 100_000)
        assert ws.recv(10) == "100000"
        ws.send(bytes(100_001))
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


@pytest.mark.parametrize(
    ("path", "origin", "status"), [("/ws/echo", "http://evil.example", 403), ("/ws/nothing", None, 404)]
)
def test_websocket_denial(served: Served, path: str, origin: str | None, status: int) -> None:
    """Foreign pages and unknown paths are denied with a response, which says why."""
    with pytest.raises(InvalidStatus) as denied:
        served.connect(path, **({"origin": origin} if origin else {}))
    response = denied.value.response
    assert response.status_code == status
    assert json.loads(response.body or b"")["status"] == status
    assert response.headers["x-mark"] == "GET"


def test_websocket_same_origin(served: Served) -> None:
    """Pages of the same host may connect."""
    with served.connect("/ws/echo", origin=f"http://127.0.0.1:{served.port}") as ws:
        ws.send("x")
        assert ws.recv(10) == "x"


def test_not_a_websocket(served: Served) -> None:
    """A GET of a WebSocket's path is told to upgrade."""
    status, headers, _ = served.ask("GET", "/ws/echo")
    assert (status, headers["upgrade"]) == (426, "websocket")


def test_broadcast(served: Served) -> None:
    """All of a room hear what one says; who leaves is out of it."""
    with served.connect("/ws/room") as one, served.connect("/ws/room") as two:
        until(lambda: served.get("/state")["room"] == 2)
        one.send("text")
        two.send(b"bytes" * 1000)
        for ws in (one, two):
            assert {ws.recv(10), ws.recv(10)} == {"text", b"bytes" * 1000}
    until(lambda: served.get("/state")["room"] == 0)


def test_mounts(served: Served) -> None:
    """What is mounted in the application works under every server: content both ways, WebSockets, denial."""
    status, headers, content = served.ask("POST", "/theirs/a", b"ab" * 100_000)
    assert (status, headers["x-about"], headers["x-mark"]) == (200, "/theirs /theirs/a http", "POST")
    assert content == b"ab" * 100_000
    with served.connect("/theirs/ws") as ws:
        assert ws.recv(10) == "/theirs /theirs/ws ws"
        for message in ("text", bytes(70_000)):
            ws.send(message)
            assert ws.recv(10) == message
    with pytest.raises(InvalidStatus) as denied:
        served.connect("/theirs/denied")
    assert denied.value.response.status_code == 403


@pytest.mark.parametrize("server", SERVERS)
def test_lifespan(server: str, tmp_path: Path) -> None:
    """It is entered once, before the first request, and left at the end, in one Task."""
    with serving(server, tmp_path) as served:
        assert served.get("/state")["started"] == 1
        assert served.end() in (0, -signal.SIGTERM)
        assert served.log.read_text() == "started\nstopped\n"


def test_no_lifespan(tmp_path: Path) -> None:
    """A server without one: the first requests start the application, once."""
    with serving("uvicorn", tmp_path, "--lifespan", "off") as served:
        socks = [served.raw(b"GET /state" + HEAD + b"Connection: close\r\n\r\n") for _ in range(5)]
        answers = [json.loads(rest(sock).partition(b"\r\n\r\n")[2]) for sock in socks]
        assert [answer["started"] for answer in answers] == [1] * 5
        for sock in socks:
            sock.close()


@pytest.mark.parametrize("server", SERVERS)
def test_failed_startup(server: str, tmp_path: Path) -> None:
    """An application that cannot start is not served, and it is said why."""
    output = tmp_path / "out"
    with output.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command(server, f"{APPS}:broken", free_port())], cwd=ROOT, stdout=out, stderr=out
        )
    try:
        assert process.wait(20) != 0
    finally:
        process.kill()
        process.wait()
    assert "the database is not there" in output.read_text()


@pytest.mark.parametrize(("server", "option"), [("uvicorn", "--root-path"), ("granian", "--url-path-prefix")])
def test_root_path(server: str, option: str, tmp_path: Path) -> None:
    """Routes are matched behind the server's root path."""
    with serving(server, tmp_path, option, "/below") as served:
        prefix = "/below" if server == "granian" else ""  # uvicorn expects a proxy to have taken it off
        found = served.get(f"{prefix}/what/a")
        assert (found["raw"], found["rest"]) == ("/what/a", "a")
