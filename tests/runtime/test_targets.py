from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.engine import TCPServer
from forebay.errors import StartError
from forebay.http import HTTPServer
from forebay.http.asgi import ASGIApplication
from forebay.runtime.targets import call_factory, import_target, to_service

MODULE = """
import functools
from forebay import App, TCPServer, ConnectionHandler
app = App()
class Nest:
    inner = App()
nest = Nest()
server = TCPServer(ConnectionHandler, bind="tcp://127.0.0.1:9")
named = TCPServer(ConnectionHandler, bind="tcp://127.0.0.1:9", name="mine")
number = 7
def make_app():
    return App()
async def asgi(scope, receive, send): ...
class Asgi:
    async def __call__(self, scope, receive, send): ...
asgi_object = Asgi()
class Endpoint:
    def __init__(self, scope, receive, send): ...
    def __await__(self): ...
wrapped = functools.partial(asgi)
def plain(scope, receive, send): return asgi(scope, receive, send)
def varied(app):
    @functools.wraps(app)
    async def inner(*args, **kwargs): return await app(*args, **kwargs)
    return inner
decorated = varied(asgi)
from forebay.http.asgi import ASGIApplication
hosted = ASGIApplication(asgi, name="own", lifespan="off")
class Asgi2:
    def __init__(self, scope): ...
    async def __call__(self, receive, send): ...
def asgi2(scope):
    async def inner(receive, send): ...
    return inner
def wsgi(environ, start_response): return []
class Wsgi:
    def __call__(self, environ, start_response): return []
wsgi_object = Wsgi()
def three(a, b, c): ...
def make_asgi():
    return asgi
async def make_later():
    return asgi
def make_with(name):
    return asgi
def make_broken():
    raise LookupError("no settings")
class Fixed:
    name = "fixed"
    async def start(self): ...
    async def drain(self): ...
    async def stop(self): ...
fixed = Fixed()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with modules of a user's in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    (tmp_path / "things_of_ours.py").write_text(MODULE)
    (tmp_path / "broken_syntax.py").write_text("x = (\n")
    (tmp_path / "broken_inside.py").write_text("\n\nx = 1 / 0\n")
    (tmp_path / "broken_import.py").write_text("\nimport nosuch_at_all\n")
    (tmp_path / "nothing_here.py").write_text("x = 1\n")
    yield tmp_path
    for name in ("things_of_ours", "broken_syntax", "broken_inside", "broken_import", "nothing_here"):
        sys.modules.pop(name, None)


def refusal(target: str, bind: list[str] | None = None) -> str:
    """Why ``target`` cannot be run: one line."""
    with pytest.raises(StartError) as caught:
        to_service(target, import_target(target), bind, name="x")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("target", ["things_of_ours:app", "things_of_ours:nest.inner"])
def test_an_app_gets_a_server(target: str) -> None:
    """On the default address, or on those given."""
    service = to_service(target, import_target(target), None, name="users@7001")
    assert isinstance(service, HTTPServer)
    assert service.name == "users@7001"


@pytest.mark.parametrize("name", ["asgi", "asgi_object", "Endpoint", "wrapped", "plain", "decorated"])
def test_an_asgi_application_gets_a_server(name: str) -> None:
    """However it is written: a coroutine function, an object that is called like one, a class that is awaited."""
    found = import_target(f"things_of_ours:{name}")
    service = to_service("x", found, None, name="shop", root_path="/api")
    assert isinstance(service, HTTPServer)
    assert isinstance(service.application, ASGIApplication)
    assert (service.application.app, service.application.root_path) == (found, "/api")
    assert (service.name, service.application.name) == ("shop", "shop")


def test_an_asgi_application_with_settings_of_its_own() -> None:
    """Is served as it is."""
    found = import_target("things_of_ours:hosted")
    service = to_service("x", found, None, name="shop")
    assert isinstance(service, HTTPServer)
    assert service.application is found


def test_a_root_path_is_for_asgi_applications() -> None:
    """Nothing else would see it."""
    for name, said in (("app", "is an App"), ("hosted", "has its own")):
        with pytest.raises(StartError, match=said):
            to_service("x", import_target(f"things_of_ours:{name}"), None, name="x", root_path="/api")
    with pytest.raises(StartError, match="--root-path is for ASGI applications"):
        to_service("x", import_target("things_of_ours:server"), None, name="x", root_path="/api")


@pytest.mark.parametrize("name", ["make_app", "make_asgi"])
def test_a_factory_makes_what_is_run(name: str) -> None:
    """An App, or an ASGI application."""
    made = call_factory("x", import_target(f"things_of_ours:{name}"))
    assert isinstance(to_service("x", made, None, name="x"), HTTPServer)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("number", "x is of type int: with --factory it must be a function"),
        ("make_later", "x is a coroutine function"),
        ("make_with", r"x has parameters \(name\): with --factory it must have none"),
        ("make_broken", r"x\(\) failed: LookupError: no settings \(.*things_of_ours.py, line \d+\)"),
    ],
)
def test_what_is_no_factory_says_why(name: str, said: str) -> None:
    """In one line, with its place where it failed."""
    with pytest.raises(StartError, match=said):
        call_factory("x", import_target(f"things_of_ours:{name}"))


def test_a_service_is_taken_as_it_is() -> None:
    """With its own address and name."""
    service = to_service("x", import_target("things_of_ours:server"), None, name="chat")
    assert isinstance(service, TCPServer)
    assert [str(address) for address in service.bind] == ["tcp://127.0.0.1:9"]
    assert service.name == "tcp://127.0.0.1:9"


def test_a_service_is_given_another_address() -> None:
    """Then it is not called after the old one any more; a name that was chosen stays."""
    service = to_service("x", import_target("things_of_ours:server"), ["tcp://127.0.0.1:7"], name="chat@7")
    assert isinstance(service, TCPServer)
    assert ([str(address) for address in service.bind], service.name) == (["tcp://127.0.0.1:7"], "chat@7")
    named = to_service("x", import_target("things_of_ours:named"), ["tcp://127.0.0.1:7"], name="chat@7")
    assert named.name == "mine"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nosuch:app", "cannot import 'nosuch': No module named 'nosuch'"),
        ("nosuch.deeper:app", "cannot import 'nosuch.deeper': No module named 'nosuch'"),
        (
            "things_of_ours:app2",
            "has no attribute 'app2'; it has: app, asgi, asgi_object, "
            "decorated, fixed, hosted, named, plain, server, wrapped",
        ),
        ("nothing_here:app", "has no attribute 'app'; it has no App, no Service and no ASGI application"),
        ("things_of_ours:nest.outer", "has no attribute 'nest.outer'"),
        ("broken_syntax:app", "line 1"),
        ("broken_inside:app", "ZeroDivisionError: division by zero"),
        ("broken_inside:app", "broken_inside.py, line 3"),
        ("broken_import:app", "broken_import.py, line 2"),
        ("things_of_ours:make_app", "app = make_app()"),
        ("things_of_ours:make_app", "run it with --factory"),
        ("things_of_ours:Asgi", "is a class"),
        ("things_of_ours:Asgi2", "is an ASGI 2 application"),
        ("things_of_ours:asgi2", "guarantee_single_callable"),
        ("things_of_ours:wsgi", "is a WSGI application"),
        ("things_of_ours:wsgi_object", "a2wsgi.WSGIMiddleware"),
        ("things_of_ours:three", "is a function of (a, b, c), and no ASGI application"),
        ("things_of_ours:Fixed", "is a class"),
        ("things_of_ours:App", "is a class, not an App"),
        ("things_of_ours:number", "is of type int"),
        ("things_of_ours", "write MODULE:NAME"),
        (":app", "write MODULE:NAME"),
    ],
)
def test_what_cannot_be_run_says_why(target: str, said: str) -> None:
    """In one line, with what would be right where that is known."""
    assert said in refusal(target)


def test_a_service_without_an_address_cannot_be_given_one() -> None:
    """It would be ignored."""
    assert "no attribute 'bind'" in refusal("things_of_ours:fixed", ["tcp://127.0.0.1:7"])


def test_a_tcp_server_is_given_addresses_of_connections_only() -> None:
    """An http address, or one for datagrams, would be a misunderstanding."""
    assert "http" in refusal("things_of_ours:server", ["http://127.0.0.1:7"])
    assert "expected tcp or tls or unix or fd" in refusal("things_of_ours:server", ["udp://127.0.0.1:7"])
    for url in ("tls://127.0.0.1:7", "unix:///run/x.sock", "fd://3", "tcp://*:7"):
        service = to_service("x", import_target("things_of_ours:server"), [url], name="chat")
        assert isinstance(service, TCPServer)
        assert [str(address) for address in service.bind] == [url]


def test_an_app_is_given_http_addresses_only() -> None:
    """Anything else is refused in one line."""
    assert refusal("things_of_ours:app", ["tcp://127.0.0.1:7"]).endswith(
        "has scheme 'tcp'; expected http or https or unix or fd"
    )


async def test_nothing_is_served_in_the_clear_where_tls_was_asked_for() -> None:
    """A server without certificates does not start on a tls:// address, also when it was given that one later."""
    server = to_service("things_of_ours:named", import_target("things_of_ours:named"), ["tls://127.0.0.1:0"], name="x")
    with pytest.raises(StartError, match=r"tls://127.0.0.1:0 needs tls=TLS\(certificates=...\)"):
        await server.start()
