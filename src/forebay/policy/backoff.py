"""How long to wait before the next try."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays: the first is ``initial``, each further one ``factor`` times the one before, up to ``cap``.

    :param initial: seconds, above 0.
    :param factor: at least 1; with 1 every delay is ``initial``.
    :param cap: seconds, at least ``initial``.
    """

    initial: float = 0.1
    factor: float = 2.0
    cap: float = 10.0

    def __post_init__(self) -> None:
        if self.initial <= 0:
            raise ValueError(f"initial {self.initial}: must be above 0")
        if self.factor < 1:
            raise ValueError(f"factor {self.factor}: must be at least 1")
        if self.cap < self.initial:
            raise ValueError(f"cap {self.cap}: must be at least initial, which is {self.initial}")

    def delay(self, attempt: int) -> float:
        """Seconds to wait before try number ``attempt``; the first wait is number 0.

        :raises ValueError: ``attempt`` is negative.
        """
        if attempt < 0:
            raise ValueError(f"attempt {attempt}: must be at least 0")
        try:
            return min(self.cap, self.initial * self.factor**attempt)
        except OverflowError:  # factor**attempt left the floats long after it passed the cap
            return self.cap
