"""Equal keys to the same member, by a table that gives each member the same number of entries."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from itertools import cycle, islice
from math import gcd
from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

from forebay.policy.hashing import _ODD, Hashing, _32, _64, part_of

if TYPE_CHECKING:
    from forebay.policy.balance import Member

__all__ = ["Maglev"]

M = TypeVar("M", bound="Member")


class Maglev(Hashing):
    """Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4).

    Each member prefers the entries of a table in an order of its own, a permutation that comes from its name. In turns,
    each takes the first one of its order that is free, until none is. So all have the same number of entries, to within
    one, or are in proportion to their weights, to within one for each member; and when one leaves, few entries of
    others change.

    Next to the ring of :class:`~forebay.policy.hashing.ConsistentHash`, keys are spread more evenly, a few more move
    when somebody leaves, a choice costs less, and loads are not bounded: popular keys are for the ring.

    :param size: entries of the table, a prime (so that every step visits all of them), and best more than 100 times as
        many as there are members: shares differ by at most a percent then. 65537 takes 256 KiB.
    """

    __slots__ = ("_table", "size")

    def __init__(self, size: int = 65537) -> None:
        if size < 2 or any(size % factor == 0 for factor in range(2, int(size**0.5) + 1)):
            raise ValueError(f"size {size}: must be a prime")
        super().__init__()
        self.size = size
        self._table = array("i")

    def pick(self, members: Sequence[M], now: float, key: str = "") -> M:
        """The one that ``key`` belongs to."""
        if members is not self._seen:
            self._look(members)
        hashed = crc32(key.encode("utf-8", "surrogatepass")) * _ODD & _64 if key else self._digest_of_empty()
        at = (hashed >> 32) % self.size
        member = self._present[self._table[at]]
        if member is None or self._parts is not None:
            member = self._walk(at, hashed & _32)
        return member  # type: ignore[return-value]  # those present are members of ``members``

    def entries(self) -> dict[str, int]:
        """How many entries of the table each member has."""
        names = list(self._index)
        counts = dict.fromkeys(names, 0)
        for index in self._table:
            counts[names[index]] += 1
        return counts

    def _walk(self, at: int, hashed: int) -> Member:
        """From entry ``at`` on, the first owner that is present and takes this key.

        Each key has a step of its own, and none is left out: neighbours in the table have too much to do with each
        other.
        """
        table, present, parts, size = self._table, self._present, self._parts, self.size
        step = hashed % (size - 1) + 1
        while True:  # ends: one of those present takes every key, and has entries
            owner = table[at]
            member = present[owner]
            if member is not None and (parts is None or part_of(hashed, at) < parts[owner]):
                return member
            at += step
            if at >= size:
                at -= size

    def _build(self, names: Sequence[str], weights: Sequence[int]) -> None:
        size = self.size
        if len(names) > size:
            raise ValueError(f"size {size}: must be at least the number of members, which is {len(names)}")
        places: list[int] = []
        steps: list[int] = []
        for name in names:
            hashed = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            places.append(int.from_bytes(hashed[:8], "big") % size)
            steps.append(int.from_bytes(hashed[8:], "big") % (size - 1) + 1)
        table = [-1] * size
        for index in islice(cycle(_turns(weights, size)), size):
            at = places[index]
            step = steps[index]
            while table[at] >= 0:
                at += step
                if at >= size:
                    at -= size
            places[index] = at
            table[at] = index
        self._table = array("i", table)


def _turns(weights: Sequence[int], longest: int) -> list[int]:
    """In which order turns are had, until it is the same again: the heaviest has one in each round, the others in as
    many rounds as their weight is of that. All have one in the first: whoever had no entries could not be found."""
    most = max(weights)
    due = [most - weight for weight in weights]
    turns: list[int] = []
    for _ in range(most // gcd(*weights)):
        for index, weight in enumerate(weights):
            due[index] += weight
            if due[index] >= most:
                due[index] -= most
                turns.append(index)
        if len(turns) >= longest:
            break
    return turns
