"""Objects that are used again."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.engine.object_pool import ObjectPool


class Thing:
    """Equal to every other, as buffers are that hold the same; not hashable."""

    __hash__ = None  # type: ignore[assignment]  # as bytearray has it

    def __init__(self) -> None:
        self.used = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing)


def test_what_comes_back_is_used_again() -> None:
    """The last one first; one is made where none is kept."""
    pool = ObjectPool(Thing)
    one, two = pool.take(), pool.take()
    assert one is not two
    pool.give(one)
    pool.give(two)
    assert len(pool) == 2
    assert pool.take() is two
    assert pool.take() is one
    assert pool.take() not in [None]
    assert pool.statistics() == {"size": 0, "max_size": 64, "in_use": 3, "made": 3, "reused": 2, "dropped": 0}


def test_no_more_are_kept_than_allowed() -> None:
    """What comes back past that is dropped: nobody refers to it any more, and it was not reset."""
    resets: list[int] = []
    pool = ObjectPool(Thing, lambda thing: resets.append(id(thing)), max_size=1)
    one, two = pool.take(), pool.take()
    pool.give(one)
    pool.give(two)
    assert resets == [id(one)]
    gone = weakref.ref(two)
    del two
    gc.collect()
    assert gone() is None
    assert (len(pool), pool.dropped) == (1, 1)
    assert repr(pool) == "<ObjectPool 1/1 made=2 reused=0>"
    assert pool


def test_each_is_reset_before_it_is_used_again() -> None:
    """So that nothing of one use is seen by the next."""
    pool = ObjectPool(bytearray, bytearray.clear)
    with pool.borrow() as buffer:
        buffer += b"secret"
    with pool.borrow() as again:
        assert again is buffer
        assert again == b""


def test_reset_may_say_that_one_is_not_worth_keeping() -> None:
    """By False, and by nothing else."""
    pool: ObjectPool[bytearray] = ObjectPool(bytearray, lambda buffer: len(buffer) < 100)
    small, large = pool.take(), pool.take()
    large += bytes(100)
    pool.give(large)
    assert (len(pool), pool.dropped) == (0, 1)
    pool.give(small)
    assert (len(pool), pool.dropped) == (1, 1)


def test_one_whose_reset_fails_is_dropped() -> None:
    """Nobody gets it again; the error comes out."""

    def broken(thing: Thing) -> None:
        raise LookupError

    pool = ObjectPool(Thing, broken)
    with pytest.raises(LookupError), pool.borrow():
        pass
    assert pool.statistics() == {"size": 0, "max_size": 64, "in_use": 0, "made": 1, "reused": 0, "dropped": 1}


def test_giving_twice_is_told() -> None:
    """Two would use the same one; it stays in the pool once. An equal one is another one."""
    pool = ObjectPool(Thing)
    one, two = pool.take(), pool.take()
    pool.give(one)
    with pytest.raises(ValueError, match="this Thing was given back already"):
        pool.give(one)
    pool.give(two)
    assert len(pool) == 2
    assert pool.take() is not pool.take()


def test_a_block_gives_back_what_it_took_after_an_error_too() -> None:
    """Blocks may be nested: each has one of its own."""
    pool = ObjectPool(Thing)
    with pytest.raises(LookupError), pool.borrow() as one, pool.borrow() as two:
        assert one is not two
        raise LookupError
    assert (len(pool), pool.statistics()["in_use"]) == (2, 0)


def test_where_making_fails_nothing_was_taken() -> None:
    """The error comes out, and the counts are right."""

    def broken() -> Thing:
        raise LookupError

    pool = ObjectPool(broken)
    with pytest.raises(LookupError), pool.borrow():
        pass
    assert pool.statistics()["in_use"] == pool.made == 0


def test_clear() -> None:
    """What is kept is dropped, what is in use may come back."""
    pool = ObjectPool(Thing)
    one = pool.take()
    pool.give(pool.take())
    pool.clear()
    assert (len(pool), pool.dropped) == (0, 1)
    pool.give(one)
    assert pool.take() is one


def test_its_size_is_checked() -> None:
    """With the name of what is wrong."""
    with pytest.raises(ValueError, match="max_size 0: must be at least 1"):
        ObjectPool(Thing, max_size=0)
    with pytest.raises(ValueError, match="max_size nan: must be at least 1"):  # no bound at all
        ObjectPool(Thing, max_size=float("nan"))  # type: ignore[arg-type]  # computed wrongly


@given(st.lists(st.one_of(st.just(None), st.integers(0, 5))), st.integers(1, 4))
def test_against_a_list(steps: list[int | None], max_size: int) -> None:
    """Takes and gives in any order: what a stack of so many places would hold, and counts that add up."""
    pool, stack, used = ObjectPool(Thing, max_size=max_size), list[Thing](), list[Thing]()
    for step in steps:
        if step is None:
            expected = stack.pop() if stack else None
            thing = pool.take()
            assert thing is expected if expected is not None else all(thing is not other for other in used)
            used.append(thing)
        elif step < len(used):
            thing = used.pop(step)
            pool.give(thing)
            stack += [thing] if len(stack) < max_size else []
        assert len(pool) == len(stack)
        assert pool.statistics()["in_use"] == len(used)
        assert pool.made == len(used) + len(stack) + pool.dropped
