"""From a handler's signature to its arguments, compiled once, when the handler is registered.

Where a parameter comes from:

==========================================================  ==========================================================
parameter                                                   value
==========================================================  ==========================================================
named in the route's pattern                                that part of the path
annotated ``Request``                                       the request itself
annotated with a Struct, dataclass, TypedDict, ``dict``     the content, from JSON
annotated ``bytes``                                         the content as it is
anything else that text can become                          the query field of that name; ``list[...]`` takes them all
==========================================================  ==========================================================

A query field or content that is not there gives the default, or None where the annotation allows it. Of a query field
that is there twice, the first counts. Numbers are finite, and integers have at most 64 bits.

Whatever does not fit is listed in one 422, every field with its place.
"""

from __future__ import annotations

import enum
import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec

from forebay.errors import FieldError, ValidationError
from forebay.http.encoding import check_json, decode_json, is_record, parse_query, unfit
from forebay.http.exchange import Exchange
from forebay.http.messages import Request

__all__ = ["Binding", "compile_binding", "is_coroutine_function", "place_of"]

_SCALARS = (str, int, float, bool, UUID, datetime, date, time, timedelta, Decimal)
_NATURAL = {"int": int, "float": float, "uuid": UUID, "str": str, "path": str}  # what the router's converters give
_MISSING = inspect.Parameter.empty

_Errors = list[FieldError]


class _Query:
    """One query field of a signature."""

    __slots__ = ("convert", "default", "many", "name")

    def __init__(self, name: str, kind: Any, default: Any) -> None:
        self.name = name
        self.default = None if default is _MISSING and _allows_none(kind) else default
        kind = _bare(kind)
        inner = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
        self.many = (typing.get_origin(inner) or inner) in (list, set, tuple, frozenset)
        self.convert: Callable[[Any], Any] | None = None if kind is str else _converter(kind)

    def read(self, value: Any, errors: _Errors) -> Any:
        """The argument for what was sent: a text, or all texts where it takes many; None when nothing was."""
        if value is None:
            if self.default is _MISSING:
                errors.append(FieldError("query", self.name, "is required"))
            return self.default
        try:
            return value if self.convert is None else self.convert(value)
        except msgspec.ValidationError as error:
            errors.append(unfit("query", self.name, error))
            return None


def _converter(kind: Any) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        made = msgspec.convert(value, kind, strict=False)
        for one in made if isinstance(made, list | tuple | set | frozenset) else (made,):
            _check_number(one)
        return made

    return convert


def _check_number(value: Any) -> None:
    if type(value) is int and not -(1 << 63) <= value < 1 << 63:
        raise msgspec.ValidationError("Integer value out of range")
    if (type(value) is float and not math.isfinite(value)) or (type(value) is Decimal and not value.is_finite()):
        raise msgspec.ValidationError("Expected a finite number")


class Binding:
    """How to call one handler.

    ``wants_body``: its arguments need the whole content; ``wants_request``: one of them is the request; ``trivial``: it
    takes nothing but what the path gives.
    """

    __slots__ = ("_body", "_body_name", "_path", "_queries", "_request_name", "trivial", "wants_body", "wants_request")

    def __init__(self) -> None:
        self._path: list[tuple[str, Any]] = []  # name, type to check; those that need no check are not here
        self._queries: list[_Query] = []
        self._body: Callable[[Exchange, bytes], Any] | None = None
        self._body_name = ""
        self._request_name = ""
        self.wants_body = False
        self.wants_request = False
        self.trivial = True

    def seal(self) -> None:
        """All that it takes is known."""
        self.trivial = not (self._queries or self._path or self.wants_body or self.wants_request)

    def bind(
        self, exchange: Exchange, path_params: dict[str, Any] | None, body: bytes, request: Request | None
    ) -> dict[str, Any]:
        """The handler's keyword arguments.

        :raises HTTPError: 400 or 415: the content is not JSON, or does not say so.
        :raises ValidationError: 422 with every field that does not fit.
        """
        if self.trivial:
            return path_params if path_params is not None else {}
        arguments = dict(path_params) if path_params else {}
        errors: _Errors = []
        for name, kind in self._path:
            try:
                arguments[name] = msgspec.convert(arguments[name], kind, strict=False)
            except msgspec.ValidationError as error:
                errors.append(unfit("path", name, error))
        if self._queries:
            pairs = parse_query(exchange.query)
            fields = dict(pairs)
            if len(fields) != len(pairs):
                fields = dict(reversed(pairs))  # the first of a name counts
            for query in self._queries:
                name = query.name
                value: Any = fields.get(name)
                if value is not None:
                    if query.convert is None:
                        arguments[name] = value
                        continue
                    if query.many:
                        value = [text for other, text in pairs if other == name]
                arguments[name] = query.read(value, errors)
        if self._body is not None:
            try:
                arguments[self._body_name] = self._body(exchange, body)
            except ValidationError as error:
                errors.extend(error.errors)
        if errors:
            raise ValidationError(errors)
        if self.wants_request:
            arguments[self._request_name] = request
        return arguments


def compile_binding(handler: Callable[..., Any], pattern: str, converters: dict[str, str]) -> tuple[Binding, Any]:
    """Read a handler's signature.

    :param pattern: the route's, for messages.
    :param converters: the path parameters of the pattern, with their converters.
    :returns: the binding, and the return annotation (``inspect.Signature.empty`` without one).
    :raises TypeError: a parameter that nothing provides, or a path parameter the handler does not take; names the
        handler, its place and the parameter.
    """
    where = f"handler {_name(handler)} ({place_of(handler)}) of route {pattern!r}"
    signature = inspect.signature(handler)
    hints = _hints(handler, where)
    binding = Binding()
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"{where}: parameter {name} must be a plain one, which can be given by its name")
        _bind_one(binding, name, hints.get(name, _MISSING), parameter.default, converters, where)
    missing = [name for name in converters if name not in signature.parameters]
    if missing:
        raise TypeError(f"{where} does not take the path parameter {missing[0]}")
    binding.seal()
    return binding, hints.get("return", _MISSING)


def place_of(handler: Callable[..., Any]) -> str:
    """``file:line`` of a handler's definition."""
    code = getattr(_function(handler), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else "unknown place"


def is_coroutine_function(handler: Callable[..., Any]) -> bool:
    """Does calling ``handler`` give a coroutine? It may be a partial, or an object with ``async def __call__``."""
    return inspect.iscoroutinefunction(_function(handler))


def _function(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside partials, decorators that kept it (``functools.wraps``) and callable objects."""
    found: Any = handler
    while isinstance(found, functools.partial):
        found = found.func
    if not hasattr(found, "__code__") and not inspect.ismethod(found):
        found = type(found).__call__
    return typing.cast("Callable[..., Any]", found)


def _name(handler: Callable[..., Any]) -> str:
    return getattr(handler, "__qualname__", type(handler).__name__)


def _hints(handler: Callable[..., Any], where: str) -> dict[str, Any]:
    """The annotations, resolved; names may also be those of the function that is registering the handler."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("forebay.http"):
        frame = frame.f_back
    function = _function(handler)
    names = {**frame.f_globals, **frame.f_locals, **getattr(function, "__globals__", {})}
    try:
        return typing.get_type_hints(function, globalns=names, include_extras=True)
    except NameError as error:
        raise TypeError(f"{where}: its annotations name {error.name!r}, which is not defined there") from None


def _bind_one(binding: Binding, name: str, kind: Any, default: Any, converters: dict[str, str], where: str) -> None:
    if name in converters:
        natural = _NATURAL[converters[name]]
        if kind not in (_MISSING, Any, natural):
            _check_type(kind, name, where)
            if natural is not str and _bare(kind) in _SCALARS and not (natural is int and _bare(kind) is float):
                gives = f"{{{name}:{converters[name]}}} gives {natural.__name__}"
                raise TypeError(f"{where}: {gives}, but parameter {name} is annotated {_bare(kind).__name__}")
            binding._path.append((name, kind))
    elif kind is Request:
        binding.wants_request = True
        binding._request_name = name
    elif kind is _MISSING or _is_text(kind):
        binding._queries.append(_Query(name, str if kind is _MISSING else kind, default))
    elif default is not _MISSING and default is not None:
        raise TypeError(f"{where}: parameter {name} is the request's content, whose only default is None")
    elif binding.wants_body:
        raise TypeError(f"{where}: parameters {binding._body_name} and {name} would both be the request's content")
    else:
        optional = default is None or _allows_none(kind)
        kind = _bare(kind)
        _check_type(kind, name, where)
        binding.wants_body = True
        binding._body_name = name
        binding._body = _raw_body if kind is bytes else _json_body(kind, optional)


def _check_type(kind: Any, name: str, where: str) -> None:
    try:
        msgspec.json.Decoder(kind)
    except TypeError as error:
        raise TypeError(f"{where}: nothing in a request provides parameter {name}: {error}") from None
    if kind is not bytes and not (is_record(kind) or _is_text(kind) or _holds_json(kind)):
        raise TypeError(f"{where}: nothing in a request provides parameter {name} of type {kind}")


def _holds_json(kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    if origin is Annotated:
        return _holds_json(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return all(_holds_json(member) or is_record(member) for member in typing.get_args(kind))
    return origin in (dict, list, Any) or is_record(origin)


def _is_text(kind: Any) -> bool:
    """Can a value of ``kind`` be written in a query: a scalar, or a list of them?"""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return _is_text(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return all(member is type(None) or _is_text(member) for member in typing.get_args(kind))
    if origin in (list, set, tuple, frozenset):
        return all(_is_scalar(member) for member in typing.get_args(kind) if member is not Ellipsis)
    return _is_scalar(kind)


def _is_scalar(kind: Any) -> bool:
    if typing.get_origin(kind) is Annotated:
        return _is_scalar(typing.get_args(kind)[0])
    if typing.get_origin(kind) is Literal:
        return True
    return kind in _SCALARS or (isinstance(kind, type) and issubclass(kind, enum.Enum))


def _bare(kind: Any) -> Any:
    """Without ``| None``: a query field that is there is never None."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        return members[0] if len(members) == 1 else typing.Union[tuple(members)]  # noqa: UP007  # built at run time
    return kind


def _allows_none(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType) and type(None) in typing.get_args(kind)


def _raw_body(exchange: Exchange, body: bytes) -> bytes:
    return body


def _json_body(kind: Any, optional: bool) -> Callable[[Exchange, bytes], Any]:
    decoder = msgspec.json.Decoder(kind)

    def read(exchange: Exchange, body: bytes) -> Any:
        if optional and not body:
            return None
        check_json(exchange.header(b"content-type"))
        return decode_json(body, decoder)

    return read
