"""Faults become answers where they happen, so that the middleware further out still works on them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable

import structlog

from forebay.http.messages import Next, Request, Response, response_of
from forebay.http.problems import is_expected

__all__ = ["Recover"]

log = structlog.get_logger("forebay.http")


class Recover:
    """An exception nobody has caught becomes ``application/problem+json`` here, in the middle of the chain.

    Without it such an exception passes through all middleware, and the application answers 500 outside of them: with
    the headers of the outermost hooks (:class:`forebay.http.RequestHook`), such as ``CORS``, but without what any other
    middleware does to answers. Put it inside of what must work on errors too::

        App(middleware=[RequestId(), CORS(origins=[...]), Compression(), Recover()])

    It is logged once, as ``handler failed``, with ``app``, ``method``, ``route``, ``request_id`` (where ``RequestId``
    is further out) and the exception. Its text is not shown to the client. The status is 500, and 502 to 504 for errors
    of upstreams and deadlines (:func:`forebay.http.problems.problem_of`). An ``HTTPError`` of another middleware
    becomes its answer, and is not logged. What is raised once the client is gone, or the answer under way, passes
    through: nothing can be answered then. So does cancellation.

    :param on_error: ``on_error(request, error)`` is called with each unexpected exception, after it was logged: to
        report it elsewhere, or to give the ``Response`` that is sent instead; None leaves the usual one. A plain
        function or a coroutine function. When it fails itself, that is logged too, and the usual answer is sent.
    :raises ValueError: ``on_error`` cannot be called.
    """

    __slots__ = ("_on_error",)

    def __init__(
        self, *, on_error: Callable[[Request, Exception], Response | Awaitable[Response | None] | None] | None = None
    ) -> None:
        if on_error is not None and not callable(on_error):
            raise ValueError(f"Recover: on_error={on_error!r} must be a function of the request and the error, or None")
        self._on_error = on_error

    def __repr__(self) -> str:
        hook = self._on_error
        return "Recover()" if hook is None else f"Recover(on_error={getattr(hook, '__qualname__', hook)})"

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Answer, whatever is raised."""
        try:
            response = await call_next(request)
            if not isinstance(response, Response):
                raise TypeError(f"middleware returned {type(response).__name__}, not a Response")
        except Exception as error:
            exchange = request.exchange
            if exchange.started or exchange.finished:
                raise
            if is_expected(error):
                return response_of(error)
            _log("handler failed", request, error)
            answer = await self._ask(request, error) if self._on_error is not None else None
            return response_of(error) if answer is None else answer
        return response

    async def _ask(self, request: Request, error: Exception) -> Response | None:
        """What the hook makes of ``error``."""
        assert self._on_error is not None
        try:
            answer = self._on_error(request, error)
            if inspect.isawaitable(answer):
                answer = await answer
            if answer is not None and not isinstance(answer, Response):
                raise TypeError(f"on_error returned {type(answer).__name__}, not a Response or None")
        except Exception as failure:
            _log("on_error failed", request, failure)
            return None
        return answer


def _log(event: str, request: Request, error: Exception) -> None:
    try:
        app = request.app.name
    except RuntimeError:  # made by hand
        app = None
    log.error(event, app=app, method=request.method, route=request.route, request_id=request.id or None, exc_info=error)
