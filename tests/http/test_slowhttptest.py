"""slowhttptest's four attacks on ``forebay run`` with its default settings: whoever else asks is answered, and soon.

Each takes 5 s here with 200 connections. ``FOREBAY_SOAK_ROUNDS=1 .venv/bin/pytest -s tests/http/test_slowhttptest.py``
has them take 25 s with 500, which is longer than the timeouts they run into; ``-s`` shows the numbers.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import eventually, free_port, raw_client

ROOT = Path(__file__).parent.parent.parent
LONG = "FOREBAY_SOAK_ROUNDS" in os.environ
SECONDS, CONNECTIONS = (25, 500) if LONG else (5, 200)
QUIET = SECONDS / 5  # seconds measured before the attack

P99 = 0.1
"""Seconds within which 99 of 100 answers have come, over connections that are open and over new ones."""

pytestmark = [pytest.mark.alone, pytest.mark.timeout(60 + 4 * SECONDS)]


@dataclass
class Attack:
    """One of slowhttptest's modes: its options, and the reason its connections are closed for when it lasts."""

    options: str
    refused: str = ""


ATTACKS = {
    "slow headers": Attack("-H -i 1 -u {url}/hello", "head-timeout"),
    "slow body": Attack("-B -i 1 -s 8192 -x 4 -u {url}/upload", "body-rate"),
    "ranges": Attack("-R -t GET -a 5 -b 2000 -u {url}/file"),
    "slow read": Attack("-X -n 1 -w 1 -y 512 -z 5 -k 3 -u {url}/large"),
}


@dataclass
class Program:
    """``forebay run`` at work."""

    port: int
    admin: int

    async def counts(self, family: str) -> Counter[str]:
        """What a family of metrics of the server says, by reason where it has reasons."""
        async with raw_client(self.admin) as client:
            await client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            status, _, shown = await client.response()
        assert status == 200
        found: Counter[str] = Counter()
        for labels, value in re.findall(rf"^{family}_total{{(.*)}} (\d+)", shown.decode(), re.MULTILINE):
            if 'server="slow_app"' in labels:
                reason = re.search(r'reason="(.*?)"', labels)
                found[reason[1] if reason else ""] += int(value)
        return found


@asynccontextmanager
async def running_program(folder: Path) -> AsyncIterator[Program]:
    """``forebay run`` with default settings, from the moment it is ready."""
    program, log = Program(free_port(), free_port()), folder / "log"
    bind, admin = f"http://127.0.0.1:{program.port}", f"127.0.0.1:{program.admin}"
    arguments = ["run", "tests.http.slow_app:app", "--bind", bind, "--admin", admin]
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "forebay", *arguments, cwd=ROOT, stdout=out, stderr=out
        )
    try:
        await eventually(lambda: b"ready" in log.read_bytes() or process.returncode is not None, 30)
        assert process.returncode is None, log.read_text()
        yield program
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ask_for(port: int, seconds: float) -> list[float]:
    """How long each answer took, sorted. A failure of any of them fails the test."""
    took = []
    end = time.monotonic() + seconds
    async with raw_client(port) as lasting:
        while time.monotonic() < end:
            begin = time.monotonic()
            assert (await lasting.get("/hello"))[2] == b"hello"
            took.append(time.monotonic() - begin)
            begin = time.monotonic()
            async with raw_client(port) as new:
                assert (await new.get("/hello"))[2] == b"hello"
            took.append(time.monotonic() - begin)
            await asyncio.sleep(0.005)
    return sorted(took)


@pytest.mark.parametrize("name", ATTACKS)
async def test_others_are_answered_during(name: str, tmp_path: Path) -> None:
    """None of them fails, and the slowest of a hundred takes little longer than without the attack."""
    attack = ATTACKS[name]
    async with running_program(tmp_path) as program:
        port = program.port
        await ask_for(port, 0.2)
        without = await ask_for(port, QUIET)
        before = await program.counts("forebay_tcp_accepted")
        options = attack.options.format(url=f"http://127.0.0.1:{port}").split()
        process = await asyncio.create_subprocess_exec(
            "slowhttptest", *options, "-c", str(CONNECTIONS), "-r", "100", "-l", str(SECONDS), "-p", "2",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            saying = asyncio.create_task(process.communicate())
            during = await ask_for(port, SECONDS - 0.5)
            said = (await asyncio.wait_for(saying, 30))[0].decode(errors="replace")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        own = 1 + len(during) // 2
        attacking = (await program.counts("forebay_tcp_accepted") - before)[""] - own
        refused = await program.counts("forebay_http_refused")
        print(
            f"\n{name}: {attacking} connections; p99 {_p99(without) * 1000:.1f} ms without, "
            f"{_p99(during) * 1000:.1f} ms during {len(during)} requests, at most {during[-1] * 1000:.0f} ms; "
            f"refused {dict(refused)}, closed {dict(await program.counts('forebay_tcp_closed'))}"
        )
        assert attacking >= CONNECTIONS
        plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
        assert re.search(r"service available: *YES", plain), plain
        assert not re.search(r"service available: *NO", plain), plain
        assert _p99(during) < P99
        if LONG and attack.refused:
            assert refused.keys() == {attack.refused}


def _p99(took: list[float]) -> float:
    return took[int(len(took) * 0.99)]
