"""The HTTP client: :class:`Client` asks, over connections that are kept, through policies that are written once.

``docs/client.md`` is the guide. A request goes one way: ``client`` -> middleware -> ``cookies`` -> ``policies`` ->
``targets`` -> ``transport`` -> ``connection``. Everything is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forebay.http.client.auth import Basic, Bearer, Refreshable, Token
    from forebay.http.client.balancing import Balancing, HealthCheck
    from forebay.http.client.cache import Cache
    from forebay.http.client.cache_store import CacheStore, MemoryStore
    from forebay.http.client.client import Client
    from forebay.http.client.content import File, FilePart, Streamed, with_progress
    from forebay.http.client.cookie_jar import CookieJar
    from forebay.http.client.digest import Digest
    from forebay.http.client.download import Downloaded
    from forebay.http.client.dump import dump_request, dump_response
    from forebay.http.client.event_reader import ServerSentEvent
    from forebay.http.client.events import EventSource
    from forebay.http.client.options import ClientMiddleware
    from forebay.http.client.proxies import Proxies
    from forebay.http.client.redirects import Redirects
    from forebay.http.client.request import ClientRequest
    from forebay.http.client.resolver import DNSResolver, ResolvedTarget, Resolver, StaticResolver
    from forebay.http.client.response import ClientResponse
    from forebay.http.client.settings import Limits, Timeouts
    from forebay.http.client.trace import Step, Trace, TraceEvent
    from forebay.http.client.transport import HTTPTransport, Transport
    from forebay.http.client.url import URL, parse_url
    from forebay.http.client.websockets import ReconnectingWebSocket

__all__ = [
    "URL",
    "Balancing",
    "Basic",
    "Bearer",
    "Cache",
    "CacheStore",
    "Client",
    "ClientMiddleware",
    "ClientRequest",
    "ClientResponse",
    "CookieJar",
    "DNSResolver",
    "Digest",
    "Downloaded",
    "EventSource",
    "File",
    "FilePart",
    "HTTPTransport",
    "HealthCheck",
    "Limits",
    "MemoryStore",
    "Proxies",
    "ReconnectingWebSocket",
    "Redirects",
    "Refreshable",
    "ResolvedTarget",
    "Resolver",
    "ServerSentEvent",
    "StaticResolver",
    "Step",
    "Streamed",
    "Timeouts",
    "Token",
    "Trace",
    "TraceEvent",
    "Transport",
    "dump_request",
    "dump_response",
    "parse_url",
    "with_progress",
]

_HOMES = {
    name: f"forebay.http.client.{home}"
    for home, names in {
        "auth": ("Basic", "Bearer", "Refreshable", "Token"),
        "balancing": ("Balancing", "HealthCheck"),
        "cache": ("Cache",),
        "cache_store": ("CacheStore", "MemoryStore"),
        "client": ("Client",),
        "content": ("File", "FilePart", "Streamed", "with_progress"),
        "cookie_jar": ("CookieJar",),
        "digest": ("Digest",),
        "download": ("Downloaded",),
        "dump": ("dump_request", "dump_response"),
        "event_reader": ("ServerSentEvent",),
        "events": ("EventSource",),
        "options": ("ClientMiddleware",),
        "proxies": ("Proxies",),
        "redirects": ("Redirects",),
        "request": ("ClientRequest",),
        "resolver": ("DNSResolver", "ResolvedTarget", "Resolver", "StaticResolver"),
        "response": ("ClientResponse",),
        "settings": ("Limits", "Timeouts"),
        "trace": ("Step", "Trace", "TraceEvent"),
        "transport": ("HTTPTransport", "Transport"),
        "url": ("URL", "parse_url"),
        "websockets": ("ReconnectingWebSocket",),
    }.items()
    for name in names
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'forebay.http.client' has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found  # from now on without this call
    return found
