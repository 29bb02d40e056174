"""What a group of targets needs of outlier detection, which :class:`~forebay.policy.outliers.Outliers` is one of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["OutlierChange", "OutlierJudge"]


class OutlierChange(Protocol):
    """What :class:`OutlierJudge` says about one target."""

    @property
    def name(self) -> str:
        """Of the target."""

    @property
    def factor(self) -> float:
        """Of its weight, from now on."""

    @property
    def ejected(self) -> bool:
        """Whether it is out."""

    @property
    def why(self) -> str:
        """In one line, with figures."""


class OutlierJudge(Protocol):
    """What finds those that do badly next to the others."""

    def add(self, name: str, now: float) -> None:
        """Watch this one."""

    def remove(self, name: str, now: float) -> Sequence[OutlierChange]:
        """Watch it no more."""

    def observe(self, name: str, failed: bool, seconds: float, now: float) -> bool:
        """Take what became of a request. True: it is worth evaluating now."""

    def evaluate(self, now: float) -> Sequence[OutlierChange]:
        """What has changed."""

    def why(self, name: str, now: float) -> str:
        """How this one stands."""
