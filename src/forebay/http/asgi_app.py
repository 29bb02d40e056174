"""An application of ours under any ASGI 3 server: HTTP, WebSockets and lifespan."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import structlog

from forebay.engine.loop import Ticker, ticker, timeout
from forebay.engine.tasks import Gate, Task, start_task
from forebay.errors import StartError
from forebay.http.application import Application
from forebay.http.asgi_link import ASGILink, ResponseCut
from forebay.http.asgi_scope import Scope
from forebay.http.asgi_socket import SocketLink

__all__ = ["ResponseCut", "serve_asgi"]

log = structlog.get_logger("forebay.http")

_DRAIN = 10.0  # seconds for what an application does after its answers, when the server shuts down


async def serve_asgi(app: Application, scope: Scope, receive: Any, send: Any) -> None:
    """Serve one scope of an ASGI 3 server with ``app``: what ``App.__call__`` does.

    Requests are those our own server would accept; others are answered as there. An application is started by the
    server's lifespan; under a server without one by the first request, which waits for it, and then it is never shut
    down.

    :raises ResponseCut: an answer could not be completed; the server is to cut the connection.
    :raises ValueError: a kind of scope that is not known (the specification demands an error).
    """
    kind = scope["type"]
    if kind == "lifespan":
        await _live(app, receive, send)
        return
    if kind == "http":
        link = ASGILink(app, scope, receive, send)
    elif kind == "websocket":
        message = await receive()
        if message["type"] != "websocket.connect":
            return
        link = SocketLink(app, scope, receive, send)
    else:
        raise ValueError(f"ASGI scope {kind!r}: must be http, websocket or lifespan")
    life = _lives.get(app)
    if life is None or not (life.is_running and life.is_here()):
        await _started(app)
    link.hand_on()
    await link.run()


class _Life:
    """One start of an application, on one loop."""

    __slots__ = ("_loop", "_over", "error", "is_running", "task")

    def __init__(self) -> None:
        self._loop: Ticker = ticker()  # there is one for each loop
        self._over = Gate()
        self.is_running = False
        self.error: BaseException | None = None
        self.task: Task[None] | None = None

    def is_here(self) -> bool:
        """Whether it belongs to the running loop."""
        return self._loop is ticker()

    async def start(self, app: Application) -> None:
        """Start ``app``; what it raises is kept."""
        try:
            await _call(app, "startup")
            self.is_running = True
        except BaseException as error:
            self.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._over.open()

    async def wait(self) -> None:
        """Return when it has started, or has not."""
        await self._over.wait()


_lives: WeakKeyDictionary[Application, _Life] = WeakKeyDictionary()


async def _started(app: Application) -> None:
    """Start ``app`` in a Task of its own, unless somebody has, or is about to: who asked first may be cancelled. A
    start that failed is tried again by the next request.

    :raises StartError: it failed.
    """
    life = _lives.get(app)
    if life is None or not life.is_here() or life.error is not None:
        life = _lives[app] = _Life()
        life.task = start_task(life.start(app), f"startup of {app.name}")
    await life.wait()
    if life.error is not None:
        raise StartError(f"{app.name}: the application's startup failed: {_said(life.error)}") from life.error


async def _call(app: Application, step: str) -> None:
    function = getattr(app, step, None)
    if function is not None:
        await function()


async def _live(app: Application, receive: Any, send: Any) -> None:
    """The server's lifespan. In one task from start to end, as context managers may need it."""
    await receive()
    life = _lives[app] = _Life()
    await life.start(app)
    if life.error is not None:
        log.error("application startup failed", app=app.name, exc_info=life.error)
        await send({"type": "lifespan.startup.failed", "message": _said(life.error)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    try:
        try:
            async with timeout(_DRAIN):
                await _call(app, "drain")
        except TimeoutError:
            log.error("application drains for too long", app=app.name, seconds=_DRAIN)
        await _call(app, "shutdown")
    except Exception as error:
        log.error("application shutdown failed", app=app.name, exc_info=error)
        await send({"type": "lifespan.shutdown.failed", "message": _said(error)})
    else:
        await send({"type": "lifespan.shutdown.complete"})
    finally:
        _lives.pop(app, None)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
