"""Arguments that are the content of a request, or come from it."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from forebay.http.binding.markers import Form, Marker
from forebay.http.binding.signature import MISSING, Parameter, allows_none, bare, name_of, place_of
from forebay.http.encoding import content_decoder, is_record
from forebay.http.exchange import Exchange
from forebay.http.forms import FormData
from forebay.http.pydantic_models import holds_pydantic
from forebay.http.results import foreign_class
from forebay.http.uploads import UploadFile

__all__ = [
    "ContentReader",
    "check_content_type",
    "is_form",
    "is_upload",
    "read_bytes",
    "read_bytes_if_any",
    "read_content",
]

ContentReader = Callable[[Exchange, bytes], Any]


def read_bytes(exchange: Exchange, body: bytes) -> bytes:
    """The content as it is."""
    return body


def read_bytes_if_any(exchange: Exchange, body: bytes) -> bytes | None:
    """The content as it is; None without."""
    return body or None


def read_content(kind: Any, optional: bool, nullable: bool) -> ContentReader:
    """A reader of content of type ``kind``; of none it makes None where that is ``optional``, of a null where it is
    ``nullable``."""
    decode = content_decoder(kind | None if nullable else kind)

    def read(exchange: Exchange, body: bytes) -> Any:
        if optional and not body:
            return None
        return decode(body, exchange.header(b"content-type"))

    return read


def is_upload(kind: Any) -> bool:
    """Is it a file, or a list of files, of a form?"""
    kind = bare(kind)
    return kind is UploadFile or (typing.get_origin(kind) is list and typing.get_args(kind)[0] is UploadFile)


def is_form(parameter: Parameter) -> bool:
    """Does ``parameter`` come from a form?"""
    return parameter.kind is FormData or is_upload(parameter.kind) or isinstance(parameter.marker, Form)


def check_content_type(parameter: Parameter, where: str) -> tuple[Any, bool]:
    """The type of a parameter that is the content, and whether there may be none.

    :raises TypeError: nothing in a request is like that.
    """
    name, kind, default = parameter.name, parameter.kind, parameter.default
    if default is not MISSING and default is not None:
        raise TypeError(f"{where}: parameter {name} is the request's content, whose only default is None")
    optional = default is None or allows_none(kind)
    kind = bare(kind)
    if kind is bytes:
        return kind, optional
    try:
        content_decoder(kind)
    except TypeError as error:
        raise TypeError(f"{where}: nothing in a request provides parameter {name}: {error}") from None
    if not isinstance(parameter.marker, Marker) and not (is_record(kind) or _holds_content(kind)):
        raise TypeError(f"{where}: nothing in a request provides parameter {name} of type {kind}")
    wrong = _foreign_in(kind)
    if wrong is not None:
        what = f", which holds {name_of(wrong)} ({place_of(wrong)})" if wrong is not kind else ""
        raise TypeError(f"{where}: nothing in a request provides parameter {name} of type {kind}{what}")
    return kind, optional


def _foreign_in(kind: Any) -> Any:
    """The class in it that no decoder knows; None without."""
    return None if holds_pydantic(kind) else foreign_class(msgspec.inspect.type_info(kind))


def _holds_content(kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    if origin is Annotated:
        return _holds_content(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return all(_holds_content(member) or is_record(member) for member in typing.get_args(kind))
    return origin in (dict, list, Any) or is_record(origin)
