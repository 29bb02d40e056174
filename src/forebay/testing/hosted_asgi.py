"""ASGI applications as a test client serves them: what one raises is told, with the request it raised it for."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from forebay.http.asgi import ASGIApplication, ClientDisconnected
from forebay.http.asgi_scope import ASGI, Scope
from forebay.http.exchange import Exchange

__all__ = ["HostedASGI"]

_current: ContextVar[Exchange] = ContextVar("forebay_testing_exchange")


class HostedASGI(ASGIApplication):
    """An :class:`ASGIApplication` that tells ``on_failure`` what the application raises."""

    def __init__(self, app: ASGI, on_failure: Callable[[BaseException, Exchange], None]) -> None:
        async def told(scope: Scope, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            except ClientDisconnected:
                raise
            except Exception as error:
                exchange = _current.get(None)
                if exchange is not None and scope["type"] != "lifespan":
                    on_failure(error, exchange)
                raise

        super().__init__(told, name=getattr(app, "__name__", type(app).__name__))

    def on_request(self, exchange: Exchange) -> None:
        """See :meth:`ASGIApplication.on_request`."""
        token = _current.set(exchange)  # the Task that is started has a copy of the context
        try:
            super().on_request(exchange)
        finally:
            _current.reset(token)
