"""Fields of one's own in the access log."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from forebay.http.messages import Next, Request, Response

__all__ = ["AccessFields"]

log = structlog.get_logger("forebay.http")

_NAME = re.compile(r"[^\[\]{}\x00-\x20\x7f]{1,64}")  # what note[NAME] of a format string can say
_HEADER = re.compile(r"(?:(request|response):)?([!#$%&'*+.^_`|~0-9A-Za-z-]+)")

Value = Callable[[Request, Response], Any]


class AccessFields:
    """Adds fields to the access log's line of each request, as its notes: ``note[NAME]`` in a format string, ``notes``
    in JSON.

    ::

        AccessFields({
            "tenant": "x-tenant",                       # a header of the request
            "cache": "response:x-cache",                # a header of the response
            "user": lambda request, response: request.identity,
        })

    A field without a value (no such header, None) is left out. Request headers are noted before the handler runs, so
    also for requests that fail or whose client leaves; the others once there is a response, but not for WebSockets,
    whose line is written with the handshake. A function that fails costs the request nothing but the field, and is
    logged once, as ``access field failed``.

    :param fields: name -> the name of a header (``request:`` is understood), or a plain function of the request and the
        response. Names have 1 to 64 characters, without blanks and brackets. Texts, numbers and booleans are noted as
        they are, everything else as its ``str``.
    :param max_length: characters of a text that are noted, the rest is cut off; clients decide on headers. At least 1,
        default 256.
    :raises ValueError: there are no fields, or one is neither a header's name nor a plain function.
    """

    __slots__ = ("_failed", "_fields", "_functions", "_max_length", "_of_request", "_of_response")

    def __init__(self, fields: Mapping[str, str | Value], *, max_length: int = 256) -> None:
        if not fields:
            raise ValueError("AccessFields: no fields; give at least one, such as {'tenant': 'x-tenant'}")
        if max_length < 1:
            raise ValueError(f"AccessFields: max_length={max_length} must be at least 1 character")
        self._fields = dict(fields)
        self._max_length = max_length
        self._of_request: list[tuple[str, bytes]] = []
        self._of_response: list[tuple[str, str]] = []
        self._functions: list[tuple[str, Value]] = []
        self._failed: set[str] = set()
        for name, what in self._fields.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(f"AccessFields: field {name!r} must have 1 to 64 characters, no blanks or brackets")
            if isinstance(what, str):
                found = _HEADER.fullmatch(what.lower())
                if found is None:
                    raise ValueError(f"AccessFields: field {name}: {what!r} is no header's name, such as x-tenant")
                if found[1] == "response":
                    self._of_response.append((name, found[2]))
                else:
                    self._of_request.append((name, found[2].encode()))
            elif callable(what) and not inspect.iscoroutinefunction(what):
                self._functions.append((name, what))
            else:
                raise ValueError(f"AccessFields: field {name}: {what!r} must be a header's name or a plain function")

    def __repr__(self) -> str:
        shown = (
            f"{name!r}: {what!r}" if isinstance(what, str) else f"{name!r}: {getattr(what, '__qualname__', what)}"
            for name, what in self._fields.items()
        )
        return f"AccessFields({{{', '.join(shown)}}}, max_length={self._max_length})"

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Note the fields."""
        exchange = request.exchange
        for name, header in self._of_request:
            raw = exchange.header(header)
            if raw is not None:
                request.note(name, raw.strip(b" \t").decode("latin-1")[: self._max_length])
        if not self._functions and not self._of_response:
            return await call_next(request)
        response = await call_next(request)
        for name, key in self._of_response:
            text = response.headers.get(key)
            if text is not None:
                request.note(name, text[: self._max_length])
        for name, function in self._functions:
            try:
                self._note(request, name, function(request, response))
            except Exception as error:
                if name not in self._failed:
                    self._failed.add(name)
                    log.error("access field failed", field=name, route=request.route, exc_info=error)
        return response

    def _note(self, request: Request, name: str, value: Any) -> None:
        if value is None:
            return
        if not isinstance(value, bool | int | float):
            value = str(value)[: self._max_length]
        request.note(name, value)
