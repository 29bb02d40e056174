"""What the types of a configuration cannot say: which names must exist, and which values must differ or agree."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterator

from forebay.config.document import Key
from forebay.config.schema import GatewayConfig, Route, ServiceConfig, SystemConfig, Upstream
from forebay.config.shape import nearest
from forebay.engine.address import ANY_HOST, BIND_SCHEMES, HTTP_SCHEMES, Address, parse_address
from forebay.http.access_format import compile_format

__all__ = ["Report", "cannot_log_to", "check_settings", "check_system", "is_loopback"]

Report = Callable[[Key, str, str], None]  # key, message, remedy

_HOST = re.compile(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]+\]")


def check_system(config: SystemConfig, report: Report) -> None:
    """Report everything that is wrong with ``config``, whose types are right."""
    listening = [*_admin(config, report), *_addresses(config, report)]
    _overlaps(listening, report)
    if config.gateway is None:
        for key, there in (("upstreams", config.upstreams), ("routes", config.routes)):
            if there:
                report((key,), "need a gateway", 'add [gateway] with bind = ["http://127.0.0.1:8080"]')
        if not config.services and not config.upstreams and not config.routes:
            report((), "nothing to run", "add [gateway] with [[routes]], or [services.NAME]")
    elif not config.routes:
        report(("gateway",), "there are no routes", "add [[routes]] with name, match and upstream")
    for index, network in enumerate(config.gateway.trusted_proxies if config.gateway else []):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            report(("gateway", "trusted_proxies", index), str(error), 'an address or a network, as in "10.0.0.0/8"')
    for name, service in config.services.items():
        _serving(("services", name), service, report)
    if config.gateway is not None:
        _serving(("gateway",), config.gateway, report)
    own = {str(address) for key, address in listening if key[0] == "gateway"}
    for name, upstream in config.upstreams.items():
        _upstream(("upstreams", name), upstream, own, report)
    _routes(config, report)


def check_settings(config: SystemConfig, report: Report) -> None:
    """Report what is wrong with the settings alone."""
    list(_admin(config, report))


def is_loopback(host: str) -> bool:
    """Can only this machine reach ``host``?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _admin(config: SystemConfig, report: Report) -> Iterator[tuple[Key, Address]]:
    if config.system.admin == "off":
        return
    key = ("system", "admin")
    try:
        address = parse_address(f"tcp://{config.system.admin}")
    except ValueError:
        report(key, f'cannot be "{config.system.admin}"', 'HOST:PORT, as in "127.0.0.1:9900", or "off"')
        return
    if not is_loopback(address.host) and not config.system.admin_token:
        remedy = "set system.admin_token, or an address on 127.0.0.1"
        report(key, f"{config.system.admin} is not on loopback, which needs a token", remedy)
    yield key, address


def _addresses(config: SystemConfig, report: Report) -> Iterator[tuple[Key, Address]]:
    """Where services and the gateway listen."""

    def parse(key: Key, url: str, *schemes: str) -> Iterator[tuple[Key, Address]]:
        try:
            yield key, parse_address(url, schemes=schemes)
        except ValueError as error:
            _bad_address(key, error, report)

    for name, service in config.services.items():
        for index, url in enumerate(service.bind):
            yield from parse(("services", name, "bind", index), url, *BIND_SCHEMES)
    for index, url in enumerate(config.gateway.bind if config.gateway else []):
        yield from parse(("gateway", "bind", index), url, *HTTP_SCHEMES)


def _serving(key: Key, section: ServiceConfig | GatewayConfig, report: Report) -> None:
    """The certificate and the access log of a section that serves."""
    encrypted = [index for index, url in enumerate(section.bind) if url.lower().startswith("https://")]
    if section.tls is not None:
        if not encrypted:
            report((*key, "tls"), "is of no use: no address is https", "make one of bind https://, or remove it")
        for part in ("certificate", "key"):
            path = getattr(section.tls, part)
            if reason := _unreadable(path):
                report((*key, "tls", part), f'"{path}" {reason}', "give the path of a PEM file")
    elif encrypted and isinstance(section, GatewayConfig):  # a service may bring its own
        remedy = 'add tls = { certificate = "cert.pem", key = "key.pem" }'
        report((*key, "bind", encrypted[0]), f"{section.bind[encrypted[0]]} needs a certificate", remedy)
    if section.access_log is not None:
        path = section.access_log.path
        if reason := cannot_log_to(path):
            remedy = 'give the path of a file, or "-" for standard output'
            report((*key, "access_log", "path"), f'"{path}" {reason}', remedy)
        try:
            compile_format(section.access_log.format)
        except ValueError as error:
            report(
                (*key, "access_log", "format"), str(error), 'as in "combined" or "{client} {method} {path} {status}"'
            )


def cannot_log_to(path: str) -> str:
    """Why an access log cannot be written to ``path``; empty when it can, as far as that can be seen."""
    if path == "-":
        return ""
    if os.path.isdir(path):
        return "is a folder"
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        return f"cannot be made: there is no folder {folder}"
    may = os.access(path if os.path.exists(path) else folder, os.W_OK)
    return "" if may else "may not be written"


def _unreadable(path: str) -> str:
    """Why a file cannot be read; empty when it can."""
    if not os.path.isfile(path):
        return "is no file" if os.path.exists(path) else "does not exist"
    return "" if os.access(path, os.R_OK) else "may not be read"


def _bad_address(key: Key, error: ValueError, report: Report) -> None:
    message, _, remedy = str(error).partition("; ")
    report(key, message, remedy or "as in http://127.0.0.1:8000")


def _overlaps(listening: list[tuple[Key, Address]], report: Report) -> None:
    taken: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for key, address in listening:
        has_port = address.kind in ("tcp", "udp")
        if has_port and address.port == 0:
            continue
        place = ".".join(str(part) for part in key if isinstance(part, str))
        spot = (address.kind, address.port)
        for host, other in taken.get(spot, []):
            if host == address.host or (has_port and (_any(host) or _any(address.host))):
                what = f"{address.host}:{address.port}" if has_port else str(address)
                report(key, f"{what} is taken by {other}", f"choose another {'port' if has_port else 'address'}")
                break
        taken.setdefault(spot, []).append((address.host, place))


def _any(host: str) -> bool:
    return host in ("0.0.0.0", "::", ANY_HOST)  # noqa: S104  # compared with, not bound to


def _upstream(key: Key, upstream: Upstream, own: set[str], report: Report) -> None:
    seen: set[str] = set()
    for index, target in enumerate(upstream.targets):
        at: Key = (*key, "targets", index, "url")
        try:
            address = parse_address(target.url, schemes=("http",))
        except ValueError as error:
            _bad_address(at, error, report)
            continue
        url = str(address)
        if url in seen:
            report(at, f"{url} is listed twice", "give it a weight instead")
        elif url in own:
            report(at, f"{url} is this gateway itself", "name the server behind it")
        elif address.port == 0:
            report(at, f"{url} cannot be connected to", "name a port")
        elif address.host == ANY_HOST:
            report(at, f"{url} cannot be connected to", "name a host")
        seen.add(url)
    if all(target.backup for target in upstream.targets):
        report((*key, "targets"), "all targets are backups", "one must not be: remove its backup = true")
    if upstream.hash_key != "client-ip" and upstream.balance not in ("consistent-hash", "maglev"):
        report(
            (*key, "hash_key"), f"means nothing to {upstream.balance}", 'set balance = "consistent-hash" or "maglev"'
        )
    if upstream.health and upstream.health.timeout > upstream.health.interval:
        report((*key, "health", "timeout"), "is longer than the interval", "make it at most the interval")


def _routes(config: SystemConfig, report: Report) -> None:
    names: dict[str, int] = {}
    matches: dict[tuple[str, str, str], str] = {}
    for index, route in enumerate(config.routes):
        key: Key = ("routes", index)
        if route.name in names:
            remedy = f"routes[{names[route.name]}] has it: choose another name"
            report((*key, "name"), f'"{route.name}" is taken', remedy)
        names.setdefault(route.name, index)
        if route.upstream not in config.upstreams:
            remedy = nearest(route.upstream, config.upstreams)
            report((*key, "upstream"), f'there is no upstream "{route.upstream}"', remedy)
        _match(key, route, report)
        for method in route.match.methods or [""]:
            first = matches.setdefault(((route.match.host or "").lower(), route.match.path, method), route.name)
            if first != route.name:
                what = f"{method} {route.match.path}".strip()
                report((*key, "match"), f'"{first}" already matches {what}', "change the path, the host or the methods")
                break
        for position, one in enumerate(route.filters):
            if one.rate_limit is None:
                report(
                    (*key, "filters", position), "is empty", 'as in { rate_limit = { rate = "100/s", burst = 200 } }'
                )


def _match(key: Key, route: Route, report: Report) -> None:
    path = route.match.path
    if "*" in path.removesuffix("/*") or re.search(r"[?#\s]|//|/\.\.?(?:/|$)", path):
        report((*key, "match", "path"), f'cannot be "{path}"', 'an exact path, or one that ends in "/*"')
    if route.match.host is not None and not _HOST.fullmatch(route.match.host):
        report(
            (*key, "match", "host"), f'cannot be "{route.match.host}"', 'as in "shop.example.com" or "*.example.com"'
        )
    prefix = (route.strip_prefix or "").rstrip("/")
    if prefix and not path.startswith(f"{prefix}/") and path != prefix:
        at: Key = (*key, "strip_prefix")
        report(at, f'"{route.strip_prefix}" is not how match.path begins, which is "{path}"', "make them agree")
