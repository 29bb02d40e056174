"""An id for every request, under which its traces are found again: in logs, in answers, at other services."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from structlog.contextvars import bind_contextvars

from forebay.http.messages import Request
from forebay.http.request_hook import RequestHook
from forebay.wire.http1 import encode_headers

__all__ = ["RequestId", "make_id"]

_ID = re.compile(rb"[A-Za-z0-9._~:/+=@-]+")  # of W3C trace context, ULID, UUID, base64; nothing a log or shell reads
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SIZE = 16  # bytes of an id
_AT_ONCE = 256  # ids that are made of one system call

_made: list[str] = []


def make_id() -> str:
    """A new id: 16 random bytes as 32 hexadecimal digits. Nobody can guess one, nor does any come twice."""
    try:
        return _made.pop()
    except IndexError:
        digits = os.urandom(_SIZE * _AT_ONCE).hex()
        ids = [digits[at : at + 2 * _SIZE] for at in range(0, len(digits), 2 * _SIZE)]
        found = ids.pop()
        _made.extend(ids)
        return found


os.register_at_fork(after_in_child=_made.clear)  # or two workers would use the same ones


class RequestId(RequestHook):
    """Gives each request an id: ``request.id``, the note ``request_id`` of the access log, and a response header.

    The outermost middleware, as a rule, so that all others can use the id.

    :param header: the name of the header, of requests and of responses.
    :param trust: take the id from the request's header, where there is a valid one; only for services that are reached
        through others of one's own, which set or check it. Default: clients have no say, and each request gets a new
        one.
    :param max_length: characters of an id that is taken from a request; a longer one, or one with characters other than
        letters, digits and ``._~:/+=@-``, is replaced by a new one. 1 to 1024, default 128.
    :param make: makes new ids; it must be fast, as it is called for every request. Default: 16 random bytes in
        hexadecimal.
    :param respond: send the id in the response's header, instead of what a handler has put there. A WebSocket's
        handshake has left by then, and goes without.
    :param bind: add ``request_id`` to what structlog logs until the request's Task has ended, streams and background
        work included (``structlog.contextvars``). Off by default, as it costs about as much as all the rest.
    :raises ValueError: the header's name is none, or ``max_length`` is out of bounds.
    """

    __slots__ = ("_fast", "_header", "_key", "_line", "_make", "_max_length", "_respond", "_trust", "early", "words")

    def __init__(
        self,
        *,
        header: str = "x-request-id",
        trust: bool = False,
        max_length: int = 128,
        make: Callable[[], str] = make_id,
        respond: bool = True,
        bind: bool = False,
    ) -> None:
        if not _HEADER.fullmatch(header):
            raise ValueError(f"RequestId: header {header!r} must be a header's name, such as x-request-id")
        if not 1 <= max_length <= 1024:
            raise ValueError(f"RequestId: max_length={max_length} must be 1 to 1024 characters")
        if not callable(make):
            raise ValueError(f"RequestId: make={make!r} must be a function without arguments that gives a str")
        self._header = header.lower()
        self._key = self._header.encode()
        self._line = self._key + b": "
        self._fast = make is make_id and not trust  # hexadecimal digits need no check
        self._trust = trust
        self._max_length = max_length
        self._make = make
        self._respond = respond
        self.words = (self._key,)
        self.early = not bind

    def __repr__(self) -> str:
        own = "" if self._make is make_id else f", make={getattr(self._make, '__qualname__', self._make)}"
        return (
            f"RequestId(header={self._header!r}, trust={self._trust}, max_length={self._max_length}{own}, "
            f"respond={self._respond}, bind={not self.early})"
        )

    def before(self, request: Request) -> bytes | None:
        """Set the id, and have it said in the answer."""
        name = self._received(request) if self._trust else ""
        if not name:
            name = self._make()
        request.id = name
        notes = request.exchange.notes
        if notes is None:
            request.exchange.notes = {"request_id": name}
        else:
            notes["request_id"] = name
        if not self.early:
            bind_contextvars(request_id=name)
        if not self._respond:
            return None
        return self._line + name.encode() + b"\r\n" if self._fast else encode_headers([(self._header, name)])

    def _received(self, request: Request) -> str:
        value = request.exchange.header(self._key)
        if value is None:
            return ""
        value = value.strip(b" \t")
        if len(value) > self._max_length or not _ID.fullmatch(value):
            return ""
        return value.decode()
