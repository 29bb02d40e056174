"""Equal keys to the same member: a ring of points, with bounded loads. What all that hash have in common."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

if TYPE_CHECKING:
    from forebay.policy.balance import Member

__all__ = ["ConsistentHash", "Hashing", "digest", "part_of"]

M = TypeVar("M", bound="Member")

_ODD = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: multiplying by it spreads neighbours (Knuth, volume 3, 6.4)
_64 = 0xFFFFFFFFFFFFFFFF
_32 = 0xFFFFFFFF


def digest(key: str) -> int:
    """64 bits of ``key``, the same in every process: the upper half says where, the lower half which part of the keys.

    CRC-32 and a multiplication: several times faster than a cryptographic hash, and as even over counted names,
    addresses and UUIDs. It keeps no secrets: who may choose keys can choose ones that meet.
    """
    return crc32(key.encode("utf-8", "surrogatepass")) * _ODD & _64


def part_of(hashed: int, at: int) -> float:
    """A number from 0 to 1 for a key at a place of the table: its owner takes the key when its part of keys is above
    it.

    Each place has one of its own, so that who gets what others pass on is in proportion to the parts as well.
    """
    return ((hashed ^ at * 0x9E3779B1) * 0x2C1B3C6D >> 12 & 0xFFFFF) / 1048576.0


class Hashing:
    """A table made of the names and weights of all members, and how those that can be chosen now are found in it.

    Making a table takes tens of milliseconds, and a ring of hundreds of members half a second, so it is made only for
    new names or weights, by the first choice that needs it. A member that is missing from a choice, because it is out
    or was tried, keeps its places: they are passed over, and its keys come back to it. Nor does the table follow
    ``share``: a member at a tenth of its weight passes on nine tenths of its keys, always the same ones, to those that
    come next.

    Keys that are empty are spread evenly.
    """

    __slots__ = ("_empty", "_index", "_parts", "_pending", "_present", "_seen", "_weights")
    wants_latency = False

    def __init__(self) -> None:
        self._weights: dict[str, int] = {}  # what the table is made of
        self._index: dict[str, int] = {}  # of the name, as the table has it
        self._pending: dict[str, int] | None = None  # what it is to be made of
        self._seen: Sequence[Member] = ()
        self._present: list[Member | None] = []  # by index
        self._parts: list[float] | None = None  # by index: the part of its keys that a member takes; None: all do all
        self._empty = 0

    def update(self, members: Iterable[Member]) -> None:
        """Say who all the members are, whether they can be chosen now or not.

        Without it they are those of the first choice, and of each one with somebody new. So with it, what a key leads
        to does not depend on who was out when the process began.
        """
        weights = {member.name: member.weight for member in members}
        self._pending = weights if weights != self._weights else None
        self._seen = ()

    def _look(self, members: Sequence[Member]) -> None:
        """Take in another sequence of members to choose from."""
        known = self._weights if self._pending is None else self._pending
        if any(known.get(member.name) != member.weight for member in members):
            self._pending = {member.name: member.weight for member in members}
        if self._pending is not None:
            names = sorted(self._pending)  # the order in which they are given says nothing
            self._build(names, [self._pending[name] for name in names])
            self._index = {name: index for index, name in enumerate(names)}
            self._weights, self._pending = self._pending, None
        parts = [0.0] * len(self._index)
        present: list[Member | None] = [None] * len(self._index)
        for member in members:
            index = self._index[member.name]
            present[index] = member
            parts[index] = member.share / member.weight
        self._present = present
        most = max(parts)  # whoever is the best one takes all of its keys: so somebody takes each
        self._parts = None
        if any(member.share < most * member.weight for member in members):
            self._parts = [part / most for part in parts]
        self._seen = members

    def _build(self, names: Sequence[str], weights: Sequence[int]) -> None:
        """Make the table. ``names`` are sorted."""
        raise NotImplementedError

    def _digest_of_empty(self) -> int:
        """The next one of a sequence that is spread evenly."""
        self._empty = empty = self._empty + 1
        return (empty * _ODD & _64) | (empty * 0x9E3779B1 & _32)


class ConsistentHash(Hashing):
    """A ring on which each member has points in proportion to its weight; a key belongs to the point before it.

    When one of n members leaves, only its own keys move, about 1/n of all (Karger et al., "Consistent Hashing and
    Random Trees", 1997). Popular keys are the weakness of that. So loads are bounded (Mirrokni, Thorup, Zadimoghaddam,
    "Consistent Hashing with Bounded Loads", 2017): a member that has ``bound`` times its part of all requests in flight
    passes new ones on along the ring, until it has room.

    :param bound: above 1. 1.25: less moves more keys, more allows more unevenness.
    :param points: for each member, times its weight over the mean weight, to within a factor of two. The part of the
        keys that each gets differs from even by about one over the root of it: 3% of it with 1024. Each takes 50 bytes.
    """

    __slots__ = ("_owners", "_ring", "_shares", "bound", "points")

    def __init__(self, bound: float = 1.25, points: int = 1024) -> None:
        if not bound > 1.0:
            raise ValueError(f"bound {bound}: must be above 1")
        if points < 1:
            raise ValueError(f"points {points}: must be at least 1")
        super().__init__()
        self.bound = bound
        self.points = points
        self._ring: list[int] = []
        self._owners: list[int] = []
        self._shares = 0.0  # of those present

    def pick(self, members: Sequence[M], now: float, key: str = "") -> M:
        """The one that ``key`` belongs to, or the next one with room."""
        if members is not self._seen:
            self._look(members)
            self._shares = sum([member.share for member in members])
        hashed = crc32(key.encode("utf-8", "surrogatepass")) * _ODD & _64 if key else self._digest_of_empty()
        at = bisect_right(self._ring, hashed >> 32) - 1  # the ring's points are where arcs begin; the first is at 0
        member = self._present[self._owners[at]]
        if self._parts is not None:
            member = None  # not at once
        if member is not None and not member.in_flight:
            return member  # type: ignore[return-value]  # those present are members of ``members``
        in_flight = 1  # with the new one
        for other in members:
            in_flight += other.in_flight
        room = self.bound * in_flight / self._shares  # for one of share 1; rounded up, as a part of a request is one
        if member is not None and member.in_flight < room * member.share:
            return member  # type: ignore[return-value]  # as above
        return self._walk(at, hashed & _32, room)  # type: ignore[return-value]  # as above

    def _walk(self, at: int, hashed: int, room: float) -> Member:
        """From point ``at`` backwards, as the ring without it would: the first owner with room that takes this key."""
        owners, present, parts = self._owners, self._present, self._parts
        spare: Member | None = None
        last = len(owners) - 1
        for _ in owners:
            owner = owners[at]
            member = present[owner]
            if member is not None and member.in_flight < room * member.share:
                if parts is None or part_of(hashed, at) < parts[owner]:
                    return member
                if spare is None:
                    spare = member
            at = at - 1 if at else last
        assert spare is not None, "the sum of all room is more than what is in flight"
        return spare

    def _build(self, names: Sequence[str], weights: Sequence[int]) -> None:
        # A power of two: so what leaves or joins changes the points of others only where it moves the mean past one.
        mean = sum(weights) / len(weights)
        scale = 1.0
        while scale * mean >= 2.0:
            scale /= 2
        bits = len(names).bit_length()  # a point and its owner's index are one number: pairs take twice as long to sort
        places: list[int] = []
        for index, (name, weight) in enumerate(zip(names, weights, strict=True)):
            count = max(1, round(self.points * weight * scale))
            encoded = name.encode("utf-8", "surrogatepass")
            for block in range(-(-count // 16)):
                drawn = memoryview(blake2b(encoded, salt=block.to_bytes(8, "big")).digest()).cast("I")
                places += [point << bits | index for point in drawn[: count - block * 16]]
        places.sort()
        owner = (1 << bits) - 1
        places.insert(0, places[-1] & owner)  # the arc of the last point goes on from 0
        self._ring = [place >> bits for place in places]
        self._owners = [place & owner for place in places]
