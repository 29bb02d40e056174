"""What the framework offers beyond plain requests, under our server, uvicorn and granian: clients see the same."""

from __future__ import annotations

import http.client
import json
import zlib
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec
import pytest
from websockets.exceptions import InvalidStatus

from tests.http.test_asgi_app import HEAD, SERVERS, Served, reset, serving, until

TARGET = "tests.http.asgi_feature_apps:app"
BEARER = {"authorization": "Bearer a-token-of-some-length"}


@pytest.fixture(scope="module", params=SERVERS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The application under one of the servers."""
    with serving(request.param, tmp_path_factory.mktemp(request.param), target=TARGET) as found:
        yield found
        said = found.output.read_text()
    assert "never retrieved" not in said
    assert "never awaited" not in said


def multipart(*parts: tuple[str, str, bytes]) -> tuple[bytes, dict[str, str]]:
    """A form of names, file names ("" for a plain field) and contents; with its headers."""
    body = b""
    for name, filename, content in parts:
        file = f'; filename="{filename}"\r\ncontent-type: text/x-own' if filename else ""
        body += f'--B\r\ncontent-disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"
    return body + b"--B--\r\n", {"content-type": "multipart/form-data; boundary=B"}


class Stream:
    """Server-sent events, as they come."""

    def __init__(self, served: Served, *headers: str) -> None:
        lines = b"".join(line.encode() + b"\r\n" for line in headers)
        self.sock = served.raw(b"GET /events" + HEAD + lines + b"\r\n")
        self.response = http.client.HTTPResponse(self.sock)
        self.response.begin()
        assert self.response.status == 200
        assert self.response.headers["content-type"].partition(";")[0] == "text/event-stream"

    def close(self) -> None:
        """Leave."""
        self.response.close()
        self.sock.close()

    def block(self) -> dict[str, str]:
        """Whatever comes next: the fields of an event, or of a comment."""
        found: dict[str, str] = {}
        while line := self.response.readline().decode().rstrip("\n"):
            name, _, value = line.partition(":")
            found[name] = value.removeprefix(" ")
        return found

    def event(self) -> dict[str, str]:
        """The next one that has data."""
        while "data" not in (found := self.block()):
            pass
        return found


def publish(served: Served, x: int) -> None:
    """To all who listen."""
    kind = {"content-type": "application/json"}
    assert served.ask("POST", "/events", json.dumps({"x": x, "y": 0}), kind)[0] == 202


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/point", 200), ("HEAD", "/point", 200), ("GET", "/nothing", 404), ("POST", "/point", 405),
     ("GET", "/fail", 500), ("GET", "/slow", 504), ("GET", "/hasty/slow", 504), ("GET", "/private/who", 401),
     ("GET", "/static/asgi_feature_apps.py", 200), ("GET", "/inner/things/a", 200)],
)  # fmt: skip
def test_hooks_are_on_every_answer(served: Served, method: str, path: str, status: int) -> None:
    """What request hooks add stands on answers of every kind, once."""
    answered, headers, _ = served.ask(method, path)
    assert (answered, headers["x-stamp"]) == (status, "hooked")
    assert "," not in headers["x-request-id"]


def test_hooks_refuse(served: Served) -> None:
    """A hook answers instead of the route, also instead of a WebSocket; hooks outside of it add to that."""
    status, headers, content = served.ask("GET", "/point", None, {"x-region": "moon"})
    assert (status, content) == (421, b"there is nobody here")
    assert "x-request-id" in headers
    with pytest.raises(InvalidStatus) as denied:
        served.connect("/ws/lobby/1", additional_headers={"x-region": "moon"})
    assert denied.value.response.status_code == 421


def test_events(served: Served) -> None:
    """They come one by one, with their names and ids; heartbeats come meanwhile; who comes back gets the rest."""
    before = served.get("/counts")["subscribers"]
    with closing(Stream(served)) as stream:
        until(lambda: served.get("/counts")["subscribers"] == before + 1)
        publish(served, 1)
        first = stream.event()
        assert (first["event"], json.loads(first["data"])) == ("point", {"x": 1, "y": 0})
        publish(served, 2)
        assert json.loads(stream.event()["data"])["x"] == 2
        while "" not in stream.block():
            pass  # a comment, that the connection is not taken for dead
    until(lambda: served.get("/counts")["subscribers"] == before)
    with closing(Stream(served, f"Last-Event-ID: {first['id']}")) as again:
        assert json.loads(again.event()["data"])["x"] == 2
    until(lambda: served.get("/counts")["subscribers"] == before)


def test_events_compressed(served: Served) -> None:
    """Each is there as soon as it is published, compressed or not."""
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 16)
    with closing(Stream(served, "Accept-Encoding: gzip")) as stream:
        assert stream.response.headers["content-encoding"] == "gzip"
        until(lambda: served.get("/counts")["subscribers"] == 1)
        publish(served, 3)
        seen = b""
        while b"event: point" not in seen:
            seen += unpack.decompress(stream.response.read1(65536))
    until(lambda: served.get("/counts")["subscribers"] == 0)


def test_forms(served: Served) -> None:
    """Fields and files of a form, small ones and such that go to the disk; and what is wrong with one."""
    large = bytes(600_000)
    body, headers = multipart(("title", "", "Grüße".encode()), ("files", "a.txt", b"one"), ("files", "b.bin", large))
    status, _, content = served.ask("POST", "/form", body, headers)
    kept = [["a.txt", "text/x-own", 3, 3], ["b.bin", "text/x-own", 600_000, 600_000]]
    assert (status, json.loads(content)) == (200, ["Grüße", kept])
    pieces = [body[at : at + 50_001] for at in range(0, len(body), 50_001)]
    status, _, content = served.ask("POST", "/form", pieces, {**headers, "transfer-encoding": "chunked"})
    assert (status, json.loads(content)) == (200, ["Grüße", kept])
    body, headers = multipart(("files", "a.txt", b"one"))
    status, _, content = served.ask("POST", "/form", body, headers)
    assert (status, json.loads(content)["errors"][0]["name"]) == (422, "title")
    assert served.ask("POST", "/form", body[:-9], headers)[0] == 400
    body, headers = multipart(("title", "", b"x"), ("files", "c.bin", bytes(1_000_000)))
    with closing(served.raw(b"POST /form" + HEAD + f"content-type: {headers['content-type']}\r\n".encode()
                            + b"content-length: %d\r\n\r\n" % len(body))) as sock:  # fmt: skip
        assert sock.recv(65536).split(b" ")[1] == b"413"


def test_work_after_the_response(served: Served) -> None:
    """It is done, on the loop and in threads, and nobody waits for it."""
    before = served.get("/counts")["after"]
    assert served.ask("POST", "/after?times=3")[0] == 202
    until(lambda: served.get("/counts")["after"] == before + 3)
    until(lambda: "done after" in served.log.read_text())


def test_dependencies(served: Served) -> None:
    """Made before the handler, and ended with its answer, whatever that was."""
    assert served.ask("GET", "/session")[2] == b"session of the pool"
    until(lambda: served.get("/counts")["open"] == 0)
    assert served.ask("GET", "/slow")[0] == 504
    until(lambda: served.get("/counts")["open"] == 0)
    sock = served.requested("/slow")
    reset(sock)
    until(lambda: served.get("/counts")["open"] == 0)


def test_answers(served: Served) -> None:
    """Threads, compression, MessagePack, links, identities and sessions."""
    assert served.get("/blocking") is True
    status, headers, content = served.ask("GET", "/long", None, {"accept-encoding": "gzip"})
    assert (status, headers["content-encoding"], headers["vary"]) == (200, "gzip", "accept-encoding")
    assert int(headers["content-length"]) == len(content) < 1000
    status, headers, content = served.ask("GET", "/point", None, {"accept": "application/msgpack"})
    assert msgspec.msgpack.decode(content) == {"x": 1, "y": 2}
    assert served.ask("GET", "/link")[2] == b"/link"
    status, headers, _ = served.ask("GET", "/private/who")
    assert (status, headers["www-authenticate"].split()[0]) == (401, "Bearer")
    assert served.ask("GET", "/private/who", None, BEARER)[2] == b"ada"
    _, headers, content = served.ask("POST", "/shop/visits")
    assert content == b"1"
    cookie = headers["set-cookie"].partition(";")[0]
    assert served.ask("POST", "/shop/visits", None, {"cookie": cookie})[2] == b"2"


def test_the_documentation(served: Served) -> None:
    """The document and its page."""
    assert "/session" in served.get("/openapi.json")["paths"]
    status, headers, content = served.ask("GET", "/docs")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<html" in content


def test_websockets_are_bound(served: Served) -> None:
    """Path, query, headers, cookies and dependencies; these end with the WebSocket."""
    headers = {"x-token": "good", "cookie": "theme=dark"}
    with served.connect("/ws/a%20b/7?times=2", additional_headers=headers) as ws:
        assert json.loads(ws.recv(10)) == ["a b", 7, "ada", "session of the pool", 2, "dark"]
        ws.send("again")
        assert [ws.recv(10), ws.recv(10)] == ["again", "again"]
        assert served.get("/counts")["open"] == 1
    until(lambda: served.get("/counts")["open"] == 0)
    with served.connect("/private/ws", additional_headers=BEARER) as ws:
        assert ws.recv(10) == "ada"


@pytest.mark.parametrize(
    ("path", "headers", "status", "says"),
    [("/ws/lobby/7?times=9", {"x-token": "good"}, 422, "times"), ("/ws/lobby/x", {}, 404, "Not Found"),
     ("/ws/lobby/7", {}, 401, "no token"), ("/private/ws", {}, 401, "bearer token")],
)  # fmt: skip
def test_websockets_are_denied(served: Served, path: str, headers: dict[str, str], status: int, says: str) -> None:
    """What does not fit, and what a dependency or middleware refuses, answers the handshake and says why."""
    with pytest.raises(InvalidStatus) as denied:
        served.connect(path, additional_headers=headers)
    response = denied.value.response
    assert response.status_code == status
    assert says in (response.body or b"").decode()
    assert response.headers["x-stamp"] == "hooked"
    until(lambda: served.get("/counts")["open"] == 0)


def test_mounted_applications(served: Served) -> None:
    """One of ours knows where it is, has dependencies and WebSockets; files are served with their tags."""
    assert served.get("/inner/things/a%2Fb") == ["a/b", "/inner/things/x", "session of the pool"]
    assert served.ask("GET", "/inner/nothing")[0] == 404
    with served.connect("/inner/ws?word=hello") as ws:
        assert ws.recv(10) == "hello"
    with pytest.raises(InvalidStatus) as denied:
        served.connect("/inner/ws")
    assert denied.value.response.status_code == 422
    status, headers, content = served.ask("GET", "/static/asgi_feature_apps.py")
    assert (status, int(headers["content-length"])) == (200, len(content))
    assert served.ask("GET", "/static/asgi_feature_apps.py", None, {"if-none-match": headers["etag"]})[0] == 304
    assert served.ask("GET", "/static/none")[0] == 404


@pytest.mark.parametrize("server", SERVERS)
def test_the_end(server: str, tmp_path: Any) -> None:
    """Work that was promised is done, then dependencies and mounted applications end, in this order."""
    with serving(server, tmp_path, target=TARGET) as served:
        assert served.ask("POST", "/at-the-end")[0] == 202
        served.end()
        log = served.log.read_text().split("\n")[:-1]
    begun, promised, ended = log[:3], log[3], log[4:]
    assert sorted(begun) == ["inner started", "pool opened", "pool opened"]  # each application has its own
    assert promised == "last words"
    assert sorted(ended) == ["inner stopped", "pool closed", "pool closed"]
