"""Hosting applications of others: any ASGI 3 application, as something an HTTP server serves."""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import structlog

from forebay.engine.tasks import Tasks, place_of_task, unfinished
from forebay.http.asgi_http import HTTPCall
from forebay.http.asgi_lifespan import Lifespan
from forebay.http.asgi_scope import ASGI, ClientDisconnected
from forebay.http.asgi_websocket import WebSocketCall, is_websocket
from forebay.http.deadlines import begin_deadline
from forebay.http.exchange import Exchange
from forebay.http.websocket_settings import WebSocketSettings

if TYPE_CHECKING:
    from forebay.engine.tasks import Task

__all__ = ["ASGIApplication", "ClientDisconnected"]

log = structlog.get_logger("forebay.http")

_CANCEL_TIMEOUT = 0.5  # seconds for what was cancelled to end
_LOOK = 60.0  # seconds between two looks at what still runs, while nothing ends


class ASGIApplication:
    """An ASGI 3 application, for :class:`~forebay.http.server.HTTPServer`.

    :param app: called with scope, receive and send, once for each request, WebSocket and lifespan.
    :param name: for logs and metrics.
    :param root_path: the path under which a proxy in front, which removes it, has mounted the application: given to it
        as ``root_path``, and put before the path of every request.
    :param body_limit: bytes of a request's content that are accepted, 413 beyond it; None: any number.
    :param lifespan: ``auto``: an application without one is fine; ``on``: it is not; ``off``: it is not asked.
    :param startup_timeout: seconds for its startup; None: any time.
    :param shutdown_timeout: seconds for its shutdown.
    :param websocket: limits and timeouts of its WebSockets. By default a message has at most 16 MiB, and the origin is
        the application's to check.
    :raises ValueError: an argument makes no sense.

    Every request is a Task of its own. A client that leaves does not cancel it: the application is told, by
    ``http.disconnect`` and by a :class:`ClientDisconnected` from ``send``, and goes on as it likes, as it does after
    its answer (background tasks). Draining waits for all of that; stopping cancels it.

    What ``send`` raises says which message came and what was to come. An application that fails, or returns without an
    answer, is logged and answered with 500; where the answer was begun, it is cut.
    """

    def __init__(
        self,
        app: ASGI,
        *,
        name: str = "asgi",
        root_path: str = "",
        body_limit: int | None = None,
        lifespan: Literal["auto", "on", "off"] = "auto",
        startup_timeout: float | None = 60.0,
        shutdown_timeout: float = 10.0,
        websocket: WebSocketSettings | None = None,
    ) -> None:
        if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
            raise ValueError(f"root_path {root_path!r}: must begin with a slash and not end with one, as in /api")
        if lifespan not in ("auto", "on", "off"):
            raise ValueError(f"lifespan {lifespan!r}: must be auto, on or off")
        self.app = app
        self.name = name
        self.root_path = root_path
        self.raw_root_path = quote(root_path).encode()
        self.body_limit = body_limit
        self.websocket = websocket or WebSocketSettings(max_message=16 * 1024 * 1024, origins="*")
        self.state: dict[str, Any] = {}
        self.calls: set[HTTPCall | WebSocketCall] = set()  # whose Tasks run
        self.tasks = Tasks()
        self.task_name = f"asgi {name}"
        self._lifespan_mode = lifespan
        self._lifespan: Lifespan | None = None
        self._startup_timeout = startup_timeout
        self._shutdown_timeout = shutdown_timeout

    def __repr__(self) -> str:
        return f"<ASGIApplication {self.name} calls={len(self.calls)}>"

    def on_request(self, exchange: Exchange) -> None:
        """Start the application for one request. Called by the server."""
        if exchange.upgrade_to and is_websocket(exchange):
            WebSocketCall(self, exchange).begin()
        elif exchange.fields.timeout:  # how long the client waits is the deadline of what is done for it, and only that
            copy_context().run(self._begin_in_time, exchange)
        else:
            HTTPCall(self, exchange).begin()

    def _begin_in_time(self, exchange: Exchange) -> None:
        begin_deadline(exchange, None)
        HTTPCall(self, exchange).begin()

    async def startup(self) -> None:
        """Let the application start. Called by the server before it listens.

        :raises StartError: it failed, or took too long.
        """
        if self._lifespan_mode == "off":
            return
        self.state = {}
        self._lifespan = Lifespan(
            self.app,
            self.state,
            name=self.name,
            required=self._lifespan_mode == "on",
            startup_timeout=self._startup_timeout,
            shutdown_timeout=self._shutdown_timeout,
        )
        await self._lifespan.startup()

    async def drain(self) -> None:
        """Wait for what the application still does when all is answered, then let it end. Called by the server, whose
        owner cancels it at the deadline."""
        while tasks := self._tasks():
            await unfinished(tasks, _LOOK)
        await self._end()

    async def shutdown(self) -> None:
        """Cancel what the application still does, and let it end. Called by the server when it stops."""
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        for task in await unfinished(tasks, _CANCEL_TIMEOUT):
            log.error("application ignores its cancellation", app=self.name, place=place_of_task(task))
        await self._end()

    async def _end(self) -> None:
        if self._lifespan is not None:
            await self._lifespan.shutdown()

    def _tasks(self) -> list[Task[None]]:
        return [call.task for call in self.calls if call.task is not None]
