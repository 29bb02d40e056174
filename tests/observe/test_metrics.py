"""Instruments and the families they become."""

from __future__ import annotations

import msgspec

from forebay.observe import Counter, Family, Gauge, Histogram, Sample, merge


def test_a_histogram_is_cumulative() -> None:
    """Each bucket counts what is at most its bound; the last one counts all."""
    histogram = Histogram((1, 2.5))
    for value in (0.5, 1, 2, 99):
        histogram.observe(value)
    samples = histogram.samples((("a", "b"),))
    assert [(dict(sample.labels).get("le"), sample.value) for sample in samples] == [
        ("1.0", 2),
        ("2.5", 3),
        ("+Inf", 4),
        (None, 102.5),
        (None, 4),
    ]
    assert {sample.suffix for sample in samples} == {"_bucket", "_sum", "_count"}


def test_snapshots_add_up_across_processes() -> None:
    """Same name and labels: the sum; different labels stand side by side; families keep their order."""
    requests, open_now = Counter(), Gauge()
    requests.value = 3
    open_now.value = 2

    def snapshot(worker: str) -> list[Family]:
        families = [
            Family("requests", "counter", "R.", requests.samples((("server", "a"),))),
            Family("open", "gauge", "O.", [Sample("", (("worker", worker),), open_now.value)]),
        ]
        return msgspec.msgpack.decode(msgspec.msgpack.encode(families), type=list[Family])

    merged = merge([snapshot("1"), snapshot("2")])
    assert [family.name for family in merged] == ["requests", "open"]
    assert [sample.value for sample in merged[0].samples] == [6]
    assert [sample.value for sample in merged[1].samples] == [2, 2]
