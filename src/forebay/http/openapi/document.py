"""An application as an OpenAPI 3.1 document, made of the bindings and the return annotations of its routes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from forebay.http.app import App
from forebay.http.converters import CONVERTERS, Converter
from forebay.http.hosts import parse_host_pattern
from forebay.http.messages import HTTPMiddleware
from forebay.http.openapi.answers import add_problem, answers_of, securities
from forebay.http.openapi.inputs import Inputs
from forebay.http.openapi.schemas import Schema, Schemas
from forebay.http.openapi.settings import OpenAPI
from forebay.http.route import Route
from forebay.http.route_table import Parameter, parse_pattern

__all__ = ["build_document"]

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")  # that a path item knows
_PLAIN = "!$&'()*+,;=:@~"  # what a segment of a path holds as it is (RFC 3986 section 3.3)
_ID = re.compile(r"[^A-Za-z0-9_.-]+")


def build_document(app: App[Any], settings: OpenAPI) -> dict[str, Any]:
    """The OpenAPI 3.1.0 document of ``app``, made of plain values, as JSON has them.

    Hidden routes are left out, and so are HEAD and OPTIONS where they are answered by themselves. Applications that are
    mounted are in it. What OpenAPI has no place for is in extensions: WebSockets in ``x-websockets``; of a path,
    further methods in ``x-methods``, and routes for other hosts in ``x-hosts``, each with its ``servers``.
    """
    made = _Document(settings)
    # a route for any host is what stands at a path, those for some hosts beside it
    for place in sorted(_places(app), key=lambda place: place.host is not None):
        made.add(place)
    # through JSON: types of Python's own, such as tuples in defaults, become those of JSON
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made.finished()))
    return document


@dataclass(frozen=True, slots=True)
class _Place:
    """A route where it is in the whole: below a prefix, and inside the middleware of what it is mounted in."""

    route: Route
    prefix: str
    host: str | None
    layers: tuple[HTTPMiddleware, ...]
    tags: tuple[str, ...]
    converters: Mapping[str, Converter]


def _places(app: App[Any], above: _Place | None = None) -> Iterator[_Place]:
    prefix = above.prefix if above is not None else ""
    known = {**CONVERTERS, **(above.converters if above is not None else {}), **app.router.converters}
    for route in app.routes:
        layers = (*route.group.all_layers(), *route.options.middleware)
        tags = tuple(dict.fromkeys((*above.tags, *route.tags))) if above is not None else route.tags
        host = route.host or (above.host if above is not None else None)
        pattern = "" if route.pattern == "/" and prefix else route.pattern
        outer = above.layers if above is not None else ()
        place = _Place(route, prefix + pattern, host, (*outer, *layers), tags, known)
        if route.kind == "mount":
            if isinstance(route.handler, App):
                yield from _places(route.handler, place)
        elif not route.options.hidden:
            yield place


class _Document:
    """A document while it is made."""

    def __init__(self, settings: OpenAPI) -> None:
        self._settings = settings
        self._schemas = Schemas()
        self._problem: Schema | None = None
        self._paths: dict[str, dict[str, Any]] = {}
        self._shapes: dict[str, list[str]] = {}  # paths, by what they are without the names of their parameters
        self._sockets: list[dict[str, Any]] = []
        self._securities: dict[str, dict[str, Any]] = {}
        self._ids: set[str] = set()
        self._tags: dict[str, None] = dict.fromkeys(settings.tags)

    def add(self, place: _Place) -> None:
        """Add what is at one place: an operation for each of its methods, or a WebSocket."""
        route = place.route
        self._tags.update(dict.fromkeys(place.tags))
        parts = parse_pattern(place.prefix or "/", place.converters)
        paths = {part.name: place.converters[part.converter] for part in parts if isinstance(part, Parameter)}
        inputs = Inputs(route.binding, paths, self._schemas)
        if route.kind == "websocket":
            operation = self._operation(place, inputs, "")
            operation.pop("requestBody", None)
            self._sockets.append({"path": _path(parts), **operation})
            return
        for method in route.methods:
            operation = self._operation(place, inputs, method)
            if inputs.body is not None:
                operation["requestBody"] = inputs.body
            layers = place.layers
            operation["responses"] = answers_of(route, inputs, layers, method, self._schemas, self._problem_schema())
            self._put(_path(parts), parts, method.lower(), operation, place.host)

    def _problem_schema(self) -> Schema:
        if self._problem is None:
            self._problem = add_problem(self._schemas)
        return self._problem

    def _operation(self, place: _Place, inputs: Inputs, method: str) -> dict[str, Any]:
        route = place.route
        summary, description = _words(route)
        operation: dict[str, Any] = {}
        if place.tags:
            operation["tags"] = list(place.tags)
        operation["summary"] = summary
        if description:
            operation["description"] = description
        operation["operationId"] = self._id(route, method)
        if route.options.deprecated:
            operation["deprecated"] = True
        if inputs.parameters:
            operation["parameters"] = [dict(one) for one in inputs.parameters]
        security = securities(place.layers, self._securities)
        if security is not None:
            operation["security"] = security
        if place.host is not None:
            operation["servers"] = [_server(place.host)]
        return operation

    def _id(self, route: Route, method: str) -> str:
        """A unique name: the route's, with the method where it has several or another one has it."""
        name = _ID.sub("_", route.name).strip("_") or "operation"
        if (len(route.methods) > 1 and method) or (name in self._ids and method):
            name = f"{name}_{method.lower()}"
        wanted, number = name, 1
        while name in self._ids:
            number += 1
            name = f"{wanted}_{number}"
        self._ids.add(name)
        return name

    def _put(
        self, path: str, parts: list[str | Parameter], method: str, operation: dict[str, Any], host: str | None
    ) -> None:
        """Put an operation where it belongs. Two paths that differ only in names of parameters are one to OpenAPI."""
        shape = "/".join("{}" if isinstance(part, Parameter) else part for part in parts)
        same = self._shapes.setdefault(shape, [])
        for other in same:
            if _room(self._paths[other], method):
                _rename(operation, path, other)
                path = other
                break
        else:
            if path in self._paths and host is not None:
                self._paths[path].setdefault("x-hosts", []).append({"method": method, **operation})
                return
            if path in self._paths:  # routes that differ in the kind of a parameter: only its name can tell them apart
                kinds = [f"{part.name}_{part.converter}" if isinstance(part, Parameter) else "" for part in parts]
                renamed = [
                    Parameter(kind, part.converter) if isinstance(part, Parameter) else part
                    for kind, part in zip(kinds, parts, strict=True)
                ]
                before, path = path, _path(renamed)
                if path in self._paths:  # the same, for another host
                    self._paths[before].setdefault("x-hosts", []).append({"method": method, **operation})
                    return
                _rename(operation, before, path)
            same.append(path)
        item = self._paths.setdefault(path, {})
        if method in _METHODS:
            item[method] = operation
        else:
            item.setdefault("x-methods", {})[method.upper()] = operation

    def finished(self) -> dict[str, Any]:
        """All of it."""
        settings = self._settings
        info: dict[str, Any] = {"title": settings.title, "version": settings.version}
        if settings.description:
            info["description"] = inspect.cleandoc(settings.description)
        document: dict[str, Any] = {"openapi": "3.1.0", "info": info}
        if settings.servers:
            document["servers"] = [{"url": url} for url in settings.servers]
        document["paths"] = self._paths
        components: dict[str, Any] = {}
        if self._schemas.components:
            components["schemas"] = dict(sorted(self._schemas.components.items()))
        if self._securities:
            components["securitySchemes"] = self._securities
        if components:
            document["components"] = components
        if self._tags:
            described = ((name, settings.tags.get(name, "")) for name in self._tags)
            document["tags"] = [
                {"name": name, "description": text} if text else {"name": name} for name, text in described
            ]
        if self._sockets:
            document["x-websockets"] = self._sockets
        return document


def _path(parts: list[str | Parameter]) -> str:
    return "".join(f"/{{{part.name}}}" if isinstance(part, Parameter) else f"/{quote(part, _PLAIN)}" for part in parts)


def _room(item: dict[str, Any], method: str) -> bool:
    return method not in item and method.upper() not in item.get("x-methods", {})


def _rename(operation: dict[str, Any], path: str, other: str) -> None:
    """Call the parameters of ``path`` as they are called in ``other``."""
    names = dict(zip(re.findall(r"\{(\w+)\}", path), re.findall(r"\{(\w+)\}", other), strict=True))
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter["name"] = names[parameter["name"]]


def _words(route: Route) -> tuple[str, str]:
    """Summary and description: the options', else the first paragraph of the handler's docstring and the rest."""
    text = inspect.cleandoc(getattr(route.handler, "__doc__", None) or "")
    if not inspect.isroutine(route.handler) and text == inspect.cleandoc(type(route.handler).__doc__ or ""):
        text = ""  # of the class of a partial, which says nothing of this one
    first, _, rest = text.partition("\n\n")
    summary = " ".join(first.split()) or route.name.replace("_", " ").strip().capitalize()
    return route.options.summary or summary, route.options.description or rest.strip()


def _server(host: str) -> dict[str, Any]:
    """The server that stands for a host pattern."""
    pattern = parse_host_pattern(host)
    if pattern.kind == "exact":
        return {"url": f"//{pattern.suffix}"}
    name = pattern.name or "subdomain"
    return {"url": f"//{{{name}}}.{pattern.suffix}", "variables": {name: {"default": "www"}}}
