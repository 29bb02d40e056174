"""One configuration, ready to be used: built whole before it replaces the one before, or not at all."""

from __future__ import annotations

from forebay.config import schema
from forebay.errors import ConfigError, Problem
from forebay.gateway.filters import make_filters, make_key_of
from forebay.gateway.heads import RequestHeads
from forebay.gateway.table import Pattern, Table
from forebay.gateway.upstream import Upstream
from forebay.observe.metrics import Family, Sample
from forebay.policy.retry import Retry

__all__ = ["Plan", "Route"]


class Route:
    """What is done with the requests a route takes, and how many got which answer."""

    __slots__ = ("filters", "key_of", "name", "retry", "statuses", "strip_prefix", "timeout", "upstream")

    def __init__(self, config: schema.Route, upstream: Upstream, heads: RequestHeads) -> None:
        self.name = config.name
        self.upstream = upstream
        self.key_of = make_key_of(upstream.hash_key, heads) if upstream.hash_key else None  # None: keys mean nothing
        self.timeout = config.timeout
        self.retry = Retry(config.retry.attempts, backoff=None)  # on another target: nothing to wait for
        self.strip_prefix = (config.strip_prefix or "").rstrip("/")
        self.filters = make_filters(config.filters, heads)
        self.statuses = [0] * 600  # by status

    def adopt(self, old: Route) -> None:
        """Go on where the route of this name in the configuration before has been."""
        if old.upstream.name == self.upstream.name:
            self.statuses = old.statuses
        for new_filter, old_filter in zip(self.filters, old.filters, strict=False):
            new_filter.adopt(old_filter)


class Plan:
    """Routes and upstreams of one configuration.

    :raises ConfigError: it cannot work, in a way :func:`forebay.config.load_system` would have found as well.
    """

    __slots__ = ("heads", "routes", "table", "upstreams")

    def __init__(self, config: schema.SystemConfig) -> None:
        try:
            self.heads = RequestHeads(config.gateway.trusted_proxies if config.gateway else ())
            self.upstreams = {name: Upstream(name, upstream) for name, upstream in config.upstreams.items()}
            self.routes = [Route(route, self.upstreams[route.upstream], self.heads) for route in config.routes]
            self.table: Table[Route] = Table(
                (Pattern(route.match.path, route.match.host, tuple(route.match.methods)), made)
                for route, made in zip(config.routes, self.routes, strict=True)
            )
        except KeyError as error:
            raise ConfigError("gateway", [Problem(f"a route names the upstream {error}, which is not there")]) from None
        except ValueError as error:
            raise ConfigError("gateway", [Problem(str(error))]) from None

    def adopt(self, old: Plan, now: float) -> None:
        """Take over what ``old`` has learned and counted, wherever the names are the same."""
        for name, upstream in self.upstreams.items():
            if name in old.upstreams:
                upstream.adopt(old.upstreams[name], now)
        before = {route.name: route for route in old.routes}
        for route in self.routes:
            if route.name in before:
                route.adopt(before[route.name])

    def retire(self) -> None:
        """It was replaced: requests in flight finish on it, and their connections are closed after them."""
        for upstream in self.upstreams.values():
            upstream.retire()

    def collect(self, unrouted: list[int]) -> list[Family]:
        """Metrics. ``unrouted``: answers to requests that no route takes, by status."""
        requests = [_by_status("", "", unrouted)]
        requests += [_by_status(route.name, route.upstream.name, route.statuses) for route in self.routes]
        upstreams = self.upstreams.values()
        targets = [
            ((("upstream", upstream.name), ("target", target.name)), target)
            for upstream in upstreams
            for target in upstream.targets
        ]
        return [
            Family(
                "forebay_gateway_requests",
                "counter",
                "Requests answered; 499: the client left before the answer began. No route took those without a route.",
                [sample for samples in requests for sample in samples],
            ),
            Family(
                "forebay_gateway_upstream_seconds",
                "histogram",
                "From sending a request to a target to the head of its answer.",
                [sample for one in upstreams for sample in one.seconds.samples((("upstream", one.name),))],
            ),
            Family(
                "forebay_gateway_retries",
                "counter",
                "Requests tried again, on another target or another connection.",
                [Sample("_total", (("upstream", one.name),), one.retries) for one in upstreams],
            ),
            Family(
                "forebay_gateway_upstream_requests",
                "counter",
                "Tries, whatever came of them.",
                [Sample("_total", labels, target.picks) for labels, target in targets],
            ),
            Family(
                "forebay_gateway_upstream_failures",
                "counter",
                "Tries that failed, by reason.",
                [
                    Sample("_total", (*labels, ("reason", reason)), count)
                    for labels, target in targets
                    for reason, count in target.failures.items()
                ],
            ),
            Family(
                "forebay_gateway_ejections",
                "counter",
                "Times a target was taken out.",
                [Sample("_total", labels, target.ejections) for labels, target in targets],
            ),
            Family(
                "forebay_gateway_target_up",
                "gauge",
                "Workers that use the target.",
                [Sample("", labels, int(target.state == "up")) for labels, target in targets],
            ),
            Family(
                "forebay_gateway_upstream_connections",
                "gauge",
                "Connections to the target.",
                [
                    Sample("", (*labels, ("state", state)), count)
                    for labels, target in targets
                    for state, count in (
                        ("busy", target.connections - len(target.idle)),
                        ("idle", len(target.idle)),
                    )
                ],
            ),
        ]


def _by_status(route: str, upstream: str, statuses: list[int]) -> list[Sample]:
    return [
        Sample("_total", (("route", route), ("upstream", upstream), ("status", str(status))), count)
        for status, count in enumerate(statuses)
        if count
    ]
