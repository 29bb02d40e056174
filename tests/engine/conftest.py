"""Fixtures of the tests of worker processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
async def workers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find the tests' entries in their working directory, and use the kind of loop that the test uses."""
    monkeypatch.chdir(ROOT)
    if "uvloop" not in type(asyncio.get_running_loop()).__module__:
        monkeypatch.setenv("FOREBAY_LOOP", "asyncio")
