"""Line charts as SVG: a few panels over one logarithmic axis, with a legend, readable on light and dark pages.

The picture brings its own background, in the colours the reader's system prefers, so that it does not depend on the
page it is shown on. Lines differ in colour and in marker, so that none depends on colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

__all__ = ["Line", "Panel", "draw", "steps"]

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
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}{_colours(LIGHT)}  @media (prefers-color-scheme: dark) {{{STYLE_DARK}{_colours(DARK)}  }}\n",
        "</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="6"/>',
        _text(LEFT, 26, title, "start", "heading"),
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, xs, x_label, names, LEFT + number * (PANEL_WIDTH + GAP))
    top = TOP + PANEL_HEIGHT + BOTTOM + 12
    for number, name in enumerate(names):
        row, column = divmod(number, columns)
        x, y = LEFT + column * LEGEND_COLUMN, top + row * LEGEND_ROW
        parts.append(f'<line class="line c{number}" x1="{x}" y1="{y - 4}" x2="{x + 28}" y2="{y - 4}"/>')
        parts.append(_mark(number, x + 14, y - 4))
        parts.append(_text(x + 36, y, name, "start"))
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, xs: Sequence[float], x_label: str, names: Sequence[str], left: float) -> list[str]:
    right, bottom = left + PANEL_WIDTH, TOP + PANEL_HEIGHT
    ticks = steps(max((value for line in panel.lines for value in line.values if value is not None), default=0))
    span = log10(xs[-1] / xs[0]) or 1.0
    inset = 16  # so that the first and last markers do not lie on the frame

    def place(x: float, y: float) -> tuple[float, float]:
        across = log10(x / xs[0]) / span if len(xs) > 1 else 0.5
        return left + inset + across * (PANEL_WIDTH - 2 * inset), bottom - y / ticks[-1] * PANEL_HEIGHT

    parts = [_text(left, TOP - 12, panel.title, "start", "title")]
    for tick in ticks:
        y = place(xs[0], tick)[1]
        parts.append(f'<line class="{"grid" if tick else "axis"}" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(_text(left - 8, y + 4, _number(tick), "end"))
    for x in xs:
        at = place(x, 0)[0]
        parts.append(f'<line class="axis" x1="{at:.1f}" y1="{bottom}" x2="{at:.1f}" y2="{bottom + 5}"/>')
        parts.append(_text(at, bottom + 20, _number(x), "middle"))
    parts.append(_text(left + PANEL_WIDTH / 2, bottom + 40, x_label, "middle"))
    for line in panel.lines:
        number = names.index(line.name)
        points = [place(x, y) for x, y in zip(xs, line.values, strict=True) if y is not None]
        if len(points) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline class="line c{number}" points="{path}"/>')
        parts += [_mark(number, x, y) for x, y in points]
    return parts


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


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{attribute}>{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.10g}"
