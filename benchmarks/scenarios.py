"""Who is measured doing what, and what Forebay is to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.golang import GIN, GNET, GO
from benchmarks.load import BODY_HEADERS, ORDER, ORIGIN_HEADERS, http_load, tcp_load, websocket_load
from benchmarks.peers import (
    ASGI_APP,
    BLACKSHEEP_APP,
    FASTAPI_APP,
    FILE_PATH,
    RSGI_APP,
    STARLETTE_APP,
    Peer,
    forebay_asgi,
    forebay_file,
    forebay_gateway,
    forebay_run,
    forebay_web,
    forebay_websocket,
    gin,
    gnet,
    go,
    granian,
    nginx_file,
    nginx_proxy,
    nginx_return,
    python_echo,
    twisted_lines,
    uvicorn,
    websocket_server,
)

FOREBAY = "Forebay"
NGINX = "nginx"
UVICORN = "uvicorn"
STARLETTE = "uvicorn + Starlette"
FASTAPI = "uvicorn + FastAPI"
UVICORN_BLACKSHEEP, GRANIAN_BLACKSHEEP = "uvicorn + BlackSheep", "granian + BlackSheep"
GIN_PEER = "Gin"
BARE_ROUTE = f"{FOREBAY}, the route alone"
RSGI, ASGI = "granian, RSGI", "granian, ASGI"
PICOWS = "picows"
BARE = "bare uvloop Protocol"
READLINE = "asyncio streams readline on uvloop"

USER = "/users/42?name=bob"
ORDERS = "/orders"


@dataclass(frozen=True, slots=True)
class Target:
    """What Forebay's CPU time for each request is to be, beside that of the cheapest of ``peers``: at most ``most``
    times as much (``unit`` is ``x``), or at most ``most`` microseconds more (``us``).
    """

    peers: tuple[str, ...]
    most: float
    unit: Literal["x", "us"] = "x"


@dataclass(frozen=True, slots=True)
class Scenario:
    """The same work for several servers; the first is Forebay."""

    name: str
    title: str
    load: Callable[[int, int], list[str]]  # port, seconds
    peers: tuple[Peer, ...]
    targets: tuple[Target, ...] = ()
    has_backend: bool = False


def _websocket(name: str, title: str, size: int, kind: str = "binary", most: float | None = None) -> Scenario:
    return Scenario(
        name=name,
        title=title,
        load=lambda port, seconds: websocket_load(port, seconds, size=size, kind=kind),
        peers=(
            Peer(FOREBAY, forebay_websocket("echo")),
            Peer(PICOWS, websocket_server("picows_echo")),
            Peer("websockets", websocket_server("websockets_server", "echo")),
            Peer(f"{FOREBAY}, coroutine style", forebay_websocket("echo_coroutine")),
        ),
        targets=() if most is None else (Target((PICOWS,), most),),
    )


SCENARIOS = (
    Scenario(
        name="plain",
        title="Plain 13-byte response",
        load=lambda port, seconds: http_load(port, "/", seconds),
        peers=(
            Peer(FOREBAY, forebay_run("plain", "http")),
            Peer(NGINX, nginx_return),
            Peer("Go net/http", go("http"), needs=GO),
            Peer(RSGI, granian("rsgi", RSGI_APP)),
            Peer(ASGI, granian("asgi", ASGI_APP)),
            Peer(UVICORN, uvicorn(ASGI_APP)),
            Peer(STARLETTE, uvicorn(STARLETTE_APP)),
        ),
        targets=(Target((NGINX,), 1.7), Target((RSGI, ASGI), 0.65), Target((UVICORN,), 0.5)),
    ),
    Scenario(
        name="plain-varied",
        title="Plain 13-byte response, no two requests alike",
        load=lambda port, seconds: http_load(port, "/", seconds, varied=True),
        peers=(
            Peer(FOREBAY, forebay_run("plain", "http")),
            Peer(NGINX, nginx_return),
            Peer(RSGI, granian("rsgi", RSGI_APP)),
            Peer(STARLETTE, uvicorn(STARLETTE_APP)),
        ),
    ),
    Scenario(
        name="asgi",
        title="The same ASGI application, plain 13-byte response",
        load=lambda port, seconds: http_load(port, "/", seconds),
        peers=(
            Peer(FOREBAY, forebay_asgi),
            Peer(UVICORN, uvicorn(ASGI_APP)),
            Peer("granian", granian("asgi", ASGI_APP)),
        ),
        targets=(Target((UVICORN,), 0.7),),
    ),
    Scenario(
        name="json",
        title=f"Typed JSON route `{USER}`",
        load=lambda port, seconds: http_load(port, USER, seconds),
        peers=(
            Peer(FOREBAY, forebay_run("json", "http")),
            Peer(GIN_PEER, gin, needs=GIN),
            Peer("Go net/http", go("http"), needs=GO),
            Peer(GRANIAN_BLACKSHEEP, granian("asgi", BLACKSHEEP_APP)),
            Peer(UVICORN_BLACKSHEEP, uvicorn(BLACKSHEEP_APP)),
            Peer(STARLETTE, uvicorn(STARLETTE_APP)),
            Peer(FASTAPI, uvicorn(FASTAPI_APP)),
        ),
        targets=(Target((GIN_PEER,), 1.0), Target((STARLETTE,), 0.30), Target((FASTAPI,), 0.12)),
    ),
    Scenario(
        name="middleware",
        title="Typed JSON route with request id, CORS, access log",
        load=lambda port, seconds: http_load(port, USER, seconds, headers=ORIGIN_HEADERS),
        peers=(
            Peer(FOREBAY, forebay_web("middleware", log=True)),
            Peer(BARE_ROUTE, forebay_run("json", "http")),
            Peer(f"{FOREBAY}, without the log", forebay_web("middleware")),
        ),
        targets=(Target((BARE_ROUTE,), 6.0, "us"),),
    ),
    Scenario(
        name="body",
        title="JSON body of 1 KiB, checked",
        load=lambda port, seconds: http_load(port, ORDERS, seconds, headers=BODY_HEADERS, body=ORDER),
        peers=(
            Peer(FOREBAY, forebay_web("body")),
            Peer(GIN_PEER, gin, needs=GIN),
            Peer(GRANIAN_BLACKSHEEP, granian("asgi", BLACKSHEEP_APP)),
            Peer(UVICORN_BLACKSHEEP, uvicorn(BLACKSHEEP_APP)),
            Peer(FASTAPI, uvicorn(FASTAPI_APP)),
        ),
        targets=(Target((FASTAPI,), 0.2), Target((GRANIAN_BLACKSHEEP, UVICORN_BLACKSHEEP), 0.5)),
    ),
    Scenario(
        name="dependency",
        title="Typed JSON route with a dependency",
        load=lambda port, seconds: http_load(port, USER, seconds),
        peers=(
            Peer(FOREBAY, forebay_web("dependency")),
            Peer(BARE_ROUTE, forebay_run("json", "http")),
            Peer(f"{FOREBAY}, closed after the response", forebay_web("dependency_closed")),
        ),
        targets=(Target((BARE_ROUTE,), 2.0, "us"),),
    ),
    Scenario(
        name="file",
        title="Static file of 100 KiB",
        load=lambda port, seconds: http_load(port, FILE_PATH, seconds),
        peers=(Peer(FOREBAY, forebay_file), Peer(NGINX, nginx_file)),
        targets=(Target((NGINX,), 1.5),),
    ),
    _websocket("websocket", "WebSocket echo, 64 bytes, binary", 64, most=1.4),
    _websocket("websocket-4k", "WebSocket echo, 4 KiB, binary", 4096, most=1.6),
    _websocket("websocket-text", "WebSocket echo, 64 bytes, text", 64, "text"),
    Scenario(
        name="proxy",
        title="Reverse proxy, keep-alive on both sides",
        load=lambda port, seconds: http_load(port, "/", seconds),
        peers=(Peer(FOREBAY, forebay_gateway), Peer(NGINX, nginx_proxy)),
        targets=(Target((NGINX,), 1.8),),
        has_backend=True,
    ),
    Scenario(
        name="proxy-varied",
        title="Reverse proxy, no two requests alike",
        load=lambda port, seconds: http_load(port, "/", seconds, varied=True),
        peers=(Peer(FOREBAY, forebay_gateway), Peer(NGINX, nginx_proxy)),
        has_backend=True,
    ),
    Scenario(
        name="tcp",
        title="TCP echo, 64 bytes",
        load=tcp_load,
        peers=(
            Peer(FOREBAY, forebay_run("echo", "tcp")),
            Peer(BARE, python_echo("protocol")),
            Peer(f"{BARE}, allocator tuned", python_echo("protocol-tuned")),
            Peer("Go net", go("echo"), needs=GO),
            Peer("gnet", gnet, needs=GNET),
            Peer("asyncio streams on uvloop", python_echo("streams")),
            Peer(f"{FOREBAY}, coroutine style", forebay_run("echo_coroutine", "tcp")),
        ),
        targets=(Target((BARE,), 1.15),),
    ),
    Scenario(
        name="tcp-16k",
        title="TCP echo, 16 KiB",
        load=lambda port, seconds: tcp_load(port, seconds, size=16 * 1024),
        peers=(
            Peer(FOREBAY, forebay_run("echo", "tcp")),
            Peer(BARE, python_echo("protocol")),
            Peer(f"{BARE}, allocator tuned", python_echo("protocol-tuned")),
            Peer("Go net", go("echo"), needs=GO),
            Peer("gnet", gnet, needs=GNET),
        ),
        targets=(Target((BARE,), 0.75),),
    ),
    Scenario(
        name="lines",
        title="Lines of 64 bytes echoed, coroutine style",
        load=tcp_load,
        peers=(
            Peer(FOREBAY, forebay_run("lines", "tcp")),
            Peer(READLINE, python_echo("readline")),
            Peer("Twisted LineReceiver", twisted_lines),
            Peer(f"{BARE}, splitting lines", python_echo("protocol-lines")),
            Peer(f"{FOREBAY}, event style", forebay_run("lines_events", "tcp")),
        ),
        targets=(Target((READLINE,), 0.75),),
    ),
)
