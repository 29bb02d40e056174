"""Which route takes a request, and why the others do not, in words and as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from forebay.cli.route_listing import (
    aligned,
    handler_shown,
    layer_shown,
    layers_of,
    methods_shown,
    place_shown,
)
from forebay.http import App
from forebay.http.route import Route
from forebay.http.route_table import Explanation

__all__ = ["Asked", "Level", "asked_as_json", "asked_as_text", "levels_of"]

_NEAR_AT_MOST = 20  # that are shown without --all: an application may have a thousand routes of one segment


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for: a request's method, path (as it is sent, without a query) and host."""

    method: str
    path: bytes
    host: bytes

    def __str__(self) -> str:
        return f"{self.method} {self.path.decode(errors='replace')}"


@dataclass(frozen=True, slots=True)
class Level:
    """What one application says, of the path that is left for it: the outermost one, then those that are mounted.

    ``failure`` is what a converter has raised that it should not, which fails the request; else None.
    """

    app: App[Any]
    asked: Asked
    explanation: Explanation[Route]
    failure: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Other:
    """A route that does not take it, for all its methods and patterns together."""

    route: Route
    reason: str
    near: bool


def levels_of(app: App[Any], asked: Asked) -> list[Level]:
    """Ask the application, then the one mounted in it that takes the request, and so on.

    :raises ProtocolError: the path is not UTF-8.
    """
    levels = []
    inner: App[Any] | None = app
    while inner is not None:
        explanation = inner.router.explain(asked.method, asked.path, asked.host)
        try:
            inner.router.find(asked.method, asked.path, asked.host)
        except Exception as error:
            levels.append(Level(inner, asked, replace(explanation, taken=None, params={}), error))
            break
        levels.append(Level(inner, asked, explanation))
        inner = None
        if explanation.taken is not None:
            route = explanation.taken.value
            if route.kind == "mount" and isinstance(route.handler, App):
                inner = route.handler
                parts = asked.path.split(b"/", route.pattern.count("/") + 1)[route.pattern.count("/") + 1 :]
                asked = Asked(asked.method, b"/" + b"".join(parts), asked.host)
    return levels


def _others(level: Level) -> list[_Other]:
    taken = level.explanation.taken
    by_route: dict[Route, list[tuple[str, bool]]] = {}
    for verdict in level.explanation.verdicts:
        by_route.setdefault(verdict.entry.value, []).append((verdict.reason, verdict.near))
    found = []
    for route, reasons in by_route.items():
        if taken is not None and route is taken.value:
            continue
        reason, near = next((one for one in reasons if one[1]), reasons[0])
        if len(reasons) > 1 and reason == f"method {level.asked.method} is not {route.methods[0]}":
            reason = f"method {level.asked.method} is none of {', '.join(route.methods)}"
        if route.kind == "mount" and reason.startswith("segment"):
            near = False  # it takes whatever follows, so its prefix alone is in the way of every path there is
        found.append(_Other(route, reason or "the request has failed before", near))
    return found


def _answer_without(level: Level) -> str:
    """What a request is answered with that no route takes."""
    app, asked = level.app, level.asked
    if level.failure is not None:
        return f"it is answered with 500, for a converter fails with {level.failure!r:.90}"
    allowed = ", ".join(app.router.allowed(asked.path, asked.host))
    if allowed and asked.method == "OPTIONS":
        return f"it is answered by itself: 204, Allow: {allowed}"
    if app.slashes == "redirect":
        other = app.router.other_slash(asked.method, asked.path, asked.host)
        if other is not None:
            return f"it is answered with 308, to {other.decode(errors='replace')}"
    return f"it is answered with 405, Allow: {allowed}" if allowed else "it is answered with 404"


# -- in words


def asked_as_text(levels: Sequence[Level], asked: Asked, *, every: bool = False, middleware: bool = False) -> str:
    """Who takes it, with what; then who does not, and why.

    :param every: all of those, not only the ones that come near.
    """
    lines: list[str] = []
    for number, level in enumerate(levels):
        lead = f"{level.asked}" if number == 0 else f"In it, {level.asked}"
        if number:
            lines.append("")
        lines += _taken_shown(level, lead, middleware=middleware)
        lines += _others_shown(level, every=every)
    if asked.host:
        lines[0] = lines[0].replace(f"{asked}", f"{asked} of {asked.host.decode()}", 1)
    return "\n".join(lines)


def _taken_shown(level: Level, lead: str, *, middleware: bool) -> list[str]:
    taken = level.explanation.taken
    if taken is None:
        return [f"{lead} is taken by no route: {_answer_without(level)}"]
    route = taken.value
    host = f" of {route.host}" if route.host is not None else ""
    lines = [f"{lead} is taken by {methods_shown(route)} {route.pattern}{host}"]
    lines.append(f"  {handler_shown(route)}  {place_shown(route)}")
    if route.kind == "mount" and not isinstance(route.handler, App):
        lines.append("  what is mounted there decides what it is answered with")
    if route.kind == "websocket":
        lines.append("  if it is the handshake of a WebSocket")
    if route.kind != "mount":
        lines += [f"  {name} = {value!r}" for name, value in level.explanation.params.items()]
    if middleware:
        lines += [f"  {number}. {layer_shown(layer)}" for number, layer in enumerate(layers_of(route), 1)]
    return lines


def _others_shown(level: Level, *, every: bool) -> list[str]:
    others = _others(level)
    shown = others if every else [one for one in others if one.near][:_NEAR_AT_MOST]
    lines = []
    if shown:
        lines.append("Not by:")
        rows = [(methods_shown(one.route), one.route.pattern, handler_shown(one.route), one.reason) for one in shown]
        lines += aligned(rows, before="  ")
    if left := len(others) - len(shown):
        near = sum(one.near for one in others) - len(shown)
        what = f"{left} more" if near > 0 or shown else f"{left}"
        reason = "" if near > 0 else ", which do not come near" if left > 1 else ", which does not come near"
        lines.append(f"Nor by {what}{reason}: --all says why" if shown else f"Not by {what}{reason}: --all says why")
    return lines


# -- as data


def asked_as_json(levels: Sequence[Level], asked: Asked) -> dict[str, Any]:
    """The same as data, with every route."""
    request = {"method": asked.method, "path": asked.path.decode(errors="replace"), "host": asked.host.decode()}
    return {
        "request": request,
        "taken": levels[-1].explanation.taken is not None,
        "levels": [_level_as_json(level) for level in levels],
    }


def _level_as_json(level: Level) -> dict[str, Any]:
    taken = level.explanation.taken
    mount = taken is not None and taken.value.kind == "mount"
    return {
        "app": level.app.name,
        "path": level.asked.path.decode(errors="replace"),
        "route": None if taken is None else _route_as_json(taken.value),
        "params": {} if mount else level.explanation.params,
        "answer": _answer_without(level) if taken is None else None,
        "others": [{**_route_as_json(one.route), "reason": one.reason, "near": one.near} for one in _others(level)],
    }


def _route_as_json(route: Route) -> dict[str, Any]:
    return {
        "kind": route.kind,
        "methods": list(route.methods),
        "host": route.host,
        "pattern": route.pattern,
        "handler": handler_shown(route),
        "at": place_shown(route),
        "middleware": [layer_shown(layer) for layer in layers_of(route)],
    }
