"""What the long runs end with: each target, what was measured, and whether it is met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

__all__ = ["Verdict", "finish"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target."""

    what: str
    measured: str
    target: str
    met: bool


def finish(console: Console, verdicts: Sequence[Verdict]) -> int:
    """Print them; the exit code is 0 when all are met, else 1."""
    for verdict in verdicts:
        word = "met" if verdict.met else "missed"
        style = "green" if verdict.met else "red"
        console.print(f"{verdict.what}: {verdict.measured} (target: {verdict.target}): {word}", style=style)
    return 0 if all(verdict.met for verdict in verdicts) else 1
