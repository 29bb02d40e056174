"""From what a handler returns to what is sent.

=============================================  ===================================================================
returned                                       sent
=============================================  ===================================================================
``Response``                                   as it is
``str``                                        ``text/plain; charset=utf-8``
``bytes``                                      ``application/octet-stream``
``None``                                       204, no content
an async iterator of ``bytes`` or ``str``      streamed, as ``application/octet-stream``
``(value, status)``, ``(value, status, headers)``  the value, with that status and those headers
everything else                                JSON
=============================================  ===================================================================

The return annotation decides where it is one type: a ``-> dict[str, int]`` is JSON without looking.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncIterable, Callable, Mapping
from typing import Any

import msgspec

from forebay.http.encoding import is_record
from forebay.http.messages import JSON, TEXT, Response

__all__ = ["Encoder", "encoder_for"]

Answer = tuple[int, bytes, bytes]  # status, header lines, body
Encoder = Callable[[Any], Answer | Response]

_TEXT_LINE = f"content-type: {TEXT}\r\n".encode()
_JSON_LINE = f"content-type: {JSON}\r\n".encode()
_BINARY_LINE = b"content-type: application/octet-stream\r\n"

_encode_json = msgspec.json.Encoder().encode


def encoder_for(annotation: Any) -> Encoder:
    """The encoder for a handler with this return annotation."""
    if is_record(annotation) or annotation is dict or typing.get_origin(annotation) in (dict, list):
        return _json
    return _text if annotation is str else _anything


def _text(value: Any) -> Answer | Response:
    return (200, _TEXT_LINE, value.encode()) if type(value) is str else _anything(value)


def _json(value: Any) -> Answer | Response:
    if value is None or type(value) is tuple or isinstance(value, Response):
        return _anything(value)
    return 200, _JSON_LINE, _encode_json(value)


def _anything(value: Any) -> Answer | Response:
    if isinstance(value, Response):
        return value
    if value is None:
        return 204, b"", b""
    if isinstance(value, str):
        return 200, _TEXT_LINE, value.encode()
    if isinstance(value, bytes):
        return 200, _BINARY_LINE, value
    if isinstance(value, tuple) and len(value) in (2, 3) and _is_status(value[1]):
        return _with_status(*value)
    if isinstance(value, AsyncIterable):
        return Response(value)
    if inspect.iscoroutine(value):
        value.close()
        raise TypeError("a plain function returned a coroutine: declare it with async def")
    return 200, _JSON_LINE, _encode_json(value)


def _is_status(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # HTTPStatus is one, True is not


def _with_status(value: Any, status: int, headers: Mapping[str, str] | None = None) -> Answer | Response:
    if headers is None and 200 <= status <= 599:
        answer = _anything(value)
        if not isinstance(answer, Response):
            return status, answer[1], answer[2]
    return Response(value, status=status, headers=headers)
