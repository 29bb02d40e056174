"""The client as programs use it: against our own server, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from forebay.engine import ClientTLS, fail_after
from forebay.errors import (
    ConnectFailed,
    ContentTooLarge,
    ContentUndecodable,
    DeadlineExceeded,
    ForebayError,
    PoolExhausted,
    ReadTimeout,
    TLSFailed,
    TooManyRedirects,
    UpstreamClosed,
    UpstreamProtocolError,
    UpstreamStatus,
    WriteTimeout,
)
from forebay.http import App, Client, ClientRequest, ClientResponse, HTTPServer, Limits, Request, Response, Timeouts
from forebay.http.client.auth import Bearer
from forebay.http.client.trace import Step, Trace
from forebay.http.client.url import parse_url
from forebay.policy import Backoff, Retry, deadline
from forebay.service import Service
from tests.http.client.kit import Peer, at_rest, nothing_left, playing, pool_of, trusting
from tests.support import eventually

MEBIBYTE = 1024 * 1024


class User(msgspec.Struct):
    """What the server has."""

    id: int
    name: str


def shop() -> App[None]:
    """An application with a bit of everything."""
    app: App[None] = App("shop")

    @app.get("/users/{id:int}")
    def user(id: int) -> User:  # noqa: A002 - it is called so in the path
        return User(id, "ann")

    @app.route("/echo", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    async def echo(request: Request) -> dict[str, Any]:
        return {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "headers": {name: request.headers[name] for name in request.headers},
            "size": len(await request.body()),
        }

    @app.get("/big")
    def big(size: int = MEBIBYTE) -> Response:
        return Response(bytes(size))

    @app.get("/stream")
    async def stream() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(5):
                yield b"piece %d\n" % number

        return Response(pieces())

    @app.get("/status/{code:int}")
    def status(code: int) -> Response:
        return Response("so it is", status=code)

    @app.get("/slow")
    async def slow(seconds: float = 5.0) -> str:
        await asyncio.sleep(seconds)
        return "late"

    @app.get("/to")
    def to(where: str, status: int = 302) -> Response:
        return Response(status=status, headers={"location": where})

    @app.get("/login")
    def login() -> Response:
        response = Response("welcome")
        response.set_cookie("session", "s3cret")
        return response

    @app.get("/odd")
    def odd() -> Response:
        return Response(b"\xff\xfe", content_type="text/plain; charset=utf-8")

    return app


@asynccontextmanager
async def served(bind: str = "http://127.0.0.1:0", **options: Any) -> AsyncIterator[HTTPServer]:
    """The shop, served."""
    server = HTTPServer(shop(), bind=bind, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def url_of(server: HTTPServer, scheme: str = "http") -> str:
    """Its origin."""
    return f"{scheme}://127.0.0.1:{server.addresses[0].port}"


@asynccontextmanager
async def asking(**options: Any) -> AsyncIterator[Client]:
    """A client of the shop; nothing of either is left behind."""
    options.setdefault("proxy", "")
    async with served():
        pass  # the first server of a process opens a descriptor for good
    async with nothing_left(), served() as server, Client(url_of(server), **options) as client:
        yield client


# What the contract shows


async def test_the_contract() -> None:
    """The example of the design, as it stands there."""
    async with served() as server:
        async with Client(
            url_of(server), timeouts=Timeouts(connect=3, read=5, write=5, total=10), retry=Retry(attempts=3)
        ) as client:
            response = await client.get("/users/1")
            assert response.status == 200
            assert response.headers["Content-Type"] == "application/json"
            assert await response.json(User) == User(1, "ann")
            assert await response.json() == {"id": 1, "name": "ann"}
            assert await response.text() == '{"id":1,"name":"ann"}'
            assert await response.read() == b'{"id":1,"name":"ann"}'
            streamed = [piece async for piece in (await client.get("/stream")).stream()]
            assert b"".join(streamed) == b"".join(b"piece %d\n" % number for number in range(5))
        assert isinstance(client, Service)


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "options"])
async def test_each_method(method: str) -> None:
    """Has a method of its own, and arrives as what it is."""
    async with asking() as client:
        response = await getattr(client, method)("/echo")
        assert (await response.json())["method"] == method.upper()


async def test_head_has_no_content() -> None:
    """Though its headers speak of some, and the connection is used again."""
    async with asking() as client:
        response = await client.head("/big")
        assert response.headers["content-length"] == str(MEBIBYTE)
        assert await response.read() == b""
        assert await (await client.get("/users/2")).json(User) == User(2, "ann")
        assert pool_of(client)["dials"] == 1


async def test_what_a_request_can_have() -> None:
    """Parameters, headers in place of the client's, cookies, and each kind of content."""
    async with asking(headers={"x-from": "client", "x-other": "1"}) as client:
        seen = await (
            await client.get("/echo?a=1", params={"b": [2, "x y"]}, headers={"X-From": "me"}, cookies={"c": "d"})
        ).json()
        assert seen["query"] == [["a", "1"], ["b", "2"], ["b", "x y"]]
        assert (seen["headers"]["x-from"], seen["headers"]["x-other"]) == ("me", "1")
        assert seen["headers"]["cookie"] == "c=d"
        for options, kind, size in (
            ({"content": b"bytes"}, None, 5),
            ({"content": "text"}, "text/plain; charset=utf-8", 4),
            ({"json": [1, 2]}, "application/json", 5),
            ({"form": {"a": "b"}}, "application/x-www-form-urlencoded", 3),
            ({"msgpack": 1}, "application/vnd.msgpack", 1),
        ):
            seen = await (await client.post("/echo", **options)).json()
            assert seen["size"] == size, options
            if kind is not None:
                assert seen["headers"]["content-type"].startswith(kind.partition("/")[0])
        seen = await (await client.post("/echo", files={"f": ("a.txt", b"hello", "text/plain")})).json()
        assert seen["headers"]["content-type"].startswith("multipart/form-data; boundary=")


async def test_content_goes_both_ways_at_once() -> None:
    """An answer may begin before the request has ended, and is read while more of that is sent."""
    app: App[None] = App("mirror")

    @app.post("/")
    async def mirror(request: Request) -> Response:
        return Response(request.stream())

    server = HTTPServer(app, bind="http://127.0.0.1:0")
    await server.start()
    turns: asyncio.Queue[bytes] = asyncio.Queue()

    async def said() -> AsyncIterator[bytes]:
        while piece := await turns.get():
            yield piece

    try:
        async with Client(url_of(server), proxy="") as client:
            turns.put_nowait(b"one")
            async with client.post("/", content=said()) as response:
                heard = response.stream()
                assert await anext(heard) == b"one"
                turns.put_nowait(b"two")
                assert await anext(heard) == b"two"
                turns.put_nowait(b"")
                assert [piece async for piece in heard] == []
            await at_rest(client)
    finally:
        await server.stop()


@pytest.mark.parametrize("size", [65_536, 65_537, 3 * MEBIBYTE])
async def test_much_content_goes_either_way(size: int) -> None:
    """More than fits into any buffer, over one connection."""
    async with asking() as client:
        seen = await (await client.put("/echo", content=bytes(size))).json()
        assert (seen["size"], seen["headers"]["content-length"]) == (size, str(size))
        assert await (await client.get("/big", params={"size": size})).read() == bytes(size)
        assert pool_of(client)["dials"] == 1


async def test_a_base_has_a_path() -> None:
    """What is asked for is below it, with or without a slash; whole URLs go anywhere."""
    async with served() as server, Client(f"{url_of(server)}/users/", proxy="") as client:
        for url in ("/7", "7", f"{url_of(server)}/users/7"):
            assert (await (await client.get(url)).json(User)).id == 7


async def test_without_a_base_urls_are_whole() -> None:
    """Else it says what is missing."""
    async with served() as server, Client(proxy="") as client:
        assert (await client.get(f"{url_of(server)}/users/1")).status == 200
        with pytest.raises(ValueError, match="no base URL"):
            client.get("/users/1")


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    """The base says where that is."""
    path = tmp_path / "shop.sock"
    async with served(bind=f"unix://{path}"), Client(f"unix://{path}") as client:
        response = await client.get("/echo")
        assert (await response.json())["headers"]["host"] == "localhost"


async def test_over_tls() -> None:
    """With the CA that is given; without it the server is refused, for its certificate."""
    from forebay.engine import TLS, Certificate
    from tests.engine.connecting import tls_files

    certificate = Certificate(*tls_files()[0].files)
    async with served(bind="https://127.0.0.1:0", tls=TLS(certificate)) as server:
        async with Client(url_of(server, "https"), tls=trusting(), proxy="") as client:
            assert (await client.get("/users/1", trace=True)).status == 200
        async with Client(url_of(server, "https"), proxy="") as client:
            with pytest.raises(TLSFailed, match="certificate"):
                await client.get("/users/1")
        async with Client(url_of(server, "https"), tls=ClientTLS(verify=False), proxy="") as client:
            assert (await client.get("/users/1")).status == 200


async def test_a_server_that_wants_a_certificate() -> None:
    """Says so only after the handshake (RFC 8446 section 4.4.2.4): the error tells what it said."""
    from forebay.engine import TLS, Certificate
    from tests.engine.connecting import tls_files

    own, ca = tls_files()
    tls = TLS(Certificate(*own.files), client_auth="required", client_ca=ca)
    async with (
        served(bind="https://127.0.0.1:0", tls=tls) as server,
        Client(url_of(server, "https"), tls=trusting(), proxy="") as client,
    ):
        with pytest.raises(UpstreamClosed, match="certificate required"):
            await client.get("/users/1")


# What is refused


async def test_requests_that_are_not_well_formed() -> None:
    """Are refused where they are made, and nothing is sent."""
    async with asking() as client:
        with pytest.raises(ValueError, match="method 'GET /': must be a token"):
            client.request("GET /", "/")
        with pytest.raises(ValueError, match="CONNECT"):
            client.request("CONNECT", "/")
        with pytest.raises(ValueError, match="control characters"):
            client.get("http://user\n@x/")
        with pytest.raises(ValueError, match="one content"):
            client.post("/", json=1, content=b"x")
        with pytest.raises(ValueError, match="control character"):
            await client.get("/echo", headers={"x": "a\r\nb: c"})
        assert pool_of(client)["dials"] == 0


async def test_a_client_that_is_not_started() -> None:
    """Says how it is used; and so does one that was stopped."""
    client = Client("http://127.0.0.1:1")
    with pytest.raises(RuntimeError, match="async with"):
        client.get("/")
    async with client:
        pass
    with pytest.raises(RuntimeError, match="stopped"):
        client.get("/")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "ftp://x"}, "must be like http"),
        ({"base": "http://x/?a=b"}, "without a query"),
        ({"headers": {"Content-Length": "3"}}, "is of a request"),
        ({"headers": {"a\nb": "3"}}, "not a token"),
        ({"cookies": {"a": "b"}}, "for whom"),
        ({"base": "unix://"}, "has no path"),
        ({"base": ["http://ann:secret@a", "http://b"]}, r"'http://\*\*\*@a': must be without a user"),
        ({"base": []}, "no targets"),
        ({"base": "http://x", "proxy": "socks5://x"}, "socks|SOCKS"),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    """Are refused at once; the message says which."""
    with pytest.raises(ValueError, match=message):
        Client(**options)


@pytest.mark.parametrize("name", ["connect", "tls", "pool", "write", "read", "total"])
def test_timeouts_are_above_0(name: str) -> None:
    """Each of them, or None."""
    with pytest.raises(ValueError, match=f"Timeouts {name} 0: must be above 0 seconds"):
        Timeouts(**{name: 0})
    assert getattr(Timeouts(**{name: None}), name) is None


def test_limits_are_bounded_below() -> None:
    """Each of them."""
    for name, value in (("connections", 0), ("idle", -1), ("head", 10), ("body", 0), ("buffer", 1), ("unread", 0)):
        with pytest.raises(ValueError, match=f"Limits {name} {value}"):
            Limits(**{name: value})


# Errors


async def test_each_timeout_has_an_error_of_its_own() -> None:
    """And comes when it is due: read, write, total, pool, and the caller's own deadline."""
    async with asking(timeouts=Timeouts(read=0.2)) as client:
        with pytest.raises(ReadTimeout, match=r"no answer within 0\.2 s"):
            await client.get("/slow")
        with pytest.raises(DeadlineExceeded, match=r"GET .*/slow.*not done within 0\.1 s"):
            await client.get("/slow", timeouts=Timeouts(total=0.1))
        with pytest.raises(DeadlineExceeded) as caught, deadline(0.1):
            await client.get("/slow")
        assert caught.value.inherited
        with pytest.raises(DeadlineExceeded, match=r"not done within 0\.1 s"):
            async with fail_after(0.1):
                await client.get("/slow")
        await at_rest(client)


async def test_no_connection_in_time_names_who_has_them() -> None:
    """The pool is exhausted by those who hold it: in which line."""
    async with asking(limits=Limits(connections=1, per_target=1), timeouts=Timeouts(pool=0.1)) as client:
        async with client.get("/big?size=3000000"):
            with pytest.raises(PoolExhausted) as caught:
                await client.get("/users/1")
        assert "test_client.py" in caught.value.holders[0]
        await at_rest(client)


async def test_a_server_that_reads_nothing() -> None:
    """Past ``write`` that is said; the upload does not hang."""

    async def deaf(peer: Peer) -> None:
        await asyncio.sleep(60)

    timeouts = Timeouts(write=0.2, read=5)
    async with nothing_left(), playing(deaf) as server, Client(server.url, timeouts=timeouts, proxy="") as client:
        with pytest.raises(WriteTimeout, match=r"took nothing .* 0\.2 s"):
            await client.put("/", content=bytes(64 * MEBIBYTE))
        await at_rest(client)


async def test_a_server_that_is_not_there() -> None:
    """Is not connected to, which is safe to try again."""
    async with Client("http://127.0.0.1:1", proxy="") as client:
        with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:1") as caught:
            await client.get("/")
        assert caught.value.retry == "safe"


async def test_the_status_is_an_error_when_that_is_asked_for() -> None:
    """With the response in it."""
    async with asking() as client:
        ok = await client.get("/users/1")
        assert ok.raise_for_status() is ok
        with pytest.raises(UpstreamStatus, match="/status/503: 503 Service Unavailable") as caught:
            (await client.get("/status/503")).raise_for_status()
        assert (caught.value.answered, caught.value.retry) == (503, "maybe")
        assert await caught.value.response.text() == "so it is"


async def test_content_that_is_not_what_was_asked_for() -> None:
    """JSON of another shape, text in another charset, more than is taken: each says what and where."""
    async with asking(limits=Limits(body=1000)) as client:
        with pytest.raises(ContentUndecodable, match=r"JSON of int: Expected `int`, got `object`"):
            await (await client.get("/users/1")).json(int)
        with pytest.raises(ContentUndecodable, match="not utf-8"):
            await (await client.get("/odd")).text()
        with pytest.raises(ContentTooLarge, match=r"Limits\.body"):
            await (await client.get("/big")).read()
        pieces = [piece async for piece in (await client.get("/big")).stream()]
        assert sum(map(len, pieces)) == MEBIBYTE
        await at_rest(client)


async def test_content_can_be_taken_once() -> None:
    """As a stream; read() may be asked again."""
    async with asking() as client:
        response = await client.get("/big")
        async for _ in response.stream():
            pass
        with pytest.raises(RuntimeError, match="taken, or left, already"):
            await response.read()


async def test_what_the_content_raises_is_raised() -> None:
    """By who made the request, and the connection is not used again."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"some"
        raise LookupError("no more")

    async with asking() as client:
        with pytest.raises(LookupError, match="no more"):
            await client.post("/echo", content=broken())
        await at_rest(client)
        assert pool_of(client)["idle"] == 0
        assert (await client.get("/users/1")).status == 200


# Redirects, cookies, middleware


async def test_redirects_are_followed_and_remembered() -> None:
    """Up to a limit; none where that is not wanted."""
    async with asking() as client:
        response = await client.get("/to?where=/to?where=/users/3")
        assert await response.json(User) == User(3, "ann")
        assert [one.status for one in response.history] == [302, 302]
        assert str(response.url).endswith("/users/3")
        assert (await client.get("/to?where=/users/3", redirects=False)).status == 302
        with pytest.raises(TooManyRedirects, match="more than 1 times"):
            await client.get("/to?where=/to?where=/users/3", redirects=1)
        await at_rest(client)


async def test_what_is_meant_for_one_origin_is_not_told_another() -> None:
    """Neither credentials, nor headers of the client's own making."""
    async with asking(auth=("ann", "pw"), headers={"x-api-key": "k"}, cookies=True) as client, served() as other:
        assert (await (await client.get("/echo")).json())["headers"]["authorization"].startswith("Basic ")
        target = f"{url_of(other)}/echo".replace("127.0.0.1", "localhost")
        seen = await (await client.get("/to", params={"where": target}, cookies={"own": "1"})).json()
        assert not {"authorization", "x-api-key", "cookie"} & set(seen["headers"])
        assert "accept-encoding" in seen["headers"]


async def passes(request: ClientRequest, call_next: Any) -> ClientResponse:
    """A middleware that does nothing."""
    response: ClientResponse = await call_next(request)
    return response


ELSEWHERE: list[tuple[dict[str, Any], dict[str, Any], str | None, str | None]] = [
    # of the client, of a request; the authorization that its own origin gets, and the one that another gets
    ({"auth": ("ann", "pw")}, {}, "Basic YW5uOnB3", None),
    ({"auth": ("ann", "pw")}, {"middleware": [passes]}, "Basic YW5uOnB3", None),
    ({"auth": ("ann", "pw")}, {"auth": False}, None, None),
    ({"auth": ("ann", "pw")}, {"auth": Bearer("t")}, "Bearer t", "Bearer t"),
    ({"auth": ("ann", "pw")}, {"headers": {"Authorization": "mine"}}, "mine", "mine"),
    ({"middleware": [Bearer("t")]}, {}, "Bearer t", None),
    ({"middleware": [passes]}, {"middleware": [Bearer("t")]}, "Bearer t", None),
    ({"headers": {"Authorization": "all"}}, {}, "all", None),
    ({"headers": {"Authorization": "all"}, "auth": ("ann", "pw")}, {}, "all", None),
]


@pytest.mark.parametrize(("options", "of_request", "own", "others"), ELSEWHERE)
async def test_who_is_shown_credentials(
    options: dict[str, Any], of_request: dict[str, Any], own: str | None, others: str | None
) -> None:
    """Those of a client are for the origin of its base URL, also when a request names another from the start, is
    sent there by a URL object, or is led back from there."""
    async with asking(**options) as client, served() as other:
        base, there = str(client).split()[1].rstrip("/"), f"{url_of(other)}/echo"
        back = f"{url_of(other)}/to?where={base}/echo"
        for url, shown in (("/echo", own), (f"{base}/echo", own), (there, others), (parse_url(there), others)):
            seen = await (await client.get(url, **of_request)).json()
            assert seen["headers"].get("authorization") == shown, url
        for url in ("/to?where=" + quote(back), "/to?where=" + quote(there)):
            seen = await (await client.get(url, **of_request)).json()
            assert "authorization" not in seen["headers"], url


async def test_users_in_urls() -> None:
    """Are shown to where the URL leads, unless there is another ``auth``, and are in no text."""
    async with served() as server, served() as other:
        base, there = url_of(server), url_of(other)
        async with Client(base.replace("//", "//ann:pw@"), proxy="") as client:

            async def shown(url: str, **options: Any) -> str | None:
                seen = await (await client.get(url, **options)).json()
                found: str | None = seen["headers"].get("authorization")
                return found

            assert await shown("/echo") == "Basic YW5uOnB3"
            assert await shown(f"{there}/echo") is None
            with_user = f"{there}/echo".replace("//", "//bob:secret@")
            assert await shown(with_user) == "Basic Ym9iOnNlY3JldA=="
            assert await shown(with_user, auth=("x", "y")) == "Basic eDp5"
            assert await shown(with_user, auth=False) is None
            assert await shown(f"{there}/to?where={base}/echo".replace("//", "//bob:secret@", 1)) is None
            response = await client.get(with_user)
            assert "secret" not in f"{response!r} {response.request} {response.url} {client!r}"
            with pytest.raises(UpstreamProtocolError) as caught:
                await client.get("/to", params={"where": with_user})
            assert "secret" not in str(caught.value).partition("redirected")[2]  # before that is what was asked for
        async with Client(base.replace("//", "//ann:pw@"), auth=("x", "y"), proxy="") as client:
            assert await shown("/echo") == "Basic eDp5"
            assert "pw" not in repr(client)


async def test_headers_in_a_list() -> None:
    """Come as often as they are given, in place of the client's, in whichever case."""
    asked: list[list[bytes]] = []

    async def play(peer: Peer) -> None:
        while True:
            head = await peer.reader.readuntil(b"\r\n\r\n")
            asked.append([line for line in head.split(b"\r\n") if line.startswith(b"x-")])
            await peer.answer()

    of_all = [("x-a", "0"), ("X-A", "1"), ("x-b", "2")]
    async with nothing_left(), playing(play) as server, Client(server.url, headers=of_all, proxy="") as client:
        await client.get("/")
        await client.get("/", headers=[("X-A", "3"), ("x-a", "4")])
        await client.get("/", headers={"X-A": "5"})
        await client.get("/", headers={})
    every = [b"x-a: 0", b"x-a: 1", b"x-b: 2"]
    assert asked == [every, [b"x-b: 2", b"x-a: 3", b"x-a: 4"], [b"x-b: 2", b"x-a: 5"], every]


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"param": {"a": 1}}, TypeError, "request option param: there is none; there are auth, content, cookies"),
    ({"data": b"", "allow_redirects": False}, TypeError, "option allow_redirects, data"),
    ({"timeouts": 5}, TypeError, r"timeouts 5: must be Timeouts, as in Timeouts\(total=5\)"),
    ({"headers": {"x": 5}}, TypeError, "header 'x': must be text, and its value too, not int"),
    ({"headers": "x: y"}, TypeError, "headers of type str: must be a mapping, or pairs"),
    ({"auth": "s3cret"}, TypeError, "auth of type str: must be"),
    ({"auth": ("a", "b", "c")}, TypeError, "auth of type tuple"),
    ({"auth": ("a:b", "c")}, ValueError, "without a colon"),
    ({"redirects": "yes"}, TypeError, "redirects 'yes': must be Redirects"),
    ({"redirects": -1}, ValueError, "limit -1"),
    ({"trace": "yes"}, TypeError, "trace of type str"),
    ({"middleware": passes}, TypeError, "middleware of type function: must be a list"),
    ({"idempotent": "no"}, TypeError, "idempotent 'no': must be True, False or None"),
    ({"expect_continue": 1}, TypeError, "expect_continue 1: must be True"),
    ({"cookies": "a=b"}, TypeError, "cookies of type str: must be a mapping"),
    ({"cookies": {"a": 1}}, TypeError, "cookie 'a': must be text, and its value too, not int"),
    ({"cookies": {"a": "b; c=d"}}, ValueError, "value of cookie 'a'"),
    ({"cookies": {"a; b": "c"}}, ValueError, "cookie name 'a; b'"),
]


@pytest.mark.parametrize(("options", "error", "said"), WRONG)
async def test_options_that_make_no_sense(options: dict[str, Any], error: type[Exception], said: str) -> None:
    """Are refused where the request is made, by name, with what there is; and for a client too, where it has them."""
    async with asking() as client:
        with pytest.raises(error, match=said) as caught:
            client.get("/", **options)
        assert "s3cret" not in str(caught.value)
    if not {"param", "data", "idempotent", "expect_continue"} & set(options):
        with pytest.raises(error, match=said):
            Client("http://x", **options)


async def test_options_that_say_nothing() -> None:
    """None is as if it was not given, but for ``json``, which is ``null`` then."""
    async with asking(headers={"x-a": "1"}, auth=("ann", "pw")) as client:
        nothing: dict[str, Any] = dict.fromkeys(
            ("params", "headers", "cookies", "content", "form", "files", "timeouts", "auth", "redirects", "middleware",
             "trace", "idempotent", "expect_continue")
        )  # fmt: skip
        plain = await (await client.get("/echo")).json()
        assert await (await client.get("/echo", **nothing)).json() == plain
        empty: dict[str, Any] = {"params": {}, "headers": [], "cookies": {}, "middleware": []}
        assert await (await client.get("/echo", **empty)).json() == plain
        assert (await (await client.post("/echo", json=None)).json())["size"] == 4
        assert (await (await client.post("/echo", content=b"")).json())["size"] == 0


async def test_a_request_may_have_more_time_than_the_client_gives() -> None:
    """Its timeouts are in place of all of the client's."""
    async with asking(timeouts=Timeouts(total=0.05)) as client:
        response = await client.get("/slow?seconds=0.2", timeouts=Timeouts(total=None))
        assert await response.text() == "late"
        assert "request-timeout-ms" not in response.request.headers


async def test_cookies_are_kept_when_that_is_said() -> None:
    """And not by default: a client is mostly not one user."""
    async with asking(cookies=True) as client:
        await client.get("/login")
        seen = await (await client.get("/echo", cookies={"own": "1"})).json()
        assert seen["headers"]["cookie"] == "session=s3cret; own=1"
    async with asking() as client:
        await client.get("/login")
        assert "cookie" not in (await (await client.get("/echo")).json())["headers"]


async def test_cookies_that_a_redirect_sets() -> None:
    """Or deletes, are newer than those that the request has brought, which others go on without a change."""
    asked: list[str | None] = []

    async def play(peer: Peer) -> None:
        while (one := await peer.asked()) is not None:
            asked.append(one.headers.get("cookie"))
            if one.target == "/in":
                await peer.answer(status=302, headers="Location: /\r\nSet-Cookie: session=new\r\n")
            elif one.target == "/out":
                await peer.answer(status=302, headers="Location: /\r\nSet-Cookie: session=; Max-Age=0\r\n")
            else:
                await peer.answer()

    async with nothing_left(), playing(play) as server, Client(server.url, cookies=True, proxy="") as client:
        await client.get("/in", cookies={"session": "old", "a": "b"})
        await client.get("/")
        await client.get("/", cookies={"session": "old"})
        await client.get("/out", cookies={"session": "old"})
        await client.get("/", headers=[("cookie", "a=b"), ("cookie", "c=d")])
    assert asked == [
        "session=old; a=b",
        "session=new; a=b",
        "session=new",
        "session=old",
        "session=old",
        None,
        "a=b; c=d",
    ]


async def test_middleware_is_around_each_request_in_order() -> None:
    """The client's, then the request's; each hop of a redirect goes through them. They may answer by themselves."""
    seen: list[str] = []

    async def outer(request: ClientRequest, call_next: Any) -> ClientResponse:
        seen.append(f"outer {request.url.path}")
        request.headers["x-outer"] = "yes"
        response: ClientResponse = await call_next(request)
        seen.append(f"{response.status}")
        return response

    async def inner(request: ClientRequest, call_next: Any) -> ClientResponse:
        seen.append("inner")
        if request.url.path == "/made":
            return ClientResponse.made(request, 203, [("x-made", "here")], b"made up")
        response: ClientResponse = await call_next(request)
        return response

    async with asking(middleware=[outer]) as client:
        response = await client.get("/to?where=/echo", middleware=[inner])
        assert (await response.json())["headers"]["x-outer"] == "yes"
        assert seen == ["outer /to", "inner", "302", "outer /echo", "inner", "200"]
        made = await client.get("/made", middleware=[inner])
        assert (made.status, made.headers["x-made"], await made.text()) == (203, "here", "made up")
        assert "outer > no policies" in repr(client)


# What is told


async def test_a_trace_tells_what_happened_in_order() -> None:
    """For a new connection, and for one that is used again."""
    async with asking() as client:
        first = await client.get("/users/1", trace=True)
        assert first.trace is not None
        assert [event.step for event in first.trace.events] == [
            Step.POOL_WAIT,
            Step.DIAL_START,
            Step.CONNECT_START,
            Step.CONNECT_DONE,
            Step.GOT_CONNECTION,
            Step.WROTE_HEADERS,
            Step.FIRST_BYTE,
            Step.HEAD,
            Step.DONE,
        ]
        told: list[str] = []
        again = await client.get("/users/1", trace=Trace(lambda event: told.append(event.step)))
        assert told == ["pool-wait", "got-connection", "wrote-headers", "first-byte", "head", "done"]
        assert again.trace is not None
        assert again.trace.times.reused
        assert (await client.get("/users/1")).trace is None


async def test_the_deadline_is_told_the_server() -> None:
    """What is left of it, in milliseconds; nothing where there is none."""
    async with asking() as client:
        seen = await (await client.get("/echo", timeouts=Timeouts(total=2.0))).json()
        assert 1000 < int(seen["headers"]["request-timeout-ms"]) <= 2000
        with deadline(1.0):
            seen = await (await client.get("/echo")).json()
        assert 500 < int(seen["headers"]["request-timeout-ms"]) <= 1000
        assert "request-timeout-ms" not in (await (await client.get("/echo")).json())["headers"]


async def test_the_server_is_asked_before_content_is_sent() -> None:
    """With ``expect_continue``: it says go on, or answers without the content."""

    async def picky(peer: Peer) -> None:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        assert b"expect: 100-continue" in head.lower()
        if b"/no" in head:
            await peer.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        await peer.say(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await peer.reader.readexactly(5)
        await peer.answer(body)

    async with nothing_left(), playing(picky) as server, Client(server.url, proxy="") as client:
        response = await client.put("/yes", content=b"hello", expect_continue=True)
        assert await response.read() == b"hello"
        assert (await client.put("/no", content=b"hello", expect_continue=True)).status == 413
        await at_rest(client)


async def test_a_redirect_that_is_refused_does_not_keep_its_connection() -> None:
    """However much content it has."""

    async def play(peer: Peer) -> None:
        while await peer.asked() is not None:
            await peer.answer(bytes(MEBIBYTE), 302, "Location: ftp://elsewhere/\r\n")

    async with nothing_left(), playing(play) as server, Client(server.url, proxy="") as client:
        with pytest.raises(UpstreamProtocolError, match="to nowhere") as caught:
            await client.get("/")
        await at_rest(client)
        del caught


async def test_a_request_can_be_made_a_task() -> None:
    """Of its own, or of a group; cancelled, it leaves nothing."""
    async with asking() as client:
        assert (await asyncio.create_task(client.get("/users/1"))).status == 200
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.get(f"/users/{number}")) for number in range(5)]
        assert [(await task.result().json(User)).id for task in tasks] == list(range(5))
        slow = asyncio.create_task(client.get("/slow"))
        await asyncio.sleep(0.05)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        await at_rest(client)
        client.get("/users/1").close()  # without a warning


async def test_what_has_begun_is_not_drained_away() -> None:
    """A redirect to follow, and a try to come, are of requests under way."""
    asked: list[str] = []
    first = asyncio.Event()

    async def play(peer: Peer) -> None:
        while (one := await peer.asked()) is not None:
            asked.append(one.target)
            first.set()
            if len(asked) == 1:
                await asyncio.sleep(0.05)
                await peer.answer(status=302, headers="Location: /next\r\n")
            else:
                await peer.answer(status=503 if len(asked) == 2 else 200)

    async with nothing_left(), playing(play) as server:
        client = Client(server.url, retry=Retry(backoff=Backoff(initial=0.05), budget_share=None), proxy="")
        await client.start()
        under_way = asyncio.create_task(client.get("/"))
        await first.wait()
        await client.drain()
        assert under_way.done()
        assert (under_way.result().status, asked) == (200, ["/", "/next", "/next"])
        await client.stop()


async def test_a_stop_in_the_middle_of_draining() -> None:
    """Ends both the request that is waited for, and the waiting."""

    async def deaf(peer: Peer) -> None:
        await asyncio.sleep(60)

    async with nothing_left(), playing(deaf) as server:
        client = Client(server.url, proxy="")
        await client.start()
        under_way = asyncio.create_task(client.get("/"))
        await eventually(lambda: server.connections == 1)
        draining = asyncio.create_task(client.drain())
        await asyncio.sleep(0)
        await client.stop()
        await asyncio.wait_for(draining, 2)
        with pytest.raises(ForebayError):
            await under_way


class Slow:
    """A transport whose start takes until it is told, and which counts."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go_on = asyncio.Event()
        self.error = error
        self.stopped = 0

    async def start(self) -> None:
        """See Transport."""
        await self.go_on.wait()
        if self.error is not None:
            raise self.error

    async def stop(self) -> None:
        """See Transport."""
        self.stopped += 1

    drain = start

    async def send(self, request: ClientRequest) -> ClientResponse:
        """See Transport."""
        return ClientResponse.made(request, 200)


class Closes:
    """A middleware that is closed."""

    closed = 0

    async def __call__(self, request: ClientRequest, call_next: Any) -> ClientResponse:
        response: ClientResponse = await call_next(request)
        return response

    def close(self) -> None:
        """At the client's end."""
        self.closed += 1


async def test_a_start_that_comes_to_nothing() -> None:
    """Fails, is stopped, or is begun twice: what has begun is ended, and the client is used up."""
    layer, transport = Closes(), Slow(OSError("no"))
    client = Client("http://x", transport=transport, middleware=[layer])
    transport.go_on.set()
    with pytest.raises(OSError, match="no"):
        await client.start()
    assert (client.state, transport.stopped, layer.closed) == ("stopped", 1, 1)
    client = Client("http://x", transport=(transport := Slow()))
    starting = asyncio.create_task(client.start())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="was started before"):
        await client.start()
    with pytest.raises(RuntimeError, match="is starting"):
        client.get("/")
    await client.stop()
    transport.go_on.set()
    with pytest.raises(RuntimeError, match="stopped before it had started"):
        await starting
    assert client.state == "stopped"
    assert transport.stopped == 2  # the second time is for what it began in between
    client = Client("http://x", transport=(transport := Slow()))
    starting = asyncio.create_task(client.start())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    assert (client.state, transport.stopped) == ("stopped", 1)


async def test_middleware_is_fixed_when_it_starts() -> None:
    """Until then some may be added."""
    seen: list[str] = []

    async def added(request: ClientRequest, call_next: Any) -> ClientResponse:
        seen.append(request.url.path)
        return await passes(request, call_next)

    transport = Slow()
    transport.go_on.set()
    client = Client("http://x", transport=transport)
    middleware: Any = client.middleware
    middleware.append(added)
    async with client:
        await client.get("/a")
        await client.get("/b", middleware=[passes])
        assert seen == ["/a", "/b"]
        assert not hasattr(client.middleware, "append")


async def test_it_drains() -> None:
    """Who is under way gets an answer, who comes is refused."""
    async with served() as server:
        client = Client(url_of(server), proxy="")
        await client.start()

        async def slowly() -> ClientResponse:
            return await client.get("/slow?seconds=0.2")

        under_way = asyncio.ensure_future(slowly())
        await asyncio.sleep(0.05)
        draining = asyncio.ensure_future(client.drain())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="draining"):
            client.get("/users/1")
        assert await (await under_way).text() == "late"
        await draining
        await client.stop()


async def test_many_at_once_share_few_connections() -> None:
    """Each gets its own answer."""
    async with asking(limits=Limits(connections=5, per_target=5)) as client:

        async def one(number: int) -> None:
            response = await client.get(f"/users/{number}")
            assert (await response.json(User)).id == number

        await asyncio.gather(*(one(number) for number in range(300)))
        assert pool_of(client)["dials"] <= 5
        assert client.statistics()["requests"] == 300
