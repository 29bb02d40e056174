"""A time limit for answers."""

from __future__ import annotations

from math import inf, isfinite

from forebay.engine.loop import now
from forebay.http.deadlines import is_handshake
from forebay.http.exchange import Exchange
from forebay.http.messages import Next, Request, Response
from forebay.policy.deadline import deadline

__all__ = ["Timeout"]

_STREAM = "forebay.timeout.stream"  # in request.state: when the stream must have ended, loop time


class Timeout:
    """Ends requests that take too long: the client gets 504 (RFC 9110 section 15.6.5), the handler is cancelled.

    The time begins when the request arrives here, and reading the request's content is part of it. It is the server's
    deadline that is moved (``Exchange.expire_in``), so it costs no timer: it is at most 200 ms late, and the 504 has
    no headers of other middleware. A handler that blocks the loop cannot be cancelled, one that has taken up a
    WebSocket has answered.

    To the handler, and to whom it calls, it is the deadline (:class:`forebay.policy.deadline`).
    Of several the shortest counts, and so does a time limit of the server itself. None comes before all of them.

    :param seconds: for the answer; above 0. None: no limit here, whatever was said further out, as a stream of events
        needs it.
    :param streams: False (default): the time is over when the handler has returned a response, and a stream or a file
        may take as long as it needs. True: it must be sent by then, or the connection is cut.
    :raises ValueError: ``seconds`` is not above 0, or not finite.
    """

    __slots__ = ("_seconds", "_streams")

    def __init__(self, seconds: float | None, *, streams: bool = False) -> None:
        if seconds is not None and not (seconds > 0 and isfinite(seconds)):
            raise ValueError(f"Timeout: seconds={seconds} must be above 0 and finite, or None")
        self._seconds = seconds
        self._streams = streams

    def __repr__(self) -> str:
        return f"Timeout({self._seconds}, streams={self._streams})"

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Answer in time."""
        exchange = request.exchange
        if self._seconds is None:
            exchange.expire_in(None)
            deadline.begin(inf)
            return await call_next(request)
        before = exchange.deadline
        own = now() + self._seconds
        shorter = own < before
        if shorter:
            exchange.expire_in(self._seconds)
            own = exchange.deadline
        try:
            with deadline.until(inf if is_handshake(exchange) else own):
                response = await call_next(request)
            if self._streams:
                state = request.state
                state[_STREAM] = min(own, state.get(_STREAM, inf))
        finally:
            if shorter and exchange.deadline == own and not exchange.finished:  # else somebody further in has moved it
                _set(exchange, min(before, request.state.get(_STREAM, inf)))
        return response


def _set(exchange: Exchange, deadline: float) -> None:
    exchange.deadline = deadline  # exactly: whoever set it compares
    if deadline != inf:
        exchange.link.expire(exchange)
