"""The gateway as a service: a server in front, a plan behind it, and the plan's replacement while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from forebay.config import schema
from forebay.engine import TLS, Address, Certificate
from forebay.errors import ConfigError, Problem
from forebay.gateway.checks import HealthChecks
from forebay.gateway.plan import Plan
from forebay.gateway.proxy import Proxy
from forebay.http import HTTPServer, ServerLimits, ServerTimeouts
from forebay.http.access_log import AccessLog
from forebay.observe.metrics import Family

__all__ = ["Gateway", "can_update"]

log = structlog.get_logger("forebay.gateway")


def can_update(old: schema.SystemConfig, new: schema.SystemConfig) -> bool:
    """Whether a running gateway can go from ``old`` to ``new``: routes, upstreams and trusted proxies may differ.

    What else ``[gateway]`` says (addresses, limits, timeouts) is for the server in front, and needs a new worker.
    """
    if old.gateway is None or new.gateway is None:
        return old.gateway is new.gateway
    return msgspec.structs.replace(old.gateway, trusted_proxies=new.gateway.trusted_proxies) == new.gateway


class Gateway:
    """Routes HTTP requests to upstreams. A :class:`forebay.service.Service`.

    :param config: a checked configuration that has a ``[gateway]``.
    :raises ConfigError: it has none, or cannot work.

    A running gateway takes a new configuration in two steps, so that several workers take it together or not at all:
    :meth:`prepare` builds all of it, :meth:`commit` swaps it in. Requests in flight finish on the old one.
    """

    def __init__(self, config: schema.SystemConfig, *, name: str = "gateway") -> None:
        gateway = config.gateway
        if gateway is None:
            raise ConfigError("gateway", [Problem("there is no [gateway]")])
        self.name = name
        self.config = config
        self.proxy = Proxy(Plan(config), name=name, body_limit=gateway.limits.body)
        limits, timeouts, log_to = gateway.limits, gateway.timeouts, gateway.access_log
        self.server = HTTPServer(
            self.proxy,
            bind=gateway.bind,
            name=name,
            limits=ServerLimits(head=limits.head, headers=limits.headers, connections=limits.connections),
            timeouts=ServerTimeouts(head=timeouts.head, idle=timeouts.idle, body=timeouts.body, write=timeouts.write),
            tls=TLS(Certificate(gateway.tls.certificate, gateway.tls.key)) if gateway.tls is not None else None,
            access_log=AccessLog(log_to.path, log_to.format) if log_to is not None else None,
        )
        self._checks = HealthChecks()
        self._next: tuple[schema.SystemConfig, Plan] | None = None

    def __repr__(self) -> str:
        return f"<Gateway {self.name} {[str(a) for a in self.addresses]} routes={len(self.proxy.plan.routes)}>"

    @property
    def addresses(self) -> list[Address]:
        """Where it listens."""
        return self.server.addresses

    async def start(self) -> None:
        """Listen, and begin to check targets.

        :raises StartError: an address cannot be listened on.
        """
        await self.server.start()
        self._checks.start(self.proxy.plan)

    async def drain(self) -> None:
        """Refuse new connections and answer what is in flight."""
        await self.server.drain()

    async def stop(self) -> None:
        """Cut what is in flight and close all connections to targets."""
        await self._checks.cancel()
        await self.server.stop()

    def prepare(self, payload: Mapping[str, Any]) -> None:
        """Build everything a new configuration needs, without using it.

        :param payload: a ``SystemConfig`` as builtins (``msgspec.to_builtins``).
        :raises ConfigError: it is not one, cannot work, or changes what a running gateway cannot change.
        """
        self._next = None
        try:
            config = msgspec.convert(payload, schema.SystemConfig)
        except msgspec.ValidationError as error:
            raise ConfigError("gateway", [Problem(str(error))]) from None
        if not can_update(self.config, config):
            raise ConfigError("gateway", [Problem("addresses, limits and timeouts need a new worker", key="gateway")])
        self._next = config, Plan(config)

    async def commit(self) -> None:
        """Use what was prepared. New requests take it at once; old health checks have ended when this returns.

        :raises RuntimeError: nothing was prepared.
        """
        if self._next is None:
            raise RuntimeError("commit without prepare")
        (self.config, plan), self._next = self._next, None
        self.proxy.use(plan)
        await self._checks.cancel()
        self._checks.start(plan)
        log.info("configuration replaced", gateway=self.name, routes=len(plan.routes), upstreams=len(plan.upstreams))

    def rollback(self) -> None:
        """Forget what was prepared."""
        self._next = None

    def collect(self) -> list[Family]:
        """Metrics of the server in front, of routes, upstreams and targets."""
        return self.server.collect()
