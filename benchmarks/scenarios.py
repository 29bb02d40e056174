"""Who is measured doing what, and what Forebay is to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.golang import GNET, GO
from benchmarks.load import http_load, tcp_load
from benchmarks.peers import (
    Peer,
    forebay_gateway,
    forebay_run,
    gnet,
    go,
    nginx_proxy,
    nginx_return,
    python_echo,
    twisted_lines,
    uvicorn,
)

FOREBAY = "Forebay"
UVICORN = "uvicorn + Starlette"
BARE = "bare uvloop Protocol"
READLINE = "asyncio streams readline on uvloop"


@dataclass(frozen=True, slots=True)
class Target:
    """Forebay's CPU time for each request is to be at most ``ratio`` of that of the peer."""

    peer: str
    ratio: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """The same work for several servers; the first is Forebay."""

    name: str
    title: str
    load: Callable[[int, int], list[str]]  # port, seconds
    peers: tuple[Peer, ...]
    target: Target | None
    has_backend: bool = False


SCENARIOS = (
    Scenario(
        name="plain",
        title="Plain 13-byte response",
        load=lambda port, seconds: http_load(port, "/", seconds),
        peers=(
            Peer(FOREBAY, forebay_run("plain", "http")),
            Peer("nginx", nginx_return),
            Peer("Go net/http", go("http"), needs=GO),
            Peer(UVICORN, uvicorn),
        ),
        target=Target("nginx", 2.0),
    ),
    Scenario(
        name="plain-varied",
        title="Plain 13-byte response, no two requests alike",
        load=lambda port, seconds: http_load(port, "/", seconds, varied=True),
        peers=(
            Peer(FOREBAY, forebay_run("plain", "http")),
            Peer("nginx", nginx_return),
            Peer(UVICORN, uvicorn),
        ),
        target=None,
    ),
    Scenario(
        name="json",
        title="Typed JSON route `/users/42?name=bob`",
        load=lambda port, seconds: http_load(port, "/users/42?name=bob", seconds),
        peers=(
            Peer(FOREBAY, forebay_run("json", "http")),
            Peer("Go net/http", go("http"), needs=GO),
            Peer(UVICORN, uvicorn),
        ),
        target=Target(UVICORN, 0.40),
    ),
    Scenario(
        name="proxy",
        title="Reverse proxy, keep-alive on both sides",
        load=lambda port, seconds: http_load(port, "/", seconds),
        peers=(Peer(FOREBAY, forebay_gateway), Peer("nginx", nginx_proxy)),
        target=Target("nginx", 1.8),
        has_backend=True,
    ),
    Scenario(
        name="proxy-varied",
        title="Reverse proxy, no two requests alike",
        load=lambda port, seconds: http_load(port, "/", seconds, varied=True),
        peers=(Peer(FOREBAY, forebay_gateway), Peer("nginx", nginx_proxy)),
        target=None,
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
        target=Target(BARE, 1.15),
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
        target=Target(BARE, 0.75),
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
        target=Target(READLINE, 0.75),
    ),
)
