from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import logging, sys, warnings
import structlog
from forebay.runtime.logs import LogSettings, configure_logging
configure_logging(LogSettings({level!r}, {form!r}), worker="users@7001#0")
log = structlog.get_logger("forebay.test")
log.debug("hidden", a=1)
log.warning("worker died", worker="x y", code=9, fine=True)
logging.getLogger("app").warning("said %s", "hello", extra={{"b": 2}})
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
"""


HELD_BACK = """
import logging
import structlog
from forebay.runtime.logs import HeldBack, LogSettings, configure_logging
configure_logging(LogSettings({level!r}, "logfmt"))
log = structlog.get_logger("forebay.test")
held_back = HeldBack()
log.info("one")
{then}
log.info("two")
"""


def held_back(then: str, level: str = "info") -> list[str]:
    """Which events come out of a program that holds them back, and then does something else."""
    command = [sys.executable, "-c", HELD_BACK.format(level=level, then=then)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return [line.rpartition("event=")[2] for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    ("then", "shown"),
    [
        ("held_back.release()", ["one", "two"]),
        ("held_back.discard()", ["two"]),
        ("held_back.discard(); raise SystemExit(0)", []),
        ("log.warning('early'); held_back.discard()", ["one", "early", "two"]),
        ("held_back.release(); held_back.discard()", ["one", "two"]),
    ],
)
def test_a_start_holds_back_what_it_logs(then: str, shown: list[str]) -> None:
    """Until it is known how it went; a warning is not for later."""
    assert held_back(then) == shown


def test_debugging_holds_nothing_back() -> None:
    """Who debugs a start wants to see where it hangs."""
    assert held_back("raise SystemExit(0)", "debug") == ["one"]


def lines(form: str, level: str = "info") -> list[str]:
    """What a process with this form logs."""
    command = [sys.executable, "-c", PROGRAM.format(form=form, level=level)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_is_one_object_per_event() -> None:
    """From structlog and from logging alike, tracebacks included; each with its process."""
    events: list[dict[str, Any]] = [json.loads(line) for line in lines("json")]
    assert [event["event"] for event in events] == ["worker died", "said hello", "failed"]
    assert all(event["process"] == "users@7001#0" and event["time"].endswith("Z") for event in events)
    assert (events[0]["level"], events[0]["logger"], events[0]["worker"]) == ("warning", "forebay.test", "x y")
    assert events[1]["b"] == 2
    assert "ZeroDivisionError" in events[2]["exception"]


@pytest.mark.parametrize("form", ["logfmt", "auto"])
def test_logfmt_is_what_a_file_gets(form: str) -> None:
    """``auto`` is logfmt where there is no terminal."""
    first = lines(form)[0]
    assert first.startswith("time=2")
    assert 'level=warning process=users@7001#0 logger=forebay.test event="worker died"' in first
    assert 'worker="x y"' in first
    assert "fine=true" in first


def test_console_is_for_people() -> None:
    """And is chosen also where there is no terminal."""
    assert "worker died" in lines("console")[0]


def test_the_level_is_kept() -> None:
    """Debug events are there when asked for."""
    assert "hidden" in lines("logfmt", "debug")[0]
