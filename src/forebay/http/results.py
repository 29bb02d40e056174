"""From what a handler returns to what is sent.

=============================================  ===================================================================
returned                                       sent
=============================================  ===================================================================
``Response``                                   as it is
``str``                                        ``text/plain; charset=utf-8``
``bytes``, ``bytearray``, ``memoryview``       ``application/octet-stream``
``None``                                       204, no content
an async iterator of ``bytes`` or ``str``      streamed, as ``application/octet-stream``
``(value, status)``, ``(value, status, headers)``  the value, with that status and those headers
everything else                                JSON, or MessagePack where the client would rather have that (``Accept``)
=============================================  ===================================================================

A NamedTuple is a value. The return annotation decides where it is one type: a ``-> dict[str, int]`` is JSON without
looking. One that can be none of these is an error when the route is registered.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import AsyncIterable, Callable, Mapping
from typing import Annotated, Any

import msgspec

from forebay.http.encoding import MSGPACK, encode_json, encode_msgpack, is_record
from forebay.http.exchange import Exchange
from forebay.http.headers import MutableHeaders
from forebay.http.messages import JSON, TEXT, Response
from forebay.http.negotiation import wants_msgpack

__all__ = ["Answer", "Encoder", "check_result", "encoder_for", "foreign_class", "negotiated"]

Answer = tuple[int, bytes, bytes]  # status, header lines, body
Encoder = Callable[[Any], Answer | Response]

_TEXT_LINE = f"content-type: {TEXT}\r\n".encode()
_JSON_LINE = f"content-type: {JSON}\r\n".encode()
_BINARY_LINE = b"content-type: application/octet-stream\r\n"
_NOT_LOOKED_AT = (inspect.Parameter.empty, Any, object, None, type(None), typing.NoReturn, typing.Never)
_BYTES = (bytes, bytearray, memoryview)
_NOT_JSON = (str, *_BYTES, type(None), AsyncIterable, Response)
_MSGPACK_LINES = b"content-type: application/msgpack\r\nvary: accept\r\n"


def encoder_for(annotation: Any, status: int | None = None) -> Encoder:
    """The encoder for a handler with this return annotation.

    :param status: of plain values; default 200, and 204 for None.
    """
    if is_record(annotation) or annotation is dict or typing.get_origin(annotation) in (dict, list):
        encode: Encoder = _json
    else:
        encode = _text if annotation is str else _anything
    if status is None:
        return encode

    def with_status(value: Any) -> Answer | Response:
        answer = encode(value)
        if type(value) is tuple and _is_answer(value):
            return answer
        if isinstance(answer, Response):
            if value is not answer:  # a stream of the handler's
                answer.status = status
            return answer
        return status, answer[1], answer[2]

    return with_status


def negotiated(exchange: Exchange, value: Any, answer: Answer | Response) -> Answer | Response:
    """``answer``, which is ``value`` as JSON, as MessagePack where the client prefers that.

    What only JSON can hold, as integers of more than 64 bits, stays JSON.
    """
    if not wants_msgpack(b",".join(sent for name, sent in exchange.headers if name.lower() == b"accept")):
        return answer
    headers: Mapping[str, str] | None = None
    while type(value) is tuple and _is_answer(value):
        headers = headers or (value[2] if len(value) == 3 else None)
        value = value[0]
    try:
        if isinstance(answer, Response):
            if headers is None or isinstance(value, _NOT_JSON) or "content-type" in MutableHeaders(headers):
                return answer
            answer.body = encode_msgpack(value)
            answer.headers["content-type"] = MSGPACK
            answer.headers.add_to_list("vary", "accept")
            return answer
        if not answer[1].startswith(_JSON_LINE):
            return answer
        return answer[0], _MSGPACK_LINES + answer[1][len(_JSON_LINE) :], encode_msgpack(value)
    except OverflowError:
        return answer


def check_result(annotation: Any) -> Any:
    """The part of a return annotation that cannot be sent; None: all of it can."""
    origin = typing.get_origin(annotation)
    if annotation in _NOT_LOOKED_AT:
        return None
    if origin is Annotated:
        return check_result(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return next((wrong for one in typing.get_args(annotation) if (wrong := check_result(one)) is not None), None)
    kind = origin or annotation
    if isinstance(kind, type) and (issubclass(kind, Response) or issubclass(kind, AsyncIterable)):
        return None
    if origin is tuple and len(members := typing.get_args(annotation)) in (2, 3) and members[1] is int:
        return check_result(members[0])
    try:
        found = msgspec.inspect.type_info(annotation)
    except TypeError:
        return annotation
    return foreign_class(found)


def foreign_class(found: msgspec.inspect.Type, above: tuple[Any, ...] = ()) -> Any:
    """The class in a type, or in the fields of its records, that no encoder or decoder knows; None without."""
    if isinstance(found, msgspec.inspect.CustomType):
        return found.cls if found.cls is not object and not is_record(found.cls) else None
    for field in getattr(found, "fields", ()):
        kind = found.cls  # type: ignore[attr-defined]  # of a record
        if kind not in above and (wrong := foreign_class(field.type, (*above, kind))) is not None:
            return wrong
    for name in ("item_type", "key_type", "value_type", "type"):
        part = getattr(found, name, None)
        if isinstance(part, msgspec.inspect.Type) and (wrong := foreign_class(part, above)) is not None:
            return wrong
    for name in ("types", "item_types"):
        for part in getattr(found, name, ()):
            if (wrong := foreign_class(part, above)) is not None:
                return wrong
    return None


def _text(value: Any) -> Answer | Response:
    return (200, _TEXT_LINE, value.encode()) if type(value) is str else _anything(value)


def _json(value: Any) -> Answer | Response:
    if value is None or type(value) is tuple or isinstance(value, Response):
        return _anything(value)
    return 200, _JSON_LINE, encode_json(value)


def _anything(value: Any) -> Answer | Response:
    if isinstance(value, Response):
        return value
    if value is None:
        return 204, b"", b""
    if isinstance(value, str):
        return 200, _TEXT_LINE, value.encode()
    if isinstance(value, _BYTES):
        return 200, _BINARY_LINE, bytes(value)
    if type(value) is tuple and _is_answer(value):
        return _with_status(*value)
    if isinstance(value, AsyncIterable):
        return Response(value)
    if inspect.iscoroutine(value):
        value.close()
        raise TypeError("a plain function returned a coroutine: declare it with async def")
    return 200, _JSON_LINE, encode_json(value)


def _is_answer(value: tuple[Any, ...]) -> bool:
    """Is it ``(value, status)`` or ``(value, status, headers)``? A NamedTuple never is, so it is not asked about."""
    # HTTPStatus is an int, and so is True
    return len(value) in (2, 3) and isinstance(value[1], int) and not isinstance(value[1], bool)


def _with_status(value: Any, status: int, headers: Mapping[str, str] | None = None) -> Answer | Response:
    if isinstance(value, Response):
        raise TypeError("a Response in a tuple: it has a status and headers of its own")
    if not 200 <= status <= 599 or not (headers is None or isinstance(headers, Mapping)):
        shown = f"(value, {status}{'' if headers is None else f', {headers!r:.40}'})"
        raise ValueError(f"{shown}: the status must be 200 to 599, and headers a mapping; what is to be JSON, a list")
    if headers is None:
        answer = _anything(value)
        if not isinstance(answer, Response):
            return status, answer[1], answer[2]
    return Response(value, status=status, headers=headers)
