"""What a route answers: the responses of an OpenAPI operation, from the return annotation of its handler, from what it
takes, and from the middleware around it."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Annotated, Any

from forebay.http.binding.signature import MISSING
from forebay.http.encoding import MSGPACK
from forebay.http.messages import BINARY, JSON, HTTPMiddleware, Response
from forebay.http.openapi.inputs import Inputs
from forebay.http.openapi.schemas import Schema, Schemas
from forebay.http.problems import PROBLEM_TYPE
from forebay.http.route import Route
from forebay.wire.http1 import STATUS_PHRASES

__all__ = ["Answers", "add_problem", "answers_of", "securities"]

Answers = dict[str, dict[str, Any]]

_TEXT = "text/plain"
_SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")

_MALFORMED = "The request is malformed."
_TOO_LARGE = "The content is too large."
_UNAVAILABLE = "The service cannot answer now; `retry-after` may say when it can."
_BEARER = {
    400: _MALFORMED,
    401: "There is no token, or it is not valid.",
    403: "The token does not allow this.",
}
_OF_MIDDLEWARE: dict[str, dict[int, str]] = {
    "BasicAuth": {400: _MALFORMED, 401: "User name or password are missing or wrong.", 503: _UNAVAILABLE},
    "BearerAuth": _BEARER,
    "JWTAuth": {**_BEARER, 503: _UNAVAILABLE},
    "BodyLimit": {413: _TOO_LARGE},
    "CSRF": {403: "The request may have been caused by another site."},
    "ETag": {304: "What the client has is still so.", 412: "What is here is not what the request is meant for."},
    "RateLimit": {429: "Too many requests; `retry-after` says when to try again."},
    "Timeout": {504: "The answer took too long."},
}
"""What the middleware that ships answers by itself, by the name of its class."""


def answers_of(
    route: Route, inputs: Inputs, layers: Iterable[HTTPMiddleware], method: str, schemas: Schemas, problem: Schema
) -> Answers:
    """The responses of one operation, by status.

    :param problem: the schema of problem documents.
    """
    options = route.options
    assert route.signature is not None
    found: Answers = {}
    _add_result(found, route.signature.returns, options.status, schemas)
    errors = {**_of_inputs(route, inputs), **_of_layers(layers, method)}
    for status, text in errors.items():
        found[str(status)] = _problem(text, problem) if status >= 400 else {"description": text}
    free = found.get("default")
    for status, said in options.responses.items():
        _add_said(found, status, said, schemas, problem, free)
    if any(status < 400 for status in options.responses):  # what it makes by itself is one of these
        found.pop("default", None)
    return dict(sorted(found.items())) or {"default": {"description": "Any answer."}}


def securities(layers: Iterable[HTTPMiddleware], known: dict[str, dict[str, Any]]) -> list[dict[str, list[str]]] | None:
    """What is needed to be let in: the alternatives; None where nobody is asked.

    :param known: the schemes of the document; those that are new are added.
    """
    ways: list[dict[str, list[str]]] = [{}]
    asked = False
    for layer in layers:
        security = getattr(layer, "security", None)
        if security is None:
            continue
        asked = True
        name, scheme = security()
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", name)  # what components may be called
        wanted, number = name, 1
        while known.setdefault(name, scheme) != scheme:
            number += 1
            name = f"{wanted}_{number}"
        more = [{**way, name: []} for way in ways]
        ways = [*more, *ways] if _is_optional(layer) else more
    return ways if asked else None


def add_problem(schemas: Schemas) -> Schema:
    """The schema of problem documents, RFC 9457, as a component."""
    field = {
        "type": "object",
        "properties": {
            "place": {"type": "string", "description": "`path`, `query`, `header`, `cookie`, `form` or `body`."},
            "name": {"type": "string", "description": "What the field is called there."},
            "message": {"type": "string", "description": "Why it does not fit."},
        },
        "required": ["place", "name", "message"],
    }
    return schemas.add(
        "Problem",
        {
            "description": "Why a request was not answered as it was meant (RFC 9457).",
            "type": "object",
            "properties": {
                "type": {"type": "string", "format": "uri-reference", "default": "about:blank"},
                "title": {"type": "string", "description": "The same for all of one status."},
                "status": {"type": "integer", "minimum": 400, "maximum": 599},
                "detail": {"type": "string", "description": "What is wrong with this request."},
                "errors": {"type": "array", "items": field, "description": "Every field that does not fit."},
            },
            "required": ["type", "title", "status"],
        },
    )


# -- what the handler returns


def _add_result(found: Answers, kind: Any, status: int | None, schemas: Schemas) -> None:
    while typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    origin = typing.get_origin(kind)
    if kind in (typing.NoReturn, typing.Never):
        return
    if origin in (typing.Union, types.UnionType):
        members = typing.get_args(kind)
        plain = [each for each in members if _is_json(each)]
        if len(plain) > 1:  # one document of several shapes
            _put(found, str(status or 200), _json(typing.Union[tuple(plain)], schemas))  # noqa: UP007  # at run time
            members = tuple(each for each in members if each not in plain)
        for member in members:
            _add_result(found, member, status, schemas)
        return
    if kind in (MISSING, Any, object):
        _put(found, str(status or "default"), {})
    elif kind is None or kind is type(None):
        _put(found, str(status or 204), {})
    elif origin is tuple and len(typing.get_args(kind)) in (2, 3) and typing.get_args(kind)[1] is int:
        made: Answers = {}
        _add_result(made, typing.get_args(kind)[0], None, schemas)
        for answer in made.values():  # whatever its status is
            _put(found, "default", answer.get("content", {}))
    elif isinstance(origin or kind, type) and issubclass(origin or kind, Response):
        name = getattr(kind, "__name__", "")
        if name == "EventStream":
            _put(found, str(status or 200), {"text/event-stream": {"schema": {"type": "string"}}})
        else:
            _put(found, str(status or "default"), {})
    elif isinstance(origin or kind, type) and issubclass(origin or kind, AsyncIterable):
        _put(found, str(status or 200), {BINARY: {"schema": {}}})
    elif kind is str:
        _put(found, str(status or 200), {_TEXT: {"schema": {"type": "string"}}})
    elif kind is bytes:
        _put(found, str(status or 200), {BINARY: {"schema": {}}})
    else:
        _put(found, str(status or 200), _json(kind, schemas))


def _is_json(kind: Any) -> bool:
    made: Answers = {}
    _add_result(made, kind, 200, Schemas())
    return set(made) == {"200"} and JSON in made["200"].get("content", {})


def _json(kind: Any, schemas: Schemas) -> dict[str, Any]:
    schema = schemas.of(kind, "serialization")
    return {JSON: {"schema": schema}, MSGPACK: {"schema": schema}}


def _put(found: Answers, status: str, content: Mapping[str, Any]) -> None:
    answer = found.setdefault(status, {"description": _phrase(status)})
    if content:
        answer.setdefault("content", {}).update(content)


def _phrase(status: str) -> str:
    if status == "default":
        return "The answer."
    return STATUS_PHRASES.get(int(status), f"Status {status}") + "."


def _add_said(
    found: Answers, status: int, said: Any, schemas: Schemas, problem: Schema, free: dict[str, Any] | None
) -> None:
    """What the option ``responses`` says of one status: a text, a type, or both."""
    text, kind = said if isinstance(said, tuple) else (said, MISSING) if isinstance(said, str) else ("", said)
    key = str(status)
    if kind is not MISSING:
        made: Answers = {}
        _add_result(made, kind, status, schemas)
        found[key] = made.get(key, {"description": _phrase(key)})
    elif key not in found:
        if status >= 400:
            found[key] = _problem(text, problem)
        else:
            found[key] = {**(free or {}), "description": _phrase(key)}
    if text:
        found[key]["description"] = text


def _problem(text: str, problem: Schema) -> dict[str, Any]:
    return {"description": text, "content": {PROBLEM_TYPE: {"schema": problem}}}


# -- what others answer


def _of_inputs(route: Route, inputs: Inputs) -> dict[int, str]:
    found: dict[int, str] = {}
    if any(parameter["in"] == "path" for parameter in inputs.parameters):
        found[404] = "There is nothing at this path."
    if any(_is_text(parameter) for parameter in inputs.parameters if parameter["in"] == "path"):
        found[400] = _MALFORMED  # a text may be ".." or hold a NUL, which no path may
    if inputs.body is not None:
        if inputs.can_be_unfit:
            found[400] = _MALFORMED
            found[415] = "The content is of another type."
        if route.app.body_limit is not None:
            found[413] = _TOO_LARGE
    if inputs.can_be_unfit:
        found[422] = "Fields of the request do not fit; `errors` lists every one."
    if inputs.takes_files:
        found[507] = "There is no space left for the files."
    if route.uses_threads or inputs.takes_files:
        found[503] = _UNAVAILABLE
    if route.timeout is not None:
        found[504] = "The answer took too long."
    return found


def _of_layers(layers: Iterable[HTTPMiddleware], method: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for layer in layers:
        names = {
            each.__name__ for each in type(layer).__mro__ if each.__module__.startswith("forebay.http.middleware.")
        }
        for name in names & set(_OF_MIDDLEWARE):
            if (name == "CSRF" and method in _SAFE) or (name == "ETag" and method not in ("GET", "HEAD")):
                continue
            found.update(_OF_MIDDLEWARE[name])
    return found


def _is_text(parameter: dict[str, Any]) -> bool:
    schema = parameter["schema"]
    return schema.get("type") == "string" and not {"enum", "format"} & set(schema)


def _is_optional(layer: HTTPMiddleware) -> bool:
    """May somebody pass without credentials?"""
    return bool(getattr(layer, "optional", False))
