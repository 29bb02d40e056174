"""How much of its work somebody gets who has just come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.policy.slow_start import SlowStart


def test_it_begins_with_the_least_and_ends_with_all() -> None:
    """Half of the window, half of the weight; nothing changes after its end."""
    rules = SlowStart(window=30.0)
    assert rules.share(100.0, 100.0) == 0.1
    assert rules.share(100.0, 115.0) == pytest.approx(0.5, abs=0.03)
    assert rules.share(100.0, 129.9) == pytest.approx(1.0, abs=0.03)
    assert rules.share(100.0, 130.0) == 1.0
    assert rules.share(100.0, 1e9) == 1.0
    assert rules.share(-float("inf"), 0.0) == 1.0


def test_aggression_bends_the_curve() -> None:
    """Above 1 more comes early, below 1 late (as in Envoy: time to the power of one over it)."""
    halfway = [SlowStart(aggression=aggression).share(0.0, 15.0) for aggression in (0.5, 1.0, 2.0)]
    assert halfway == pytest.approx([0.25, 0.5, 0.7], abs=0.04)


@given(
    window=st.floats(0.5, 600.0),
    aggression=st.floats(0.2, 5.0),
    least=st.floats(0.01, 1.0),
    steps=st.integers(1, 60),
    joined=st.floats(0.0, 1e7),
)
def test_it_only_rises_and_only_at_its_steps(
    window: float, aggression: float, least: float, steps: int, joined: float
) -> None:
    """Going from one step to the next ends after ``steps`` of them, and the share is the same in between."""
    rules = SlowStart(window, aggression, least, steps)
    now, share, count = joined, rules.share(joined, joined), 0
    while (following := rules.next_step(joined, now)) != float("inf"):
        assert following > now
        assert rules.share(joined, now + (following - now) * 0.5) == share
        now = following
        assert share <= rules.share(joined, now) <= 1.0
        share = rules.share(joined, now)
        count += 1
        assert count <= steps + 1
    assert share == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0.0}, r"window 0\.0: must be above 0"),
        ({"aggression": 0.0}, r"aggression 0\.0: must be above 0"),
        ({"min_share": 0.0}, r"min_share 0\.0: must be above 0 and at most 1"),
        ({"min_share": 1.1}, r"min_share 1\.1: must be above 0 and at most 1"),
        ({"steps": 0}, "steps 0: must be at least 1"),
    ],
)
def test_rules_are_checked(arguments: dict[str, float], message: str) -> None:
    """Each with what it must be."""
    with pytest.raises(ValueError, match=message):
        SlowStart(**arguments)  # type: ignore[arg-type]  # steps is an int where it is given
