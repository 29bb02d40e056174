"""Examples that are run as a user would run them: ``forebay run``, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support import eventually

ROOT = Path(__file__).parent.parent.parent


@asynccontextmanager
async def forebay_run(target: str, log: Path, *options: str, **environment: str) -> AsyncIterator[str]:
    """``forebay run target``, from its readiness to a SIGTERM, after which it has to exit with 0. Gives the log."""
    command = [sys.executable, "-m", "forebay", "run", target, "--admin", "off", "--log-format", "json", *options]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=output)
    try:
        await eventually(lambda: '"ready"' in log.read_text() or process.poll() is not None, timeout=30)
        assert process.poll() is None, log.read_text()
        yield log.read_text()
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: process.poll() is not None, timeout=20)
        assert process.returncode == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
