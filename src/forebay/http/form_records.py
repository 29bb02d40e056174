"""From a form to a record: what it holds as a Struct, dataclass, TypedDict or model of pydantic.

========================================  =============================================================================
field of the record                       value
========================================  =============================================================================
``UploadFile``                            the file of that name
a text, number, date, enumeration, ...    the first text of that name, converted; ``on`` is true, as a checkbox has it
``list``, ``set`` or ``tuple`` of those   all of that name, in order; empty ones of other types than text left out
========================================  =============================================================================

What a browser sends for an input that was left empty counts as not sent: a file without name and content, and an empty
text where the field is no text. What was not sent is the field's default, else None where it may be None, and an empty
list, set or tuple; else it is an error.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec

from forebay.errors import FieldError, ValidationError
from forebay.http.encoding import is_record
from forebay.http.field_errors import convert_text, forbids_unknown, record_fields, unfit, without_wrappers
from forebay.http.form_data import FormData
from forebay.http.pydantic_models import decode_model_value, holds_pydantic, is_pydantic
from forebay.http.uploads import UploadFile

__all__ = ["FormDecoder", "convert_form", "form_decoder", "left_empty"]

FormDecoder = Callable[[FormData], tuple[Any, list[FieldError]]]
"""``decode(form)``: the record and no errors, or None and every field that does not fit."""

_MANY = (list, set, frozenset, tuple)
_NOTHING = object()
_UNKNOWN_KEPT = 100  # of one form


def convert_form(form: FormData, kind: Any) -> tuple[Any, list[FieldError]]:
    """``form`` as ``kind``: see :func:`form_decoder`."""
    return form_decoder(kind)(form)


@lru_cache(maxsize=1024)  # kinds stand in a program's source
def form_decoder(kind: Any) -> FormDecoder:
    """What reads forms as ``kind``; ``place`` of its errors is ``form``.

    :raises TypeError: ``kind`` is no record, or has a field that no form can hold; names the field.
    """
    if not is_record(kind):
        raise TypeError(
            f"a form cannot be read as {kind!r}: a Struct, dataclass, TypedDict or pydantic model is needed"
        )
    if is_pydantic(kind):
        return _model_decoder(kind)
    fields = [_Field(kind, *each) for each in record_fields(kind)]
    known = {field.name for field in fields}
    strict = forbids_unknown(kind)

    def decode(form: FormData) -> tuple[Any, list[FieldError]]:
        errors: list[FieldError] = []
        values = {}
        for field in fields:
            value = field.read(form, errors)
            if value is not _NOTHING:
                values[field.attribute] = value
        if strict:
            unknown = [name for name in form if name not in known][:_UNKNOWN_KEPT]
            errors += [FieldError("form", name, "is not a field of this form") for name in unknown]
        if errors:
            return None, errors
        try:
            return kind(**values), errors
        except (ValueError, TypeError) as error:  # of its __post_init__, as msgspec has it
            return None, [FieldError("form", "$", str(error))]

    return decode


class _Field:
    """One field of a record."""

    __slots__ = ("_bool", "_files", "_kind", "_many", "_none", "_required", "_text", "attribute", "name")

    def __init__(self, record: Any, attribute: str, name: str, kind: Any, required: bool) -> None:
        self.attribute = attribute
        self.name = name
        self._required = required
        self._kind, self._none = _without_none(kind)
        inner = without_wrappers(self._kind)
        self._many = (typing.get_origin(inner) or inner) in _MANY
        items = [each for each in typing.get_args(inner) if each is not Ellipsis] if self._many else [inner]
        plain = [without_wrappers(each) for each in items] or [str]
        self._files = UploadFile in plain
        self._text = any(each in (str, Any) or typing.get_origin(each) is Literal for each in plain)
        self._bool = bool in plain
        if self._files and (set(plain) != {UploadFile} or (self._many and inner is tuple)):
            raise TypeError(f"field {attribute} of {record.__qualname__}: a field is either of files or of text")
        for each in plain:
            if each is not UploadFile and not _is_scalar(each):
                raise TypeError(f"field {attribute} of {record.__qualname__}: no form holds a {each!r}")

    def read(self, form: FormData, errors: list[FieldError]) -> Any:
        """The value, or what says that the default is to be taken."""
        sent = [value for value in form.get_all(self.name) if not left_empty(value, self._text)]
        for value in sent:
            if isinstance(value, UploadFile) is not self._files:
                wanted = "a file is expected, text was sent" if self._files else "text is expected, a file was sent"
                errors.append(FieldError("form", self.name, wanted))
                return _NOTHING
        if not sent:
            if not self._required:
                return _NOTHING
            if self._none:
                return None
            if not self._many:
                errors.append(FieldError("form", self.name, "is required"))
                return _NOTHING
        found: Any = sent if self._many else sent[0]
        if self._bool and not self._many and found == "on":
            return True
        try:
            return convert_text(found, self._kind)
        except ValueError as error:
            errors.append(unfit("form", self.name, error))
            return _NOTHING


def left_empty(value: str | UploadFile, is_text: bool) -> bool:
    """Is it what a browser sends for an input that nobody has filled in? A text may be empty (``is_text``)."""
    if isinstance(value, UploadFile):
        return not value.filename and not value.size
    return not value and not is_text


def _model_decoder(kind: Any) -> FormDecoder:
    """For models of pydantic: which fields take all values of a name follows from their annotations."""
    make = decode_model_value(kind, place="form")
    fields = {}
    for name, field in _model_fields(kind):
        annotation, _ = _without_none(field.annotation)
        inner = without_wrappers(annotation)
        many = (typing.get_origin(inner) or inner) in _MANY
        items = typing.get_args(inner) if many else (inner,)
        is_text = any(without_wrappers(each) in (str, Any) for each in items)
        if any(holds_pydantic(each) or is_record(each) for each in items):
            raise TypeError(f"field {name} of {kind.__qualname__}: no form holds a {annotation!r}")
        sent_as = [alias for alias in (field.validation_alias, field.alias, name) if isinstance(alias, str)]
        fields.update(dict.fromkeys(sent_as, (many, is_text)))

    def decode(form: FormData) -> tuple[Any, list[FieldError]]:
        values: dict[str, Any] = {}
        for name in form:
            many, is_text = fields.get(name, (False, True))
            sent = [value for value in form.get_all(name) if not left_empty(value, is_text)]
            if many:
                values[name] = sent
            elif sent:
                values[name] = sent[0]
        try:
            return make(values), []
        except ValidationError as error:
            return None, list(error.errors)

    return decode


def _model_fields(kind: Any) -> list[tuple[str, Any]]:
    fields = getattr(kind, "model_fields", None) or getattr(kind, "__pydantic_fields__", {})
    return list(fields.items())


def _without_none(kind: Any) -> tuple[Any, bool]:
    """``kind`` without ``| None``, and whether that was there: what is sent is never None."""
    if typing.get_origin(kind) is Annotated:
        inner, none = _without_none(typing.get_args(kind)[0])
        return Annotated[(inner, *typing.get_args(kind)[1:])], none
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        none = len(members) < len(typing.get_args(kind))
        return (members[0] if len(members) == 1 else typing.Union[tuple(members)]), none  # noqa: UP007  # at run time
    return kind, False


def _is_scalar(kind: Any) -> bool:
    """Can text become a ``kind``?"""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return all(_is_scalar(without_wrappers(member)) for member in typing.get_args(kind))
    if typing.get_origin(kind) is Literal or kind is Any:
        return True
    return (
        isinstance(kind, type) and not is_record(kind) and kind not in (*_MANY, dict, types.NoneType) and _known(kind)
    )


def _known(kind: type) -> bool:
    try:
        info = msgspec.inspect.type_info(kind)
    except TypeError:
        return False
    return not isinstance(info, msgspec.inspect.CustomType | msgspec.inspect.DictType | msgspec.inspect.ListType)
