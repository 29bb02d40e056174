"""Both engines: 30 seconds of fuzzing in all, and what they do with what they find."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import frames, parts, requests, responses
from fuzz.engines import ROOT
from fuzz.target import Target, byte_by_byte, decode, encode
from tests.fuzz import planted

SECONDS = 3
TARGETS = [requests.TARGET, responses.TARGET, frames.TARGET, parts.TARGET]


def fuzz(module: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=55
    )


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.module)
def test_the_grammar_finds_nothing(target: Target, tmp_path: Path) -> None:
    """A few seconds of hypothesis: whatever the two readings differ in has a written reason."""
    run = fuzz(target.module, "--engine", "hypothesis", "--seconds", str(SECONDS), "--found", str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    summary = re.fullmatch(
        rf"{target.module} by hypothesis: ok: (\d+) executions in \d+ s; permitted: .+\n", run.stdout
    )
    assert summary, run.stdout
    assert int(summary[1]) >= 50
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.module)
def test_coverage_finds_nothing(target: Target, tmp_path: Path) -> None:
    """A few seconds of libFuzzer, which begins with every seed and sees the branches of our reader."""
    run = fuzz(target.module, "--engine", "coverage", "--seconds", str(SECONDS), "--found", str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    summary = re.fullmatch(
        rf"{target.module} by coverage: ok: (\d+) executions in \d+ s, corpus (\d+), coverage (\d+); permitted: .+\n",
        run.stdout,
    )
    assert summary, run.stdout
    executions, corpus, coverage = map(int, summary.groups())
    assert executions > len(target.seeds())
    assert corpus > 50
    assert coverage > 200
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ["hypothesis", "coverage"])
def test_what_is_found_is_shown_and_kept(engine: str, tmp_path: Path) -> None:
    """The code is 1; the input is in a file and in words, and that file shows it again."""
    run = fuzz("tests.fuzz.planted", "--engine", engine, "--seconds", "20", "--found", str(tmp_path / "new"))
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"tests.fuzz.planted by {engine}: FAILED: " in run.stdout
    (file,) = (tmp_path / "new").iterdir()
    data = file.read_bytes()
    assert planted.NEEDLE in data
    assert f"Disagreement: the needle\n  input: {data!r}\n  kept in {file}; again: python -m" in run.stderr
    again = fuzz("tests.fuzz.planted", "--again", str(file))
    assert again.returncode == 1
    assert "Disagreement: the needle" in again.stderr
    if engine == "hypothesis":
        assert data == planted.NEEDLE, "hypothesis makes it small"


def test_an_input_that_shows_nothing_any_more(tmp_path: Path) -> None:
    """After a correction: read again, it says what is permitted of it, and the code is 0."""
    file = tmp_path / "input"
    file.write_bytes(b"xyz")
    run = fuzz("tests.fuzz.planted", "--again", str(file))
    assert (run.returncode, run.stdout) == (0, "permitted: no-needle\n")


def test_an_input_is_flags_cuts_and_a_stream() -> None:
    """What is encoded comes back, cut in the places that were said; any bytes are an input."""
    assert decode(encode(31, [3, 1, 3, 0, 7], b"abcdef")) == (31, [b"a", b"bc", b"def"])
    assert decode(encode(0, [], b"abc")) == (0, [b"abc"])
    assert decode(b"") == (0, [])
    assert decode(b"\x07\x00") == (0, [])
    assert byte_by_byte(b"abc") == [b"a", b"b", b"c"]
