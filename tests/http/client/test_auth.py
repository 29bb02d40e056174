"""Credentials of a client, against real servers: who gets them, what is sent, and what happens after a 401."""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine.tasks import gather
from forebay.errors import UpstreamError, UpstreamProtocolError
from forebay.http import App, HTTPServer, Request, Response
from forebay.http.client.auth import Basic, Bearer, Refreshable, Token
from forebay.http.client.auth_challenges import parse_challenges
from forebay.http.client.client import Client
from forebay.http.client.digest import Digest
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.settings import Limits, Timeouts
from forebay.http.client.url import parse_url
from forebay.http.headers import MutableHeaders
from forebay.http.middleware import BasicAuth
from tests.support import running

Answer = Callable[[Request], Awaitable[Response]]


class Site:
    """A server that keeps the ``authorization`` of all requests, and answers as it is told."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.seen: list[str | None] = []
        self.requests: list[Request] = []
        self.answer = answer
        self.app: App[Any] = App()
        self.app.route("/", ("GET", "POST"))(self.handle)
        self.app.route("/{path:path}", ("GET", "POST"))(self.handle_below)
        self.url = ""

    async def handle_below(self, request: Request, path: str) -> Response:
        """The same, for all other paths."""
        return await self.handle(request)

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        self.seen.append(request.headers.get("authorization"))
        return await self.answer(request) if self.answer is not None else Response("ok")


@asynccontextmanager
async def serving(site: Site) -> AsyncIterator[str]:
    """Its URL."""
    async with running(HTTPServer(site.app, bind="http://127.0.0.1:0")) as server:
        site.url = f"http://127.0.0.1:{server.addresses[0].port}"
        yield site.url


class Clock:
    """Time that is set."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


# -- Basic


@pytest.mark.parametrize(
    ("user", "password", "value"),
    [
        pytest.param("Aladdin", "open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ==", id="2 the example"),
        pytest.param("test", "123£", "dGVzdDoxMjPCow==", id="2.1 the example in UTF-8"),
        pytest.param("a", "e\u0301", b64encode("a:\u00e9".encode()).decode(), id="2.1 normalised"),
        pytest.param("a", "b:c", b64encode(b"a:b:c").decode(), id="2 a colon in the password"),
        pytest.param("", "", b64encode(b":").decode(), id="2 empty"),
    ],
)
async def test_basic(user: str, password: str, value: str) -> None:
    """RFC 7617: sent with the first request already."""
    async with serving(site := Site()) as url, Client(url, auth=Basic(user, password)) as client:
        await (await client.get("/")).read()
    assert site.seen == [f"Basic {value}"]


@pytest.mark.parametrize(
    ("user", "password"), [("a:b", "c"), ("a\n", "c"), ("a", "c\x00"), ("a", "\x7f"), ("\x85", "c"), ("a", "\ud800")]
)
def test_what_basic_cannot_send(user: str, password: str) -> None:
    """RFC 7617 section 2: no colon in user names, no control characters. The password is not in the error."""
    with pytest.raises(ValueError, match=r"Basic (user|password)") as caught:
        Basic(user, password)
    assert repr(password)[1:-1] not in str(caught.value) or password == "c"


async def test_basic_of_ours_is_understood_by_ours() -> None:
    """Client and server agree on names that are not ASCII."""
    site = Site()
    site.app.middleware(BasicAuth(lambda user, password: user == "Jäsøn" and password == "Secret, or not? ☃"))
    async with serving(site) as url, Client(url) as client:
        right = await client.get("/", auth=("Jäsøn", "Secret, or not? ☃"))
        wrong = await client.get("/", auth=Basic("Jäsøn", "other"))
        assert (right.status, wrong.status) == (200, 401)
        await right.read()
        await wrong.read()


# -- who gets them


class Told:
    """Stands for the rest of a client: keeps what would be sent, answers 200."""

    def __init__(self) -> None:
        self.sent: list[str | None] = []

    async def __call__(self, request: ClientRequest) -> ClientResponse:
        self.sent.append(request.headers.get("authorization"))
        return ClientResponse.made(request, 200)


def asking(url: str, *, foreign: bool = False, **headers: str) -> ClientRequest:
    """A GET."""
    return ClientRequest("GET", parse_url(url), MutableHeaders(headers), foreign=foreign)


@pytest.mark.parametrize(
    ("origins", "url", "foreign", "sent"),
    [
        pytest.param([], "https://a.test/x", False, True, id="whoever is asked first"),
        pytest.param([], "https://a.test/x", True, False, id="nobody behind a redirect to another origin"),
        pytest.param(["https://a.test"], "https://a.test/x", False, True, id="its origin"),
        pytest.param(["https://a.test"], "https://a.test:443/x", False, True, id="its origin with the usual port"),
        pytest.param(["https://A.TEST/"], "https://a.test/x", False, True, id="its origin in any case"),
        pytest.param(["https://a.test"], "https://a.test/x", True, True, id="its origin, behind a redirect"),
        pytest.param(["https://a.test"], "https://b.test/x", False, False, id="another host"),
        pytest.param(["https://a.test"], "http://a.test/x", False, False, id="another scheme"),
        pytest.param(["https://a.test"], "https://a.test:8443/x", False, False, id="another port"),
        pytest.param(["https://a.test"], "https://a.test.evil.test/", False, False, id="a host that begins like it"),
        pytest.param(["https://a.test", "https://b.test"], "https://b.test/", True, True, id="one of several"),
    ],
)
async def test_who_gets_credentials(origins: list[str], url: str, foreign: bool, sent: bool) -> None:
    """RFC 9110 section 11.5: credentials are for one server, each kind of them."""

    async def fetch() -> Token:
        return Token("t")

    for auth in (
        Basic("u", "p", origins=origins),
        Bearer("t", origins=origins),
        Refreshable(fetch, origins=origins),
    ):
        told = Told()
        await auth(asking(url, foreign=foreign), told)
        assert [value is not None for value in told.sent] == [sent], auth


async def test_a_header_of_the_program_stays() -> None:
    """Whoever says ``authorization`` knows why. And nothing is left in the request that the program has."""
    for auth in (Basic("u", "p"), Bearer("t"), Digest("u", "p")):
        told = Told()
        await auth(asking("https://a.test/", authorization="Own x"), told)
        assert told.sent == ["Own x"]
    request, told = asking("https://a.test/"), Told()
    await Bearer("t")(request, told)
    assert (told.sent, "authorization" in request.headers) == (["Bearer t"], False)


async def test_credentials_do_not_follow_a_redirect_elsewhere() -> None:
    """A server that leads to another one gets nobody's credentials for it; back home there are none either."""
    home, elsewhere = Site(), Site()
    async with serving(home) as url, serving(elsewhere) as other:

        async def away(request: Request) -> Response:
            if request.path == "/leave":
                return Response("", status=302, headers={"location": f"{other}/there"})
            if request.path == "/stay":
                return Response("", status=302, headers={"location": "/here"})
            return Response("ok")

        home.answer = away
        async with Client(url, auth=Bearer("t")) as client:
            await (await client.get("/leave")).read()
            await (await client.get("/stay")).read()
    assert home.seen == ["Bearer t"] * 3
    assert elsewhere.seen == [None]


@pytest.mark.parametrize("origins", ["https://a.test", ["a.test"], ["https://a.test/path"], ["https://a.test/?q"]])
def test_what_is_no_origin(origins: Any) -> None:
    """It is said at once."""
    with pytest.raises(ValueError, match=r"origins|URL"):
        Bearer("t", origins=origins)


async def test_credentials_without_tls_are_logged_once() -> None:
    """Not on this machine, and not for Digest, which sends none."""
    with capture_logs() as logs:
        for url in ("http://a.test/", "http://a.test/x", "http://127.0.0.1/", "http://[::1]/", "http://localhost/"):
            await _basic(asking(url), Told())
        await Digest("u", "p")(asking("http://b.test/"), Told())
    assert [(one["event"], one["origin"]) for one in logs] == [("credentials are sent without TLS", "http://a.test")]


_basic = Basic("u", "s3cret")


def test_secrets_are_not_shown() -> None:
    """By no repr."""

    async def fetch() -> Token:
        return Token("s3cret")

    shown = repr([_basic, Bearer("s3cret"), Digest("u", "s3cret"), Refreshable(fetch), Token("s3cret", 1.0)])
    assert "s3cret" not in shown
    assert b64encode(b"u:s3cret").decode() not in shown


@pytest.mark.parametrize("token", ["", "a b", "a\r\nx: y", "é", 'a"', "=", "a=b"])
def test_what_is_no_token(token: str) -> None:
    """RFC 6750 section 2.1; and it is not repeated in the error."""
    for kind in (Bearer, Token):
        with pytest.raises(ValueError, match="RFC 6750") as caught:
            kind(token)
        assert len(token) < 3 or token not in str(caught.value)


# -- tokens that are renewed


class Issuer:
    """Issues tokens, t1, t2, ...; or fails."""

    def __init__(self, clock: Clock, lasts: float | None = 100.0) -> None:
        self.clock = clock
        self.lasts = lasts
        self.issued = 0
        self.failure: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> Token:
        self.issued += 1
        number = self.issued
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        return Token(f"t{number}", None if self.lasts is None else self.clock.now + self.lasts)


def taking(site: Site, *tokens: str) -> None:
    """Have it answer 401 to all other tokens."""

    async def answer(request: Request) -> Response:
        if (request.headers.get("authorization") or "").removeprefix("Bearer ") in tokens:
            return Response("ok")
        return Response("no", status=401, headers={"www-authenticate": 'Bearer error="invalid_token"'})

    site.answer = answer


async def test_one_fetch_for_all() -> None:
    """Requests that come together share it, those behind them use what it gave."""
    issuer = Issuer(clock := Clock())
    issuer.go.clear()
    async with serving(site := Site()) as url, Client(url, auth=(auth := Refreshable(issuer, clock=clock))) as client:
        asked = [asyncio.ensure_future(_status(client)) for _ in range(20)]
        while not issuer.issued:
            await asyncio.sleep(0)
        issuer.go.set()
        assert await gather(*asked) == [200] * 20
        assert await _status(client) == 200
    assert site.seen == ["Bearer t1"] * 21
    assert auth.statistics() == {"fetches": 1, "failures": 0}


async def _status(client: Client, path: str = "/", **options: Any) -> int:
    response = await client.get(path, **options)
    await response.read()
    return response.status


async def test_a_token_is_fetched_before_it_expires() -> None:
    """By the margin; a token without an end is kept."""
    issuer = Issuer(clock := Clock(), lasts=100)
    async with serving(site := Site()) as url:
        async with Client(url, auth=Refreshable(issuer, margin=30, clock=clock)) as client:
            for moment in (0, 69.9, 70, 139.9, 140):
                clock.now = 1_000_000 + moment
                await _status(client)
        issuer.lasts = None
        async with Client(url, auth=Refreshable(issuer, margin=30, clock=clock)) as client:
            for _ in range(2):
                clock.now += 10**9
                await _status(client)
    assert [one and one.removeprefix("Bearer ") for one in site.seen] == ["t1", "t1", "t2", "t2", "t3", "t4", "t4"]


async def test_tokens_that_last_no_longer_than_the_margin_do_not_hammer() -> None:
    """They are fetched again after the pause, not with each request."""
    issuer = Issuer(clock := Clock(), lasts=10)
    async with serving(Site()) as url, Client(url, auth=Refreshable(issuer, margin=30, clock=clock)) as client:
        for _ in range(5):
            await _status(client)
        assert issuer.issued == 1
        clock.now += 5
        await _status(client)
        assert issuer.issued == 2


async def test_a_refused_token_is_replaced_once() -> None:
    """The request is sent again with a new one, unless its content cannot be; all requests share the new one."""
    issuer = Issuer(clock := Clock())
    async with serving(site := Site()) as url, Client(url, auth=Refreshable(issuer, clock=clock)) as client:
        taking(site, "t1")
        assert await _status(client) == 200
        clock.now += 20
        taking(site, "t2")

        async def pieces() -> AsyncIterator[bytes]:
            yield b"content"

        response = await client.post("/", content=pieces())
        await response.read()
        assert (response.status, issuer.issued) == (401, 1)
        responses = await gather(*(client.post("/", content=b"content") for _ in range(5)))
        assert [response.status for response in responses] == [200] * 5
        assert issuer.issued == 2
        for response in responses:
            await response.read()


async def test_a_server_that_refuses_all_tokens_does_not_make_the_issuer_busy() -> None:
    """The second 401 is the answer, and no token is fetched within the pause."""
    issuer = Issuer(clock := Clock())
    async with serving(site := Site()) as url, Client(url, auth=Refreshable(issuer, pause=5, clock=clock)) as client:
        taking(site)
        assert [await _status(client) for _ in range(5)] == [401] * 5
        assert (issuer.issued, len(site.seen)) == (1, 5)
        clock.now += 5
        assert [await _status(client) for _ in range(5)] == [401] * 5
        assert (issuer.issued, len(site.seen)) == (2, 11)
        assert client.statistics()["pool"]["total"] == 1  # what was answered 401 and not returned holds nothing


async def test_a_fetch_that_fails_is_said_and_not_repeated_at_once() -> None:
    """Nothing is sent; the reason is the cause, and not in the text, which may end in a log."""
    issuer = Issuer(clock := Clock())
    issuer.failure = OSError("password s3cret was refused")
    async with serving(site := Site()) as url, Client(url, auth=Refreshable(issuer, pause=5, clock=clock)) as client:
        for _ in range(3):
            with pytest.raises(UpstreamError, match="no token could be fetched: OSError") as caught:
                await client.get("/")
            assert caught.value.__cause__ is issuer.failure
            assert "s3cret" not in str(caught.value)
        assert (issuer.issued, site.seen) == (1, [])
        clock.now += 5
        issuer.failure = None
        assert await _status(client) == 200


async def test_a_fetch_that_fails_early_leaves_the_old_token_its_time() -> None:
    """Within the margin the old one still does; past its end it is an error."""
    issuer = Issuer(clock := Clock(), lasts=100)
    auth = Refreshable(issuer, margin=30, pause=5, clock=clock)
    async with serving(site := Site()) as url, Client(url, auth=auth) as client:
        assert await _status(client) == 200
        issuer.failure = OSError("down")
        clock.now += 80
        assert [await _status(client) for _ in range(3)] == [200] * 3
        assert (site.seen, issuer.issued) == (["Bearer t1"] * 4, 2)
        clock.now += 20
        with pytest.raises(UpstreamError):
            await client.get("/")


async def test_a_clock_that_is_set_back_does_not_make_pauses_longer() -> None:
    """Neither that after a failure, nor that after a fetch."""
    issuer = Issuer(clock := Clock(), lasts=None)
    async with serving(site := Site()) as url, Client(url, auth=Refreshable(issuer, pause=5, clock=clock)) as client:
        issuer.failure = OSError("down")
        with pytest.raises(UpstreamError):
            await _status(client)
        clock.now -= 3600
        issuer.failure = None
        assert await _status(client) == 200
        clock.now -= 3600
        taking(site, "t3")
        assert await _status(client) == 200
    assert issuer.issued == 3


async def test_a_token_that_ends_while_another_one_is_fetched_is_not_used() -> None:
    """The request fails; that it would be refused is known."""
    issuer = Issuer(clock := Clock(), lasts=100)
    async with serving(site := Site()) as url, Client(url, auth=Refreshable(issuer, margin=30, clock=clock)) as client:
        assert await _status(client) == 200
        clock.now += 80
        issuer.failure = OSError("down")
        issuer.go.clear()
        asked = asyncio.ensure_future(_status(client))
        while issuer.issued < 2:
            await asyncio.sleep(0)
        clock.now += 30
        issuer.go.set()
        with pytest.raises(UpstreamError, match="no token"):
            await asked
    assert site.seen == ["Bearer t1"]


async def test_a_refused_token_is_not_used_again_where_the_request_cannot_be_sent_again() -> None:
    """Content that is there once keeps its 401; the next request has another token."""
    issuer = Issuer(clock := Clock(), lasts=None)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"once"

    async with serving(site := Site()) as url, Client(url, auth=Refreshable(issuer, clock=clock)) as client:
        assert await _status(client) == 200
        taking(site, "t2")
        clock.now += 20
        assert [(await client.post("/", content=pieces())).status for _ in range(2)] == [401, 200]
    assert issuer.issued == 2


async def test_requests_that_are_cancelled_leave_the_fetch_to_the_others() -> None:
    """And the last one ends it; the next one begins anew."""
    issuer = Issuer(clock := Clock())
    issuer.go.clear()
    async with serving(Site()) as url, Client(url, auth=(auth := Refreshable(issuer, clock=clock))) as client:
        one, two = (asyncio.ensure_future(_status(client)) for _ in range(2))
        while not issuer.issued:
            await asyncio.sleep(0)
        one.cancel()
        await asyncio.wait((one,))
        two.cancel()
        await asyncio.wait((two,))
        issuer.go.set()
        assert await _status(client) == 200
    assert auth.statistics() == {"fetches": 2, "failures": 0}


async def test_a_fetch_has_its_time() -> None:
    """One that does not come back is a failure."""
    issuer = Issuer(Clock())
    issuer.go.clear()
    async with serving(Site()) as url, Client(url, auth=Refreshable(issuer, timeout=0.05)) as client:
        with pytest.raises(UpstreamError, match="DeadlineExceeded"):
            await client.get("/")


async def test_a_fetch_that_gives_something_else() -> None:
    """It is said what is wanted."""

    async def fetch() -> Any:
        return "t"

    with pytest.raises(UpstreamError) as caught:
        await Refreshable(fetch)(asking("https://a.test/"), Told())
    assert "must be a Token" in str(caught.value.__cause__)


@pytest.mark.parametrize("options", [{"margin": -1}, {"timeout": 0}, {"pause": -1}, {"margin": float("nan")}])
def test_numbers_out_of_range(options: dict[str, float]) -> None:
    """They are said at once."""

    async def fetch() -> Token:
        return Token("t")

    with pytest.raises(ValueError, match="Refreshable"):
        Refreshable(fetch, **options)  # type: ignore[arg-type]  # all are floats
    with pytest.raises(ValueError, match="expires_at"):
        Token("t", float("inf"))


# -- Digest


def digest_of(algorithm: str, *parts: str) -> str:
    """As in the formulas of RFC 7616, by a way of its own."""
    name = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}[algorithm]
    return hashlib.new(name, ":".join(parts).encode()).hexdigest()


class DigestSite(Site):
    """A server that wants Digest, and checks it by the letter of RFC 7616. Each nonce may be used ``uses`` times."""

    def __init__(
        self, algorithm: str = "SHA-256", qop: str = "auth", uses: int = 10**6, *, session: bool = False
    ) -> None:
        super().__init__(self.check)
        self.algorithm = algorithm
        self.session = session
        self.qop = qop
        self.uses = uses
        self.nonces: dict[str, int] = {}
        self.says_stale = True
        self.next_nonce = False
        self.rspauth: str | None = ""
        self.challenges = 0
        self.keys: dict[str, str] = {}

    def nonce(self) -> str:
        """A new one."""
        nonce = f"n{len(self.nonces)}"
        self.nonces[nonce] = 0
        return nonce

    def challenge(self, *, stale: bool = False) -> Response:
        """A 401, with a challenge of another scheme in front."""
        self.challenges += 1
        name = f"{self.algorithm}{'-sess' if self.session else ''}"
        value = f'Digest realm="r, \\"x\\"", nonce="{self.nonce()}", algorithm={name}, qop="{self.qop}", opaque="o"'
        if stale and self.says_stale:
            value += ", stale=TRUE"
        response = Response("who?", status=401)
        response.headers.add("www-authenticate", 'Basic realm="a, b", Bearer')
        response.headers.add("www-authenticate", value)
        return response

    async def check(self, request: Request) -> Response:
        """Let in, or ask."""
        sent = request.headers.get("authorization")
        if sent is None:
            return self.challenge()
        (found,) = parse_challenges([sent])
        said = found.parameters
        nonce = said["nonce"]
        used = self.nonces.get(nonce, 0) + 1
        assert said["nc"] == f"{used:08x}", "each answer counts one more"
        assert (said["uri"], said["opaque"]) == (request.exchange.target.decode(), "o")
        self.nonces[nonce] = used
        if used > self.uses:
            return self.challenge(stale=True)
        key = digest_of(self.algorithm, "Mufasa", 'r, "x"', "Circle of Life")
        if self.session:
            key = self.keys.setdefault(nonce, digest_of(self.algorithm, key, nonce, said["cnonce"]))
        content = (await request.body()) if said["qop"] == "auth-int" else b""
        hashed = [digest_of(self.algorithm, content.decode())] if said["qop"] == "auth-int" else []
        middle = (nonce, said["nc"], said["cnonce"], said["qop"])
        second = digest_of(self.algorithm, request.method, said["uri"], *hashed)
        if said["response"] != digest_of(self.algorithm, key, *middle, second):
            return self.challenge()
        response = Response("in")
        proof = digest_of(self.algorithm, key, *middle, digest_of(self.algorithm, "", said["uri"]))
        information = [f'rspauth="{self.rspauth or proof}"'] if self.rspauth is not None else []
        if self.next_nonce:
            information.append(f'nextnonce="{self.nonce()}"')
        if information:
            response.headers["authentication-info"] = ", ".join(information)
        return response


ALGORITHMS = [
    name
    for name in ("MD5", "SHA-256", "SHA-512-256")
    if name != "SHA-512-256" or "sha512_256" in hashlib.algorithms_available
]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("qop", ["auth", "auth-int", "auth-int,auth"])
async def test_digest(algorithm: str, session: bool, qop: str) -> None:
    """The first request is asked, the others answer unasked; content is sent again."""
    site = DigestSite(algorithm, qop, session=session)
    async with (
        serving(site) as url,
        Client(url, auth=Digest("Mufasa", "Circle of Life", mutual="auth" in qop.split(","))) as client,
    ):
        for number in range(3):
            response = await client.post(f"/x?n={number}", content=f"content {number}")
            assert (response.status, await response.text()) == (200, "in")
        assert await _status(client, "/other") == 200
    assert (site.challenges, len(site.seen)) == (1, 5)
    assert [one is None for one in site.seen] == [True, False, False, False, False]


async def test_a_wrong_password_is_tried_once_for_each_request() -> None:
    """The server's 401 is the answer; no loop, no connection that is held."""
    async with serving(site := DigestSite()) as url, Client(url, auth=Digest("Mufasa", "wrong")) as client:
        assert [await _status(client) for _ in range(3)] == [401] * 3
        assert [one is None for one in site.seen] == [True, False] * 3
        assert client.statistics()["pool"]["total"] == 1


@pytest.mark.parametrize("says_stale", [True, False])
async def test_a_nonce_that_has_become_stale(says_stale: bool) -> None:
    """RFC 7616 section 3.3: the request is sent again, with the new one, ``stale`` or not."""
    site = DigestSite(uses=2)
    site.says_stale = says_stale
    async with serving(site) as url, Client(url, auth=Digest("Mufasa", "Circle of Life")) as client:
        assert [await _status(client) for _ in range(6)] == [200] * 6
    assert site.challenges == 3


async def test_a_server_whose_nonces_are_always_stale() -> None:
    """There is an end to it."""
    async with (
        serving(site := DigestSite(uses=0)) as url,
        Client(url, auth=Digest("Mufasa", "Circle of Life")) as client,
    ):
        assert await _status(client) == 401
        assert len(site.seen) == 3


async def test_the_next_nonce_is_used() -> None:
    """RFC 7616 section 3.5: so that a server can let each be used once, without a 401 for each request."""
    site = DigestSite(uses=1)
    site.next_nonce = True
    async with serving(site) as url, Client(url, auth=Digest("Mufasa", "Circle of Life")) as client:
        assert [await _status(client) for _ in range(5)] == [200] * 5
    assert (site.challenges, len(site.seen)) == (1, 6)


async def test_many_at_once_answer_all() -> None:
    """Those that come together are each asked, or not, and all get in."""
    async with serving(DigestSite()) as url, Client(url, auth=Digest("Mufasa", "Circle of Life")) as client:
        assert await gather(*(_status(client) for _ in range(10))) == [200] * 10


@pytest.mark.parametrize(
    ("rspauth", "mutual", "taken"),
    [("", True, True), ("0123", False, False), ("0123", True, False), (None, False, True), (None, True, False)],
)
async def test_a_server_has_to_know_the_password_too(rspauth: str | None, mutual: bool, taken: bool) -> None:
    """RFC 7616 section 3.5: a wrong proof is never taken, none only where none is wanted."""
    site = DigestSite()
    site.rspauth = rspauth
    async with serving(site) as url, Client(url, auth=Digest("Mufasa", "Circle of Life", mutual=mutual)) as client:
        if taken:
            assert await _status(client) == 200
        else:
            with pytest.raises(UpstreamProtocolError, match="rspauth"):
                await client.get("/")
            assert client.statistics()["pool"]["idle"] == client.statistics()["pool"]["total"]


async def test_a_server_that_does_not_ask_has_proved_nothing() -> None:
    """An impostor would not."""
    async with serving(Site()) as url:
        async with Client(url, auth=Digest("u", "p", mutual=True)) as client:
            with pytest.raises(UpstreamProtocolError, match="rspauth is missing"):
                await client.get("/")
        async with Client(url, auth=Digest("u", "p")) as client:
            assert await _status(client) == 200


async def test_content_that_is_there_once_keeps_its_401() -> None:
    """And the challenge is known from then on."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"content"

    async with serving(site := DigestSite()) as url, Client(url, auth=Digest("Mufasa", "Circle of Life")) as client:
        for expected in (401, 200):
            response = await client.post("/", content=pieces())
            await response.read()
            assert response.status == expected
    assert site.challenges == 1


async def test_a_401_that_nobody_sees_gives_its_connection_back_first() -> None:
    """However long it is: the next request may need the only one there is."""
    issuer = Issuer(clock := Clock())
    tokens = Refreshable(issuer, pause=0, clock=clock)

    async def refuse(request: Request) -> Response:
        if request.headers.get("authorization") in (None, "Bearer t1"):
            challenge = 'Digest realm="r", nonce="n", qop="auth"'
            return Response(b"x" * 2_000_000, status=401, headers={"www-authenticate": challenge})
        return Response("ok")

    for auth in (tokens, Digest("u", "p")):
        only_one = Limits(connections=1, per_target=1)
        timeouts = Timeouts(pool=2)
        async with serving(Site(refuse)) as url, Client(url, auth=auth, limits=only_one, timeouts=timeouts) as client:
            assert await _status(client) == 200


async def test_challenges_that_are_not_answered() -> None:
    """MD5 where it is refused, ``auth-int`` for content that is not in memory: the 401 is the answer."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"content"

    async with serving(DigestSite("MD5")) as url, Client(url, auth=Digest("Mufasa", "x", md5=False)) as client:
        assert await _status(client) == 401
    auth = Digest("Mufasa", "Circle of Life")
    async with serving(site := DigestSite(qop="auth-int")) as url, Client(url, auth=auth) as client:
        assert await _status(client) == 200
        response = await client.post("/", content=pieces())
        await response.read()
        assert (response.status, site.seen[-1]) == (401, None)


async def test_a_challenge_is_of_one_origin() -> None:
    """What one server asks for is not told to another, whose request was the first of its own."""
    auth = Digest("Mufasa", "Circle of Life")
    async with serving(one := DigestSite()) as url, serving(other := Site()) as elsewhere, Client(auth=auth) as client:
        assert await _status(client, f"{url}/") == 200
        assert await _status(client, f"{elsewhere}/") == 200
    assert (one.challenges, other.seen) == (1, [None])
