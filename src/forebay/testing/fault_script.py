"""Faults as text, and scripts: what changes when.

A script is TOML: a list of steps, each with its time and what it changes. Durations, sizes and rates have units;
``"off"`` switches one thing off. What stands in ``up`` or ``down`` is for one direction, what stands beside them for
both. ::

    loops = 2                  # how often it is played; 0: for ever; once, if left out

    [[step]]
    at = "0s"
    latency = "200ms"
    down = {bandwidth = "100KB/s"}

    [[step]]
    at = "5s"
    clear = true
    reset = true
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forebay.config.units import parse_duration, parse_size
from forebay.testing.faults import SETTINGS, unknown

__all__ = [
    "Change",
    "Script",
    "check_change",
    "check_flapping",
    "parse_faults",
    "parse_flapping",
    "parse_setting",
    "read_script",
]

Change = Mapping[str, Any]
"""What a step does: settings of both directions by name, ``up`` and ``down`` (settings of one), :data:`ACTIONS`."""

ACTIONS = ("clear", "cut_after", "refuse", "flapping", "half_close", "reset")
"""What a step may do besides, in the order in which it is done."""

_DIRECTIONS = ("up", "down")
_VALID = (*SETTINGS, *_DIRECTIONS, *ACTIONS)
_OFF = {"cut_after": None, "flapping": None, "clear": False, "refuse": False, "half_close": False, "reset": False}


@dataclass(frozen=True, slots=True)
class Script:
    """Steps, each ``(at, changes)``, with ``at`` in seconds since the script, or its turn of the loop, began.

    :param loops: how often it is played; 0: for ever. A turn ends with its last step.
    :raises ValueError: a step is not one, with its number and what would be valid.
    """

    steps: Sequence[tuple[float, Change]]
    loops: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(_checked_steps(self.steps)))
        if isinstance(self.loops, bool) or not isinstance(self.loops, int) or self.loops < 0:
            raise ValueError(f"loops {self.loops!r}: must be a whole number, at least 0 (for ever)")
        last = 0.0
        for number, (at, change) in enumerate(self.steps, 1):
            try:
                _check_time(at, last)
                check_change(change)
            except ValueError as error:
                raise ValueError(f"step {number}: {error}") from None
            last = at
        if self.loops == 0 and last == 0:
            raise ValueError("a script that is played for ever must have a last step later than 0 seconds")


def _checked_steps(steps: Iterable[Any]) -> Iterable[tuple[float, Change]]:
    for number, step in enumerate(steps, 1):
        try:
            at, change = step
            yield at, dict(change)
        except (TypeError, ValueError):
            raise ValueError(f"step {number}: {step!r}: must be a time and what changes then, by name") from None


def _check_time(at: Any, last: float) -> None:
    SETTINGS["latency"].checked("at", at)
    if at < last:
        raise ValueError(f"at {at!r}: must not be before the step above, which is at {last!r}")


def check_change(change: Change) -> None:
    """Find out whether this can be done.

    :raises ValueError: it cannot, with what is valid.
    """
    for name, value in change.items():
        if name in SETTINGS:
            SETTINGS[name].checked(name, value)
        elif name in _DIRECTIONS:
            if not isinstance(value, Mapping):
                raise ValueError(f"{name} {value!r}: must be faults of that direction, by name")
            for inner, setting in value.items():
                if inner not in SETTINGS:
                    raise ValueError(f"{name}: {unknown(inner, SETTINGS)}")
                SETTINGS[inner].checked(f"{name}.{inner}", setting)
        elif name == "cut_after":
            SETTINGS["limit"].checked(name, value)
        elif name == "flapping":
            check_flapping(value)
        elif name in ACTIONS:
            SETTINGS["black_hole"].checked(name, value)
        else:
            raise ValueError(unknown(name, _VALID))


def check_flapping(value: Any) -> tuple[float, float] | None:
    """Seconds up and seconds down.

    :raises ValueError: that is something else.
    """
    if value is None:
        return None
    try:
        up, down = (float(SETTINGS["latency"].checked("flapping", one)) for one in value)
    except (TypeError, ValueError):
        raise ValueError(f"flapping {value!r}: must be seconds up and seconds down, or None") from None
    if up + down <= 0:
        raise ValueError(f"flapping {value!r}: must take some time")
    return up, down


def parse_setting(name: str, text: str) -> tuple[str, Any]:
    """Name and value of a fault that somebody wrote. ``reset_after`` with a size is ``reset_after_bytes``.

    :raises ValueError: with what would be right.
    """
    name = name.strip().replace("-", "_")
    text = text.strip()
    if name not in SETTINGS:
        raise ValueError(unknown(name, SETTINGS))
    setting = SETTINGS[name]
    try:
        value = setting.off if text == "off" else _value(name, setting.unit, text)
    except ValueError as error:
        if name == "reset_after":
            try:
                return "reset_after_bytes", parse_size(text)
            except ValueError:
                remedy = 'give a duration, as in "5s", or a size, as in "64KiB"'
                raise ValueError(f"reset_after '{text}': {remedy}") from None
        raise ValueError(f"{name} '{text}': {error}") from None
    return name, setting.checked(name, value)


def _value(name: str, unit: str, text: str) -> Any:
    if unit == "seconds":
        return parse_duration(text)
    if unit == "bytes":
        return parse_size(text)
    if unit == "bytes per second":
        try:
            return float(parse_size(text.removesuffix("/s")))
        except ValueError:
            raise ValueError('a bandwidth is a size per second, as in "100KB/s"') from None
    if unit == "share":
        return _share(text)
    if text in ("on", "true"):
        return True
    if text == "false":
        return False
    raise ValueError(f"{name} is 'on' or 'off'")


def _share(text: str) -> float:
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError('a share is a number from 0 to 1, or like "30%"') from None


def parse_faults(text: str) -> dict[str, Any]:
    """``"latency=200ms,bandwidth=1MB/s,black_hole"``: settings by name. A switch is on without a value.

    :raises ValueError: with what would be right.
    """
    found = {}
    for part in text.split(","):
        name, given, value = part.partition("=")
        is_switch = (setting := SETTINGS.get(name.strip().replace("-", "_"))) is not None and setting.unit == "switch"
        if setting is not None and not given and not is_switch:
            raise ValueError(f"{name.strip()} has no value; give one, as in latency=200ms")
        name, setting_value = parse_setting(name, value if given else "on")
        found[name] = setting_value
    return found


def parse_flapping(text: str) -> tuple[float, float]:
    """``"10s,500ms"``: seconds up and down.

    :raises ValueError: with what would be right.
    """
    up, comma, down = text.partition(",")
    try:
        if not comma:
            raise ValueError
        return parse_duration(up), parse_duration(down)
    except ValueError:
        raise ValueError(f"'{text}' is not two durations, how long up and how long down, as in 10s,500ms") from None


def read_script(text: str) -> Script:
    """A script from its TOML.

    :raises ValueError: with what would be right, and the number of the step.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"no TOML: {error}") from None
    if left := sorted(found.keys() - {"loops", "step"}):
        raise ValueError(unknown(left[0], ("loops", "step"), "key"))
    steps = found.get("step")
    if not isinstance(steps, list) or not steps:
        raise ValueError("there are no steps; each one begins with [[step]]")
    return Script(list(_steps(steps)), found.get("loops", 1))


def _steps(steps: Iterable[Any]) -> Iterable[tuple[float, Change]]:
    for number, step in enumerate(steps, 1):
        try:
            if not isinstance(step, dict) or "at" not in step:
                raise ValueError('it has no time, as in at = "5s"')
            at = step.pop("at")
            yield (_named("at", at, parse_duration) if isinstance(at, str) else at), _change(step)
        except ValueError as error:
            raise ValueError(f"step {number}: {error}") from None


def _change(step: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in step.items():
        if name in _DIRECTIONS:
            found[name] = _direction(name, value) if isinstance(value, dict) else value
        elif name in _OFF:
            found[name] = _action(name, value)
        elif name in _VALID:
            key, setting = _setting(name, value)
            found[key] = setting
        else:
            raise ValueError(unknown(name, _VALID))
    return found


def _direction(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(_setting(inner, one) for inner, one in settings.items())
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _setting(name: str, value: Any) -> tuple[str, Any]:
    return parse_setting(name, value) if isinstance(value, str) else (name, value)


def _action(name: str, value: Any) -> Any:
    if value == "off":
        return _OFF[name]
    if isinstance(value, str) and name == "cut_after":
        return _named(name, value, parse_size)
    if isinstance(value, str) and name == "flapping":
        return _named(name, value, parse_flapping)
    if isinstance(value, list) and name == "flapping":
        return tuple(_named(name, one, parse_duration) if isinstance(one, str) else one for one in value)
    return value


def _named(name: str, text: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{name} '{text}': {error}") from None
