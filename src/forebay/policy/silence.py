"""How long somebody who should say something has said nothing, for a listener that may itself have been asleep."""

from __future__ import annotations

__all__ = ["Silence"]


class Silence:
    """Counts the seconds of silence in ticks of the listener.

    A tick counts for at most twice its length: a listener that was suspended, or too busy to look, has heard nothing in
    that time whatever was said, and takes it for its own fault.

    :param limit: seconds of silence that are too many.
    :param tick: seconds between two calls of :meth:`tick`, when all is well.
    :param now: seconds, on any clock that does not go back.
    """

    __slots__ = ("_longest", "_ticked_at", "limit", "seconds")

    def __init__(self, limit: float, tick: float, now: float) -> None:
        self.limit = limit
        self.seconds = 0.0
        self._longest = 2 * tick
        self._ticked_at = now

    def tick(self, now: float, *, heard: bool) -> bool:
        """Look whether the silence is too long. Called regularly.

        :param heard: whether something was said since the last call.
        """
        passed = min(now - self._ticked_at, self._longest)
        self._ticked_at = now
        self.seconds = 0.0 if heard else self.seconds + passed
        return self.seconds >= self.limit
