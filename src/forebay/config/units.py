"""Durations, sizes and rates as people write them, and the numbers they stand for."""

from __future__ import annotations

import math
import re

__all__ = ["parse_duration", "parse_rate", "parse_size"]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_NUMBER = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds of ``"500ms"``, ``"5s"``, ``"1.5m"`` or ``"1h"``; the unit is needed.

    :raises ValueError: with what would be right.
    """
    return _parse(text, _SECONDS, 'a duration is a number with a unit (ms, s, m, h), as in "5s"')


def parse_size(text: str) -> int:
    """Bytes of ``"512B"``, ``"64KiB"`` or ``"10MB"``; the unit is needed.

    :raises ValueError: with what would be right.
    """
    return int(_parse(text, _BYTES, 'a size is a number with a unit (B, KiB, MiB, GiB, KB, MB, GB), as in "64KiB"'))


def parse_rate(text: str) -> float:
    """Per second, of ``"100/s"``, ``"90/m"`` or ``"1000/h"``.

    :raises ValueError: with what would be right.
    """
    count, slash, per = text.partition("/")
    remedy = 'a rate is a number per unit of time (s, m, h), as in "100/s"'
    if not slash or per.strip() not in ("s", "m", "h"):
        raise ValueError(remedy)
    return _parse(count, {"": 1.0}, remedy) / _SECONDS[per.strip()]


def _parse(text: str, units: dict[str, float] | dict[str, int], remedy: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2] not in units:
        raise ValueError(remedy)
    value = float(match[1]) * units[match[2]]
    return value if math.isfinite(value) else 0.0
