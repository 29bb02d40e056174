"""The benchmark of three targets, in short: what it shows holds, and its picture can be drawn."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from benchmarks.three_targets import GOAL, NOTHING, Outcome, Scene, measure, most_attempts, picture

SHORT = Scene(seconds=3.0, rate=150.0)


async def test_a_slow_and_a_failing_target() -> None:
    """With policies all is well, within the budget; without them it is not, so that there was something to survive."""
    off = await measure(SHORT, NOTHING)
    assert off.success < 0.98
    assert off.quantile(0.99) > 0.09
    assert off.attempts == len(off.asked)
    on = await measure(SHORT)
    assert len(on.asked) == len(off.asked) > 300
    assert on.success >= GOAL
    assert len(on.asked) < on.attempts <= most_attempts(len(on.asked), SHORT.seconds)
    assert on.quantile(0.5) < 0.05
    assert on.share(0, SHORT.slow_at + 0.5, SHORT.fails_at) < 0.2  # the slow one is left alone
    text = picture(on, off)
    assert ElementTree.fromstring(text).attrib["aria-label"] == "Three servers, of which two break"
    assert len(re.findall("<polyline", text)) == 10


def test_what_is_counted() -> None:
    """Shares are of a part of the time, quantiles of what was asked in it."""
    outcome = Outcome(SHORT)
    outcome.tries[0] += [0.1, 0.2, 1.5]
    outcome.tries[2] += [0.3, 0.4]
    assert (outcome.share(0, 0, 1), outcome.share(2, 0, 1), outcome.share(1, 0, 1)) == (0.5, 0.5, 0.0)
    assert outcome.share(0, 1, 2) == 1.0
    assert outcome.attempts == 5
    assert outcome.quantile(0.99) == 0.0
