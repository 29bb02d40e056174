"""``forebay routes``: what it prints, and what it answers."""

from __future__ import annotations

import io
import json
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from forebay.cli import main

SHOP = """
import functools
from forebay import App, ConnectionHandler, TCPServer
from forebay.http import HTTPServer
from forebay.http.converters import Converter
from forebay.http.group import Group
from forebay.http.openapi import OpenAPI

print("this module speaks when it is imported")

class Plain:
    async def __call__(self, request, call_next):
        return await call_next(request)

class Written(Plain):
    def __repr__(self) -> str:
        return "Written(limit=3)"

async def guard(request, call_next):
    return await call_next(request)

app = App("shop", middleware=[Written(), guard], slashes="redirect")
users = Group("/users", tags=["users"], middleware=[Plain()])

@users.route("/{id:int}", ["PUT", "PATCH"])
def change_user(id: int) -> dict: ...

@users.get("/{id:int}", tags=["reading"], middleware=[functools.partial(guard)])
def get_user(id: int) -> dict: ...

@users.get("/me", name="myself")
async def me() -> str: ...

app.include(users)

@app.websocket("/chat")
async def chat(ws) -> None: ...

@app.group(host="{tenant}.example.com").get("/")
def home(tenant: str) -> str: ...

inner = App("inner")

@inner.middleware
async def audit(request, call_next):
    return await call_next(request)

@inner.get("/log/{day}")
def log(day: str) -> str: ...

app.mount("/admin", inner, name="back")

async def asgi(scope, receive, send): ...

app.mount("/old", asgi)
app.get("/[bold]")(functools.partial(log, day="1"))

served = HTTPServer(app, bind=["http://127.0.0.1:0"])
tcp = TCPServer(ConnectionHandler, bind="tcp://127.0.0.1:0")
empty = App("empty")
told = App("told", openapi=OpenAPI("Told", "1.2"))
told.get("/users/{id:int}")(get_user)
number = 7
def make(): return inner
def broken(): raise LookupError("no database")
def many(app=None):
    app = App("many")
    for n in range(50):
        app.get(f"/r{n}")(guard_free)
    return app
def guard_free() -> str: ...

def fails(text): raise KeyError(text)
faulty = App("faulty", converters={"bad": Converter(fails, str, str)})
@faulty.get("/{x:bad}")
def unreached(x: str) -> str: ...
@faulty.get("/{x}")
def anything(x: str) -> str: ...
"""


class Terminal(io.StringIO):
    """Standard output that is one."""

    def isatty(self) -> bool:
        return True


class Program:
    """The program, run in this process in a folder with the module ``routed_shop``."""

    def __call__(self, *arguments: str, out: io.StringIO | None = None) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        sys.modules.pop("routed_shop", None)
        out, err = out or io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main(arguments)
        assert isinstance(ended.value.code, int)
        return ended.value.code, out.getvalue(), err.getvalue()

    def routes(self, *arguments: str, code: int = 0) -> list[str]:
        """The lines that ``forebay routes routed_shop:app`` prints."""
        done, out, err = self("routes", "routed_shop:app", *arguments)
        assert done == code, err
        return out.splitlines()

    def refused(self, *arguments: str, code: int = 2) -> str:
        """The line that says what is wrong with ``forebay routes`` and these arguments."""
        done, out, err = self("routes", *arguments)
        assert (done, out) == (code, "")
        return err.splitlines()[-1]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """In a folder of its own."""
    (tmp_path / "routed_shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setitem(sys.modules, "routed_shop", None)  # removed in the end
    return Program()


def line_of(words: str) -> int:
    """The line of the module where ``words`` stand, or the decorator above it."""
    lines = SHOP.splitlines()
    number = next(n for n, line in enumerate(lines, 1) if words in line)
    return number - 1 if lines[number - 2].startswith("@") else number


def test_the_table_has_all_there_is_to_know_of_a_route(program: Program) -> None:
    """Columns two blanks apart, one line for each route, those of a mounted App indented below it."""
    header, *lines = program.routes()
    cells = [re.split(" {2,}", line) for line in lines]
    assert header.split() == ["METHOD", "HOST", "PATTERN", "NAME", "HANDLER", "AT", "TAGS"]

    def at(words: str) -> str:
        return f"routed_shop.py:{line_of(words)}"

    assert cells == [
        ["PUT,PATCH", "-", "/users/{id:int}", "change_user", "change_user", at("def change_user"), "users"],
        ["GET", "-", "/users/{id:int}", "get_user", "get_user", at("def get_user"), "users,reading"],
        ["GET", "-", "/users/me", "myself", "me", at("def me()"), "users"],
        ["WS", "-", "/chat", "chat", "chat", at("def chat"), "-"],
        ["GET", "{tenant}.example.com", "/", "home", "home", at("def home"), "-"],
        ["MOUNT", "-", "/admin", "back", "App inner", at('app.mount("/admin"'), "-"],
        ["GET", "-", "/admin/log/{day}", "log", "log", at("def log("), "-"],
        ["MOUNT", "-", "/old", "-", "ASGI application", at('app.mount("/old"'), "-"],
        ["GET", "-", "/[bold]", "log", "log", at("def log("), "-"],
    ]
    start = header.index("PATTERN")
    assert [line[start:][:3] for line in lines[5:8]] == ["/ad", "  /", "/ol"]


def test_what_a_module_prints_is_kept_from_standard_output(program: Program) -> None:
    """So that the table can be piped."""
    code, out, err = program("routes", "routed_shop:app")
    assert code == 0
    assert "speaks" not in out
    assert "speaks" in err


def test_middleware_is_shown_in_its_order(program: Program) -> None:
    """The outermost first: that of the application, of the mount, of the group, of the route."""
    lines = program.routes("--middleware")
    shown: dict[str, list[str]] = {}
    last = ""
    for line in lines[1:]:
        match = re.fullmatch(r" {4}\d+\. (.*)", line)
        if match:
            shown[last].append(match[1])
        else:
            last = re.split(" {2,}", line)[2]
            shown[last] = []
    guard = f"guard (routed_shop.py:{line_of('def guard(')})"
    plain = f"Plain (routed_shop.py:{line_of('class Plain')})"
    audit = f"audit (routed_shop.py:{line_of('def audit')})"
    assert shown["/users/{id:int}"] == ["Written(limit=3)", guard, plain, guard]
    assert shown["/users/me"] == ["Written(limit=3)", guard, plain]
    assert shown["/admin"] == ["Written(limit=3)", guard]
    assert shown["/admin/log/{day}"] == ["Written(limit=3)", guard, audit]


def test_a_terminal_gets_a_table(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same words; what looks like markup is none."""
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = program("routes", "routed_shop:app", out=Terminal())
    assert code == 0
    assert "9 routes of App shop" in out
    assert "┃" in out
    assert "/[bold]" in out
    assert re.search(r"host .*tags", out)
    code, out, _ = program("routes", "routed_shop:make", "--factory", out=Terminal())
    assert "┃" in out
    assert not re.search(r"host|tags", out), "nothing would stand in these columns"


def test_an_application_without_routes(program: Program) -> None:
    """Is said to have none."""
    assert program("routes", "routed_shop:empty")[:2] == (0, "App empty has no routes\n")


def test_the_routes_as_json(program: Program) -> None:
    """In the order of the table."""
    found = json.loads("\n".join(program.routes("--json")))
    assert found["app"] == "shop"
    assert [route["depth"] for route in found["routes"]] == [0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert found["routes"][0]["methods"] == ["PUT", "PATCH"]
    assert found["routes"][3]["kind"] == "websocket"
    assert found["routes"][6]["pattern"] == "/admin/log/{day}"
    assert found["routes"][6]["middleware"][0] == "Written(limit=3)"


def test_which_route_takes_a_request(program: Program) -> None:
    """With its parameters, and why not those that come near."""
    lines = program.routes("/users/42?name=bob#top")
    assert lines == [
        "GET /users/42 is taken by GET /users/{id:int}",
        f"  get_user  routed_shop.py:{line_of('def get_user')}",
        "  id = 42",
        "Not by:",
        "  PUT,PATCH  /users/{id:int}  change_user  method GET is none of PUT, PATCH",
        "  GET        /users/me        me           segment 2 '42' is not 'me'",
        "Nor by 5 more, which do not come near: --all says why",
    ]
    assert "  4. guard" in "\n".join(program.routes("/users/42", "--middleware"))


def test_why_each_of_the_others_does_not(program: Program) -> None:
    """With --all there is a reason for every route."""
    lines = program.routes("/users/42", "--all")
    reasons = lines[lines.index("Not by:") + 1 :]
    assert len(reasons) == 7
    assert any("/chat" in line and "segment 1 'users' is not 'chat'" in line for line in reasons)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nosuch"], "GET /nosuch is taken by no route: it is answered with 404"),
        (
            ["/users/42", "--method", "delete"],
            "is taken by no route: it is answered with 405, Allow: GET, HEAD,",
        ),
        (["/users/42", "--method", "OPTIONS"], "it is answered by itself: 204, Allow: GET, HEAD, OPTIONS, PATCH, PUT"),
        (["/users/me/"], "it is answered with 308, to /users/me"),
        (["/"], "GET / is taken by no route"),
        (["/", "--host", "a.b.example.com"], "GET / of a.b.example.com is taken by no route"),
    ],
)
def test_what_no_route_takes_exits_with_1(program: Program, arguments: list[str], said: str) -> None:
    """And says what it is answered with."""
    assert said in program.routes(*arguments, code=1)[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/users/42", "--method", "HEAD"], ["HEAD /users/42 is taken by GET /users/{id:int}", "  id = 42"]),
        (["/chat"], ["GET /chat is taken by WS /chat", "  if it is the handshake of a WebSocket"]),
        (["wss://a.example/chat"], ["GET /chat of a.example is taken by WS /chat"]),
        (["http://bob.example.com:80"], ["GET / of bob.example.com:80 is taken by", "  tenant = 'bob'"]),
        (["/", "--host", "bob.example.com"], ["GET / of bob.example.com is taken by GET /", "  tenant = 'bob'"]),
        (["http://a.example/", "--host", "eve.example.com"], ["GET / of eve.example.com", "  tenant = 'eve'"]),
        (["/old/page"], ["GET /old/page is taken by MOUNT /old", "  what is mounted there decides"]),
        (["/%75sers/42"], ["GET /%75sers/42 is taken by GET /users/{id:int}", "  id = 42"]),
    ],
)
def test_what_a_route_takes_exits_with_0(program: Program, arguments: list[str], said: list[str]) -> None:
    """By method, host and path, as a server reads them."""
    text = "\n".join(program.routes(*arguments))
    assert [words for words in said if words not in text] == []


def test_a_mounted_application_is_asked_as_well(program: Program) -> None:
    """With what is left of the path; what counts is whether a route of its takes it."""
    lines = program.routes("/admin/log/monday")
    assert lines[0] == "GET /admin/log/monday is taken by MOUNT /admin"
    inside = lines.index("In it, GET /log/monday is taken by GET /log/{day}")
    assert lines[inside + 2] == "  day = 'monday'"
    assert "In it, GET /nothing is taken by no route: it is answered with 404" in program.routes(
        "/admin/nothing", code=1
    )


def test_the_answer_as_json(program: Program) -> None:
    """With every route and its reason; the code is the same."""
    found = json.loads("\n".join(program.routes("/users/42", "--json")))
    assert found["request"] == {"method": "GET", "path": "/users/42", "host": ""}
    assert found["taken"] is True
    (level,) = found["levels"]
    assert level["route"]["handler"] == "get_user"
    assert level["params"] == {"id": 42}
    assert len(level["others"]) == 7
    missing = json.loads("\n".join(program.routes("/admin/x", "--json", code=1)))
    assert missing["taken"] is False
    assert [one["route"] is None for one in missing["levels"]] == [False, True]
    assert missing["levels"][1]["answer"] == "it is answered with 404"


def test_a_crowd_that_comes_near_is_cut(program: Program) -> None:
    """To 20 of them; --all shows the rest."""
    code, out, _ = program("routes", "routed_shop:many", "/nosuch", "--factory")
    assert code == 1
    assert len(out.splitlines()) == 23
    assert out.splitlines()[-1] == "Nor by 30 more: --all says why"
    assert len(program("routes", "routed_shop:many", "/nosuch", "--factory", "--all")[1].splitlines()) == 52


def test_what_is_an_application_after_all(program: Program) -> None:
    """A server shows the routes of what it serves, a factory those of what it returns."""
    assert program("routes", "routed_shop:served")[1] == program("routes", "routed_shop:app")[1]
    assert "/log/{day}" in program("routes", "routed_shop:make", "--factory")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument 'MODULE:NAME'"),
        (["routed_shop"], "'routed_shop' is not MODULE:NAME"),
        (["routed_shop:tcp"], "routed_shop:tcp is a Service of type TCPServer, and no App: it has no routes"),
        (["routed_shop:asgi"], "an ASGI application's routes are known to itself only"),
        (["routed_shop:make"], "routed_shop:make is a function, and no App: with --factory"),
        (["routed_shop:App"], "is a class, and no App: name an instance of it"),
        (["routed_shop:Plain"], "routed_shop:Plain is a class, and no App"),
        (["routed_shop:number"], "is of type int, and no App"),
        (["routed_shop:app", "--method", "GET"], "--method is about a request: give its URL as well"),
        (["routed_shop:app", "--host", "a.example"], "--host is about a request"),
        (["routed_shop:app", "--all"], "--all is about a request"),
        (["routed_shop:app", "users"], "'users' is neither a path, as in /users/42, nor a URL"),
        (["routed_shop:app", "ftp://a.example/"], "is neither a path"),
        (["routed_shop:app", "/a b"], "as in %20 for a blank"),
        (["routed_shop:app", "/%ff"], "no server would take /%ff"),
        (["routed_shop:app", "/a/../b"], "no server would take /a/../b: request path has a dot segment"),
        (["routed_shop:app", "/a/%2e%2E/b"], "has a dot segment"),
        (["routed_shop:app", "/%zz"], "no server would take /%zz"),
        (["routed_shop:app", "/%00"], "no server would take /%00"),
        (["routed_shop:app", "/a\\b"], "has a backslash"),
        (["routed_shop:app", "/café"], "as in %20 for a blank"),
        (["routed_shop:app", "/", "--host", "a/b"], "no server would take / of a/b: Host is not a host and port"),
        (["routed_shop:app", "/", "--method", "CONNECT"], "CONNECT is not served here"),
        (["routed_shop:app", "/", "--method", "*"], "--method: '*' is none"),
        (["routed_shop:app", "/", "--host", "müller.example"], "xn-- form"),
        (["routed_shop:app", "/", "--openapi"], "--openapi is about the whole application: leave out URL"),
    ],
)
def test_what_cannot_be_asked_exits_with_2(program: Program, arguments: list[str], said: str) -> None:
    """In a sentence that says what is wrong."""
    assert said in program.refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["routed_nosuch:app"], "cannot import 'routed_nosuch'"),
        (["routed_shop:nosuch"], "module routed_shop has no attribute 'nosuch'; it has: app"),
        (["routed_shop:broken", "--factory"], "routed_shop:broken() failed: LookupError: no database"),
    ],
)
def test_what_cannot_be_loaded_exits_with_3(program: Program, arguments: list[str], said: str) -> None:
    """As for forebay run."""
    assert said in program.refused(*arguments, code=3)


def test_a_converter_that_fails(program: Program) -> None:
    """It fails the request, whatever other routes would take it."""
    done, out, _ = program("routes", "routed_shop:faulty", "/seven")
    assert (done, out.splitlines()) == (
        1,
        [
            "GET /seven is taken by no route: it is answered with 500, for a converter fails with KeyError('seven')",
            "Not by:",
            "  GET  /{x:bad}  unreached  converter bad fails at segment 1 'seven' with KeyError('seven')",
            "  GET  /{x}      anything   the request has failed before",
        ],
    )


def test_the_openapi_document(program: Program) -> None:
    """As JSON, of the whole application; one without settings has none."""
    code, out, err = program("routes", "routed_shop:told", "--openapi")
    assert code == 0, err
    document = json.loads(out)
    assert document["openapi"].startswith("3.1")
    assert document["info"] == {"title": "Told", "version": "1.2"}
    assert "get" in document["paths"]["/users/{id}"]
    assert "App shop has no OpenAPI settings: App(openapi=" in program.refused("routed_shop:app", "--openapi")


def test_help_has_an_example(program: Program) -> None:
    """Of this command."""
    code, out, _ = program("routes", "--help")
    assert code == 0
    assert re.search(r"Example:\n +forebay routes", out)
