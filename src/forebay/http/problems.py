"""Errors as answers: every one leaves as ``application/problem+json`` (RFC 9457).

What the client is shown is decided here, in one place: an :class:`HTTPError`'s own words, and for everything else the
bare phrase of its status. The texts of foreign exceptions, addresses of upstreams and stack traces stay in the log.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from forebay.errors import (
    CircuitOpen,
    DeadlineExceeded,
    HTTPError,
    Overloaded,
    ProtocolError,
    UpstreamError,
    ValidationError,
)
from forebay.http.headers import SERVERS
from forebay.wire.http1 import STATUS_PHRASES, encode_headers

__all__ = ["EXPECTED", "PROBLEM_TYPE", "is_expected", "problem", "problem_of", "timed_out"]

PROBLEM_TYPE = "application/problem+json"
EXPECTED = (HTTPError, ProtocolError, Overloaded, CircuitOpen)
"""Errors that are answers. One raised by a middleware, not by a handler, comes through those further out as an
exception; who has to work on every answer makes it one by :func:`forebay.http.messages.response_of`."""

_PROBLEM_LINE = b"content-type: application/problem+json\r\n"

_NOT_TO_ADD = SERVERS | {"content-type"}

_encode = msgspec.json.Encoder().encode


def problem(
    status: int,
    detail: str = "",
    *,
    title: str = "",
    headers: tuple[tuple[str, str], ...] = (),
    **members: Any,
) -> tuple[int, bytes, bytes]:
    """An answer as (status, header lines, body).

    :param title: default: the status's phrase.
    :param headers: added to the answer, but for the ``content-type`` and those that the server sets.
    :param members: further members of the document, such as ``errors``.
    :raises ValueError: a header is not well-formed.
    """
    document = {"type": "about:blank", "title": title or STATUS_PHRASES.get(status, "Error"), "status": status}
    if detail:
        document["detail"] = detail
    document.update(members)
    if not headers:
        return status, _PROBLEM_LINE, _encode(document)
    lines = encode_headers([pair for pair in headers if pair[0].lower() not in _NOT_TO_ADD])
    return status, _PROBLEM_LINE + lines, _encode(document)


def problem_of(error: BaseException) -> tuple[int, bytes, bytes]:
    """The answer ``error`` leaves as; 500 for whatever is not an error of ours."""
    if isinstance(error, ValidationError):
        errors = [{"place": field.place, "name": field.name, "message": field.message} for field in error.errors]
        return problem(error.status, "the request has fields that do not fit", headers=error.headers, errors=errors)
    if isinstance(error, HTTPError):
        return problem(error.status, error.detail, title=error.title, headers=error.headers)
    if isinstance(error, ProtocolError):
        return problem(error.status, str(error))
    if isinstance(error, Overloaded | CircuitOpen):
        wait = error.retry_after
        return problem(503, headers=() if wait is None else (("retry-after", str(max(0, math.ceil(wait)))),))
    if isinstance(error, UpstreamError):
        return problem(error.status)
    if isinstance(error, DeadlineExceeded):
        return problem(504)
    return problem(500)


def is_expected(error: BaseException) -> bool:
    """Is ``error`` an answer, rather than a fault that an operator must be told of?"""
    return isinstance(error, EXPECTED)


def timed_out(message: str, reason: str) -> ProtocolError:
    """The client took too long over its request (408); ``reason`` is what that is counted under."""
    return ProtocolError(message, status=408, reason=reason)
