"""JSON Schemas (2020-12) of types, and the components they share.

Records are components: each is asked for on its own, and what it gives is put among the others under its class's name.
Two that are not alike never have one name; the second is called ``Name_2``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

from forebay.http.binding.signature import bare
from forebay.http.field_errors import record_fields
from forebay.http.openapi.patterns import ecma_pattern
from forebay.http.pydantic_models import encode_hook, holds_pydantic, is_pydantic, model_schema
from forebay.http.uploads import UploadFile

__all__ = ["NOTHING", "Field", "Schema", "Schemas", "bounded", "plain", "record_texts", "text_schema"]

Schema = dict[str, Any]
Mode = Literal["validation", "serialization"]

NOTHING: Any = object()
"""No default."""

FILE: Schema = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}

_LOCAL = "#/$defs/"
_SHARED = "#/components/schemas/"
_DEEPEST = 8  # levels of what is not shared
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
_VALUES = ("const", "default", "enum", "example", "examples")  # what these hold is no schema
_BY_NAME = ("$defs", "dependentSchemas", "patternProperties", "properties")  # and these hold schemas by names


def plain(value: Any) -> Any:
    """``value`` as JSON has it; :data:`NOTHING` where it cannot be written."""
    if isinstance(value, float) and not math.isfinite(value):
        return NOTHING
    try:
        return msgspec.json.decode(msgspec.json.encode(value, enc_hook=encode_hook))
    except (NotImplementedError, TypeError, ValueError, RecursionError):
        return NOTHING


def text_schema(kind: Any) -> Schema:
    """The schema of what is sent as text, or as several: never None, numbers as we take them, and nothing shared."""
    schema, shared = _described(bare(kind))
    return bounded(_inlined(schema, shared))


def bounded(schema: Schema) -> Schema:
    """With the bounds that integers have in texts: 64 bits."""
    if schema.get("type") == "integer" and "format" not in schema:
        schema["format"] = "int64"
        if "exclusiveMinimum" not in schema:
            schema.setdefault("minimum", _LEAST)
        if "exclusiveMaximum" not in schema:
            schema.setdefault("maximum", _MOST)
    for part in (schema.get("items"), *schema.get("anyOf", ()), *schema.get("prefixItems", ())):
        if isinstance(part, dict):
            bounded(part)
    return schema


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """A field of a record, as it is sent as text: ``name`` in the request, its schema, and what it is without."""

    name: str
    kind: Any
    required: bool
    schema: Schema


def record_texts(record: Any) -> Iterator[Field]:
    """The fields of a record that comes from a query, headers, cookies or a form."""
    if is_pydantic(record):
        for name, member in _model_fields(record):
            kind = Annotated[(member.annotation, *member.metadata)] if member.metadata else member.annotation
            schema = text_schema(kind)
            if member.description:
                schema["description"] = member.description
            _add_default(schema, NOTHING if member.is_required() else member.default)
            yield Field(member.alias or name, kind, member.is_required(), schema)
        return
    for attribute, name, kind, required in record_fields(record):
        schema = text_schema(kind)
        _add_default(schema, _default(record, attribute))
        yield Field(name, kind, required, schema)


class Schemas:
    """The schemas of one document. ``components`` are those that others refer to, by name."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}
        self._names: dict[str, str] = {}  # of components, by what they are

    def of(self, kind: Any, mode: Mode) -> Schema:
        """The schema of a JSON document of type ``kind``.

        :param mode: ``validation``: it is read; ``serialization``: it is written.
        """
        if holds_pydantic(kind):
            return self._of_model(kind, mode)
        schema, shared = _described(kind, lambda inner: self._of_model(inner, mode) if is_pydantic(inner) else {})
        return self._shared(schema, shared)

    def add(self, name: str, schema: Schema) -> Schema:
        """A component of our own; gives the reference to it."""
        return self._shared({"$ref": _LOCAL + name}, {name: {"title": name, **schema}})

    def resolved(self, schema: Schema) -> Schema:
        """The component that a schema refers to, or itself."""
        return self.components.get(schema.get("$ref", "").removeprefix(_SHARED), schema)

    def _of_model(self, kind: Any, mode: Mode) -> Schema:
        try:
            schema = _spoken(model_schema(kind, _LOCAL + "{model}", mode=mode))
        except Exception:  # a field that has no schema: pydantic has no base of its errors
            return {}
        shared = schema.pop("$defs", {})
        if is_pydantic(kind) and "$ref" not in schema:
            name = _component_name(kind.__name__)
            while name in shared:
                name += "_"
            schema, shared = {"$ref": _LOCAL + name}, {name: schema, **shared}
        return self._shared(schema, shared, "_Output" if mode == "serialization" else "_Input")

    def _shared(self, schema: Schema, shared: dict[str, Schema], suffix: str = "") -> Schema:
        """``schema`` with what it refers to among the components."""
        names: dict[str, str] = {}
        new: list[str] = []
        for name, found in shared.items():
            what = _canonical(name, shared)
            if what not in self._names:
                wanted = _component_name(str(found.get("title") or name))
                self._names[what] = self._free(wanted, suffix)
                self.components[self._names[what]] = {}  # taken from now on
                new.append(name)
            names[name] = self._names[what]
        for name in new:
            self.components[names[name]].update(_renamed(shared[name], names))
        made: Schema = _renamed(schema, names)
        return made

    def _free(self, wanted: str, suffix: str) -> str:
        if wanted not in self.components:
            return wanted
        wanted += suffix
        name, number = wanted, 1
        while name in self.components:
            number += 1
            name = f"{wanted}_{number}"
        return name


def _described(kind: Any, hook: Any = None) -> tuple[Schema, dict[str, Schema]]:
    """The schema of ``kind``, and what it refers to below ``$defs``."""

    def foreign(inner: type) -> Schema:
        return dict(FILE) if inner is UploadFile else hook(inner) if hook is not None else {}

    try:
        (schema,), shared = msgspec.json.schema_components((kind,), schema_hook=foreign, ref_template=_LOCAL + "{name}")
    except TypeError:  # there is no such schema: any value
        return {}, {}
    return _spoken(schema), {name: _spoken(one) for name, one in shared.items()}


def _spoken(schema: Any) -> Any:
    """``schema`` as JSON has it, and ECMA-262: patterns in that language, or in words; no default that is infinite."""
    if isinstance(schema, list | tuple):
        return [_spoken(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, part in schema.items():
        if key in _VALUES:
            if not (isinstance(part, float) and not math.isfinite(part)):
                made[key] = part
        elif key in _BY_NAME and isinstance(part, dict):
            names = {name: ecma_pattern(name) if key == "patternProperties" else name for name in part}
            made[key] = {written: _spoken(part[name]) for name, written in names.items() if written is not None}
        else:
            made[key] = _spoken(part)
    pattern = made.get("pattern")
    if isinstance(pattern, str):
        written = ecma_pattern(pattern)
        if written is not None:
            made["pattern"] = written
        else:
            del made["pattern"]
            words = f"Matches the regular expression `{pattern}`."
            made["description"] = f"{made['description']}\n\n{words}" if made.get("description") else words
    return made


def _model_fields(record: Any) -> Iterator[tuple[str, Any]]:
    found = getattr(record, "model_fields", None) or getattr(record, "__pydantic_fields__", {})
    yield from found.items()


def _default(record: Any, attribute: str) -> Any:
    """The default of a record's field; :data:`NOTHING` without one, or where it is made anew each time."""
    record = typing.get_origin(record) or record
    if issubclass(record, msgspec.Struct):
        for each in msgspec.structs.fields(record):
            if each.name == attribute:
                if each.default_factory in (list, dict, set):
                    return each.default_factory()
                return NOTHING if each.default is msgspec.NODEFAULT else each.default
    if dataclasses.is_dataclass(record):
        for member in dataclasses.fields(record):
            if member.name == attribute and member.default is not dataclasses.MISSING:
                return member.default
    return NOTHING


def _add_default(schema: Schema, default: Any) -> None:
    if default is None or default is NOTHING or default is msgspec.UNSET:
        return
    written = plain(default)
    if written is not NOTHING:
        schema["default"] = written


def _inlined(schema: Any, shared: dict[str, Schema], depth: int = 0) -> Any:
    """With what is referred to in its place: enumerations. Below eight levels anything fits."""
    if isinstance(schema, list | tuple):
        return [_inlined(part, shared, depth) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if depth > _DEEPEST:
        return {}
    made = {key: _inlined(part, shared, depth + 1) for key, part in schema.items() if key != "$ref"}
    if "$ref" in schema:
        made = {**_inlined(shared[schema["$ref"].removeprefix(_LOCAL)], shared, depth + 1), **made}
    return made


def _renamed(schema: Any, names: dict[str, str]) -> Any:
    if isinstance(schema, list | tuple):
        return [_renamed(part, names) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, part in schema.items():
        if key == "$ref" and isinstance(part, str) and part.startswith(_LOCAL):
            made[key] = _SHARED + names[part.removeprefix(_LOCAL)]
        elif tags := _tags(key, part):
            made[key] = {**part, "mapping": {tag: _renamed({"$ref": ref}, names)["$ref"] for tag, ref in tags.items()}}
        else:
            made[key] = _renamed(part, names)
    return made


def _tags(key: str, part: Any) -> dict[str, str]:
    """The references of a discriminator, by tag; none where that is the name of a field."""
    if key != "discriminator" or not isinstance(part, dict) or not isinstance(part.get("propertyName"), str):
        return {}
    return dict(part.get("mapping", {}))


def _canonical(name: str, shared: dict[str, Schema]) -> str:
    """What tells a component from all others: it and all it refers to, whatever these are called."""
    order = {name: "0"}
    pending, written = [name], []
    while pending:
        found = shared[pending.pop(0)]
        for other in _references(found):
            if other not in order:
                order[other] = str(len(order))
                pending.append(other)
        written.append(found)
    return json.dumps([_renamed(each, order) for each in written], sort_keys=True, default=repr)


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, part in sorted(schema.items()):
            if key == "$ref" and isinstance(part, str) and part.startswith(_LOCAL):
                yield part.removeprefix(_LOCAL)
            elif tags := _tags(key, part):
                yield from (ref.removeprefix(_LOCAL) for ref in tags.values())
            else:
                yield from _references(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            yield from _references(part)


def _component_name(name: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", name.rpartition(".")[2] if "[" not in name else name).strip("_")
    return name or "Schema"
