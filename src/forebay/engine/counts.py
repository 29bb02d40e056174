"""What a server of connections has counted, as numbers and as metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from forebay.engine.connection import Connection
from forebay.engine.handler import CloseReason
from forebay.observe.metrics import Family, Sample

__all__ = ["Counts", "counter", "gauge", "labelled"]

_SUMMED = ("bytes_in", "bytes_out", "messages_in", "messages_out", "messages_dropped", "writes_dropped")


class Counts:
    """Counters of the connections that are gone, and of why they went."""

    def __init__(self) -> None:
        self.accepted = 0
        self.closed: Counter[CloseReason] = Counter()
        self._gone = dict.fromkeys(_SUMMED, 0)

    def add(self, conn: Connection) -> None:
        """Keep what ``conn`` has counted: it is gone."""
        for name in _SUMMED:
            self._gone[name] += getattr(conn, name)
        if conn.close_reason is not None:
            self.closed[conn.close_reason] += 1

    def totals(self, open_ones: Iterable[Connection]) -> dict[str, int]:
        """The sums over all connections there ever were."""
        totals = dict(self._gone)
        for conn in open_ones:
            for name in _SUMMED:
                totals[name] += getattr(conn, name)
        return totals


def counter(name: str, help_text: str, server: str, value: float) -> Family:
    """One counter of a server."""
    return Family(name, "counter", help_text, [Sample("_total", (("server", server),), value)])


def gauge(name: str, help_text: str, server: str, value: float) -> Family:
    """One gauge of a server."""
    return Family(name, "gauge", help_text, [Sample("", (("server", server),), value)])


def labelled(name: str, help_text: str, server: str, label: str, values: Mapping[Any, int]) -> Family:
    """A counter of a server, split up by a label that takes few values."""
    samples = [Sample("_total", (("server", server), (label, str(key))), n) for key, n in sorted(values.items())]
    return Family(name, "counter", help_text, samples)
