"""HTTP: the server, the framework on it, and what both are made of."""

from forebay.http.app import App
from forebay.http.exchange import Application, Exchange, Receiver
from forebay.http.messages import Headers, MutableHeaders, Request, Response
from forebay.http.server import HTTPServer, ServerLimits, ServerTimeouts

__all__ = [
    "App",
    "Application",
    "Exchange",
    "HTTPServer",
    "Headers",
    "MutableHeaders",
    "Receiver",
    "Request",
    "Response",
    "ServerLimits",
    "ServerTimeouts",
]
