"""Instruments, and what they become when somebody looks. Nothing here exports anything."""

from forebay.observe.metrics import Collector, Counter, Family, Gauge, Histogram, Sample, merge

__all__ = ["Collector", "Counter", "Family", "Gauge", "Histogram", "Sample", "merge"]
