"""The pictures of docs/resilience.md are those that its script draws, and are fit to be shown."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.plot import Curve, Graph, draw_graphs
from benchmarks.policy_pictures import PICTURES, SLOW

DOCS = Path(__file__).parent.parent.parent / "docs"
SVG = "{http://www.w3.org/2000/svg}"
QUICK = [name for name in PICTURES if name not in SLOW]


@pytest.mark.parametrize("name", QUICK)
def test_the_picture_is_what_its_script_draws(name: str) -> None:
    """Byte by byte: what docs show is what the policies do today. ``python -m benchmarks.policy_pictures`` draws it."""
    assert PICTURES[name]() == (DOCS / name).read_text()


def test_the_page_shows_all_of_them_and_no_others() -> None:
    """None is missing, in the page or in its folder, and none is left over."""
    shown = re.findall(r"\]\((resilience-[\w-]+\.svg)\)", (DOCS / "resilience.md").read_text())
    assert sorted(shown) == sorted(PICTURES)
    assert sorted(file.name for file in DOCS.glob("resilience-*.svg")) == sorted(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_fit_to_be_shown(name: str) -> None:
    """It is small and well-formed, has words for those who do not see it, a dark side, and all of it in its frame."""
    text = (DOCS / name).read_text()
    assert len(text) < 40_000
    assert "prefers-color-scheme: dark" in text
    svg = ElementTree.fromstring(text)
    assert svg.attrib["aria-label"]
    assert len(list(svg.iter(f"{SVG}text"))) > 5
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    for element in svg.iter():
        for attribute, most in (("x", width), ("x2", width), ("cx", width), ("y", height), ("y2", height)):
            assert 0 <= float(element.attrib.get(attribute, 0)) <= most


def places(graph: Graph, x_to: float = 10) -> list[tuple[float, float]]:
    """Of the first curve, in the picture."""
    svg = ElementTree.fromstring(draw_graphs("A < B", "seconds", 0, x_to, [graph], size=(100, 100)))
    line = next(svg.iter(f"{SVG}polyline"))
    return [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]  # type: ignore[misc]  # pairs


def test_the_axes_of_graphs_are_linear() -> None:
    """Both begin at 0: twice as much is twice as far, and what is beyond an axis stays at its end."""
    (a, b, c) = places(Graph("y", [Curve("one", [(0, 0), (5, 50), (10, 100)])]))
    assert (b[0] - a[0], a[1] - b[1]) == (50, 50)
    assert (c[0] - a[0], a[1] - c[1]) == (100, 100)
    ticks = [(0.0, "none"), (10.0, "ten")]
    assert places(Graph("y", [Curve("one", [(20, 30)])], ticks=ticks))[0] == (c[0], c[1])


def test_too_many_curves_are_refused() -> None:
    """Those that could not be told apart."""
    with pytest.raises(ValueError, match="told apart"):
        draw_graphs("t", "s", 0, 1, [Graph("y", [Curve(str(number), [(0, 1)]) for number in range(7)])])


PAGE = (DOCS / "resilience.md").read_text()

HOMES = {
    "passive health": "forebay.policy.health:PassiveHealth",
    "active health": "forebay.policy.health:ActiveHealth",
    "Adaptive": "forebay.policy.adaptive:Adaptive",
    **{name: f"forebay.engine:{name}" for name in ("CheckTiming", "ObjectPool", "ReadWriteLock", "Throttle")},
}
SHOWN_ELSEWHERE = {"backoff", "methods", "respect_retry_after", "value", "function", "zone", "slow_start"}
"""Parameters whose defaults are no numbers, or another policy's."""


def defaults() -> dict[str, dict[str, str]]:
    """The table of defaults: by policy, by parameter, as it is written."""
    found: dict[str, dict[str, str]] = {}
    policy = ""
    table = PAGE[PAGE.index("## All defaults") : PAGE.index("## All reasons")]
    for line in table.splitlines():
        if not line.startswith("| ") or line.startswith("| policy"):
            continue
        name, parameters, values = (cell.strip() for cell in line.split("|")[1:4])
        policy = name.strip("`") or policy
        names = re.findall(r"`(\w+)`", parameters)
        parts = values.split(", ") if len(names) > 1 else [values]
        assert len(parts) == len(names), line
        found.setdefault(policy, {}).update(zip(names, parts, strict=True))
    return found


def parameters_of(policy: str) -> dict[str, Any]:
    """What a policy's parameters are by default."""
    module, _, name = HOMES.get(policy, f"forebay.policy:{policy}").partition(":")
    rules = getattr(import_module(module), name)
    signature = inspect.signature(rules)
    found = {each.name: each.default for each in signature.parameters.values() if each.default is not each.empty}
    for field in fields(rules) if is_dataclass(rules) else ():
        if field.default_factory is not MISSING:
            found[field.name] = field.default_factory()
    return found


def written(value: Any) -> set[str]:
    """How a default may stand in the table."""
    if value is None or value == math.inf:
        return {"none", "never"}
    if isinstance(value, bool):
        return {"yes" if value else "no"}
    if isinstance(value, tuple):
        return {" and ".join(f"{each:g}" for each in value)}
    if isinstance(value, float | int):
        return {f"{value:g}", f"{value:,}", f"{value:.1f}"}
    kind: Any = type(value)
    if is_dataclass(value) and value == kind():  # other rules, as they are by default
        return {f"`{kind.__name__}()`"}
    return {f"`{value}`"}


@pytest.mark.parametrize("policy", defaults())
def test_the_table_of_defaults_is_true(policy: str) -> None:
    """Each default in the page is that of the code, and rules have no default that is not in the page."""
    told, real = defaults()[policy], parameters_of(policy)
    for name, text in told.items():
        value = real[name]
        if isinstance(value, frozenset):
            assert text == ", ".join(str(each) for each in sorted(value))
        elif isinstance(value, tuple) and isinstance(value[0], type):
            assert text == ", ".join(f"`{each.__name__}`" for each in value)
        else:
            assert text.split(":")[0] in written(value), f"{name} is {value}"
    if policy not in ("Circuits", "Throttle", "ReadWriteLock", "Fallback"):
        missing = set(real) - set(told) - SHOWN_ELSEWHERE - {"enabled", "on", "source", "reset"}
        assert sorted(missing) == []


def test_the_tests_in_the_page_pass() -> None:
    """Snippets that are tests for others to copy: tests/test_docs.py only defines them."""
    ran = 0
    for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        if "\ndef test_" in text:
            space: dict[str, Any] = {"__name__": "snippet"}
            exec(compile(text, "docs/resilience.md", "exec"), space)
            for name in [name for name in space if name.startswith("test_")]:
                space[name]()
                ran += 1
    assert ran
