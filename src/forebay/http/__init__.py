"""HTTP: the server, the framework on it, WebSockets, the hosting of ASGI applications, and the client.

``docs/web.md``, ``docs/http-server.md`` and ``docs/client.md`` are the guides; :mod:`forebay.http.client` has what else
belongs to a client. What few programs need is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from forebay.http.access_log import AccessLog
from forebay.http.app import App
from forebay.http.binding import Body, Cookie, Depends, Form, Header, Path, Query, blocking
from forebay.http.exchange import Application, Exchange, Receiver
from forebay.http.files import FileResponse
from forebay.http.form_data import FormData
from forebay.http.group import Group
from forebay.http.headers import Headers, MutableHeaders
from forebay.http.messages import HTTPMiddleware, Next, Request, Response
from forebay.http.request_hook import RequestHook
from forebay.http.server import HTTPServer, ServerLimits, ServerTimeouts
from forebay.http.uploads import UploadFile
from forebay.http.websocket import WebSocket, WebSocketHandler, WebSocketSettings
from forebay.wire.deflate import DeflateSettings

if TYPE_CHECKING:
    from forebay.http.asgi import ASGIApplication
    from forebay.http.broadcaster import Broadcaster
    from forebay.http.caching import cached
    from forebay.http.client.client import Client
    from forebay.http.client.request import ClientRequest
    from forebay.http.client.response import ClientResponse
    from forebay.http.client.settings import Limits, Timeouts
    from forebay.http.converters import Converter
    from forebay.http.event_hub import Events
    from forebay.http.forms import FormLimits, read_form, request_parts
    from forebay.http.openapi import OpenAPI
    from forebay.http.sse import Event, EventStream, last_event_id
    from forebay.http.static_files import StaticFiles

__all__ = [
    "ASGIApplication",
    "AccessLog",
    "App",
    "Application",
    "Body",
    "Broadcaster",
    "Client",
    "ClientRequest",
    "ClientResponse",
    "Converter",
    "Cookie",
    "DeflateSettings",
    "Depends",
    "Event",
    "EventStream",
    "Events",
    "Exchange",
    "FileResponse",
    "Form",
    "FormData",
    "FormLimits",
    "Group",
    "HTTPMiddleware",
    "HTTPServer",
    "Header",
    "Headers",
    "Limits",
    "MutableHeaders",
    "Next",
    "OpenAPI",
    "Path",
    "Query",
    "Receiver",
    "Request",
    "RequestHook",
    "Response",
    "ServerLimits",
    "ServerTimeouts",
    "StaticFiles",
    "Timeouts",
    "UploadFile",
    "WebSocket",
    "WebSocketHandler",
    "WebSocketSettings",
    "blocking",
    "cached",
    "last_event_id",
    "read_form",
    "request_parts",
]

_HOMES = {
    name: f"forebay.http.{home}"
    for home, names in {
        "asgi": ("ASGIApplication",),
        "broadcaster": ("Broadcaster",),
        "caching": ("cached",),
        "client.client": ("Client",),
        "client.request": ("ClientRequest",),
        "client.response": ("ClientResponse",),
        "client.settings": ("Limits", "Timeouts"),
        "converters": ("Converter",),
        "event_hub": ("Events",),
        "forms": ("FormLimits", "read_form", "request_parts"),
        "openapi": ("OpenAPI",),
        "sse": ("Event", "EventStream", "last_event_id"),
        "static_files": ("StaticFiles",),
    }.items()
    for name in names
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'forebay.http' has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found  # from now on without this call
    return found
