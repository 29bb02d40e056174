"""A system to show that does not run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from forebay.admin import Worker
from forebay.observe import Family, Sample


@dataclass
class FakeWorker:
    """A worker, whose process is this one unless said otherwise."""

    name: str = "users@7001"
    index: int = 0
    pid: int = os.getpid()
    state: str = "ready"
    restarts: int = 2
    started_at: float = 40.0
    last_exit: str = "signal 9 (SIGKILL)"


class Fake:
    """A system in whatever state a test needs."""

    def __init__(self) -> None:
        self.name = "the <shop>"
        self.state = "running"
        self.workers: Sequence[Worker] = [FakeWorker()]
        self.started_at = 0.0
        self.last_reload = ""
        self.reasons: list[str] = []
        self.families = [
            Family(
                "forebay_http_requests",
                "counter",
                "Requests.",
                [
                    Sample("_total", (("server", "users"), ("method", "GET"), ("status", "200")), 1234.0),
                    Sample("_total", (("server", "users"), ("method", "GET"), ("status", "503")), 5.0),
                ],
            ),
            Family(
                "forebay_gateway_target_up",
                "gauge",
                "Usable.",
                [
                    Sample("", (("upstream", "users"), ("target", "http://127.0.0.1:7001")), 2.0),
                    Sample("", (("upstream", "users"), ("target", "http://127.0.0.1:7002")), 0.0),
                ],
            ),
        ]

    def unready(self) -> list[str]:
        """What the test said."""
        return self.reasons

    def now(self) -> float:
        """A little after the start."""
        return 3725.0

    async def collect(self) -> list[Family]:
        """What the test said."""
        return self.families
