"""Whether work that failed may be tried again."""

from __future__ import annotations

from dataclasses import dataclass

from forebay.errors import ForebayError, RetryClass

__all__ = ["IDEMPOTENT", "Retry"]

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})
"""Methods that may be processed twice with the effect of once (RFC 9110 section 9.2.2)."""


@dataclass(frozen=True, slots=True)
class Retry:
    """When to try again.

    :param attempts: tries in all, the first one included; 1 turns retrying off.
    """

    attempts: int = 2

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts {self.attempts}: must be at least 1")

    def again(self, error: ForebayError, *, method: str, attempt: int) -> bool:
        """Whether to try again after ``error`` ended try number ``attempt`` (the first is 1).

        Work of which nothing was processed may go again whatever it is; work of which something may have been, only
        when its method is idempotent.
        """
        if attempt >= self.attempts:
            return False
        if error.retry is RetryClass.MAYBE:
            return method in IDEMPOTENT
        return error.retry is RetryClass.SAFE
