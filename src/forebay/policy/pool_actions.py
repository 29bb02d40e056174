"""What a pool's plan deals with, and what it wants to be done."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Any

__all__ = [
    "Action",
    "Check",
    "Close",
    "ClosedBecause",
    "Dial",
    "Give",
    "Keyed",
    "Place",
    "PlaceState",
    "Refuse",
    "RefusedBecause",
    "Waiting",
    "Warn",
]


class PlaceState(StrEnum):
    """What a place of a pool is at."""

    DIALLING = "dialling"
    IDLE = "idle"
    CHECKING = "checking"
    HELD = "held"
    GONE = "gone"  # it is no place any more


class ClosedBecause(StrEnum):
    """Why a resource is closed."""

    IDLE = "idle"  # for longer than the idle timeout
    LIFETIME = "lifetime"  # it is old
    CHECK = "check-failed"
    USED_UP = "used-up"  # its holder said that it cannot be used again
    ENDED = "ended"  # it was found closed, or said so itself
    SURPLUS = "surplus"  # more are idle than may be
    ROOM = "room"  # for somebody who waits for another key
    SHRUNK = "shrunk"  # the pool was made smaller
    RECLAIMED = "reclaimed"  # held for too long
    DRAINED = "drained"
    STOPPED = "stopped"


class RefusedBecause(StrEnum):
    """Why somebody who wants a resource gets none."""

    TIMEOUT = "timeout"  # nothing came free in time
    SLOW_DIAL = "slow-dial"  # what was dialled for it did not come about in time
    QUEUE_FULL = "queue-full"  # too many wait already
    DIAL_FAILED = "dial-failed"
    DRAINING = "draining"
    STOPPED = "stopped"


class Place:
    """One of a pool's places: a resource, or the dial that is to bring one. Handles are these.

    :ivar key: what the resource is for.
    :ivar resource: opaque; None while it is dialled.
    :ivar state: read only.
    :ivar since: when it became what it is at, idle or held; a check leaves it.
    :ivar born: when it was dialled.
    :ivar holder: who has it; opaque, free for whoever drives the plan, and None again when it is released.
    """

    __slots__ = (
        "born",
        "fresh_until",
        "holder",
        "key",
        "peers",
        "proven",
        "resource",
        "retire_at",
        "since",
        "state",
        "waiting",
        "warned",
    )

    def __init__(self, key: Any, peers: Keyed, now: float) -> None:
        self.key = key
        self.peers = peers
        self.resource: Any = None
        self.state = PlaceState.DIALLING
        self.since = self.born = self.proven = now  # proven: used or checked at
        self.fresh_until = self.retire_at = inf  # until when it may be given as it is; when its life is over
        self.holder: Any = None
        self.waiting: Waiting | None = None  # for whom it is dialled or checked
        self.warned = -inf  # since when it was held when that was told

    def __repr__(self) -> str:
        return f"<Place {self.state} {self.key!r} {self.resource!r}>"


class Waiting:
    """Somebody who waits. ``place`` is what is dialled or checked for it, if anything is."""

    __slots__ = ("number", "peers", "place", "since", "waiter")

    def __init__(self, waiter: Hashable, peers: Keyed, number: int, now: float) -> None:
        self.waiter = waiter
        self.peers = peers
        self.number = number  # in the order in which they came
        self.since = now
        self.place: Place | None = None


class Keyed:
    """What a pool has of one key, and who waits for it."""

    __slots__ = ("failed_at", "failures", "idle", "key", "queued", "spare", "total", "waiting")

    def __init__(self, key: Any) -> None:
        self.key = key
        self.total = 0
        self.idle: list[Place] = []  # the last one was used last
        self.spare: dict[Place, None] = {}  # dialled or checked for nobody
        self.waiting: OrderedDict[Hashable, Waiting] = OrderedDict()  # all of them, the oldest first
        self.queued: OrderedDict[Hashable, Waiting] = OrderedDict()  # those without a place of their own
        self.failures = 0  # dials for nobody that failed in a row
        self.failed_at = -inf


@dataclass(frozen=True, slots=True)
class Give:
    """``waiter`` has ``place`` now. Who cannot take it any more releases it."""

    waiter: Any
    place: Place


@dataclass(frozen=True, slots=True)
class Dial:
    """Dial for ``place``, then say ``dialled`` or ``dial_failed``. ``waiter``: for whom; None: to have one idle."""

    place: Place
    waiter: Any


@dataclass(frozen=True, slots=True)
class Check:
    """See whether ``place`` still works, then say ``checked``. ``waiter``: for whom; None: in the background."""

    place: Place
    waiter: Any


@dataclass(frozen=True, slots=True)
class Close:
    """Close the resource of ``place``, which is none of the pool's any more. ``held``: somebody still has it."""

    place: Place
    why: ClosedBecause
    held: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """``waiter`` gets nothing. ``error`` is that of the dial, where one failed."""

    waiter: Any
    key: Any
    why: RefusedBecause
    waited: float
    error: Any = None


@dataclass(frozen=True, slots=True)
class Warn:
    """``place`` is held for ``seconds`` already. Said once each time."""

    place: Place
    seconds: float


Action = Give | Dial | Check | Close | Refuse | Warn
