"""How long the answer to a request may take: what its route says, and what its client says that it waits."""

from __future__ import annotations

from math import inf

from forebay.engine.loop import now
from forebay.http.exchange import Exchange
from forebay.policy.deadline import deadline, parse_header

__all__ = ["begin_deadline", "is_handshake", "patience_of"]


def patience_of(exchange: Exchange) -> float:
    """The seconds that the client of ``exchange`` waits for its answer, as it said with ``Request-Timeout-Ms``;
    ``inf``: it did not say, or what it said is no number. It can only shorten what is given to it."""
    seconds = parse_header(exchange.fields.timeout)
    return inf if seconds is None else seconds


def is_handshake(exchange: Exchange) -> bool:
    """Whether it asks for a WebSocket. That is to be opened in time, but it lives on, and what is done for it then has
    no deadline."""
    return b"websocket" in exchange.upgrade_to


def begin_deadline(exchange: Exchange, seconds: float | None) -> None:
    """Let the answer be due in ``seconds``, or earlier if the client waits no longer than that, which it has done since
    its request came; 504 past it. To the handler, and to whom it calls, this is the deadline."""
    at = min(exchange.received_at + patience_of(exchange), inf if seconds is None else now() + seconds)
    if at == inf:
        return
    if at < exchange.deadline:  # else it stays exactly what it is: whoever set it compares
        exchange.expire_in(max(0.0, at - now()))
    if not is_handshake(exchange):
        deadline.begin(min(at, exchange.deadline, deadline.current()))
