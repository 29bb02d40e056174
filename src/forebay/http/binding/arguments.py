"""The arguments of one function, a handler or a dependency, as far as they come from the request."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from forebay.errors import FieldError, ValidationError
from forebay.http.binding.content import (
    ContentReader,
    check_content_type,
    is_form,
    is_upload,
    read_bytes,
    read_bytes_if_any,
    read_content,
)
from forebay.http.binding.fields import (
    SCALARS,
    Errors,
    RecordField,
    Single,
    TextField,
    fresh,
    is_scalar,
    is_text,
)
from forebay.http.binding.markers import Body, Cookie, Depends, Form, Header, Path, Query
from forebay.http.binding.signature import MISSING, Parameter, Signature, allows_none, bare, name_of, place_of
from forebay.http.converters import Converter
from forebay.http.cookies import parse_cookies
from forebay.http.encoding import is_record, parse_query
from forebay.http.exchange import Exchange
from forebay.http.field_errors import is_struct_like, record_fields, without_wrappers
from forebay.http.form_data import FormData
from forebay.http.form_records import FormDecoder, form_decoder, left_empty
from forebay.http.headers import Headers
from forebay.http.messages import Request

if TYPE_CHECKING:
    from forebay.http.app import App

__all__ = ["FAILED", "Arguments", "Source"]

_UNKNOWN_KEPT = 100  # of one query: what clients make up must not become an answer of thousands of errors

FAILED: Any = object()
"""The value of a dependency whose own arguments do not fit."""


class Source(msgspec.Struct, gc=True, eq=False):
    """One request, as arguments are read from it. ``given`` are the values of the dependencies, in their order."""

    exchange: Exchange
    path: dict[str, Any] | None
    body: bytes = b""
    request: Request | None = None
    app: Any = None
    given: list[Any] | None = None
    form: FormData | None = None
    pairs: list[tuple[str, str]] | None = None
    fields: dict[str, str] | None = None

    def query(self) -> dict[str, str]:
        """The fields of the query, the first of each name; ``pairs`` are all of them."""
        fields = self.fields
        if fields is None:
            self.pairs = pairs = parse_query(self.exchange.query)
            self.fields = fields = dict(pairs)
            if len(fields) != len(pairs):
                self.fields = fields = dict(reversed(pairs))
        return fields


class _Query:
    """The fields of the query as texts."""

    __slots__ = ("_source", "first")

    def __init__(self, source: Source) -> None:
        self._source = source
        self.first = source.query().get

    def every(self, name: str) -> list[str]:
        return [text for other, text in self._source.pairs or () if other == name]


class _Headers:
    """Headers as texts."""

    __slots__ = ("_headers",)

    def __init__(self, exchange: Exchange) -> None:
        self._headers = Headers(exchange.headers)

    def first(self, name: str) -> str | None:
        return self._headers.get(name)

    def every(self, name: str) -> list[str]:
        return self._headers.get_all(name)


class Arguments:
    """How to call one function.

    ``content`` and ``form`` say whether that takes the request's content, or a form that it is; ``request`` whether it
    takes the request itself; ``of_request`` names the parameters that only a request can give. ``known_in_query`` are
    the fields that the handler or a dependency of its knows. ``described`` has what comes from the request, for the
    OpenAPI document.
    """

    __slots__ = (
        "_all_path", "_content", "_content_name", "_cookies", "_form_fields", "_form_records", "_headers", "_more",
        "_path", "_queries", "_records", "_specials", "content_kind", "content_optional", "depends", "form",
        "known_in_query", "of_request", "path_names", "request", "signature", "trivial", "where",
    )  # fmt: skip

    def __init__(
        self, signature: Signature, converters: dict[str, Converter], where: str, app: App[Any] | None
    ) -> None:
        self.signature = signature
        self.where = where
        self.path_names: list[str] = []
        self._path: list[TextField] = []  # those that need no check are not here
        self._queries: list[TextField] = []
        self._headers: list[TextField] = []
        self._cookies: list[TextField] = []
        self._records: list[RecordField] = []
        self._content: ContentReader | None = None
        self._content_name = ""
        self.content_kind: Any = MISSING
        self.content_optional = False
        self._form_fields: list[TextField] = []
        self._form_records: list[tuple[Parameter, FormDecoder]] = []
        self.form = False
        self.request = False
        self._specials: list[tuple[str, Callable[[Source], Any]]] = []
        self.depends: list[tuple[str, int]] = []
        self.of_request: list[str] = []
        self.known_in_query: frozenset[str] = frozenset()
        for parameter in signature.parameters:
            if not isinstance(parameter.marker, Depends):
                if parameter.default is MISSING and allows_none(parameter.kind):
                    parameter = dataclasses.replace(parameter, default=None)
                self._add(parameter, converters, app)
        self._all_path = len(self.path_names) == len(converters)
        self._more = False
        self.trivial = False

    @property
    def content(self) -> bool:
        """Whether the content is wanted."""
        return self._content is not None

    def seal(self) -> None:
        """All that it takes is known."""
        self._more = bool(
            self._headers or self._cookies or self._records or self._content or self.form or self._specials
        )
        self.trivial = self._all_path and not (self._path or self._queries or self._more or self.depends)

    # -- compiling

    def _add(self, parameter: Parameter, converters: dict[str, Converter], app: App[Any] | None) -> None:
        name, kind, marker = parameter.name, parameter.kind, parameter.marker
        if marker is None and self._add_special(name, kind, app):
            return
        self.of_request.append(name)
        if name in converters and (marker is None or isinstance(marker, Path)):
            self._add_path(parameter, converters[name])
        elif isinstance(marker, Path):
            raise TypeError(f"{self.where}: parameter {name} is marked as a part of the path, which has no {{{name}}}")
        elif is_form(parameter):
            self._add_form(parameter)
        elif isinstance(marker, Body):
            self._add_content(parameter)
        elif marker is not None or kind is MISSING or is_text(kind):
            self._add_text(parameter)
        else:
            self._add_content(parameter)

    def _add_path(self, parameter: Parameter, converter: Converter) -> None:
        name, kind, natural = parameter.name, parameter.kind, converter.kind
        self.path_names.append(name)
        if kind in (MISSING, Any, natural):
            return
        if not is_scalar(kind):
            raise TypeError(f"{self.where}: parameter {name} of type {kind} cannot be a part of the path")
        wanted = without_wrappers(bare(kind))
        if natural is not str and wanted in SCALARS and wanted is not natural and (natural, wanted) != (int, float):
            gives = f"the path gives {natural.__name__}"
            raise TypeError(f"{self.where}: {gives}, but parameter {name} is annotated {wanted.__name__}")
        self._path.append(self._text_field("path", parameter, name))

    def _add_special(self, name: str, kind: Any, app: App[Any] | None) -> bool:
        kind = without_wrappers(kind)
        bare_kind = typing.get_origin(kind) or kind
        if kind is Request:
            self.of_request.append(name)
            self.request = True
            self._specials.append((name, _request))
        elif app is not None and bare_kind in type(app).__mro__ and kind is not object:
            self._specials.append((name, lambda source: source.app))
        elif app is not None and kind is app.state_class:
            self._specials.append((name, lambda source: source.app.state))
        else:
            return False
        return True

    def _add_text(self, parameter: Parameter) -> None:
        name, kind, marker = parameter.name, parameter.kind, parameter.marker
        place = "query" if marker is None else type(marker).__name__.lower()
        target = {"query": self._queries, "header": self._headers, "cookie": self._cookies}[place]
        if is_record(bare(kind)):
            record = bare(kind)
            fields = {}
            if not is_struct_like(record):
                raise TypeError(
                    f"{self.where}: parameter {name}: a pydantic model can only be content, not the {place}"
                )
            for attribute, inner, inner_kind, required in record_fields(record):
                if not is_text(inner_kind):
                    what = f"{inner} of {name_of(record)} ({place_of(record)})"
                    raise TypeError(f"{self.where}: {what}, of type {inner_kind}, cannot be a field of the {place}")
                self._check_decodable(
                    inner_kind, f"parameter {name}: {inner} of {name_of(record)} ({place_of(record)})"
                )
                default_of = MISSING if required else msgspec.UNSET
                fields[attribute] = TextField(place, inner, _alias(place, inner), inner_kind, default_of)
            self._records.append(RecordField(place, name, record, parameter.default, fields))
            return
        if kind is not MISSING and not is_text(kind):
            raise TypeError(f"{self.where}: parameter {name} of type {kind} cannot be a field of the {place}")
        alias = (marker.name if isinstance(marker, Query | Header | Cookie) else None) or _alias(place, name)
        target.append(self._text_field(place, parameter, alias))

    def _text_field(self, place: str, parameter: Parameter, alias: str) -> TextField:
        kind, marker = parameter.kind, parameter.marker
        self._check_decodable(kind, parameter.name)
        described = None if isinstance(marker, Depends) else marker
        return TextField(place, parameter.name, alias, kind, parameter.default, described)

    def _check_decodable(self, kind: Any, what: str) -> None:
        """What cannot be decoded at all must not become a failure of each request."""
        try:
            msgspec.json.Decoder(str if kind is MISSING else bare(kind))
        except TypeError as error:
            raise TypeError(f"{self.where}: parameter {what}: {error}") from None

    def _add_content(self, parameter: Parameter) -> None:
        if self._content is not None:
            both = f"parameters {self._content_name} and {parameter.name}"
            raise TypeError(f"{self.where}: {both} would both be the request's content")
        self.content_kind, self.content_optional = check_content_type(parameter, self.where)
        self._content_name = parameter.name
        kind, optional = self.content_kind, self.content_optional
        if kind is bytes:
            self._content = read_bytes_if_any if optional else read_bytes
        else:
            self._content = read_content(kind, optional, allows_none(parameter.kind))

    def _add_form(self, parameter: Parameter) -> None:
        name, kind, marker = parameter.name, parameter.kind, parameter.marker
        self.form = True
        if kind is FormData:
            self._specials.append((name, lambda source: source.form))
        elif is_record(bare(kind)) and not is_upload(kind):
            try:
                self._form_records.append((parameter, form_decoder(bare(kind))))
            except TypeError as error:
                raise TypeError(f"{self.where}: parameter {name}: {error}") from None
        elif is_upload(kind) or kind is MISSING or is_text(kind):
            alias = (marker.name if isinstance(marker, Form) else None) or name
            self._form_fields.append(self._text_field("form", parameter, alias))
        else:
            raise TypeError(f"{self.where}: parameter {name} of type {kind} cannot be a field of a form")

    # -- a request

    def read(self, source: Source, errors: Errors) -> dict[str, Any]:
        """The keyword arguments. What does not fit is added to ``errors``.

        :raises HTTPError: 400 or 415: the content is not of a kind that can be read.
        """
        path = source.path
        if self.trivial:
            return path if path is not None else {}
        if self._all_path:
            arguments = dict(path) if path else {}
        else:
            arguments = {name: path[name] for name in self.path_names} if path else {}
        for field in self._path:
            arguments[field.name] = field.read(arguments[field.name], errors)
        if self._queries:
            sent = source.query()
            for field in self._queries:
                value: Any = sent.get(field.alias)
                if value is not None:
                    if field.convert is None:
                        arguments[field.name] = value
                        continue
                    if field.many:
                        value = [text for name, text in source.pairs or () if name == field.alias]
                arguments[field.name] = field.read(value, errors)
        if self._more:
            self._read_more(source, arguments, errors)
        if self.depends:
            given = source.given or []
            for name, index in self.depends:
                arguments[name] = given[index]
        return arguments

    def _read_more(self, source: Source, arguments: dict[str, Any], errors: Errors) -> None:
        """What not every handler takes."""
        if self._headers:
            headers = _Headers(source.exchange)
            for field in self._headers:
                arguments[field.name] = field.read_from(headers, errors)
        if self._cookies:
            cookies = Single(_cookies(source))
            for field in self._cookies:
                arguments[field.name] = field.read_from(cookies, errors)
        if self._records:
            self._read_records(source, arguments, errors)
        if self._content is not None:
            try:
                arguments[self._content_name] = self._content(source.exchange, source.body)
            except ValidationError as error:
                errors.extend(error.errors)
        if self.form and source.form is not None:
            self._read_form(source.form, arguments, errors)
        for name, get in self._specials:
            arguments[name] = get(source)

    def _read_records(self, source: Source, arguments: dict[str, Any], errors: Errors) -> None:
        for record in self._records:
            if record.place == "query":
                if record.forbids_unknown:
                    unknown = [name for name in source.query() if name not in self.known_in_query][:_UNKNOWN_KEPT]
                    errors += [FieldError("query", name, "is not a field of this query") for name in unknown]
                arguments[record.name] = record.read_from(_Query(source), errors)
            elif record.place == "header":
                arguments[record.name] = record.read_from(_Headers(source.exchange), errors)
            else:
                arguments[record.name] = record.read_from(Single(_cookies(source)), errors)

    def _read_form(self, form: FormData, arguments: dict[str, Any], errors: Errors) -> None:
        for field in self._form_fields:
            value: Any = [one for one in form.get_all(field.alias) if not left_empty(one, field.takes_empty)]
            if not field.many:
                value = value[0] if value else None
            if not value and value != "":  # what is left empty in a form was not filled in, but for a text
                arguments[field.name] = field.read(None, errors)
            elif field.is_flag and value == "on":  # a box that was ticked
                arguments[field.name] = True
            elif is_upload(field.kind):
                ok = [isinstance(one, str) for one in (value if field.many else [value])]
                if any(ok):
                    errors.append(FieldError("form", field.alias, "must be a file"))
                arguments[field.name] = value
            elif not isinstance(value, str) and not field.many:
                errors.append(FieldError("form", field.alias, "must not be a file"))
            else:
                arguments[field.name] = field.read(value, errors)
        for parameter, decode in self._form_records:
            if not len(form) and parameter.default is not MISSING:
                arguments[parameter.name] = fresh(parameter.default)
                continue
            made, wrong = decode(form)
            errors.extend(wrong)
            arguments[parameter.name] = made

    @property
    def query_names(self) -> list[str]:
        """What is read from the query."""
        records = [field for record in self._records if record.place == "query" for field in record.fields]
        return [field.alias for field in (*self._queries, *records)]

    @property
    def described(self) -> list[TextField | RecordField]:
        """The fields of path, query, headers and cookies, for the OpenAPI document."""
        kinds = {parameter.name: parameter for parameter in self.signature.parameters}
        path = [
            TextField("path", name, name, kinds[name].kind, MISSING, _marker(kinds[name])) for name in self.path_names
        ]
        return [*path, *self._queries, *self._headers, *self._cookies, *self._records]

    @property
    def form_parameters(self) -> list[TextField | Parameter]:
        """The fields and records of the form."""
        return [*self._form_fields, *(parameter for parameter, _ in self._form_records)]


def _marker(parameter: Parameter) -> Path | None:
    return parameter.marker if isinstance(parameter.marker, Path) else None


def _alias(place: str, name: str) -> str:
    return name.replace("_", "-") if place == "header" else name


def _request(source: Source) -> Request | None:
    return source.request


def _cookies(source: Source) -> dict[str, str]:
    return parse_cookies(source.exchange.headers)
