"""Arguments that are texts in the request: parts of the path, and fields of query, headers and cookies."""

from __future__ import annotations

import copy
import enum
import functools
import types
import typing
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import msgspec

from forebay.errors import FieldError
from forebay.http.binding.markers import Marker
from forebay.http.binding.signature import MISSING, Made, allows_none, bare
from forebay.http.field_errors import convert_text, forbids_unknown, unfit, without_wrappers

__all__ = ["SCALARS", "Errors", "RecordField", "TextField", "Texts", "fresh", "is_scalar", "is_text"]

Errors = list[FieldError]

SCALARS = (str, int, float, bool, UUID, datetime, date, time, timedelta, Decimal)


class Texts(typing.Protocol):
    """The fields of one place of a request."""

    def first(self, name: str) -> str | None:
        """The first value of ``name``."""

    def every(self, name: str) -> list[str]:
        """All values of ``name``, in order."""


class TextField:
    """One field, which becomes one argument. ``alias`` is what it is called in the request.

    ``takes_empty``: an empty text may be its value; ``is_flag``: it is true or false.
    """

    __slots__ = ("_fresh", "alias", "convert", "default", "is_flag", "kind", "many", "marker", "name", "place",
        "takes_empty")  # fmt: skip

    def __init__(
        self, place: str, name: str, alias: str, kind: Any, default: Any, marker: Marker | None = None
    ) -> None:
        self.place = place
        self.name = name
        self.alias = alias
        self.kind = str if kind is MISSING else kind
        self.marker = marker
        self.default = None if default is MISSING and allows_none(kind) else default
        self._fresh: Callable[[], Any] | None = None  # makes the default, where requests must not share one
        if isinstance(default, Made):
            self._fresh = default.make
        elif type(default) in (list, set, dict):
            self._fresh = default.copy
        kind = bare(self.kind)
        inner = without_wrappers(kind)
        self.many = (typing.get_origin(inner) or inner) in (list, set, tuple, frozenset)
        self.is_flag = inner is bool
        self.takes_empty = any(
            one is str or typing.get_origin(one) is Literal
            for one in map(without_wrappers, (inner, *typing.get_args(inner)))
        )
        self.convert: Callable[[Any], Any] | None = None if kind is str else _converter(kind)

    @property
    def required(self) -> bool:
        """Whether it must be there."""
        return self.default is MISSING

    def read(self, value: Any, errors: Errors) -> Any:
        """The argument for what was sent: a text, or all texts where it takes many; None when nothing was."""
        if value is None:
            if self.default is MISSING:
                errors.append(FieldError(self.place, self.alias, "is required"))
            return self.default if self._fresh is None else self._fresh()
        try:
            return value if self.convert is None else self.convert(value)
        except ValueError as error:  # of msgspec, or of what it has made, as datetime
            errors.append(unfit(self.place, self.alias, error))
            return None

    def read_from(self, texts: Texts, errors: Errors) -> Any:
        """The argument."""
        value: Any = texts.first(self.alias)
        if value is not None and self.many:
            value = texts.every(self.alias)
        return self.read(value, errors)


class RecordField:
    """A record whose fields are the fields of one place.

    :param fields: by the record's attributes.

    ``forbids_unknown``: other fields than these are errors.
    """

    __slots__ = ("_attributes", "default", "fields", "forbids_unknown", "kind", "name", "place")

    def __init__(self, place: str, name: str, kind: Any, default: Any, fields: Mapping[str, TextField]) -> None:
        self.place = place
        self.forbids_unknown = place == "query" and forbids_unknown(kind)  # headers and cookies are everybody's
        self.name = name
        self.kind = kind
        self.default = default
        self.fields = list(fields.values())
        self._attributes = tuple(fields)

    def read_from(self, texts: Texts, errors: Errors) -> Any:
        """The argument. None of its fields there gives the default, where there is one."""
        before = len(errors)
        sent: dict[str, Any] = {}
        sent_none: dict[str, Any] = {}  # required, but may be None
        for attribute, field in zip(self._attributes, self.fields, strict=True):
            value: Any = texts.first(field.alias)
            if value is None:
                if field.default is not msgspec.UNSET:  # not one of the record's own
                    sent_none[attribute] = field.read(None, errors)
                continue
            value = field.read(texts.every(field.alias) if field.many else value, errors)
            sent[attribute] = value
        if not sent and self.default is not MISSING:
            del errors[before:]
            return fresh(self.default)
        if len(errors) > before:
            return None
        try:
            return self.kind(**sent_none, **sent)
        except (ValueError, TypeError) as error:  # what a record says of itself as a whole, as msgspec has it
            errors.append(FieldError(self.place, self.name, str(error)))
            return None


class Single:
    """Fields of which there is one of a name."""

    __slots__ = ("_fields", "first")

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields
        self.first = fields.get

    def every(self, name: str) -> list[str]:
        """The value of ``name``."""
        return [self._fields[name]]


def fresh(default: Any) -> Any:
    """A default, which may be a record, that no two requests share."""
    return default.make() if isinstance(default, Made) else copy.deepcopy(default)


def _converter(kind: Any) -> Callable[[Any], Any]:
    def convert_int(value: str) -> int:
        made: int = msgspec.convert(value, int, strict=False)
        if not -(1 << 63) <= made < 1 << 63:
            raise msgspec.ValidationError("Integer value out of range")
        return made

    return convert_int if kind is int else functools.partial(convert_text, kind=kind)


def is_text(kind: Any) -> bool:
    """Can a value of ``kind`` be written as one text, or a list of them: a scalar, or a list of scalars?"""
    kind = without_wrappers(kind)
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return all(member is type(None) or is_text(member) for member in typing.get_args(kind))
    if origin in (list, set, tuple, frozenset):
        return all(is_scalar(member) for member in typing.get_args(kind) if member is not Ellipsis)
    return is_scalar(kind)


def is_scalar(kind: Any) -> bool:
    """Can a value of ``kind`` be written as one text?"""
    kind = without_wrappers(kind)
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return all(member is type(None) or is_scalar(member) for member in typing.get_args(kind))
    if origin is Literal:
        return True
    return kind in SCALARS or (isinstance(kind, type) and issubclass(kind, enum.Enum))
