"""What ``forebay up`` prints once everything runs: what listens where, and what to try."""

from __future__ import annotations

import shlex

from rich.console import Console
from rich.table import Table

from forebay.config import SystemConfig
from forebay.engine.address import ANY_HOST, BIND_SCHEMES, Address, join_host_port, parse_address
from forebay.runtime.plan import Plan

__all__ = ["commands_to_try", "print_summary"]


def print_summary(plan: Plan, console: Console | None = None) -> None:
    """Print to standard output; logs go to standard error."""
    config = plan.config
    if config is None:
        return
    console = console or Console(highlight=False, soft_wrap=True)
    table = Table("what", "listens on", "workers", title=f"{plan.system.name} is up", title_justify="left")
    for name, service in config.services.items():
        for url in service.bind:
            table.add_row(name, url, str(service.workers))
    if config.gateway is not None:
        for url in config.gateway.bind:
            table.add_row("gateway", url, str(config.gateway.workers))
    if plan.system.admin != "off":
        table.add_row("admin", f"http://{plan.system.admin}/", "")
    console.print(table)
    if commands := commands_to_try(config):
        console.print("Try:")
        for command in commands:
            console.print(f"  {command}", markup=False)
    console.print("Ctrl-C drains and ends it.")


def commands_to_try(config: SystemConfig, count: int = 3) -> list[str]:
    """Up to ``count`` commands that get an answer of this system, the most telling ones first."""
    gateway, tcp, http = [], [], []
    if config.gateway is not None:
        at = _reachable(config.gateway.bind[0])
        if at.scheme != "fd":  # who knows where that is
            gateway = [_curl(at, route.match.path.removesuffix("/*") or "/") for route in config.routes]
    for service in config.services.values():
        address = _reachable(service.bind[0])
        match address.scheme:
            case "http" | "https":
                http.append(_curl(address, "/"))
            case "tcp":
                tcp.append(f"nc {address.host} {address.port}")
            case "udp":
                tcp.append(f"nc -u {address.host} {address.port}")
            case "unix":
                tcp.append(f"nc -U {shlex.quote(address.host)}")
            case "tls":
                tcp.append(f"openssl s_client -quiet -connect {join_host_port(address.host, address.port)}")
    admin = []
    if config.system.admin != "off":
        at = _reachable(f"http://{config.system.admin}")
        token = " -H 'Authorization: Bearer TOKEN'" if config.system.admin_token else ""
        admin = [f"curl -s {at}/readyz", f"curl -s{token} {at}/metrics"]
    found = [*gateway[:1], *tcp[:1], *admin[:1], *http[:1], *gateway[1:], *admin[1:], *tcp[1:], *http[1:]]
    return found[:count]


def _curl(address: Address, path: str) -> str:
    if address.scheme == "unix":
        option = "--abstract-unix-socket" if address.host.startswith("@") else "--unix-socket"
        return f"curl -s {option} {shlex.quote(address.host.removeprefix('@'))} http://localhost{path}"
    return f"curl -s{'k' if address.scheme == 'https' else ''} {address}{path}"


def _reachable(url: str) -> Address:
    """An address to connect to, for one to listen on."""
    address = parse_address(url, schemes=BIND_SCHEMES)
    stand_for = {"0.0.0.0": "127.0.0.1", "::": "::1", ANY_HOST: "127.0.0.1"}  # noqa: S104  # looked up, not bound to
    return Address(address.scheme, stand_for.get(address.host, address.host), address.port)
