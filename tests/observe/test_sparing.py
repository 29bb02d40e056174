"""Lines that would come too often."""

from __future__ import annotations

from forebay.observe import Sparing


def test_one_line_a_second_for_each_thing() -> None:
    """The others are counted, and the next line says how many they were."""
    sparing = Sparing(1.0)
    assert sparing.due("a", 10.0) == 0
    assert sparing.due("a", 10.5) is None
    assert sparing.due("a", 10.9) is None
    assert sparing.due("b", 10.9) == 0
    assert sparing.due("a", 11.0) == 2
    assert sparing.due("a", 11.1) is None
    assert sparing.due("a", 13.0) == 1


def test_memory_is_bounded() -> None:
    """Past the bound everything is forgotten: too many lines rather than too much memory."""
    sparing = Sparing(1.0, max_keys=2)
    assert [sparing.due(key, 0.0) for key in "abca"] == [0, 0, 0, 0]
