"""HTTP: the server, the framework on it, WebSockets, and the hosting of ASGI applications.

``docs/http-server.md`` is the guide. WebSockets of a client are opened by
:func:`forebay.http.websocket_client.connect`. What few programs need is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from forebay.http.access_log import AccessLog
from forebay.http.app import App
from forebay.http.exchange import Application, Exchange, Receiver
from forebay.http.files import FileResponse
from forebay.http.messages import Headers, MutableHeaders, Request, Response
from forebay.http.server import HTTPServer, ServerLimits, ServerTimeouts
from forebay.http.websocket import WebSocket, WebSocketHandler, WebSocketSettings
from forebay.wire.deflate import DeflateSettings

if TYPE_CHECKING:
    from forebay.http.asgi import ASGIApplication
    from forebay.http.broadcaster import Broadcaster

__all__ = [
    "ASGIApplication",
    "AccessLog",
    "App",
    "Application",
    "Broadcaster",
    "DeflateSettings",
    "Exchange",
    "FileResponse",
    "HTTPServer",
    "Headers",
    "MutableHeaders",
    "Receiver",
    "Request",
    "Response",
    "ServerLimits",
    "ServerTimeouts",
    "WebSocket",
    "WebSocketHandler",
    "WebSocketSettings",
]

_HOMES = {"ASGIApplication": "forebay.http.asgi", "Broadcaster": "forebay.http.broadcaster"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'forebay.http' has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found  # from now on without this call
    return found
