"""What a route does to a request before it is sent on, and the keys by which requests are told apart."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from typing import Protocol

from forebay.config import schema
from forebay.errors import ForebayError, HTTPError
from forebay.gateway.heads import RequestHeads
from forebay.http import Exchange
from forebay.http.cookies import parse_cookies
from forebay.policy.limits import RateLimit

__all__ = ["KeyOf", "RateLimitFilter", "RequestFilter", "make_filters", "make_key_of"]

KeyOf = Callable[[Exchange], str]
"""The key of a request; empty when it has none."""


class RequestFilter(Protocol):
    """Sees a request before a target is picked for it."""

    name: str

    def check(self, exchange: Exchange, now: float) -> ForebayError | None:
        """None lets the request pass; an error is its answer."""

    def adopt(self, old: RequestFilter) -> None:
        """Go on where the filter at this place in the configuration before has been, if that makes sense."""


class RateLimitFilter:
    """Answers 429 with ``Retry-After`` to clients that come too often."""

    name = "rate-limit"
    __slots__ = ("_config", "_key_of", "_limit")

    def __init__(self, config: schema.RateLimit, heads: RequestHeads) -> None:
        self._config = config
        self._key_of = make_key_of(config.key, heads)
        self._limit = RateLimit(config.rate, config.burst)

    def check(self, exchange: Exchange, now: float) -> ForebayError | None:
        """Take one token of the client's bucket."""
        wait = self._limit.take(self._key_of(exchange), now)
        if not wait:
            return None
        headers = (("retry-after", str(math.ceil(wait))),)
        return HTTPError(429, "too many requests; try again later", headers=headers)

    def adopt(self, old: RequestFilter) -> None:
        """Keep the buckets where rate and burst are what they were."""
        if isinstance(old, RateLimitFilter) and old._config == self._config:
            self._limit = old._limit


def _network(address: str) -> str:
    """The /64 an IPv6 address is in; an IPv4 address in IPv6 clothes stays what it is."""
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed.ipv4_mapped) if parsed.ipv4_mapped else parsed.exploded[:19]


def make_key_of(kind: str, heads: RequestHeads) -> KeyOf:
    """What finds the key of a request.

    :param kind: as configuration says it.

        - ``client-ip``: a client is an IPv4 address or an IPv6 /64, which is what one customer is given; behind a
          trusted proxy it is the address that the proxy names.
        - ``path``: decoded, without the query.
        - ``header:NAME``, ``cookie:NAME``: the first value; requests without one have no key.
    """
    kind, _, name = kind.partition(":")
    if kind == "path":
        return lambda exchange: exchange.path
    if kind == "header":
        field = name.lower().encode()
        return lambda exchange: (exchange.header(field) or b"").decode("latin-1")
    if kind == "cookie":
        return lambda exchange: parse_cookies(exchange.headers).get(name, "")
    client_ip = heads.client_ip

    def client(exchange: Exchange) -> str:
        address = client_ip(exchange.client, exchange.headers)
        return _network(address) if ":" in address else address

    return client


def make_filters(configs: list[schema.Filter], heads: RequestHeads) -> tuple[RequestFilter, ...]:
    """The filters of a route, in the order of the file."""
    filters: list[RequestFilter] = []
    for config in configs:
        if config.rate_limit is not None:
            filters.append(RateLimitFilter(config.rate_limit, heads))
    return tuple(filters)
