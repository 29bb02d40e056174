"""CSRF: what browsers say of themselves, tokens for those that do not, and what an attacker cannot do."""

from __future__ import annotations

import re
from typing import Any

import pytest

from forebay.errors import HTTPError
from forebay.http import App, Request, Response
from forebay.http.messages import Next
from forebay.http.middleware import CSRF, Sessions, TrustedProxies
from tests.http.middleware.served import UPGRADE, Answer, Asker, serving

KEY = "k" * 32
OTHER = "o" * 32
FORM = ("content-type", "application/x-www-form-urlencoded")
MULTIPART = ("content-type", "multipart/form-data; boundary=x")
SITE = ("sec-fetch-site", "same-origin")

Header = tuple[str, str]


def site(*middleware: Any) -> App[Any]:
    """An application with a page that has a form, and what the form is sent to."""
    app: App[Any] = App()
    for layer in middleware:
        app.middleware(layer)

    @app.get("/form")
    async def form(request: Request) -> str:
        return f"{request.state['csrf_token']()} {request.state['csrf_token'].field()}"

    @app.get("/page")
    async def page() -> str:
        return "without a form"

    @app.route("/change", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def change(request: Request) -> bytes:
        return await request.body()

    @app.post("/hooks/{name}")
    async def hook(name: str) -> str:
        return name

    @app.get("/late")
    async def late(request: Request) -> Response:
        async def pieces() -> Any:
            yield b"<form>"
            try:
                request.state["csrf_token"]()
            except RuntimeError as error:
                yield str(error)

        return Response(pieces())

    @app.get("/refused")
    async def refused(request: Request) -> str:
        request.state["csrf_token"]()
        raise HTTPError(409, "taken")

    @app.websocket("/ws")
    async def ws(ws: Any) -> None:
        return None

    return app


def plain(**options: Any) -> CSRF:
    """As a development server has it: cookies without TLS."""
    return CSRF(KEY, secure=False, **options)


async def post(client: Asker, *headers: Header, body: bytes = b"a=b", method: str = "POST") -> Answer:
    """Send the form."""
    return await client.ask("/change", *headers, method=method, body=body)


async def token_of(client: Asker, *headers: Header) -> tuple[str, Header]:
    """A token, and the cookie it belongs to."""
    answer = await client.ask("/form", *headers)
    cookie = answer.headers.get("set-cookie", "").partition(";")[0]
    return answer.body.decode().split()[0], ("cookie", cookie)


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ([("sec-fetch-site", "same-origin")], True),
        ([("sec-fetch-site", "none")], True),
        ([("sec-fetch-site", "same-site")], False),
        ([("sec-fetch-site", "cross-site")], False),
        ([("sec-fetch-site", "nonsense")], False),
        ([("sec-fetch-site", "")], False),
        ([("sec-fetch-site", "cross-site"), ("origin", "http://test")], False),
        ([("sec-fetch-site", "same-origin"), ("origin", "null")], True),
        ([("sec-fetch-site", "cross-site"), ("origin", "https://login.example")], True),
        ([("sec-fetch-site", "cross-site"), ("origin", "https://login.example.evil")], False),
        ([("origin", "http://test")], True),
        ([("origin", "https://test")], True),
        ([("origin", "http://test:80")], True),
        ([("origin", "https://test:443")], True),
        ([("origin", "HTTP://TEST")], True),
        ([("origin", "http://test:81")], False),
        ([("origin", "http://test.evil")], False),
        ([("origin", "http://evil.test")], False),
        ([("origin", "ftp://test")], False),
        ([("origin", "//test")], False),
        ([("origin", "test")], False),
        ([("origin", "http://")], False),
        ([("origin", "https://login.example")], True),
        ([("origin", "null")], False),
        ([("referer", "http://test/form")], False),
        ([], False),
    ],
)
async def test_what_browsers_say(headers: list[Header], passes: bool) -> None:
    """Where a request comes from, by its headers; for every method that changes something."""
    async with serving(site(plain(origins=["https://login.example"]))) as client:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            answer = await post(client, *headers, method=method)
            assert (answer.status, answer.body == b"a=b") == ((200, True) if passes else (403, False))
            assert passes or "another site" in answer.detail
        assert (await client.ask("/change", *headers)).status == 200
        assert (await client.ask("/change", *headers, method="HEAD")).status == 200
        assert (await client.ask("/change", *headers, method="OPTIONS")).status == 204
        answer = await client.ask("/nothing", *headers, method="POST")  # not even whether there is something
        assert answer.status == (404 if passes else 403)


async def test_the_hosts_port_and_scheme_count() -> None:
    """The port is part of the origin; a page over http is not this site over https."""
    async with serving(site(TrustedProxies(["127.0.0.1"]), plain())) as client:

        async def status(origin: str, host: str, scheme: str) -> int:
            headers = [("origin", origin), ("x-forwarded-proto", scheme)]
            return (await client.ask("/change", *headers, method="POST", body=b"", host=host)).status

        assert await status("http://a.example:8080", "a.example:8080", "http") == 200
        assert await status("http://a.example", "a.example:8080", "http") == 403
        assert await status("https://a.example", "a.example", "https") == 200
        assert await status("http://a.example", "a.example", "https") == 403
        assert await status("https://a.example", "b.example", "https") == 403


async def test_a_token_in_a_form_or_header() -> None:
    """For clients that say nothing: the form's field, or the header; the handler still gets the whole content."""
    async with serving(site(plain())) as client:
        token, cookie = await token_of(client)
        body = f"a=b&csrf_token={token}&c=d".encode()
        answer = await post(client, cookie, FORM, body=body)
        assert (answer.status, answer.body) == (200, body)
        for headers in ([], [MULTIPART], [("origin", "null")]):
            assert (await post(client, cookie, ("x-csrf-token", token), *headers)).status == 200
        upper = ("content-type", "Application/X-WWW-Form-Urlencoded; charset=utf-8")
        assert (await post(client, cookie, upper, body=body)).status == 200
        assert (await post(client, cookie, ("x-csrf-token", token), ("sec-fetch-site", "cross-site"))).status == 403
        assert (await post(client, cookie, ("x-csrf-token", token), ("origin", "https://evil.example"))).status == 403


async def test_forms_that_are_not_read() -> None:
    """Multipart, JSON, and urlencoded content past 64 KiB or of unknown size: only the header counts then."""
    async with serving(site(plain())) as client:
        token, cookie = await token_of(client)
        field = f"csrf_token={token}".encode()
        for headers, body in (
            (
                [MULTIPART],
                b'--x\r\ncontent-disposition: form-data; name="csrf_token"\r\n\r\n%b\r\n--x--' % token.encode(),
            ),
            ([("content-type", "application/json")], field),
            ([], field),
            ([FORM], field + b"&a=" + b"b" * 65536),
        ):
            answer = await post(client, cookie, *headers, body=body)
            assert (answer.status, "neither its origin nor a token" in answer.detail) == (403, True)


async def test_forms_up_to_the_limit_and_in_chunks() -> None:
    """64 KiB are read; of chunked content that has come already the size is known."""
    async with serving(site(plain())) as client:
        token, cookie = await token_of(client)
        field = f"&csrf_token={token}".encode()
        answer = await post(client, cookie, FORM, body=b"a" * (65536 - len(field)) + field)
        assert (answer.status, len(answer.body)) == (200, 65536)
        head = f"POST /change HTTP/1.1\r\nhost: a\r\n{FORM[0]}: {FORM[1]}\r\ncookie: {cookie[1]}\r\n"
        chunked = b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(field), field)
        await client.client.send(head.encode() + chunked)
        assert (await client.client.response())[0] == 200


@pytest.mark.parametrize("where", ["mine", "cut", "changed", "long", "none", "empty", "not ascii"])
async def test_tokens_that_are_not_valid(where: str) -> None:
    """One of another client, a damaged one, one without its cookie."""
    async with serving(site(plain())) as client:
        token, cookie = await token_of(client)
        mine, my_cookie = await token_of(client)
        assert (await post(client, my_cookie, ("x-csrf-token", mine))).status == 200
        sent = {
            "mine": mine,
            "cut": token[:-1],
            "changed": ("A" if token[0] != "A" else "B") + token[1:],
            "long": token + "a" * 300,
            "none": "nonsense",
            "empty": "",
            "not ascii": "\xe9" * len(token),
        }[where]
        assert (await post(client, cookie, ("x-csrf-token", sent))).status == 403
        assert (await post(client, ("x-csrf-token", token))).status == 403
        for value in ("csrf=", "csrf=short", f"csrf={'a' * 22}", f"csrf={'a' * 5000}"):
            assert (await post(client, ("cookie", value), ("x-csrf-token", token))).status == 403
        assert (await post(client, cookie, ("x-csrf-token", token))).status == 200


async def test_the_cookie() -> None:
    """Set once, when a token is first made; only then the answer depends on cookies."""
    async with serving(site(plain())) as client:
        answer = await client.ask("/page")
        assert not {"set-cookie", "vary"} & set(answer.headers)
        answer = await client.ask("/form")
        made = answer.headers["set-cookie"]
        assert re.fullmatch("csrf=[A-Za-z0-9_-]{22}; Path=/; HttpOnly; SameSite=Lax", made)
        assert answer.headers["vary"] == "Cookie"
        token, _, field = answer.body.decode().partition(" ")
        assert re.fullmatch(r'<input type="hidden" name="csrf_token" value="[A-Za-z0-9._-]+">', field)
        assert token not in field  # each one looks different
        again = await client.ask("/form", ("cookie", made.partition(";")[0]))
        assert ("set-cookie" in again.headers, again.headers["vary"]) == (False, "Cookie")
        answer = await client.ask("/refused")
        assert (answer.status, "set-cookie" in answer.headers) == (409, True)
    async with serving(site(CSRF(KEY))) as client:
        made = (await client.ask("/form")).headers["set-cookie"]
        assert made.startswith("__Host-csrf=")
        assert "Secure" in made


async def test_an_answer_that_is_sent_again_has_no_cookie_of_others() -> None:
    """A handler may return the same object each time."""
    app, same = site(plain()), Response("a page")

    @app.get("/same/{how}")
    async def again(how: str, request: Request) -> Response:
        if how == "form":
            request.state["csrf_token"]()
        return same

    async with serving(app) as client:
        first, second = [(await client.ask("/same/form")).headers["set-cookie"] for _ in range(2)]
        assert first != second
        assert not {"set-cookie", "vary"} & set((await client.ask("/same/page")).headers)


async def test_the_session_instead_of_a_cookie() -> None:
    """Where there is one further out, the client's number is kept in it, and no cookie of our own is set."""
    sessions: dict[str, dict[str, Any]] = {"a": {}, "b": {}}

    async def keeps(request: Request, call_next: Next) -> Response:
        request.state["session"] = sessions[request.headers.get("x-who", "a")]
        return await call_next(request)

    async with serving(site(keeps, plain())) as client:
        answer = await client.ask("/form")
        assert "set-cookie" not in answer.headers
        token = ("x-csrf-token", answer.body.decode().split()[0])
        assert (await post(client, token)).status == 200
        assert (await post(client, token, ("x-who", "b"))).status == 403
        await client.ask("/form", ("x-who", "b"))
        assert (await post(client, token, ("x-who", "b"))).status == 403
        sessions["a"].clear()  # a login, or a logout
        assert (await post(client, token)).status == 403


async def test_with_the_sessions_that_ship() -> None:
    """The same keys may serve both; the token is good with the session's cookie, and without it is not."""
    async with serving(site(Sessions(KEY, secure=False), plain())) as client:
        token, cookie = await token_of(client)
        assert cookie[1].startswith("session=")
        assert (await post(client, cookie, ("x-csrf-token", token))).status == 200
        assert (await post(client, ("x-csrf-token", token))).status == 403


async def test_keys_are_replaced_one_by_one() -> None:
    """The first makes tokens, all are accepted, others are not."""
    async with serving(site(CSRF(OTHER, secure=False))) as client:
        token, cookie = await token_of(client)
    for keys, status in (([KEY, OTHER], 200), ([OTHER], 200), ([KEY], 403), (KEY.encode(), 403)):
        async with serving(site(CSRF(keys, secure=False))) as client:
            assert (await post(client, cookie, ("x-csrf-token", token))).status == status


async def test_exempt_paths_and_requests() -> None:
    """Paths, all below a path, and a function; nothing that only looks like them."""
    async with serving(site(plain(exempt=["/change"]))) as client:
        assert (await post(client)).status == 200
        assert (await client.ask("/changes", method="POST")).status == 403
        assert (await client.ask("/hooks/a", method="POST")).status == 403
    async with serving(site(plain(exempt=["/hooks/*"]))) as client:
        assert (await client.ask("/hooks/a", method="POST")).body == b"a"
        assert (await client.ask("/hooksa", method="POST")).status == 403
        assert (await post(client)).status == 403
    async with serving(site(plain(exempt=lambda request: "authorization" in request.headers))) as client:
        assert (await post(client, ("authorization", "Bearer a"))).status == 200
        assert (await post(client)).status == 403


async def test_an_encoded_slash_makes_no_path_exempt() -> None:
    """``/hooks%2Fa`` is one segment, of another route; what is really below may have such slashes."""
    app = site(plain(exempt=["/hooks/*", "/a/b"]))

    @app.post("/{name}")
    async def other(name: str) -> str:
        return name

    async with serving(app) as client:
        for path in ("/hooks%2Fa", "/hooks%2fa", "/a%2Fb", "/hooks%252Fa"):
            assert (await client.ask(path, method="POST")).status == 403
        assert (await client.ask("/hooks/a%2Fb", method="POST")).body == b"a/b"
        assert (await client.ask("/%68ooks/%20", method="POST")).body == b" "


async def test_other_names() -> None:
    """Of header, field and cookie."""
    async with serving(site(plain(header="X-XSRF-Token", field="_token", cookie="xsrf"))) as client:
        token, cookie = await token_of(client)
        assert cookie[1].startswith("xsrf=")
        assert (await post(client, cookie, ("x-xsrf-token", token))).status == 200
        assert (await post(client, cookie, FORM, body=f"_token={token}".encode())).status == 200
        assert (await post(client, cookie, ("x-csrf-token", token))).status == 403


async def test_a_refusal_is_seen_further_out_and_noted() -> None:
    """As a response, not as an exception; why is in the access log."""
    notes: list[Any] = []

    async def watches(request: Request, call_next: Next) -> Response:
        response = await call_next(request)
        notes.append((response.status, request.exchange.notes))
        return response

    async with serving(site(watches, plain())) as client:
        await post(client, ("sec-fetch-site", "cross-site"))
        await post(client, SITE)
    assert notes == [(403, {"csrf": "sec-fetch-site is neither same-origin nor none"}), (200, None)]


async def test_a_first_token_in_a_stream_comes_too_late() -> None:
    """Its cookie could not be set: it says so, instead of making one that is worth nothing."""
    async with serving(site(plain())) as client:
        assert b"must be made before the response" in (await client.ask("/late")).body
        assert (await client.ask("/late", ("cookie", f"csrf={'a' * 22}"))).body == b"<form>"


async def test_a_websocket_handshake_is_left_alone() -> None:
    """It is a GET; which pages may open one is said in its settings."""
    async with serving(site(plain())) as client:
        answer = await client.ask("/ws", *UPGRADE)
        assert (answer.status, "set-cookie" in answer.headers) == (101, False)


async def _coroutine(request: Request) -> bool:
    return True


@pytest.mark.parametrize(
    ("keys", "options", "match"),
    [
        ("short", {}, "at least 32"),
        ([], {}, "must be 1 to"),
        ([KEY, b"short"], {}, "at least 32"),
        (KEY, {"origins": "https://a.example"}, "must be a list"),
        (KEY, {"origins": ["a.example"]}, "CSRF: origin 'a.example' never matches"),
        (KEY, {"origins": ["null"]}, "cannot be trusted"),
        (KEY, {"exempt": "/hooks"}, "must be a list of paths"),
        (KEY, {"exempt": ["hooks"]}, "must be a list of paths"),
        (KEY, {"exempt": ["/a/*/b"]}, "must be a list of paths"),
        (KEY, {"exempt": ["/a*"]}, "must be a list of paths"),
        (KEY, {"exempt": _coroutine}, "plain function"),
        (KEY, {"header": "x csrf"}, "header's name"),
        (KEY, {"field": 'a"'}, "letters, digits"),
        (KEY, {"cookie": "a b"}, "must be a token"),
        (KEY, {"cookie": "__Host-a", "secure": False}, "needs secure=True"),
    ],
)
def test_misconfiguration(keys: Any, options: dict[str, Any], match: str) -> None:
    """Each is refused at once, and says what would be valid."""
    with pytest.raises(ValueError, match=match):
        CSRF(keys, **options)
