"""The outbox: what is in it, in which order it leaves, and what happens when it is full."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.engine.outbox import Outbox, Unsent


def filled(*messages: bytes, rules: Outbox | None = None) -> Unsent:
    """An outbox with ``messages``."""
    unsent = Unsent(rules or Outbox())
    for message in messages:
        assert unsent.fits(len(message))
        unsent.put(message)
    return unsent


def test_messages_leave_in_batches() -> None:
    """Batches are joined up to 64 KiB; a longer message is one on its own."""
    long = bytes(100_000)
    unsent = filled(b"a", b"b", long, b"c", bytes(40_000), bytes(30_000))
    assert [len(unsent.take_batch()) for _ in range(4)] == [2, 100_000, 40_001, 30_000]
    assert not unsent.waiting
    assert len(unsent) == 6
    assert unsent.settle() == 0
    assert (len(unsent), unsent.size, unsent.settled) == (0, 0, 6)


def test_acknowledgements() -> None:
    """They take the oldest that were written, never one that was not."""
    unsent = filled(b"a" * 60_000, b"b" * 60_000, b"c")
    unsent.take_batch()
    assert unsent.settle(3) == 2
    assert len(unsent) == 2
    assert unsent.size == 60_001


def test_what_was_not_settled_comes_again() -> None:
    """In the old order, before what waited."""
    unsent = filled(b"a", b"b", b"c")
    unsent.take_batch()
    unsent.put(b"d")
    unsent.settle(1)
    unsent.rewind()
    assert unsent.take_batch() == b"bcd"
    assert unsent.repeated == 2


def test_bounds() -> None:
    """Messages and bytes are both bounded; what never fits is an error at once."""
    unsent = filled(b"a", b"b", rules=Outbox(messages=2, size=100))
    assert not unsent.fits(1)
    assert not filled(b"a" * 60, rules=Outbox(size=100)).fits(41)
    with pytest.raises(ValueError, match="101 bytes does not fit into an outbox of 100"):
        unsent.fits(101)


def test_drop_oldest() -> None:
    """The oldest that waits makes room; what is being written stays, and then the new one is the oldest."""
    unsent = filled(b"a", b"b", rules=Outbox(messages=2, size=10, policy="drop-oldest"))
    unsent.put_dropping(b"c")
    assert unsent.dropped == 1
    assert unsent.take_batch() == b"bc"
    unsent.put_dropping(b"d")
    assert (unsent.dropped, len(unsent), unsent.waiting) == (2, 2, False)
    unsent.settle()
    unsent.put_dropping(b"12345")
    unsent.put_dropping(b"6789012")
    assert (unsent.dropped, unsent.size) == (3, 7)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"messages": 0}, "messages 0"), ({"size": 0}, "size 0"), ({"policy": "pray"}, "wait, drop-oldest, refuse")],
)
def test_rules_that_make_no_sense(given: dict[str, object], message: str) -> None:
    """They are refused."""
    with pytest.raises(ValueError, match=message):
        Outbox(**given)  # type: ignore[arg-type]  # that is the point


@given(st.lists(st.sampled_from(["put", "write", "settle", "one", "break"]), max_size=80))
def test_against_lists(steps: list[str]) -> None:
    """Whatever happens: nothing leaves unsettled, nothing changes its place, and the sizes are right."""
    unsent = Unsent(Outbox(messages=20))
    written: deque[bytes] = deque()
    waiting: deque[bytes] = deque()
    for number, step in enumerate(steps):
        if step == "put":
            data = b"<%d>" % number
            fits = unsent.fits(len(data))
            assert fits == (len(written) + len(waiting) < 20)
            if fits:
                unsent.put(data)
                waiting.append(data)
        elif step == "write" and waiting:
            assert unsent.take_batch() == b"".join(waiting)
            written.extend(waiting)
            waiting.clear()
        elif step == "settle":
            unsent.settle()
            written.clear()
        elif step == "one":
            assert unsent.settle(1) == (0 if written else 1)
            if written:
                written.popleft()
        elif step == "break":
            unsent.rewind()
            waiting.extendleft(reversed(written))
            written.clear()
        assert len(unsent) == len(written) + len(waiting)
        assert unsent.size == sum(map(len, written)) + sum(map(len, waiting))
        assert unsent.waiting == bool(waiting)
