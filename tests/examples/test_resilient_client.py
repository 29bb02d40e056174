"""The client that goes on while its servers do not, run as a user would run it."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.examples.processes import ROOT


def test_every_request_is_answered_whatever_becomes_of_the_servers() -> None:
    """It says what happens, and nothing else: one server is left out when it is slow, another when it fails."""
    command = [sys.executable, "examples/resilient_client.py"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    print(run.stdout)  # for whoever reads a failure
    rounds = [dict(_counts(line)) for line in run.stdout.splitlines() if " answered (" in line]
    assert len(rounds) == 3
    well, slow, failing = rounds
    assert min(well["anna"], well["bert"], well["cleo"]) > 60
    assert (well["failed"], slow["failed"]) == (0, 0)
    assert slow.get("bert", 0) < 60 < min(slow["anna"], slow["cleo"])
    assert failing["failed"] <= 6  # a percent, of a server that fails six in ten
    assert failing["anna"] > 400
    assert re.search(r"^    cleo: up -> ejected: .* 5 failed within 2 s", run.stdout, re.MULTILINE)
    tries = re.search(r"^second tries: (\d+) for 1800 requests$", run.stdout, re.MULTILINE)
    assert tries is not None
    assert 0 < int(tries[1]) <= 1800 * 0.2 + 10  # the budget: a share, and a few that there always are
    assert re.search(r"^    anna: up, \d+ tries, 0 failed$", run.stdout, re.MULTILINE)
    assert re.search(r"^    cleo: \S+, \d+ tries, [1-9]\d* failed$", run.stdout, re.MULTILINE)
    assert not re.search(r"^\d{4}-\d\d-\d\d ", run.stdout, re.MULTILINE)  # no lines of the log


def _counts(line: str) -> list[tuple[str, int]]:
    """Who has answered how much, and how much has failed."""
    found = re.findall(r"(anna|bert|cleo) (\d+)", line)
    failed = re.search(r"(\d+) failed$", line)
    assert failed is not None, line
    return [*((name, int(count)) for name, count in found), ("failed", int(failed[1]))]
