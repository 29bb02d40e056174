"""What a policy says when it does not let something pass."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Refused"]


@dataclass(slots=True)  # not frozen: that makes it three times as dear, and refusals come in floods
class Refused:
    """The verdict of a policy that says no. One that lets something pass returns ``None``: it is the rule, and free.

    :ivar policy: which policy it was: ``breaker``, ``bulkhead``, ``limiter``.
    :ivar reason: why, in a short word that never changes: what is counted under.
    :ivar detail: why, in one line for people, with figures.
    :ivar retry_after: seconds until it is worth another try; 0.0: not known.
    """

    policy: str
    reason: str
    detail: str
    retry_after: float = 0.0

    def __str__(self) -> str:
        return f"{self.policy}: {self.detail}"
