"""What a route takes: the parameters and the request body of an OpenAPI operation, from its compiled binding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from forebay.http.binding import Binding, Body
from forebay.http.binding.arguments import Arguments
from forebay.http.binding.content import is_upload
from forebay.http.binding.fields import RecordField, TextField
from forebay.http.binding.signature import MISSING, Parameter, bare
from forebay.http.converters import CONVERTERS, Converter
from forebay.http.encoding import MSGPACK
from forebay.http.form_data import FormData
from forebay.http.messages import BINARY, JSON
from forebay.http.openapi.schemas import NOTHING, Field, Schema, Schemas, plain, record_texts, text_schema
from forebay.http.pydantic_models import is_pydantic

__all__ = ["URL_FORM", "Inputs"]

URL_FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

_PLACES = ("path", "query", "header", "cookie")


class Inputs:
    """The inputs of one route: its handler's and those of all its dependencies, merged.

    ``parameters`` and ``body`` are as the operation has them; ``body`` is None without. ``can_be_unfit``: there are
    requests that get a 422. ``takes_files``: the content may be a form with files.

    :param paths: the parameters of the path, in order: their names with their converters.
    """

    __slots__ = ("_found", "_paths", "_schemas", "body", "can_be_unfit", "parameters", "takes_files")

    def __init__(self, binding: Binding, paths: Mapping[str, Converter], schemas: Schemas) -> None:
        self._paths = paths
        self._schemas = schemas
        self._found: dict[tuple[str, str], dict[str, Any]] = {}
        self.can_be_unfit = False
        self.takes_files = False
        every = [binding.arguments, *(one.arguments for one in binding.dependencies if not one.shared)]
        for name, converter in paths.items():
            self._found["path", name] = {"name": name, "in": "path", "required": True, "schema": _of_path(converter)}
            if converter is CONVERTERS["path"]:
                self._found["path", name]["x-rest-of-path"] = True  # for the page: its slashes are no text
        for arguments in every:
            for field in arguments.described:
                if isinstance(field, RecordField):
                    self._add_record(field)
                elif field.place != "path":
                    self._add_text(field)
                elif field.alias in paths:
                    self._add_path(field)
        ordered = sorted(self._found.values(), key=lambda one: _PLACES.index(one["in"]))
        self.parameters = [_tidy(one) for one in ordered]
        self.body = self._content(every) or self._form(every)

    # -- parameters

    def _add(self, place: str, name: str, required: bool, schema: Schema, kind: Any, marker: Any = None) -> None:
        if place in ("header", "cookie") and schema.get("type") == "array":
            # the fields of a list come in headers of their own, which OpenAPI cannot say: this is one of them
            schema = {**schema.get("items", {}), **{key: schema[key] for key in ("description",) if key in schema}}
        if required or kind is not str:
            self.can_be_unfit = True
        made: dict[str, Any] = {"name": name, "in": place, "required": required}
        description = (marker.description if marker is not None else "") or schema.pop("description", "")
        if description:
            made["description"] = description
        if marker is not None:
            if marker.deprecated:
                made["deprecated"] = True
            if marker.examples:
                schema["examples"] = [written for one in marker.examples if (written := plain(one)) is not NOTHING]
        if place == "query" and schema.get("type") == "array":
            made.update(style="form", explode=True)
        made["schema"] = schema
        key = (place, name.lower() if place == "header" else name)
        known = self._found.get(key)
        self._found[key] = made if known is None else _both(known, made)

    def _add_text(self, field: TextField) -> None:
        schema = text_schema(field.kind)
        if field.default is not MISSING and field.default is not None:
            written = plain(field.default)
            if written is not NOTHING:
                schema["default"] = written
        self._add(field.place, field.alias, field.required, schema, bare(field.kind), field.marker)

    def _add_record(self, record: RecordField) -> None:
        known = {one.name: one for one in record_texts(record.kind)}
        for field in record.fields:
            said = known[field.name]
            required = field.default is MISSING and record.default is MISSING
            self._add(record.place, field.alias, required, said.schema, bare(field.kind))

    def _add_path(self, field: TextField) -> None:
        """What the pattern says of a part of the path, and what the annotation says besides."""
        known = self._found["path", field.alias]
        natural = self._paths[field.alias].kind
        marker = field.marker
        if field.kind not in (natural, Any, str):
            self.can_be_unfit = True
            said = {key: part for key, part in text_schema(field.kind).items() if part is not None}
            before = known["schema"]
            if natural is int and said.get("type") in ("integer", "number"):
                said.update(type="integer", format="int64")
            if said.get("type") == before.get("type") == "string" and "format" not in said and "enum" not in said:
                said["minLength"] = max(said.get("minLength", 0), 1)
            known["schema"] = said
        schema = known["schema"]
        description = (marker.description if marker is not None else "") or schema.pop("description", "")
        if description:
            known["description"] = description
        if marker is not None and marker.deprecated:
            known["deprecated"] = True
        if marker is not None and marker.examples:
            schema["examples"] = [written for one in marker.examples if (written := plain(one)) is not NOTHING]

    # -- content

    def _content(self, every: Iterable[Arguments]) -> dict[str, Any] | None:
        readers = [arguments for arguments in every if arguments.content]
        if not readers:
            return None
        structured = [arguments for arguments in readers if arguments.content_kind is not bytes]
        if not structured:
            return {"required": False, "content": {BINARY: {"schema": {}}}}
        self.can_be_unfit = True
        found = [self._schemas.of(arguments.content_kind, "validation") for arguments in structured]
        media: dict[str, Any] = {"schema": found[0] if len(found) == 1 else {"allOf": found}}
        body: dict[str, Any] = {"required": not all(arguments.content_optional for arguments in structured)}
        for marker in (parameter.marker for arguments in structured for parameter in arguments.signature.parameters):
            if isinstance(marker, Body):
                if marker.description:
                    body["description"] = marker.description
                if marker.examples:
                    written = [made for one in marker.examples if (made := plain(one)) is not NOTHING]
                    named = enumerate(written, 1)
                    media["examples"] = {f"example {number}": {"value": value} for number, value in named}
        body["content"] = {JSON: media, MSGPACK: {"schema": media["schema"]}}
        return body

    def _form(self, every: Iterable[Arguments]) -> dict[str, Any] | None:
        readers = [arguments for arguments in every if arguments.form]
        if not readers:
            return None
        self.can_be_unfit = True
        parts: list[Schema] = []
        models: list[Schema] = []
        properties: dict[str, Schema] = {}
        required: list[str] = []
        files, free = False, False
        for arguments in readers:
            free = free or any(parameter.kind is FormData for parameter in arguments.signature.parameters)
            for one in arguments.form_parameters:
                if isinstance(one, Parameter) and is_pydantic(bare(one.kind)):
                    model = self._schemas.of(bare(one.kind), "validation")
                    if model:
                        parts.append(model)
                        models.append(self._schemas.resolved(model))
                        continue
                for field, marker in _form_fields(one):
                    schema = _with_marker(dict(field.schema), marker)
                    known = properties.get(field.name)
                    properties[field.name] = schema if known in (None, schema) else {"allOf": [known, schema]}
                    if field.required and field.name not in required:
                        required.append(field.name)
                    files = files or is_upload(field.kind)
        if properties or not parts:
            own: Schema = {"type": "object", "properties": properties}
            if required:
                own["required"] = required
            parts.insert(0, own)
        whole = parts[0] if len(parts) == 1 else {"allOf": parts}
        names = (MULTIPART,) if files else (MULTIPART, URL_FORM) if free else (URL_FORM, MULTIPART)
        self.takes_files = files or free
        needed = bool(required) or any(model.get("required") for model in models)
        return {"required": needed, "content": {name: {"schema": whole} for name in names}}


def _form_fields(one: TextField | Parameter) -> Iterator[tuple[Field, Any]]:
    if isinstance(one, Parameter):
        optional = one.default is not MISSING
        for field in record_texts(bare(one.kind)):
            yield _optional(field) if optional else field, None
        return
    schema = text_schema(one.kind)
    if one.default is not MISSING and one.default is not None and (written := plain(one.default)) is not NOTHING:
        schema["default"] = written
    yield Field(one.alias, one.kind, one.required, schema), one.marker


def _optional(field: Field) -> Field:
    return Field(field.name, field.kind, False, field.schema)


def _with_marker(schema: Schema, marker: Any) -> Schema:
    if marker is not None:
        if marker.description:
            schema["description"] = marker.description
        if marker.deprecated:
            schema["deprecated"] = True
        if marker.examples:
            schema["examples"] = [written for one in marker.examples if (written := plain(one)) is not NOTHING]
    return schema


def _of_path(converter: Converter) -> Schema:
    schema = text_schema(converter.kind)
    if schema == {"type": "string"}:
        schema["minLength"] = 1  # a segment is never empty
    return schema


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A parameter that two functions take: it has to fit both."""
    made = {**other, **one, "required": one["required"] or other["required"]}
    if one["schema"] != other["schema"]:
        made["schema"] = {"allOf": [one["schema"], other["schema"]]}
    if "deprecated" in made and not (one.get("deprecated") and other.get("deprecated")):
        del made["deprecated"]
    return made


def _tidy(parameter: dict[str, Any]) -> dict[str, Any]:
    if not parameter["required"]:
        del parameter["required"]
    schema = parameter.pop("schema")
    return {**parameter, "schema": schema}
