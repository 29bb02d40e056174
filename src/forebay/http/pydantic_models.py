"""Models of pydantic as content. Nothing here imports pydantic unless the program has: a type can only be one of its
models if it did."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from forebay.errors import FieldError, HTTPError, ValidationError
from forebay.http.field_errors import without_wrappers

__all__ = [
    "decode_model_json",
    "decode_model_value",
    "encode_hook",
    "encode_model",
    "holds_pydantic",
    "is_pydantic",
    "model_errors",
    "model_schema",
]

_ERRORS_KEPT = 100


def is_pydantic(kind: Any) -> bool:
    """Is ``kind`` a model of pydantic, or one of its dataclasses?"""
    pydantic = sys.modules.get("pydantic")
    base = getattr(pydantic, "BaseModel", None)  # None as well while pydantic is being imported
    if base is None or not isinstance(kind, type):
        return False
    return issubclass(kind, base) or (dataclasses.is_dataclass(kind) and hasattr(kind, "__pydantic_validator__"))


def holds_pydantic(kind: Any) -> bool:
    """Is ``kind`` such a model, or made of one, as ``list[Model]`` and ``Model | None`` are?"""
    if "pydantic" not in sys.modules:
        return False
    kind = without_wrappers(kind)
    return is_pydantic(kind) or any(holds_pydantic(part) for part in typing.get_args(kind))


@lru_cache(maxsize=1024)  # kinds stand in a program's source
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    try:
        return TypeAdapter(kind)
    except Exception as error:  # pydantic has no base of its errors that is no ValueError
        raise TypeError(f"pydantic cannot read {kind!r}: {error}") from error


def decode_model_json(kind: Any) -> Callable[[bytes], Any]:
    """What reads JSON as ``kind``.

    :raises TypeError: pydantic cannot read ``kind``; at once.

    What is returned raises :class:`~forebay.errors.HTTPError` (400) for what is not JSON, and
    :class:`~forebay.errors.ValidationError` (422) with every field that does not fit.
    """
    adapter = _adapter(kind)

    def decode(content: bytes) -> Any:
        try:
            return adapter.validate_json(content)
        except ValueError as error:
            raise _refused(error, "JSON") from None

    return decode


def decode_model_value(kind: Any, *, place: str = "body") -> Callable[[Any], Any]:
    """What makes ``kind`` of plain values: of MessagePack, or of a form. Raises as :func:`decode_model_json`'s does."""
    adapter = _adapter(kind)

    def decode(value: Any) -> Any:
        try:
            return adapter.validate_python(value)
        except ValueError as error:
            raise _refused(error, "content", place) from None

    return decode


def model_errors(error: Any, place: str = "body") -> list[FieldError]:
    """What a ``pydantic.ValidationError`` lists, at most 100, each with a path such as ``lines[0].name``."""
    listed = error.errors(include_url=False, include_context=False, include_input=False)
    return [FieldError(place, _path(each["loc"]), each["msg"]) for each in listed[:_ERRORS_KEPT]]


def encode_model(value: Any) -> bytes:
    """A model as JSON."""
    made: bytes = type(value).__pydantic_serializer__.to_json(value)
    return made


def encode_hook(value: Any) -> Any:
    """``enc_hook`` of msgspec: models inside of other values.

    :raises NotImplementedError: ``value`` is none, so msgspec cannot write it.
    """
    if is_pydantic(type(value)):
        return type(value).__pydantic_serializer__.to_python(value, mode="json")
    raise NotImplementedError(f"{type(value).__qualname__} cannot be written as JSON or MessagePack")


def model_schema(
    kind: Any,
    ref_template: str = "#/components/schemas/{model}",
    *,
    mode: typing.Literal["validation", "serialization"],
) -> dict[str, Any]:
    """The JSON Schema of ``kind`` (2020-12, as OpenAPI 3.1 has it); what it refers to is under ``$defs``.

    :param ref_template: of references; ``{model}`` is the name under ``$defs``.
    :param mode: ``validation``: of what is read; ``serialization``: of what is written.
    """
    schema: dict[str, Any] = _adapter(kind).json_schema(ref_template=ref_template, mode=mode)
    return schema


def _refused(error: ValueError, what: str, place: str = "body") -> Exception:
    listed = getattr(error, "errors", None)
    if listed is None:  # a validator of the model's own raised past pydantic
        return ValidationError([FieldError(place, "$", str(error))])
    found = model_errors(error, place)
    if any(each["type"] == "json_invalid" for each in error.errors(include_url=False)[:1]):  # type: ignore[attr-defined]  # pydantic's
        return HTTPError(400, f"request body is not valid {what}: {found[0].message}")
    return ValidationError(found)


def _path(location: tuple[str | int, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "$"
