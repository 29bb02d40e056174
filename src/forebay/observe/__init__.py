"""Instruments, and what they become when somebody looks. Nothing here exports anything."""

from forebay.observe.metrics import Collector, Counter, Family, Gauge, Histogram, Sample, merge
from forebay.observe.sparing import Sparing

__all__ = ["Collector", "Counter", "Family", "Gauge", "Histogram", "Sample", "Sparing", "merge"]
