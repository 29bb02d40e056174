from __future__ import annotations

import subprocess

import pytest

from forebay.admin.exposition import expose
from forebay.admin.process import process_families, worker_families
from forebay.observe import Counter, Family, Gauge, Histogram, merge
from tests.admin.fake import Fake, FakeWorker


def families() -> list[Family]:
    """One of each kind, and what admin adds of its own."""
    counter, gauge, histogram = Counter(), Gauge(), Histogram((0.1, 1.0))
    counter.value = 7
    gauge.value = 2.5
    for seconds in (0.05, 0.5, 5.0):
        histogram.observe(seconds)
    path = (("path", 'a"b\\c\nd'),)
    return merge(
        [
            process_families(),
            worker_families([FakeWorker()]),
            [
                Family("forebay_test_requests", "counter", "Requests.", counter.samples(path)),
                Family("forebay_test_open", "gauge", "Open now.", gauge.samples()),
                Family("forebay_test_seconds", "histogram", "Time taken.", histogram.samples(path)),
                Family("forebay_test_nothing", "counter", "Never counted.", []),
            ],
        ]
    )


def test_promtool_accepts_it() -> None:
    """Prometheus' own linter has nothing to say, on names, help, types or escaping."""
    body, content_type = expose(families(), "")
    assert content_type.startswith("text/plain")
    checked = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, timeout=30)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_every_sample_is_there() -> None:
    """With its suffix, labels and value."""
    text = expose(families(), "")[0].decode()
    assert 'forebay_test_requests_total{path="a\\"b\\\\c\\nd"} 7.0' in text
    assert "# TYPE forebay_test_requests_total counter" in text
    assert "forebay_test_open 2.5" in text
    assert 'forebay_test_seconds_bucket{le="+Inf",path="a\\"b\\\\c\\nd"} 3.0' in text
    assert 'forebay_test_seconds_count{path="a\\"b\\\\c\\nd"} 3.0' in text
    assert "forebay_build_info{" in text
    assert "process_resident_memory_bytes " in text


def test_openmetrics_for_who_asks_for_it() -> None:
    """As Prometheus does."""
    body, content_type = expose(families(), "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_workers_are_counted_by_state() -> None:
    """What they use is read where there is a process; one that drains is not the one in its place."""
    system = Fake()
    system.workers = [
        FakeWorker(),
        FakeWorker(state="draining"),
        FakeWorker(index=1, pid=0, state="backoff"),
        FakeWorker(index=2, pid=2**22 + 1),  # gone in this moment
    ]
    found = {family.name: family.samples for family in worker_families(system.workers)}
    states = {dict(sample.labels)["state"]: sample.value for sample in found["forebay_workers"]}
    assert states == {"ready": 2, "draining": 1, "backoff": 1}
    (memory,) = found["forebay_worker_resident_memory_bytes"]
    assert dict(memory.labels) == {"worker": "users@7001#0"}
    assert memory.value == pytest.approx(_resident_memory(), rel=0.5)
    (cpu,) = found["forebay_worker_cpu_seconds"]
    assert cpu.value > 0


def _resident_memory() -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024.0 for line in file if line.startswith("VmRSS"))
