"""The two ways to come by inputs: hypothesis' grammar, and libFuzzer's (atheris) guidance by coverage."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from time import monotonic

from hypothesis import HealthCheck, Phase, Verbosity, given, settings

from fuzz.target import LONGEST, Target

ROOT = Path(__file__).parent.parent

_BATCH = 100  # examples between two looks at the clock
_OVERTIME = 60.0  # seconds past its time after which a run that does not end is ended
_NOISE = ("INFO:", "WARNING:", "Done ", "Dictionary:", "#", '"')  # of libFuzzer
_STATUS = re.compile(r"#(\d+)\s+\S+\s+(?:cov: (\d+) ft: \d+ )?corp: (\d+)/")


@dataclass(slots=True)
class Outcome:
    """What a run came to. ``coverage`` and ``corpus`` are the guided engine's: branches seen, inputs kept."""

    executions: int = 0
    permitted: Counter[str] = field(default_factory=Counter)
    coverage: int = 0
    corpus: int = 0
    seconds: float = 0.0
    failed: bool = False


def record(target: Target, data: bytes, error: BaseException, found: Path) -> str:
    """Keep an input that must not be forgotten, and say what it is."""
    found.mkdir(parents=True, exist_ok=True)
    file = found / f"{target.module.rpartition('.')[2]}-{hashlib.sha256(data).hexdigest()[:12]}"
    file.write_bytes(data)
    return (
        f"{type(error).__name__}: {error}\n  input: {data!r}\n"
        f"  kept in {file}; again: python -m {target.module} --again {file}"
    )


def by_hypothesis(target: Target, seconds: float, found: Path, say: Callable[[str], None]) -> Outcome:
    """The target's own inputs, for so long. What is found is made as small as it can be."""
    outcome = Outcome()
    start = said = monotonic()
    last: list[bytes] = []

    @settings(
        max_examples=_BATCH,
        deadline=None,
        database=None,
        derandomize=False,
        verbosity=Verbosity.quiet,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def batch(data: bytes) -> None:
        last[:] = [data]
        outcome.executions += 1
        outcome.permitted.update(target.check(data))

    while monotonic() - start < seconds:
        try:
            batch()
        except Exception as error:
            say(record(target, last[0], error, found))
            outcome.failed = True
            break
        if monotonic() - said >= 10:
            said = monotonic()
            say(f"{target.module}: {outcome.executions} executions")
    outcome.seconds = monotonic() - start
    return outcome


def by_coverage(target: Target, seconds: float, found: Path, say: Callable[[str], None]) -> Outcome:
    """libFuzzer, from the target's seeds, in a process of its own, which is how it ends: for so long."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        work = Path(name)
        corpus, words, tally = work / "corpus", work / "words", work / "tally"
        corpus.mkdir()
        for number, seed in enumerate(target.seeds()):
            (corpus / f"seed-{number:04}").write_bytes(seed)
        words.write_text("".join(map(_entry, target.words)))
        return _guided(target, seconds, [found, tally], [words, work, corpus], say)


def _entry(word: bytes) -> str:
    """A line of libFuzzer's dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


def _guided(
    target: Target, seconds: float, ours: list[Path], theirs: list[Path], say: Callable[[str], None]
) -> Outcome:
    words, work, corpus = theirs
    outcome = Outcome()
    start = said = monotonic()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "fuzz.guided", target.module, *map(str, ours)),
            *(f"-max_total_time={max(1, round(seconds))}", f"-max_len={LONGEST}", "-timeout=20", "-rss_limit_mb=2048"),
            *(f"-dict={words}", f"-artifact_prefix={work}/", str(corpus)),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    timer = Timer(seconds + _OVERTIME, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if match := _STATUS.match(line):
                outcome.executions, outcome.corpus = int(match[1]), int(match[3])
                outcome.coverage = int(match[2] or 0)
                if monotonic() - said >= 10:
                    said = monotonic()
                    say(f"{target.module}: {line.strip()}")
            elif not line.startswith(_NOISE):
                say(line.rstrip())
        outcome.failed = process.wait() != 0
    finally:
        timer.cancel()
        process.kill()
        process.wait()
    if outcome.failed:
        say(f"{target.module}: ended with {process.returncode}")
    tally = ours[1]
    if tally.exists():
        outcome.permitted.update(json.loads(tally.read_text()))
    outcome.seconds = monotonic() - start
    return outcome
