"""How long a silence is, for a listener that may have slept."""

from __future__ import annotations

from forebay.policy.silence import Silence


def test_silence_is_counted_until_something_is_heard() -> None:
    """And from then on anew."""
    silence = Silence(3, 1, now=10)
    assert [silence.tick(now, heard=False) for now in (11, 12)] == [False, False]
    assert not silence.tick(13, heard=True)
    assert [silence.tick(now, heard=False) for now in (14, 15, 16)] == [False, False, True]
    assert silence.seconds == 3


def test_a_listener_that_was_asleep_has_missed_at_most_two_ticks() -> None:
    """What was not heard meanwhile counts for little; but a listener that is always late gets there in the end."""
    silence = Silence(5, 1, now=0)
    assert not silence.tick(1000, heard=False)
    assert silence.seconds == 2
    assert [silence.tick(now, heard=False) for now in (2000, 3000)] == [False, True]
