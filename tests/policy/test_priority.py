"""Which job is next, which is refused or pushed out, and which came too late."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.policy.priority import Admission, Priority, PriorityQueue, WhenFull

HIGH, NORMAL, LOW = Priority


def filled(*jobs: tuple[str, Priority], limit: int = 100, when_full: WhenFull = "reject", **options: Any) -> Any:
    """A queue that was offered ``jobs``."""
    queue: PriorityQueue[str] = PriorityQueue(limit, when_full=when_full, **options)
    for job, priority in jobs:
        queue.offer(job, priority)
    return queue


def drained(queue: PriorityQueue[str], now: float = 0.0) -> list[str]:
    """Everything that is taken, in order."""
    taken = []
    while (job := queue.take(now)[0]) is not None:
        taken.append(job)
    return taken


def test_the_more_urgent_go_first() -> None:
    """And within a priority, who came first."""
    queue = filled(("l1", LOW), ("n1", NORMAL), ("h1", HIGH), ("l2", LOW), ("h2", HIGH), ("n2", NORMAL))
    assert len(queue) == 6
    assert queue.lengths() == {HIGH: 2, NORMAL: 2, LOW: 2}
    assert drained(queue) == ["h1", "h2", "n1", "n2", "l1", "l2"]
    assert not queue
    assert queue.take(0.0) == (None, [])


def test_the_less_urgent_have_their_turn() -> None:
    """After `patience` starts past them, once; then the count begins anew."""
    queue = filled(("l1", LOW), ("l2", LOW), *((f"h{n}", HIGH) for n in range(7)), patience=3)
    assert drained(queue) == ["h0", "h1", "h2", "l1", "h3", "h4", "h5", "l2", "h6"]


def test_an_empty_level_is_not_passed_over() -> None:
    """What was started before a job came does not count for it."""
    queue = filled(*((f"h{n}", HIGH) for n in range(10)), patience=3)
    for _ in range(5):
        queue.take(0.0)
    queue.offer("l", LOW)
    assert drained(queue) == ["h5", "h6", "h7", "l", "h8", "h9"]


def test_what_came_too_late_is_not_taken() -> None:
    """It is handed out beside the next one that did not; the moment itself is too late."""
    queue: PriorityQueue[str] = PriorityQueue(10)
    for job, expires_at in (("a", 1.0), ("b", 5.0), ("c", 2.0), ("d", 9.0)):
        queue.offer(job, NORMAL, expires_at)
    assert queue.take(2.0) == ("b", ["a"])
    assert queue.take(2.0) == ("d", ["c"])
    queue.offer("e", HIGH, 3.0)
    assert queue.take(3.0) == (None, ["e"])
    assert len(queue) == 0


def test_reject_names_the_limit() -> None:
    """The level's own, or that of all."""
    queue = filled(("a", LOW), ("b", NORMAL), limit=3, limits={LOW: 1})
    assert queue.offer("c", LOW) == Admission("refused", "queue_low")
    assert queue.offer("d", HIGH) == Admission("queued")
    assert queue.offer("e", HIGH) == Admission("refused", "queue")
    assert drained(queue) == ["d", "b", "a"]


def test_wait_lets_them_in_by_urgency_as_places_come_free() -> None:
    """Those who wait are not counted as queued, and are taken when nothing is before them."""
    queue = filled(("a", LOW), limit=1, when_full="wait")
    assert queue.offer("b", LOW) == Admission("waiting", "queue")
    assert queue.offer("c", HIGH) == Admission("waiting", "queue")
    assert queue.offer("d", HIGH, may_wait=False) == Admission("refused", "queue")
    assert (len(queue), queue.waiting) == (1, 2)
    assert queue.admit() == []
    assert queue.take(0.0) == ("c", [])
    assert queue.admit() == []
    assert queue.take(0.0) == ("a", [])
    assert queue.admit() == ["b"]
    assert (len(queue), queue.waiting) == (1, 0)


def test_no_queue_at_all() -> None:
    """With a limit of 0 jobs are refused, or taken from those who wait."""
    assert filled(limit=0).offer("a", HIGH) == Admission("refused", "queue")
    assert filled(limit=0, when_full="drop-oldest").offer("a", HIGH) == Admission("refused", "queue")
    queue = filled(("a", LOW), ("b", HIGH), limit=0, when_full="wait")
    assert queue.admit() == []
    assert drained(queue) == ["b", "a"]


def test_drop_lowest_takes_the_last_of_the_least_urgent() -> None:
    """Only one that is less urgent than the new one."""
    queue = filled(("l1", LOW), ("l2", LOW), ("n1", NORMAL), limit=3, when_full="drop-lowest")
    assert queue.offer("l3", LOW) == Admission("refused", "queue")
    assert queue.offer("n2", NORMAL) == Admission("queued", "queue", "l2")
    assert queue.offer("h1", HIGH) == Admission("queued", "queue", "l1")
    assert queue.offer("h2", HIGH) == Admission("queued", "queue", "n2")
    assert queue.offer("n3", NORMAL) == Admission("refused", "queue")
    assert drained(queue) == ["h1", "h2", "n1"]


def test_drop_oldest_takes_the_first_of_the_least_urgent() -> None:
    """One that is no more urgent than the new one."""
    queue = filled(("h1", HIGH), ("n1", NORMAL), ("n2", NORMAL), limit=3, when_full="drop-oldest")
    assert queue.offer("n3", NORMAL) == Admission("queued", "queue", "n1")
    assert queue.offer("l1", LOW) == Admission("refused", "queue")
    assert queue.offer("h2", HIGH) == Admission("queued", "queue", "n2")
    assert drained(queue) == ["h1", "h2", "n3"]


@pytest.mark.parametrize(
    ("when_full", "expected"),
    [
        ("drop-lowest", Admission("refused", "queue_high")),
        ("drop-oldest", Admission("queued", "queue_high", "h1")),
    ],
)
def test_a_levels_own_limit_is_made_room_for_in_it(when_full: WhenFull, expected: Admission[str]) -> None:
    """A low job's place would be of no use."""
    queue = filled(("h1", HIGH), ("l1", LOW), limits={HIGH: 1}, when_full=when_full)
    assert queue.offer("h2", HIGH) == expected


def test_discard_and_clear() -> None:
    """From the queue and from those who wait, once."""
    queue = filled(("a", LOW), ("b", HIGH), ("c", LOW), limit=2, when_full="wait")
    assert queue.discard("c")
    assert not queue.discard("c")
    assert queue.discard("a")
    assert queue.admit() == []
    queue.offer("d", LOW)
    queue.offer("e", LOW)
    assert queue.clear() == ["b", "d", "e"]
    assert (len(queue), queue.waiting, bool(queue)) == (0, 0, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": -1}, "limit -1"),
        ({"limit": 1, "limits": {LOW: -1}}, "at least 0"),
        ({"limit": 1, "patience": 0}, "patience 0"),
        ({"limit": 1, "when_full": "panic"}, "when_full 'panic'"),
    ],
)
def test_nonsense_is_refused(options: Mapping[str, Any], message: str) -> None:
    """Limits below 0, no patience, and a policy that is none."""
    with pytest.raises(ValueError, match=message):
        PriorityQueue(**options)


_STEPS = st.lists(st.sampled_from([HIGH, NORMAL, LOW, None, None]), max_size=300)


@given(_STEPS, st.integers(1, 4))
def test_nobody_is_starved(steps: list[Priority | None], patience: int) -> None:
    """Whatever comes in, of those started while a job is at the head of its level only so many go before it."""
    queue: PriorityQueue[tuple[Priority, int]] = PriorityQueue(1000, patience=patience)
    bounds = {HIGH: 2, NORMAL: patience + 2, LOW: patience + 1}
    passed = dict.fromkeys(Priority, 0)
    for number, step in enumerate([*steps, *[None] * len(steps)]):
        if step is not None:
            queue.offer((step, number), step)
            continue
        job, _ = queue.take(0.0)
        if job is None:
            continue
        lengths = queue.lengths()
        for priority in Priority:
            passed[priority] = passed[priority] + 1 if lengths[priority] and priority is not job[0] else 0
            assert passed[priority] <= bounds[priority], f"{priority} was passed over {passed[priority]} times"


@given(
    st.lists(st.tuples(st.sampled_from(["offer", "take", "discard", "admit"]), st.sampled_from(list(Priority)))),
    st.sampled_from(["reject", "wait", "drop-lowest", "drop-oldest"]),
    st.integers(0, 4),
    st.dictionaries(st.sampled_from(list(Priority)), st.integers(0, 3)),
)
def test_every_job_comes_to_one_end(
    steps: list[tuple[str, Priority]], when_full: WhenFull, limit: int, limits: dict[Priority, int]
) -> None:
    """Refused, pushed out, taken, discarded or still there; and never more than the limits allow."""
    queue: PriorityQueue[int] = PriorityQueue(limit, limits=limits, when_full=when_full)
    inside: set[int] = set()
    for number, (step, priority) in enumerate(steps):
        if step == "offer":
            before = queue.lengths()
            admission = queue.offer(number, priority)
            if admission.outcome == "refused":
                assert queue.lengths() == before
            else:
                inside.add(number)
            if admission.victim is not None:
                inside.remove(admission.victim)
            assert (admission.limit == "") == (
                sum(before.values()) < limit and before[priority] < limits.get(priority, 9)
            )
        elif step == "take":
            job, expired = queue.take(0.0)
            assert expired == []
            assert (job is None) == (not inside)
            inside -= {job}
        elif step == "discard" and inside:
            assert queue.discard(inside.pop())
        queue.admit()
        lengths = queue.lengths()
        assert sum(lengths.values()) == len(queue) <= limit
        assert all(lengths[level] <= bound for level, bound in limits.items())
        assert len(queue) + queue.waiting == len(inside)
    assert set(queue.clear()) == inside
