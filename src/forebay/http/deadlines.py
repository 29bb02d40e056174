"""How long the answer to a request may take: what its route says, and what its client says that it waits."""

from __future__ import annotations

from math import inf

from forebay.engine.loop import now
from forebay.http.exchange import Exchange
from forebay.policy.deadline import deadline, parse_header

__all__ = ["begin_deadline", "patience_of"]


def patience_of(exchange: Exchange) -> float:
    """The seconds that the client of ``exchange`` waits for its answer, as it said with ``Request-Timeout-Ms``;
    ``inf``: it did not say, or what it said is no number. It can only shorten what is given to it."""
    seconds = parse_header(exchange.fields.timeout)
    return inf if seconds is None else seconds


def begin_deadline(exchange: Exchange, seconds: float | None) -> None:
    """Let the answer be due in ``seconds``, or earlier if the client waits no longer than that; 504 past it. To the
    handler, and to whom it calls, this is the deadline."""
    patience = min(patience_of(exchange), inf if seconds is None else seconds)
    if patience == inf:
        return
    at = min(now() + patience, exchange.deadline)
    exchange.expire_in(max(0.0, at - now()))
    deadline.begin(min(at, deadline.current()))
