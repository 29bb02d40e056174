"""Instruments that cost an addition, and the families they become when somebody looks.

On the hot path an instrument is a plain number on a ``__slots__`` object: ``requests.value += 1``. Whoever owns
instruments offers ``collect() -> list[Family]``, called when metrics are scraped. Families travel between processes
(they are msgspec structs) and :func:`merge` adds them up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec

__all__ = ["DURATION_BOUNDS", "Collector", "Counter", "Family", "Gauge", "Histogram", "Sample", "merge"]

Labels = tuple[tuple[str, str], ...]

DURATION_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of duration histograms, in seconds."""


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One number. ``suffix`` is appended to the family name: ``_total``, ``_bucket``, ``_sum``, ``_count`` or none."""

    suffix: str
    labels: Labels
    value: float


class Family(msgspec.Struct, array_like=True):
    """All samples of one metric. ``name`` has no suffix; its unit is part of it (``_seconds``, ``_bytes``)."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: list[Sample]


@runtime_checkable
class Collector(Protocol):
    """Something that has metrics to show."""

    def collect(self) -> Iterable[Family]:
        """The families as they are now. Called on the loop, so it does not wait for anything."""


class Counter:
    """Only goes up: ``counter.value += 1``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def samples(self, labels: Labels = ()) -> list[Sample]:
        """As samples of a family."""
        return [Sample("_total", labels, self.value)]


class Gauge:
    """Goes up and down: ``gauge.value = 3``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def samples(self, labels: Labels = ()) -> list[Sample]:
        """As samples of a family."""
        return [Sample("", labels, self.value)]


class Histogram:
    """Counts observations by upper bound.

    :param bounds: ascending upper bounds, without infinity.
    """

    __slots__ = ("bounds", "counts", "lowest", "sum")

    def __init__(self, bounds: Sequence[float] = DURATION_BOUNDS) -> None:
        self.bounds = tuple(bounds)
        self.lowest = self.bounds[0]
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count ``value``, in the unit of the bounds."""
        self.counts[0 if value <= self.lowest else bisect_left(self.bounds, value)] += 1
        self.sum += value

    def samples(self, labels: Labels = ()) -> list[Sample]:
        """As samples of a family: cumulative buckets, sum and count."""
        made = []
        running = 0
        for bound, count in zip((*map(_bound_text, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            made.append(Sample("_bucket", (*labels, ("le", bound)), running))
        made.append(Sample("_sum", labels, self.sum))
        made.append(Sample("_count", labels, running))
        return made


def _bound_text(bound: float) -> str:
    return repr(float(bound))


def merge(snapshots: Iterable[Iterable[Family]]) -> list[Family]:
    """Add the samples of several snapshots up, family by family and label set by label set.

    Families keep the order in which they are first seen. Used over workers, and to keep what ended workers counted.
    """
    families: dict[str, Family] = {}
    totals: dict[str, dict[tuple[str, Labels], float]] = {}
    for snapshot in snapshots:
        for family in snapshot:
            if family.name not in families:
                families[family.name] = family
                totals[family.name] = {}
            sums = totals[family.name]
            for sample in family.samples:
                key = (sample.suffix, sample.labels)
                sums[key] = sums.get(key, 0) + sample.value
    return [
        Family(family.name, family.kind, family.help, [Sample(*key, value) for key, value in totals[name].items()])
        for name, family in families.items()
    ]
