"""Bytes to values: query strings and JSON bodies. What does not fit becomes an :class:`HTTPError`, never a crash."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

import msgspec

from forebay.errors import FieldError, HTTPError, ValidationError

__all__ = ["check_json", "decode_json", "field_errors", "is_record", "parse_query", "unfit"]

T = TypeVar("T")

_ERRORS_KEPT = 100  # of one request: a list of a million wrong items must not become an answer of a million errors
_DEEPEST = 32  # levels of a body that are looked into for the wrong field; below, the whole level is named


def parse_query(raw: bytes) -> list[tuple[str, str]]:
    """Fields of a query string in order, as HTML forms write it: ``&`` between, ``+`` for a blank, ``%xx`` in UTF-8.

    A field without ``=`` has an empty value. Octets that are not UTF-8 become U+FFFD.
    """
    if not raw:
        return []
    text = raw.decode("utf-8", "replace")
    if "%" in text or "+" in text:
        pairs = [field.replace("+", " ").partition("=") for field in text.split("&") if field]
        return [(unquote(name), unquote(value)) for name, _, value in pairs]
    if "&" not in text:
        name, _, value = text.partition("=")
        return [(name, value)]
    pairs = [field.partition("=") for field in text.split("&") if field]
    return [(name, value) for name, _, value in pairs]


def check_json(content_type: bytes | None) -> None:
    """Accept ``application/json`` and ``application/*+json``.

    :raises HTTPError: 415, for any other content type and for none.
    """
    if content_type == b"application/json":
        return
    media_type = (content_type or b"").partition(b";")[0].strip().lower()
    if media_type == b"application/json" or (media_type[:12] == b"application/" and media_type[-5:] == b"+json"):
        return
    shown = media_type.decode("latin-1") or "none"
    raise HTTPError(
        415, f"content type is {shown}; application/json is expected", headers=[("accept", "application/json")]
    )


def decode_json(content: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """``content`` as the decoder's type.

    :raises HTTPError: 400, it is not JSON.
    :raises ValidationError: 422, it is JSON of another shape; lists every field that does not fit.
    """
    if not content:
        raise HTTPError(400, "request body is empty; JSON is expected")
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        raise ValidationError(_body_errors(content, decoder.type, error)) from None
    except RecursionError:
        raise HTTPError(400, "request body is nested too deeply") from None
    except UnicodeDecodeError:
        raise HTTPError(400, "request body is not UTF-8") from None
    except msgspec.DecodeError as error:
        raise HTTPError(400, f"request body is not valid JSON: {error}") from None


def unfit(place: str, name: str, error: Exception | str) -> FieldError:
    """``error``, about one field, in the words a client is shown."""
    return FieldError(place, name, str(error).partition(" - at `")[0])


def is_record(kind: Any) -> bool:
    """Is ``kind`` a type with named fields: msgspec Struct, dataclass or TypedDict?"""
    return isinstance(kind, type) and (
        issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind) or typing.is_typeddict(kind)
    )


def _body_errors(content: bytes, kind: Any, error: msgspec.ValidationError) -> list[FieldError]:
    """msgspec stops at the first wrong field; on that path, look at all of them one by one."""
    try:
        value = msgspec.json.decode(content)
    except (ValueError, RecursionError):  # wrong before and after the field that was reported
        return [unfit("body", "$", error)]
    found = []
    for field in field_errors(value, kind, ""):
        found.append(field)
        if len(found) == _ERRORS_KEPT:
            break
    return found or [unfit("body", "$", error)]


def field_errors(value: Any, kind: Any, path: str, depth: int = 0) -> Iterator[FieldError]:
    """Every field of ``value`` (plain JSON) that does not fit ``kind``; ``path`` is where ``value`` stands, ``depth``
    the levels above it."""
    kind = _inner(kind)
    found = False
    if depth >= _DEEPEST:
        pass
    elif is_record(kind) and isinstance(value, dict):
        for name, field_kind, required in _fields(kind):
            at = f"{path}.{name}" if path else name
            if name in value:
                for error in _check(value[name], field_kind, at, depth + 1):
                    found = True
                    yield error
            elif required:
                found = True
                yield FieldError("body", at, "is required")
    elif typing.get_origin(kind) in (list, set, frozenset) and isinstance(value, list):
        (item_kind,) = typing.get_args(kind)
        for index, item in enumerate(value):
            for error in _check(item, item_kind, f"{path}[{index}]", depth + 1):
                found = True
                yield error
    if not found:  # no part is wrong, so it is the whole: its type, an unknown field, a constraint
        try:
            msgspec.convert(value, kind, str_keys=True)
        except msgspec.ValidationError as error:
            yield unfit("body", path or "$", error)


def _check(value: Any, kind: Any, path: str, depth: int) -> Iterator[FieldError]:
    try:
        msgspec.convert(value, kind, str_keys=True)  # keys of JSON objects are text, whatever they stand for
    except msgspec.ValidationError:
        yield from field_errors(value, kind, path, depth)


def _inner(kind: Any) -> Any:
    """The record or list inside ``X | None`` and ``Annotated[X, ...]``, else ``kind``."""
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    origin = typing.get_origin(kind)
    if (origin is Annotated or _is_union(origin)) and (origin is Annotated or len(members) == 1):
        inner = _inner(members[0])
        return inner if is_record(inner) or typing.get_origin(inner) in (list, set, frozenset) else kind
    return kind


def _is_union(origin: Any) -> bool:
    return origin is typing.Union or getattr(origin, "__name__", "") == "UnionType"


def _fields(kind: Any) -> Iterator[tuple[str, Any, bool]]:
    """Name as in JSON, type, and whether it must be there, of each field of a record."""
    if issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            yield field.encode_name, field.type, field.required
        return
    hints = typing.get_type_hints(kind, include_extras=True)
    if typing.is_typeddict(kind):
        for name in kind.__annotations__:
            yield name, _bare(hints[name]), name in kind.__required_keys__
        return
    for member in dataclasses.fields(kind):
        no_default = member.default is dataclasses.MISSING and member.default_factory is dataclasses.MISSING
        yield member.name, hints[member.name], no_default


def _bare(kind: Any) -> Any:
    """Without ``Required[...]`` and ``NotRequired[...]``."""
    if typing.get_origin(kind) in (typing.Required, typing.NotRequired):
        return typing.get_args(kind)[0]
    return kind
