"""A smaller limit for the content of some requests than the application's."""

from __future__ import annotations

import structlog

from forebay.errors import HTTPError
from forebay.http.messages import BodySource, Next, Request, Response
from forebay.http.problems import problem

__all__ = ["BodyLimit"]

log = structlog.get_logger("forebay.http")


class BodyLimit:
    """Refuses content that is longer than ``limit`` with 413 (RFC 9110 section 15.5.14).

    By its ``content-length`` at once, before any of it is read and, where the client waits to be asked
    (``expect: 100-continue``), sent. What comes in chunks is counted while a handler reads it, and refused at the first
    piece past the limit. Bytes are counted as they are sent: compressed content as compressed.

    It can only lower the ``body_limit`` of the ``App``, which the server looks after while it reads: a larger one here
    has no effect, and is logged once. Of several the smallest counts.

    :param limit: bytes; 0: no content at all.
    :raises ValueError: it is less than 0.
    """

    __slots__ = ("_checked", "_limit")

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"BodyLimit: limit={limit} must be 0 bytes or more")
        self._limit = limit
        self._checked = False

    def __repr__(self) -> str:
        return f"BodyLimit({self._limit})"

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Refuse, or have it counted."""
        if not self._checked:
            self._check(request)
        exchange = request.exchange
        if not exchange.has_body:
            return await call_next(request)
        length = exchange.content_length
        if length is None:
            length = exchange.body_received  # what has come already is enough to refuse it
        if length > self._limit:
            return Response.encoded(*problem(413, _detail(self._limit)))
        source = request._source
        if exchange.content_length is None and source is not None:
            request._source = _Counted(source, self._limit)
        return await call_next(request)

    def _check(self, request: Request) -> None:
        self._checked = True
        try:
            most = request.app.body_limit
        except RuntimeError:  # made by hand
            return
        if most is not None and self._limit > most:
            log.warning("body limit has no effect", limit=self._limit, app_limit=most, route=request.route)


class _Counted(BodySource):
    """Content that must not be longer than ``limit``."""

    __slots__ = ("_left", "_limit", "_source")

    def __init__(self, source: BodySource, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._left = limit

    async def next_piece(self) -> bytes:
        """See :class:`BodySource`.

        :raises HTTPError: 413, it is longer.
        """
        piece = await self._source.next_piece()
        self._left -= len(piece)
        if self._left < 0:
            raise HTTPError(413, _detail(self._limit))
        return piece


def _detail(limit: int) -> str:
    return f"the content is longer than {limit} bytes"
