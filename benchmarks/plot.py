"""Line charts as SVG: a few panels over one axis, with a legend, readable on light and dark pages.

:func:`draw` is for few values on a logarithmic axis, :func:`draw_graphs` for many on a linear one, mostly time.
The picture brings its own background, in the colours the reader's system prefers, so that it does not depend on the
page it is shown on. Lines differ in colour and in marker or in dashes, so that none depends on colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from math import ceil, floor, log10
from typing import Literal

__all__ = ["Curve", "Graph", "Line", "Note", "Panel", "Span", "draw", "draw_graphs", "page", "steps", "write"]

PANEL_WIDTH, PANEL_HEIGHT = 400, 260
LEFT, TOP, GAP, BOTTOM = 70, 64, 90, 58  # around and between the panels
LEGEND_ROW, LEGEND_COLUMN = 22, 280

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart; darker or lighter where one of
# them would be lost on the background.
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b8478a", "#8a6d00", "#3d3d3d")
DARK = ("#56b4e9", "#ff8a3d", "#2ec4a0", "#e08fc0", "#f0e442", "#c8c8c8")

STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 13px }
  .heading { font-weight: 600; font-size: 15px }
  .page { fill: #ffffff } .grid { stroke: #d8dee4 } .axis { stroke: #57606a }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round }
  .mark { stroke-width: 1.5 }
"""
STYLE_DARK = """
    text { fill: #e6edf3 } .page { fill: #0d1117 } .grid { stroke: #30363d } .axis { stroke: #8b949e }
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel: its name in the legend, and a value for each x, or None where there is none."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes. The y axis is linear and begins at 0. Lines of the same name look the same in every panel."""

    title: str
    lines: Sequence[Line]


def steps(largest: float, about: int = 5) -> list[float]:
    """Round values from 0 to the first that is not less than ``largest``, some ``about`` of them."""
    if largest <= 0:
        return [0.0, 1.0]
    rough = largest / about
    unit = 10.0 ** floor(log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    return [step * n for n in range(ceil(largest / step - 1e-9) + 1)]


def draw(title: str, x_label: str, xs: Sequence[float], panels: Sequence[Panel]) -> str:
    """The picture, as the text of an SVG file.

    :param xs: what the values of the lines stand over; more than 0, in rising order, on a logarithmic axis.
    :raises ValueError: there is nothing to draw, or a line has not as many values as there are ``xs``.
    """
    if not xs or not panels or list(xs) != sorted(set(xs)) or xs[0] <= 0:
        raise ValueError("a plot needs panels, and rising values of x above 0")
    for panel in panels:
        for line in panel.lines:
            if len(line.values) != len(xs):
                raise ValueError(f"{line.name}: {len(line.values)} values for {len(xs)} of x")
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    if len(names) > len(LIGHT):
        raise ValueError(f"{len(names)} lines, and only {len(LIGHT)} can be told apart")
    width = LEFT + len(panels) * (PANEL_WIDTH + GAP) - GAP + 30
    columns = max(1, (width - LEFT) // LEGEND_COLUMN)
    height = TOP + PANEL_HEIGHT + BOTTOM + LEGEND_ROW * ceil(len(names) / columns) + 10
    parts: list[str] = []
    for number, panel in enumerate(panels):
        parts += _panel(panel, xs, x_label, names, LEFT + number * (PANEL_WIDTH + GAP))
    top = TOP + PANEL_HEIGHT + BOTTOM + 12
    for number, name in enumerate(names):
        row, column = divmod(number, columns)
        x, y = LEFT + column * LEGEND_COLUMN, top + row * LEGEND_ROW
        parts.append(f'<line class="line c{number}" x1="{x}" y1="{y - 4}" x2="{x + 28}" y2="{y - 4}"/>')
        parts.append(_mark(number, x + 14, y - 4))
        parts.append(write(x + 36, y, name, "start"))
    return page(title, width, height, parts, LEFT)


def _panel(panel: Panel, xs: Sequence[float], x_label: str, names: Sequence[str], left: float) -> list[str]:
    right, bottom = left + PANEL_WIDTH, TOP + PANEL_HEIGHT
    ticks = steps(max((value for line in panel.lines for value in line.values if value is not None), default=0))
    span = log10(xs[-1] / xs[0]) or 1.0
    inset = 16  # so that the first and last markers do not lie on the frame

    def place(x: float, y: float) -> tuple[float, float]:
        across = log10(x / xs[0]) / span if len(xs) > 1 else 0.5
        return left + inset + across * (PANEL_WIDTH - 2 * inset), bottom - y / ticks[-1] * PANEL_HEIGHT

    parts = [write(left, TOP - 12, panel.title, "start", "title")]
    for tick in ticks:
        y = place(xs[0], tick)[1]
        parts.append(f'<line class="{"grid" if tick else "axis"}" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(write(left - 8, y + 4, _number(tick), "end"))
    for x in xs:
        at = place(x, 0)[0]
        parts.append(f'<line class="axis" x1="{at:.1f}" y1="{bottom}" x2="{at:.1f}" y2="{bottom + 5}"/>')
        parts.append(write(at, bottom + 20, _number(x), "middle"))
    parts.append(write(left + PANEL_WIDTH / 2, bottom + 40, x_label, "middle"))
    for line in panel.lines:
        number = names.index(line.name)
        points = [place(x, y) for x, y in zip(xs, line.values, strict=True) if y is not None]
        if len(points) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline class="line c{number}" points="{path}"/>')
        parts += [_mark(number, x, y) for x, y in points]
    return parts


def page(
    title: str, width: float, height: float, parts: Sequence[str], left: float, style: tuple[str, str] = ("", "")
) -> str:
    """A picture of ``parts``, with its title above them.

    :param left: where the title begins.
    :param style: more of it: for light pages, and what is different on dark ones.
    """
    begin = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
        f' height="{height:g}" role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}{style[0]}{_colours(LIGHT)}  @media (prefers-color-scheme: dark)"
        f" {{{STYLE_DARK}{style[1]}{_colours(DARK)}  }}\n</style>",
        f'<rect class="page" width="{width:g}" height="{height:g}" rx="6"/>',
        write(left, 26, title, "start", "heading"),
    ]
    return "\n".join([*begin, *parts, "</svg>", ""])


def _colours(colours: Sequence[str]) -> str:
    lines = [
        f"  .c{number} {{ stroke: {colour} }} .m{number} {{ fill: {colour} }}" for number, colour in enumerate(colours)
    ]
    return "\n".join([*lines, ""])


def _mark(number: int, x: float, y: float) -> str:
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"',
        f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"',
        f'<path d="M{x:.1f} {y - 5.5:.1f}l5 9h-10z"',
        f'<path d="M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"',
        f'<path d="M{x:.1f} {y + 5.5:.1f}l5 -9h-10z"',
        f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"',
    )
    return f'{shapes[number]} class="mark c{number} m{number}"/>'


def write(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    """Text that begins, has its middle, or ends at a place. ``kind``: a class of the style."""
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{attribute}>{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.10g}"


# What happens in time

DASHES = ("", "8 3", "2 3", "10 3 2 3", "5 5", "1 4")

GRAPH_STYLE = (
    "".join(f"  .d{number} {{ stroke-dasharray: {dash} }}\n" for number, dash in enumerate(DASHES) if dash)
    + """  .span { fill: #8a6d00; fill-opacity: 0.12 } .small { font-size: 11px }
  .halo { stroke: #ffffff; stroke-width: 4; stroke-linejoin: round; paint-order: stroke }
""",
    "    .span { fill: #f0e442 } .halo { stroke: #0d1117 }\n",
)


@dataclass(frozen=True, slots=True)
class Curve:
    """What goes through some points.

    :ivar look: a ``line`` from each to the next; ``steps`` that stay as they are until the next point; ``dots``; or
        ``bars`` from 0 up to each point, or down. A ``level`` is one point, whose y holds everywhere.
    """

    name: str
    points: Sequence[tuple[float, float]]
    look: Literal["line", "steps", "dots", "bars", "level"] = "line"


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the x axis that is shaded, and what it was."""

    begin: float
    end: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """A word at a place of the axes."""

    x: float
    y: float
    text: str
    anchor: Literal["start", "middle", "end"] = "start"


@dataclass(frozen=True, slots=True)
class Graph:
    """One set of linear axes. Curves of the same name look the same in every one.

    :ivar ticks: what stands at the y axis: values with words; empty: round numbers from 0 on.
    :ivar x_ticks: the same of the x axis.
    :ivar bar: the width of bars, on the x axis.
    """

    title: str
    curves: Sequence[Curve]
    spans: Sequence[Span] = ()
    notes: Sequence[Note] = ()
    ticks: Sequence[tuple[float, str]] = ()
    x_ticks: Sequence[tuple[float, str]] = ()
    x_label: str | None = None  # None: that of the picture
    bar: float = 1.0
    size: tuple[float, float] = field(default=(0, 0))  # 0: that of the picture


def draw_graphs(
    title: str,
    x_label: str,
    x_from: float,
    x_to: float,
    graphs: Sequence[Graph],
    *,
    columns: int = 1,
    size: tuple[float, float] = (760, 200),
) -> str:
    """The picture of some graphs in rows of ``columns``, as the text of an SVG file.

    :param size: of the axes of each, unless it has one of its own: the height is that of its row.
    """
    names = list(dict.fromkeys(curve.name for graph in graphs for curve in graph.curves if curve.name))
    if len(names) > len(LIGHT):
        raise ValueError(f"{len(names)} curves, and only {len(LIGHT)} can be told apart")
    width, between = size[0], 66
    total = LEFT + columns * (width + between) - between + 26
    parts: list[str] = []
    top = float(TOP)
    for row in range(0, len(graphs), columns):
        height = max(graph.size[1] or size[1] for graph in graphs[row : row + columns])
        for column, graph in enumerate(graphs[row : row + columns]):
            left = LEFT + column * (width + between)
            label = x_label if graph.x_label is None else graph.x_label
            parts += _graph(graph, names, (x_from, x_to), label, (left, top, graph.size[0] or width, height))
        top += height + (
            70 if any(x_label if g.x_label is None else g.x_label for g in graphs[row : row + columns]) else 52
        )
    top -= 4
    x = float(LEFT)
    for number, name in enumerate(names) if len(names) > 1 else ():
        needed = 36 + 6.6 * len(name) + 24
        if x + needed - 24 > total and x > LEFT:
            x, top = float(LEFT), top + LEGEND_ROW
        parts.append(f'<line class="line c{number} d{number}" x1="{x:g}" y1="{top:g}" x2="{x + 28:g}" y2="{top:g}"/>')
        parts.append(write(x + 36, top + 4, name, "start"))
        x += needed
    return page(title, total, top + (24 if len(names) > 1 else 0), parts, LEFT, GRAPH_STYLE)


def _graph(
    graph: Graph, names: Sequence[str], xs: tuple[float, float], x_label: str, box: tuple[float, float, float, float]
) -> list[str]:
    left, top, width, height = box
    bottom, right = top + height, left + width
    x_from, x_to = xs
    ticks = graph.ticks
    if not ticks:
        most = max((y for curve in graph.curves for _, y in curve.points), default=0)
        ticks = [(tick, _number(tick)) for tick in steps(most, max(2, int(height / 40)))]
    low, high = ticks[0][0], ticks[-1][0]

    def across(x: float) -> float:
        return left + (min(max(x, x_from), x_to) - x_from) / (x_to - x_from) * width

    def up(y: float) -> float:
        return bottom - (min(max(y, low), high) - low) / (high - low) * height

    parts = [write(left, top - 10, graph.title, "start", "title")]
    for span in graph.spans:
        begin, end = across(span.begin), across(span.end)
        parts.append(f'<rect class="span" x="{begin:.1f}" y="{top:g}" width="{end - begin:.1f}" height="{height:g}"/>')
    for tick, text in ticks:
        kind = "grid" if tick else "axis"
        parts.append(f'<line class="{kind}" x1="{left:g}" y1="{up(tick):.1f}" x2="{right:g}" y2="{up(tick):.1f}"/>')
        parts.append(write(left - 8, up(tick) + 4, text, "end"))
    x_ticks = graph.x_ticks or [(x_from + at, _number(x_from + at)) for at in steps(x_to - x_from, int(width / 75))]
    for at, text in x_ticks:
        if at <= x_to + 1e-9:
            parts.append(
                f'<line class="axis" x1="{across(at):.1f}" y1="{bottom:g}" x2="{across(at):.1f}" y2="{bottom + 5:g}"/>'
            )
            parts.append(write(across(at), bottom + 20, text, "middle"))
    if x_label:
        parts.append(write(left + width / 2, bottom + 38, x_label, "middle"))
    for curve in graph.curves:
        number = names.index(curve.name) if curve.name else 0
        parts += _curve(
            curve,
            number,
            [(across(x), up(y)) for x, y in curve.points],
            box,
            up(0),
            graph.bar * width / (x_to - x_from),
        )
    for span in graph.spans:
        parts.append(write((across(span.begin) + across(span.end)) / 2, top + 15, span.text, "middle", "small halo"))
    parts += [write(across(note.x), up(note.y), note.text, note.anchor, "small halo") for note in graph.notes]
    return parts


def _curve(
    curve: Curve,
    number: int,
    places: Sequence[tuple[float, float]],
    box: tuple[float, float, float, float],
    zero: float,
    bar: float,
) -> list[str]:
    left, _, width, _ = box
    kind = f'class="line c{number} d{number}"'
    if curve.look == "level":
        y = places[0][1]
        return [f'<line {kind} x1="{left:g}" y1="{y:.1f}" x2="{left + width:g}" y2="{y:.1f}"/>']
    if curve.look == "dots":
        return [f'<circle class="m{number}" cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in places]
    if curve.look == "bars":
        return [
            f'<rect class="m{number}" x="{x - bar / 2:.1f}" y="{min(y, zero):.1f}" width="{bar:.1f}"'
            f' height="{abs(zero - y):.1f}"/>'
            for x, y in places
            if abs(zero - y) >= 0.05
        ]
    if curve.look == "line":
        return [f'<polyline {kind} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>']
    path = f"M{places[0][0]:.1f} {places[0][1]:.1f}"
    for (_, before), (x, y) in pairwise(places):
        if abs(y - before) >= 0.05:
            path += f"H{x:.1f}V{y:.1f}"
    return [f'<path {kind} d="{path}H{places[-1][0]:.1f}"/>']
