"""Lines in the log about the requests of a client."""

from __future__ import annotations

from math import inf
from typing import Any, Literal, get_args

import structlog

from forebay.chain import Handler
from forebay.engine.loop import Cancelled, now
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.secret_fields import SECRETS
from forebay.http.client.trace import Step, Trace
from forebay.observe.sparing import Sparing

__all__ = ["Level", "Logging"]

Level = Literal["debug", "info", "warning", "error"]

_TRIED_AGAIN = (Step.RETRY, Step.REPLAY)
_DIGITS = 18  # of a length that can be
_REASON = 1000  # characters of an error's text


class Logging:
    """One event for each request, when the head of its answer is there, or it has failed: ``request`` of the logger
    ``forebay.client``, with:

    ==============  ===================================================================================================
    ``method``
    ``url``         without its query, where secrets are
    ``status``      of the answer; 0: there was none
    ``error``       the class of what was raised instead, with ``reason``, its text; or ``cancelled``
    ``seconds``     until then, all tries together
    ``bytes``       of content, as the answer says in ``content-length``; None: it does not
    ``tries``       how many it took, as far as the targets tried, or a trace, tell
    ``reused``      whether it went over a connection that was there; None: there is no trace to tell
    ``left_out``    lines like this one that were left out before it
    ==============  ===================================================================================================

    Failures come by the thousand when a server is down. So lines with the same method, origin and outcome are at most
    one in ``interval`` seconds, when the outcome is an error, or a status of 500 or more.

    :param good: the level of statuses below 400.
    :param refused: of statuses below 500.
    :param bad: of all others, and of errors. Those that were cancelled have that of ``good``: somebody wanted it so.
    :param interval: seconds, at least 0; 0: all have their line.
    :raises ValueError: a parameter is out of range.
    """

    __slots__ = ("_bad", "_good", "_refused", "_sparing")

    def __init__(
        self, *, good: Level = "debug", refused: Level = "info", bad: Level = "warning", interval: float = 1.0
    ) -> None:
        for name, level in (("good", good), ("refused", refused), ("bad", bad)):
            if level not in get_args(Level):
                raise ValueError(f"Logging {name} {level!r}: must be one of {', '.join(get_args(Level))}")
        if not 0 <= interval < inf:
            raise ValueError(f"Logging interval {interval}: must be at least 0 seconds, and finite")
        self._good = good
        self._refused = refused
        self._bad = bad
        self._sparing = Sparing(interval) if interval else None

    async def __call__(
        self, request: ClientRequest, call_next: Handler[ClientRequest, ClientResponse]
    ) -> ClientResponse:
        """Send the request, and tell what came of it."""
        began = now()
        try:
            response = await call_next(request)
        except Cancelled:
            self._tell(self._good, request, began, error="cancelled")
            raise
        except Exception as error:
            kind = type(error).__name__
            if (left_out := self._left_out(request, kind)) is not None:
                self._tell(self._bad, request, began, left_out, error=kind, reason=_reason(request, error))
            raise
        status = response.status
        if status < 500:
            self._tell(self._good if status < 400 else self._refused, request, began, response=response)
        elif (left_out := self._left_out(request, status)) is not None:
            self._tell(self._bad, request, began, left_out, response=response)
        return response

    def _left_out(self, request: ClientRequest, outcome: str | int) -> int | None:
        if self._sparing is None:
            return 0
        return self._sparing.due((request.method, request.url.origin, outcome), now())

    def _tell(
        self,
        level: Level,
        request: ClientRequest,
        began: float,
        left_out: int = 0,
        *,
        response: ClientResponse | None = None,
        **fields: Any,
    ) -> None:
        url = request.url
        if response is not None:
            length = response.headers.get("content-length", "")
            fields["bytes"] = int(length) if length.isdecimal() and len(length) <= _DIGITS else None
        if left_out:
            fields["left_out"] = left_out
        getattr(structlog.get_logger("forebay.client"), level)(
            "request",
            method=request.method,
            url=f"{url.origin}{url.path}",
            status=0 if response is None else response.status,
            seconds=round(now() - began, 6),
            tries=_tries(request, response),
            reused=_reused(request.trace),
            **fields,
        )


def _reason(request: ClientRequest, error: Exception) -> str:
    text, query = str(error), request.url.query
    if query:
        text = text.replace(f"?{query}", "")  # it may name the URL
    return SECRETS.url(text[:_REASON])


def _tries(request: ClientRequest, response: ClientResponse | None) -> int:
    tries = max(1, len(request.tried))
    if response is not None:
        tries = max(tries, len(response.request.tried))  # of a copy, as that with credentials
    if request.trace is not None:
        tries = max(tries, 1 + sum(event.step in _TRIED_AGAIN for event in request.trace.events))
    return tries


def _reused(trace: Trace | None) -> bool | None:
    if trace is not None:
        for event in reversed(trace.events):
            if event.step is Step.GOT_CONNECTION:
                return bool(event.detail.get("reused"))
    return None
