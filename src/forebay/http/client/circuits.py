"""The circuits of a client's servers, which tell in the log when they open and close, and why."""

from __future__ import annotations

import structlog

from forebay.policy.breaker import Breaker, BreakerEvent, Circuits, CircuitState

__all__ = ["circuits_of"]

log = structlog.get_logger("forebay.client")


def circuits_of(breaker: Breaker | Circuits | None) -> Circuits | None:
    """What a client was given for its breaker; that of others stays as it is."""
    return Circuits(breaker, on_event=_changed) if isinstance(breaker, Breaker) else breaker


def _changed(event: BreakerEvent) -> None:
    say = log.warning if event.after is CircuitState.OPEN else log.info
    say("circuit", target=event.target, before=event.before.value, after=event.after.value, why=event.why)
