"""What a configuration file may say. Every field here is one that something reads: there are no keys for later.

The structs are plain data: durations are seconds, sizes are bytes and rates are per second, already converted by
:mod:`forebay.config.load`. So they travel between processes with ``msgspec.to_builtins`` and ``msgspec.convert``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = [
    "AccessLogConfig",
    "Balance",
    "Duration",
    "Filter",
    "GatewayConfig",
    "GatewayLimits",
    "GatewayTimeouts",
    "Health",
    "Match",
    "RateLimit",
    "RetryConfig",
    "Route",
    "ServiceConfig",
    "Size",
    "System",
    "SystemConfig",
    "TLSConfig",
    "Target",
    "Upstream",
]

# The unit says how text in a file is read; what is kept is the number.
Duration = Annotated[float, Meta(gt=0, le=86_400, extra={"unit": "duration"})]
Size = Annotated[int, Meta(ge=1, le=2**40, extra={"unit": "size"})]
Rate = Annotated[float, Meta(gt=0, extra={"unit": "rate"})]

Balance = Literal[
    "round-robin", "weighted-round-robin", "least-connections", "random", "p2c-ewma", "consistent-hash", "maglev"
]
HashKey = Annotated[
    str,
    Meta(
        pattern=r"^(?:client-ip|path|(?:header|cookie):[!#$%&'*+.^_`|~0-9A-Za-z-]+)\Z",
        extra={"remedy": '"client-ip", "path", "header:NAME" or "cookie:NAME"'},
    ),
]
Workers = Literal["auto"] | Annotated[int, Meta(ge=1, le=64)]  # auto: one per processor core that may be used
Name = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z", extra={"remedy": "letters, digits, _ . and -"})
]
Text = Annotated[str, Meta(min_length=1)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What all sections are."""


class System(_Section, frozen=True):
    """``[system]``: the process as a whole."""

    name: Name = "forebay"
    admin: Text = "127.0.0.1:9900"  # HOST:PORT, or "off"
    admin_token: Text | None = None  # needed when admin is not on loopback; sent as a bearer token
    drain_timeout: Duration = 30.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "logfmt", "json"] = "auto"  # auto: console on a terminal, else logfmt


class TLSConfig(_Section, frozen=True):
    """``tls`` of a service or of the gateway: what clients of its ``https`` addresses are shown. Both are PEM files."""

    certificate: Text  # the certificate, then those that lead to its CA
    key: Text  # its private key


class AccessLogConfig(_Section, frozen=True):
    """``access_log`` of a service or of the gateway: a line about each request."""

    path: Text  # a file, or "-": standard output
    format: Text = "combined"  # common, combined, json, or a format of one's own


class ServiceConfig(_Section, frozen=True):
    """``[services.NAME]``: an application of ours, one instance per address."""

    app: Annotated[str, Meta(pattern=r"^[\w.]+:[\w.]+\Z", extra={"remedy": 'MODULE:NAME, as in "shop.users:app"'})]
    bind: Annotated[list[Text], Meta(min_length=1)]
    workers: Workers = 1  # processes per address
    tls: TLSConfig | None = None  # for https addresses
    access_log: AccessLogConfig | None = None  # none: nothing is logged about requests


class GatewayTimeouts(_Section, frozen=True):
    """``[gateway.timeouts]``: what a client is given, in seconds."""

    head: Duration = 10.0  # from the first byte of a request to the end of its head
    body: Duration = 20.0  # between two pieces of a body
    idle: Duration = 75.0  # between two requests on one connection
    write: Duration = 30.0  # for a client that does not read


class GatewayLimits(_Section, frozen=True):
    """``[gateway.limits]``: past these a request or a connection is refused."""

    connections: Annotated[int, Meta(ge=1)] = 10_000  # per worker
    head: Size = 64 * 1024  # bytes of a request's line and headers together
    headers: Annotated[int, Meta(ge=1, le=10_000)] = 100  # header fields of a request
    body: Size | None = None  # bytes of a request's body; none: as long as it likes, it is streamed


class GatewayConfig(_Section, frozen=True):
    """``[gateway]``: where clients come in."""

    bind: Annotated[list[Text], Meta(min_length=1)]
    workers: Workers = 1
    trusted_proxies: list[Text] = []  # addresses or networks whose X-Forwarded-* is believed
    timeouts: GatewayTimeouts = msgspec.field(default_factory=GatewayTimeouts)
    limits: GatewayLimits = msgspec.field(default_factory=GatewayLimits)
    tls: TLSConfig | None = None  # for https addresses
    access_log: AccessLogConfig | None = None  # none: nothing is logged about requests


class Target(_Section, frozen=True):
    """One server of an upstream."""

    url: Text  # http://HOST:PORT
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    max_fails: Annotated[int, Meta(ge=0)] = 1  # failures within fail_timeout that take it out; 0: never taken out
    fail_timeout: Duration = 10.0  # how long failures count, and how long it stays out
    backup: bool = False  # used only while no other target can be


class Health(_Section, frozen=True):
    """``[upstreams.NAME.health]``: asking targets whether they are well."""

    path: Annotated[str, Meta(pattern=r"^/[!-~]*\Z", extra={"remedy": 'a path that begins with "/"'})] = "/livez"
    interval: Duration = 5.0
    timeout: Duration = 1.0
    rise: Annotated[int, Meta(ge=1)] = 2  # good answers in a row that bring a target back
    fall: Annotated[int, Meta(ge=1)] = 3  # bad ones in a row that take it out


class Upstream(_Section, frozen=True):
    """``[upstreams.NAME]``: servers that are each able to answer, and how one is chosen."""

    targets: Annotated[list[Target], Meta(min_length=1)]
    balance: Balance = "weighted-round-robin"
    hash_key: HashKey = "client-ip"  # for consistent-hash and maglev: requests alike in this go to the same target
    health: Health | None = None
    connect_timeout: Duration = 3.0
    keepalive: Annotated[int, Meta(ge=0, le=10_000)] = 64  # idle connections kept per target and worker
    keepalive_timeout: Duration = 60.0  # how long an idle connection is kept


class Match(_Section, frozen=True):
    """Which requests a route takes. All that is given must fit."""

    path: Annotated[str, Meta(pattern=r"^/", extra={"remedy": 'a path that begins with "/"'})] = "/*"
    # exact, or everything below when it ends in "/*"
    host: Text | None = None  # exact, or "*.example.com"
    methods: list[Annotated[str, Meta(pattern=r"^[A-Z]+\Z", extra={"remedy": 'capitals, as in "GET"'})]] = []
    # none: all


class RetryConfig(_Section, frozen=True):
    """When a request fails in a way that makes another try safe, another target gets it."""

    attempts: Annotated[int, Meta(ge=1, le=10)] = 2  # tries in all, the first one included


class RateLimit(_Section, frozen=True):
    """``rate_limit``: a token bucket per key; past it requests are answered with 429."""

    rate: Rate  # requests per second
    burst: Annotated[int, Meta(ge=1)]  # the size of the bucket
    key: Literal["client-ip"] = "client-ip"


class Filter(_Section, frozen=True):
    """One filter of a route: exactly one of its fields is given."""

    rate_limit: RateLimit | None = None


class Route(_Section, frozen=True):
    """``[[routes]]``: which requests go to which upstream, and how."""

    name: Name
    upstream: Text
    match: Match = msgspec.field(default_factory=Match)
    strip_prefix: Annotated[str, Meta(pattern=r"^/", extra={"remedy": 'a path that begins with "/"'})] | None = None
    timeout: Duration = 30.0  # until the head of the answer is there, all tries together
    retry: RetryConfig = msgspec.field(default_factory=RetryConfig)
    filters: list[Filter] = []


class SystemConfig(_Section, frozen=True):
    """A whole file."""

    system: System = msgspec.field(default_factory=System)
    services: dict[Name, ServiceConfig] = {}
    gateway: GatewayConfig | None = None
    upstreams: dict[Name, Upstream] = {}
    routes: list[Route] = []
