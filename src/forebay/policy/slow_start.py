"""How much of its work somebody gets who has just come: little at first, and more with time."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SlowStart"]


@dataclass(frozen=True, slots=True)
class SlowStart:
    """The share of its weight that a member has, since it joined or came back.

    It is ``max(min_share, (seconds / window) ** (1 / aggression))``, the curve of Envoy's slow start mode, and 1 from
    the end of the window on. It is given in ``steps``, each being as much as the curve has at its middle: so it changes
    a few times, and not with each choice.

    :param window: seconds until all of the weight. 30: caches warm up, and a JIT compiler has seen enough, in about
        that.
    :param aggression: 1: as much more each second. Above: more at the beginning, less later. Below: the reverse.
    :param min_share: the least, above 0 so that it gets something to warm up with. 0.1.
    :param steps: how many the window is cut into. 20.
    """

    window: float = 30.0
    aggression: float = 1.0
    min_share: float = 0.1
    steps: int = 20

    def __post_init__(self) -> None:
        if not self.window > 0:
            raise ValueError(f"window {self.window}: must be above 0")
        if not self.aggression > 0:
            raise ValueError(f"aggression {self.aggression}: must be above 0")
        if not 0 < self.min_share <= 1:
            raise ValueError(f"min_share {self.min_share}: must be above 0 and at most 1")
        if self.steps < 1:
            raise ValueError(f"steps {self.steps}: must be at least 1")

    def share(self, joined: float, now: float) -> float:
        """The part of its weight, ``min_share`` to 1, at ``now`` for one that came at ``joined``."""
        step = self._step(joined, now)
        if step >= self.steps:
            return 1.0
        part: float = ((step + 0.5) / self.steps) ** (1.0 / self.aggression)
        return max(self.min_share, part)

    def next_step(self, joined: float, now: float) -> float:
        """When the share next changes; infinity after the last step."""
        step = self._step(joined, now)
        return float("inf") if step >= self.steps else joined + (step + 1) * self.window / self.steps

    def _step(self, joined: float, now: float) -> int:
        """Steps that are over."""
        since = now - joined
        if since >= self.window:
            return self.steps
        # what next_step says is in the next one, however it was rounded
        return min(self.steps, int(max(since, 0.0) * self.steps / self.window + 1e-4))
