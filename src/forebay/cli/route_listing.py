"""The routes of an application as a table, as text and as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from forebay.http import App
from forebay.http.binding import place_of
from forebay.http.binding.signature import name_of
from forebay.http.messages import HTTPMiddleware
from forebay.http.route import Route

__all__ = [
    "Listed",
    "aligned",
    "handler_shown",
    "layer_shown",
    "layers_of",
    "listed",
    "methods_shown",
    "place_shown",
    "shown_as_json",
    "shown_as_table",
    "shown_as_text",
]

_COLUMNS = ("method", "host", "pattern", "name", "handler", "at", "tags")
_NONE = "-"
_INDENT = "  "


@dataclass(frozen=True, slots=True)
class Listed:
    """A route as it is seen from the outermost application.

    ``pattern`` and ``layers`` include those of the mounts it is in, ``depth`` counts them, ``host`` is the nearest.
    """

    route: Route
    pattern: str
    host: str | None
    layers: tuple[HTTPMiddleware, ...]
    depth: int


def listed(app: App[Any], inside: Listed | None = None) -> Iterator[Listed]:
    """All routes, those of mounted applications behind their mount."""
    for route in app.routes:
        if inside is None:
            one = Listed(route, route.pattern, route.host, layers_of(route), 0)
        else:
            host = inside.host if route.host is None else route.host
            layers = inside.layers + layers_of(route)
            one = Listed(route, inside.pattern + route.pattern, host, layers, inside.depth + 1)
        yield one
        if route.kind == "mount" and isinstance(route.handler, App):
            yield from listed(route.handler, one)


def layers_of(route: Route) -> tuple[HTTPMiddleware, ...]:
    """The middleware of a route, the outermost first."""
    return (*route.group.all_layers(), *route.options.middleware)


# -- in words


def methods_shown(route: Route) -> str:
    """``GET``, ``PUT,PATCH``, or what else it is: ``WS`` for a WebSocket, ``MOUNT``."""
    return {"websocket": "WS", "mount": "MOUNT"}.get(route.kind) or ",".join(route.methods)


def handler_shown(route: Route) -> str:
    """What the handler is called, or what is mounted."""
    target: Any = route.handler
    if route.kind != "mount":
        return name_of(target)
    if isinstance(target, App):
        return f"App {target.name}"
    return _by_repr(target) or ("ASGI application" if type(target).__name__ == "ASGIMount" else type(target).__name__)


def place_shown(route: Route) -> str:
    """``file:line`` of the handler, or where it was registered; relative to the current directory below that."""
    place = place_of(route.handler) if route.kind != "mount" else ""
    return _near(place if ":" in place else route.place)


def layer_shown(layer: HTTPMiddleware) -> str:
    """A middleware as it is written, or what it is called and where it stands."""
    shown: Any = layer
    if (written := _by_repr(shown)) is not None:
        return written
    own: Any = shown if hasattr(shown, "__qualname__") or hasattr(shown, "func") else type(shown)
    place = place_of(own)
    return f"{name_of(own)} ({_near(place)})" if ":" in place else name_of(own)


def _by_repr(what: Any) -> str | None:
    """Its own text in one line, unless that has an address or counts: such a text is another one each time."""
    kind: Any = type(what)
    if kind.__repr__ is object.__repr__:
        return None
    text = " ".join(repr(what).split())
    return None if text.startswith("<") or "functools.partial(" in text else text


def _near(place: str) -> str:
    file, _, line = place.rpartition(":")
    try:
        return f"{Path(file).relative_to(Path.cwd())}:{line}"
    except ValueError:
        return place


def _cells(one: Listed) -> tuple[str, ...]:
    route = one.route
    pattern = _INDENT * one.depth + one.pattern
    tags = ",".join(route.tags) or _NONE
    name = (route.name if route.kind != "mount" else route.options.name) or _NONE
    return (methods_shown(route), one.host or _NONE, pattern, name, handler_shown(route), place_shown(route), tags)


def aligned(rows: Sequence[Sequence[str]], before: str = "") -> list[str]:
    """Lines of cells that stand below each other, two blanks apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        before + _INDENT.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def shown_as_text(app: App[Any], found: Sequence[Listed], *, middleware: bool = False) -> str:
    """Columns of text, the same at every width; with a line for each middleware below its route."""
    if not found:
        return f"App {app.name} has no routes"
    header, *lines = aligned([[name.upper() for name in _COLUMNS], *map(_cells, found)])
    if not middleware:
        return "\n".join([header, *lines])
    text = [header]
    for line, one in zip(lines, found, strict=True):
        text.append(line)
        text += [f"    {number}. {layer_shown(layer)}" for number, layer in enumerate(one.layers, 1)]
    return "\n".join(text)


def shown_as_table(app: App[Any], found: Sequence[Listed]) -> Table:
    """The same for a terminal: without columns that are empty, and folded rather than cut."""
    table = Table(title=Text(f"{len(found)} routes of App {app.name}"), title_justify="left")
    hosts = any(one.host for one in found)
    tags = any(one.route.tags for one in found)
    shown = [name for name in _COLUMNS if (name != "host" or hosts) and (name != "tags" or tags)]
    for name in shown:
        table.add_column(name, overflow="fold")
    for one in found:
        cells = dict(zip(_COLUMNS, _cells(one), strict=True))
        table.add_row(*(Text(cells[name]) for name in shown))
    return table


def shown_as_json(found: Sequence[Listed]) -> list[dict[str, Any]]:
    """The same as data, in the same order; ``depth`` is how many mounts a route is in."""
    return [
        {
            "kind": one.route.kind,
            "methods": list(one.route.methods),
            "host": one.host,
            "pattern": one.pattern,
            "name": one.route.name if one.route.kind != "mount" else one.route.options.name,
            "handler": handler_shown(one.route),
            "at": place_shown(one.route),
            "tags": list(one.route.tags),
            "middleware": [layer_shown(layer) for layer in one.layers],
            "depth": one.depth,
        }
        for one in found
    ]
