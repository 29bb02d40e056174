"""How many cores there are to use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forebay.engine import cores
from forebay.engine.cores import core_for, cpu_quota, usable_cores, worker_count


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {"": "150000 100000"}, 1.5),
        ("0::/a/b", {"a": "max 100000", "a/b": "400000 100000"}, 4.0),
        ("0::/a/b", {"a": "200000 100000", "a/b": "400000 100000"}, 2.0),
        ("0::/a/b", {"a": "max 100000", "a/b": "max 100000"}, None),
        ("0::/../../a", {"a": "50000 100000"}, 0.5),
        ("4:memory:/x\n1:cpu:/\n0::/", {}, None),
        ("", {"": "nonsense"}, None),
    ],
)
def test_the_quota_is_the_least_of_all_groups(
    tmp_path: Path, own: str, files: dict[str, str], expected: float | None
) -> None:
    """Those above may allow less; a group without one allows all."""
    for folder, text in files.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "cpu.max").write_text(f"{text}\n")
    (tmp_path / "own").write_text(own)
    assert cpu_quota(tmp_path, tmp_path / "own") == expected
    assert cpu_quota(tmp_path, tmp_path / "nosuch") is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 4), (0.1, 1), (1.5, 2), (4.0, 4), (64.0, 4)])
def test_as_many_workers_as_can_run_at_once(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int
) -> None:
    """One per core, and no more than the quota pays for; always one."""
    monkeypatch.setattr(cores, "usable_cores", lambda: [0, 2, 4, 6])
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert worker_count() == expected
    assert [core_for(index) for index in range(6)] == [0, 2, 4, 6, 0, 2]


def test_usable_cores_are_those_of_this_process() -> None:
    """And not all that the machine has."""
    assert usable_cores() == sorted(os.sched_getaffinity(0))
