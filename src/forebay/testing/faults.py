"""What a network may do to one direction of its connections: settings that can be changed at any time, and counters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

__all__ = ["NO_FAULTS", "SETTINGS", "FaultSettings", "Faults", "Setting", "unknown"]

_LARGEST = sys.float_info.max  # larger whole numbers cannot be computed with

Unit = Literal["seconds", "bytes", "bytes per second", "share", "switch"]


@dataclass(frozen=True, slots=True)
class Setting:
    """What one of the settings may be."""

    unit: Unit
    off: float | bool | None
    least: int = 0

    def checked(self, name: str, value: Any) -> Any:
        """``value``, if it is one.

        :raises ValueError: with what would be.
        """
        if value is None and self.off is None:
            return None
        if self.unit == "switch":
            if isinstance(value, bool):
                return value
            raise ValueError(f"{name} {value!r}: must be True or False")
        orders = {
            "seconds": "at least 0",
            "bytes": f"a whole number, at least {self.least}",
            "bytes per second": "greater than 0",
            "share": "from 0 to 1",
        }
        or_none = ", or None" if self.off is None else ""
        if isinstance(value, bool) or not isinstance(value, int if self.unit == "bytes" else (int, float)):
            good = False
        elif self.unit == "bytes per second":
            good = 0 < value <= _LARGEST
        else:
            good = self.least <= value <= _LARGEST and (self.unit != "share" or value <= 1)
        if not good:
            raise ValueError(f"{name} {value!r}: must be {orders[self.unit]} ({self.unit}){or_none}")
        return value


SETTINGS = {
    "latency": Setting("seconds", 0.0),
    "jitter": Setting("seconds", 0.0),
    "bandwidth": Setting("bytes per second", None),
    "slice": Setting("bytes", None, least=1),
    "slice_pause": Setting("seconds", 0.0),
    "reset_after": Setting("seconds", None),
    "reset_after_bytes": Setting("bytes", None),
    "timeout": Setting("seconds", None),
    "black_hole": Setting("switch", False),
    "limit": Setting("bytes", None),
    "share": Setting("share", 1.0),
}
"""What there is to set, by name."""

_COUNTED = tuple(name for name in SETTINGS if name not in ("slice_pause", "share"))


class FaultSettings(TypedDict, total=False):
    """The settings as keywords."""

    latency: float
    jitter: float
    bandwidth: float | None
    slice: int | None
    slice_pause: float
    reset_after: float | None
    reset_after_bytes: int | None
    timeout: float | None
    black_hole: bool
    limit: int | None
    share: float


def unknown(name: object, valid: Iterable[str], what: str = "fault") -> str:
    """What to say of a name that is none of the valid ones."""
    return f"unknown {what} {name!r}: valid are {', '.join(valid)}"


class Faults:
    """The faults of one direction. All are off at first; what is set holds at once, for open connections too.

    ======================  ========================================================================================
    ``latency``             seconds that everything takes longer. What is under way already keeps the one it began
                            with
    ``jitter``              up to so many seconds more, by chance. What was sent first arrives first all the same
    ``bandwidth``           bytes per second and connection; None: no limit
    ``slice``               bytes: data is cut into pieces of at most so many, sent one by one; None: as it comes
    ``slice_pause``         seconds between two pieces
    ``reset_after``         seconds after which connections are reset, from their beginning, or from when this was set;
                            0: at once; None: never
    ``reset_after_bytes``   the connection is reset as soon as so many bytes went this way; None: never
    ``timeout``             nothing passes any more, and the connection is closed, orderly, after so many seconds, which
                            count like those of ``reset_after``; None: never
    ``black_hole``          nothing passes, ends included. It arrives when this is switched off
    ``limit``               the connection is closed, orderly, as soon as so many bytes went this way; None: never
    ``share``               of the connections that have faults, 0 to 1. Each connection draws one number when it comes,
                            for both directions, so a larger share has the connections of a smaller one, and more
    ======================  ========================================================================================

    ``counts``: how often each of them did something: to how many reads (``latency``, ``jitter``) or pieces
    (``bandwidth``, ``slice``), or how many connections it held (``black_hole``, each time) or ended (the others).

    :raises ValueError: a setting is out of its bounds.
    :raises AttributeError: there is none of that name.
    """

    __slots__ = ("_on_change", "counts", *SETTINGS)

    latency: float
    jitter: float
    bandwidth: float | None
    slice: int | None
    slice_pause: float
    reset_after: float | None
    reset_after_bytes: int | None
    timeout: float | None
    black_hole: bool
    limit: int | None
    share: float
    counts: dict[str, int]
    _on_change: Callable[[], None] | None

    def __init__(self, on_change: Callable[[], None] | None = None, **settings: Unpack[FaultSettings]) -> None:
        put = object.__setattr__
        put(self, "_on_change", None)
        put(self, "counts", dict.fromkeys(_COUNTED, 0))
        for name, setting in SETTINGS.items():
            put(self, name, setting.off)
        self.set(**settings)
        put(self, "_on_change", on_change)

    def __repr__(self) -> str:
        return f"Faults({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"

    if not TYPE_CHECKING:  # else names that are none would be good to type checkers

        def __setattr__(self, name: str, value: Any) -> None:
            self._put({name: value})

    def set(self, **settings: Unpack[FaultSettings]) -> None:
        """Change several at once: all of them or, when one is wrong, none."""
        self._put(dict(settings))

    def clear(self) -> None:
        """Switch all faults off."""
        self._put({name: setting.off for name, setting in SETTINGS.items()})

    def settings(self) -> dict[str, Any]:
        """Those that are not as at first."""
        return {name: value for name, one in SETTINGS.items() if (value := getattr(self, name)) != one.off}

    def _put(self, settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            if name not in SETTINGS:
                raise AttributeError(unknown(name, SETTINGS))
            SETTINGS[name].checked(name, value)
        for name, value in settings.items():
            object.__setattr__(self, name, value)
        if self._on_change is not None:
            self._on_change()


NO_FAULTS = Faults()
"""Those of a connection that has none. Not to be changed."""
