"""The charts: their scales, and pictures that are whole."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks.plot import DARK, LIGHT, Line, Panel, draw, steps

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (250, [0, 50, 100, 150, 200, 250]),
        (9, [0, 2, 4, 6, 8, 10]),
        (0.4, [0, 0.1, 0.2, 0.3, 0.4]),
        (101_000, [0, 50_000, 100_000, 150_000]),
        (0, [0, 1]),
    ],
)
def test_scales_are_of_round_numbers(largest: float, expected: list[float]) -> None:
    """They begin at 0, and end at the first round number that is not less than the largest value."""
    assert steps(largest) == pytest.approx(expected)


def picture(*lines: Line, xs: tuple[float, ...] = (1, 10, 1000)) -> ElementTree.Element:
    """A picture of one panel, parsed."""
    return ElementTree.fromstring(draw("A < B & C", "things", xs, [Panel("per second", lines)]))


def points(svg: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """What the lines go through."""
    found = []
    for line in svg.iter(f"{SVG}polyline"):
        pairs = (pair.split(",") for pair in line.attrib["points"].split())
        found.append([(float(x), float(y)) for x, y in pairs])
    return found


def test_the_x_axis_is_logarithmic_and_the_y_axis_begins_at_0() -> None:
    """Ten times as much is as far on the right everywhere, and half as much is half as high."""
    svg = picture(Line("one", [50, 100, 0]))
    ((a, b, c),) = points(svg)
    assert c[0] - b[0] == pytest.approx(2 * (b[0] - a[0]), abs=0.3)
    assert c[1] - b[1] == pytest.approx(2 * (c[1] - a[1]), abs=0.3)
    assert b[1] < a[1] < c[1]  # upwards is less


def test_a_missing_value_leaves_no_mark() -> None:
    """A server that was not measured at some number of connections has a gap there."""
    svg = picture(Line("one", [1, None, 3]), Line("two", [None, None, None]))
    assert [len(line) for line in points(svg)] == [2]
    assert len(list(svg.iter(f"{SVG}circle"))) == 2 + 1  # the last is the legend's


def test_everything_is_named() -> None:
    """Title, axes, panels and lines stand in the picture, whatever characters they have."""
    svg = picture(Line("x < y", [1, 2, 3]))
    texts = [text.text for text in svg.iter(f"{SVG}text")]
    for expected in ("A < B & C", "things", "per second", "x < y", "1,000", "0"):
        assert expected in texts


def test_everything_lies_in_the_picture() -> None:
    """Nothing is drawn outside of the frame, however many lines the legend has."""
    many = [Line(f"line {number}", [number + 1, 2, 3]) for number in range(len(LIGHT))]
    svg = picture(*many)
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    for element in svg.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(element.attrib.get(name, 0)) <= width
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(element.attrib.get(name, 0)) <= height


def luminance(colour: str) -> float:
    """Of WCAG 2.1."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("colours", "page"), [(LIGHT, "#ffffff"), (DARK, "#0d1117")])
def test_lines_can_be_seen_on_their_background(colours: tuple[str, ...], page: str) -> None:
    """Each stands out with a contrast of at least 3 to 1, as WCAG 2.1 asks of graphics (1.4.11)."""
    assert len(colours) == len(set(colours)) == len(LIGHT)
    for colour in colours:
        darker, lighter = sorted((luminance(colour), luminance(page)))
        assert (lighter + 0.05) / (darker + 0.05) >= 3


def test_what_cannot_be_drawn_is_refused() -> None:
    """No x, x that do not rise, x that have no logarithm, values that do not fit, and more lines than looks."""
    line = Line("one", [1, 2])
    for xs in ((), (2, 1), (0, 1)):
        with pytest.raises(ValueError, match="rising values"):
            picture(line, xs=xs)
    with pytest.raises(ValueError, match="2 values for 3"):
        picture(line)
    with pytest.raises(ValueError, match="told apart"):
        picture(*(Line(str(number), [1, 2]) for number in range(len(LIGHT) + 1)), xs=(1, 2))
