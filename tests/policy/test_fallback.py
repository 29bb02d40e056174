"""Fallbacks: which failures they are for, what stands in, for how long, and within which bound."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from forebay.errors import CircuitOpen, DeadlineExceeded, HTTPError, Overloaded, UpstreamTimeout
from forebay.policy.fallback import Fallback, Fallbacks

DOWN = UpstreamTimeout("late")


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (DOWN, True),
        (CircuitOpen("open"), True),
        (Overloaded("bulkhead", "full"), True),
        (DeadlineExceeded("late"), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (ValueError("a mistake"), False),
        (HTTPError(404), False),
        (asyncio.CancelledError(), False),
    ],
)
def test_which_errors_it_is_for(error: BaseException, found: bool) -> None:
    """Those that say that the other side failed; a mistake is not hidden."""
    state = Fallbacks(Fallback(value=1))
    verdict = state.answer(None, error, 0.0)
    assert (verdict.found, verdict.reason) == ((True, "value") if found else (False, "error"))


def test_what_stands_in_first() -> None:
    """The last good answer while it is fresh, then the function, then the value; and none where there is none."""

    def apologise(error: BaseException) -> str:
        return f"sorry: {error}"

    state = Fallbacks(Fallback(value="v", function=apologise, last_good=10))
    state.remember("k", "good", 100.0)
    assert state.answer("k", DOWN, 110.0).value == "good"
    late = state.answer("k", DOWN, 110.1)
    assert (late.call, late.value, late.reason) == (True, apologise, "function")
    assert Fallbacks(Fallback(value="v", last_good=10)).answer("k", DOWN, 0.0).value == "v"
    none = Fallbacks(Fallback(last_good=10)).answer("k", DOWN, 0.0)
    assert (none.found, none.reason) == (False, "nothing")


def test_nothing_is_an_answer_too() -> None:
    """``None`` can be the value."""
    verdict = Fallbacks(Fallback(value=None)).answer("k", DOWN, 0.0)
    assert (verdict.found, verdict.value) == (True, None)


def test_the_good_answers_are_bounded() -> None:
    """The one stored longest ago goes; one that is stored again is young again."""
    state = Fallbacks(Fallback(last_good=60, max_keys=3))
    for key in ("a", "b", "c", "a", "d"):
        state.remember(key, key.upper(), 0.0)
    kept = [key for key in "abcd" if state.answer(key, DOWN, 1.0).found]
    assert kept == ["a", "c", "d"]
    assert state.statistics() == {"enabled": True, "substitutes": {"last-good": 3, "nothing": 1}, "kept": 3}


def test_without_last_good_no_key_is_looked_at() -> None:
    """No answer is kept, not even for the same moment, and a key may be anything."""
    state = Fallbacks(Fallback(value=1))
    state.remember("k", 2, 0.0)
    assert state.answer("k", DOWN, 0.0).value == 1
    state.remember([], 2, 0.0)
    assert state.answer([], DOWN, 0.0).value == 1
    assert state.statistics()["kept"] == 0


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt()])
def test_a_cancellation_is_never_answered(error: BaseException) -> None:
    """Whatever the rules are for."""
    assert Fallbacks(Fallback(value=1, on=(BaseException,))).answer(None, error, 0.0).reason == "error"


def test_it_can_be_switched_off() -> None:
    """Errors pass; good answers are kept for when it is on again."""
    state = Fallbacks(Fallback(last_good=60))
    state.enabled = False
    state.remember("k", 1, 0.0)
    assert state.answer("k", DOWN, 0.0).reason == "off"
    state.enabled = True
    assert state.answer("k", DOWN, 0.0).value == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give a value, a function, or last_good seconds"),
        ({"value": 1, "last_good": -1}, "last_good -1: must be at least 0"),
        ({"value": 1, "last_good": float("nan")}, "last_good nan"),
        ({"value": 1, "max_keys": 0}, "max_keys 0: must be at least 1"),
    ],
)
def test_bad_rules(options: dict[str, Any], message: str) -> None:
    """They are named."""
    with pytest.raises(ValueError, match=message):
        Fallback(**options)
