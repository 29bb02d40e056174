"""The timer wheel, on a clock of its own."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.policy.timers import TimerWheel


class Entry:
    """Something with a deadline."""

    def __init__(self, name: str = "", expires_at: float = inf) -> None:
        self.name = name
        self.expires_at = expires_at
        self.due_at = inf

    def on_expired(self) -> None:
        raise AssertionError("the wheel decides; it does not call")


def wheel_with(*entries: Entry, now: float = 1000.0) -> TimerWheel[Entry]:
    wheel: TimerWheel[Entry] = TimerWheel(0.1, now)
    for entry in entries:
        wheel.add(entry)
    return wheel


def test_expires_at_its_tick_and_once() -> None:
    """Not before its deadline, at most one resolution after it, and then it is forgotten."""
    entry = Entry("a", 1000.25)
    wheel = wheel_with(entry)
    assert wheel.advance(1000.2) == []
    assert wheel.advance(1000.35) == [entry]
    assert entry.due_at == inf
    assert not wheel
    assert wheel.advance(2000.0) == []


def test_moved_later_by_a_store() -> None:
    """An entry whose deadline was moved is looked at, put back, and expires at the new one."""
    entry = Entry("a", 1001.0)
    wheel = wheel_with(entry)
    entry.expires_at = 1005.0
    assert wheel.advance(1004.9) == []
    assert entry.due_at == pytest.approx(1005.0)
    assert wheel.advance(1005.2) == [entry]


def test_moved_earlier_by_adding() -> None:
    """Added again, an entry stands in the earlier slot only."""
    entry = Entry("a", 1090.0)
    wheel = wheel_with(entry)
    entry.expires_at = 1001.0
    wheel.add(entry)
    assert len(wheel) == 1
    assert wheel.advance(1001.2) == [entry]
    assert wheel.advance(1100.0) == []


def test_disarmed_entries_leave_at_their_slot() -> None:
    """``inf`` never expires, and the wheel lets go of the entry."""
    entry = Entry("a", 1001.0)
    wheel = wheel_with(entry, Entry("never"))
    assert len(wheel) == 1
    entry.expires_at = inf
    assert wheel.advance(1002.0) == []
    assert not wheel
    assert entry.due_at == inf


def test_discard_holds_nothing() -> None:
    """A discarded entry is gone at once; discarding what is not held does nothing."""
    entry = Entry("a", 1001.0)
    wheel = wheel_with(entry)
    wheel.discard(entry)
    wheel.discard(entry)
    assert not wheel
    assert wheel.advance(1002.0) == []


def test_a_deadline_that_has_passed_expires_next() -> None:
    """An entry added too late is not lost in a slot that was looked at already."""
    wheel = wheel_with()
    wheel.advance(1010.0)
    entry = Entry("late", 1005.0)
    wheel.add(entry)
    assert wheel.advance(1010.2) == [entry]


def test_a_jump_of_the_clock_costs_the_slots_that_are_used() -> None:
    """A clock that went a year ahead is no loop over a year of ticks."""
    first, second = Entry("first", 1001.0), Entry("second", 1002.0)
    wheel = wheel_with(second, first)
    assert wheel.advance(1000.0 + 365 * 86400) == [first, second]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 9), st.floats(0, 5)),
            st.tuples(st.just("move"), st.integers(0, 9), st.floats(0, 5)),
            st.tuples(st.just("discard"), st.integers(0, 9), st.just(0.0)),
            st.tuples(st.just("pass"), st.just(0), st.floats(0, 3)),
        ),
        max_size=60,
    )
)
def test_against_a_list(steps: list[tuple[str, int, float]]) -> None:
    """Whatever is done: nothing expires early, nothing later than a resolution, nothing twice, nothing is lost."""
    now = 50.0
    wheel = wheel_with(now=now)
    entries = [Entry(str(n)) for n in range(10)]
    armed: set[Entry] = set()
    for what, number, seconds in steps:
        entry = entries[number]
        if what == "add":
            entry.expires_at = now + seconds
            wheel.add(entry)
            armed.add(entry)
        elif what == "move" and entry in armed:
            entry.expires_at += seconds
        elif what == "discard":
            wheel.discard(entry)
            armed.discard(entry)
        elif what == "pass":
            now += seconds
            expired = wheel.advance(now)
            assert len(expired) == len(set(expired))
            for one in expired:
                assert one.expires_at <= now
                armed.remove(one)
            assert all(one.expires_at > now - 0.1 - 1e-6 for one in armed)
    assert len(wheel) == len(armed)
