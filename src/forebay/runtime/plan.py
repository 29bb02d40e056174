"""What is to run: worker processes, derived from a configuration or from a command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from forebay.config import AccessLogConfig, ServiceConfig, System, SystemConfig, TLSConfig, load_system
from forebay.config.document import read_document
from forebay.engine.address import BIND_SCHEMES, parse_address
from forebay.engine.supervisor import WorkerSpec
from forebay.errors import ConfigError, Problem
from forebay.runtime.logs import LogSettings

__all__ = ["GATEWAY", "FileSource", "Plan", "app_plan", "system_plan"]

GATEWAY = "gateway"  # the name of its worker spec

WorkerCount = int | Literal["auto"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is to run, in the order of starting."""

    system: System
    services: tuple[WorkerSpec, ...]
    gateway: WorkerSpec | None = None
    config: SystemConfig | None = None
    admin_optional: bool = False  # go on without admin when its address is taken

    @property
    def specs(self) -> list[WorkerSpec]:
        """All of them, in the order of starting."""
        return [*self.services, *([self.gateway] if self.gateway else [])]


def app_plan(
    target: str,
    bind: Sequence[str] | None,
    workers: WorkerCount,
    system: System,
    *,
    admin_optional: bool = False,
    tls: TLSConfig | None = None,
    access_log: AccessLogConfig | None = None,
    factory: bool = False,
    root_path: str = "",
) -> Plan:
    """One App, ASGI application or Service, in ``workers`` processes that share its addresses."""
    serving = _serving(tls, access_log)
    if factory:
        serving["factory"] = True
    if root_path:
        serving["root_path"] = root_path
    spec = _app_spec(system.name, target, list(bind) if bind else None, workers, system, serving)
    return Plan(system, (spec,), admin_optional=admin_optional)


def system_plan(config: SystemConfig) -> Plan:
    """A whole system: a spec per address of each service, and one for the gateway."""
    services = [
        _app_spec(instance, service.app, [url], service.workers, config.system, _of(service, url))
        for name, service in config.services.items()
        for url, instance in zip(service.bind, _instances(name, service.bind), strict=True)
    ]
    gateway = None
    if config.gateway is not None:
        only = msgspec.structs.replace(config, services={})  # so that a change of a service is no change of the gateway
        args = {"name": GATEWAY, "config": msgspec.to_builtins(only), "logs": _logs(config.system)}
        gateway = WorkerSpec(GATEWAY, "forebay.runtime.entries:gateway", args, config.gateway.workers)
    return Plan(config.system, tuple(services), gateway, config)


def _app_spec(
    name: str, target: str, bind: list[str] | None, workers: WorkerCount, system: System, serving: dict[str, Any]
) -> WorkerSpec:
    args = {"name": name, "target": target, "bind": bind, "logs": _logs(system), **serving}
    return WorkerSpec(name, "forebay.runtime.entries:app", args, workers)


def _of(service: ServiceConfig, url: str) -> dict[str, Any]:
    """What an instance that listens on ``url`` is given; a certificate only if it is to show one."""
    return _serving(service.tls if url.lower().startswith("https://") else None, service.access_log)


def _serving(tls: TLSConfig | None, access_log: AccessLogConfig | None) -> dict[str, Any]:
    """What workers are told about serving HTTP, where there is something to tell."""
    given = {"tls": tls, "access_log": access_log}
    return {key: msgspec.to_builtins(section) for key, section in given.items() if section is not None}


def _logs(system: System) -> Any:
    return msgspec.to_builtins(LogSettings(system.log_level, system.log_format))


def _instances(name: str, urls: Sequence[str]) -> list[str]:
    """Readable names that differ: ``users@7001``; with the host where ports are the same, or where there are none."""
    addresses = [parse_address(url, schemes=BIND_SCHEMES) for url in urls]
    ports = Counter(address.port for address in addresses)
    names = []
    for address in addresses:
        if address.kind in ("unix", "fd"):
            names.append(f"{name}@{address.host}")
        else:
            names.append(f"{name}@{'' if ports[address.port] == 1 else f'{address.host}:'}{address.port}")
    return [n if names.count(n) == 1 else f"{n}#{position}" for position, n in enumerate(names)]


class FileSource:
    """Plans from a configuration file, again and again.

    :param load: reads the file, environment and flags included.
    """

    def __init__(self, path: str | Path, load: Callable[[], SystemConfig] | None = None) -> None:
        self.path = Path(path)
        self._load = load or (lambda: load_system(path))

    def first(self) -> Plan:
        """The plan to start with.

        :raises ConfigError: with all problems.
        """
        return system_plan(self._load())

    def again(self, running: Plan) -> Plan:
        """The plan that the file describes now.

        :raises ConfigError: with all problems; also when something changed that cannot while the system runs.
        """
        plan = system_plan(self._load())
        problems = []
        for field in System.__struct_fields__:
            if getattr(plan.system, field) != getattr(running.system, field):
                document = read_document(self.path)
                remedy = "restart forebay to change it, or put the old value back"
                key = ("system", field)
                problems.append(Problem("cannot change while running", ".".join(key), document.line(key), remedy))
        if problems:
            raise ConfigError(str(self.path), problems)
        return plan
