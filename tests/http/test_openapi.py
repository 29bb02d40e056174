"""The OpenAPI document: that it is valid, and what it says of operations, parameters, bodies and schemas."""

from __future__ import annotations

import enum
import json
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pydantic

from forebay.http import App
from forebay.http.binding import Body, Cookie, Depends, Form, Header, Query
from forebay.http.converters import Converter
from forebay.http.form_data import FormData
from forebay.http.openapi import OpenAPI
from forebay.http.uploads import UploadFile
from tests.http.openapi_app import HOSTILE, SETTINGS, checked, everything, schema_of


class FirstThings:
    """Where there is one class of a name."""

    class Thing(msgspec.Struct):
        """Refers to itself."""

        value: int
        next: FirstThings.Thing | None = None


class SecondThings:
    """Where there is another."""

    class Thing(msgspec.Struct):
        """Refers to itself."""

        value: str
        next: SecondThings.Thing | None = None


class Inner(pydantic.BaseModel):
    """In a model."""

    code: str


class Model(pydantic.BaseModel):
    """Is read and written differently."""

    inner: Inner
    price: Decimal = Decimal(3)


class Around(msgspec.Struct):
    """Has a model in it."""

    model: Model


def parameter(operation: dict[str, Any], name: str) -> dict[str, Any]:
    """One parameter of an operation."""
    (found,) = [one for one in operation["parameters"] if one["name"] == name]
    return dict(found)


# -- the whole


def test_the_document_of_an_application_with_everything_is_valid() -> None:
    """It is OpenAPI 3.1, as a validator of others has it, and what it refers to is there."""
    document = checked(everything(), SETTINGS)
    assert document["openapi"] == "3.1.0"
    assert document["info"] == {"title": "Orchard", "version": "2.1.0", "description": document["info"]["description"]}
    assert document["info"]["description"].startswith("What grows in the orchard")
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "')[1:]}:
        assert reference.startswith("#/components/schemas/")
        assert reference.rpartition("/")[2] in document["components"]["schemas"]
    assert "$defs" not in text


def test_operations_have_names_of_their_own() -> None:
    """Each ``operationId`` is there once: the route's name, with the method where it has several."""
    document = checked(everything(), SETTINGS)
    ids = [
        operation["operationId"]
        for item in document["paths"].values()
        for key, operation in item.items()
        if not key.startswith("x-")
    ]
    assert len(set(ids)) == len(ids)
    assert {"both_get", "both_post", "list_trees", "plant_tree"} <= set(ids)

    app: App[Any] = App()

    def same() -> None:
        """One handler at many places."""

    app.get("/a")(same)
    app.get("/b")(same)
    app.post("/a")(same)
    paths = checked(app)["paths"]
    assert [paths["/a"]["get"]["operationId"], paths["/b"]["get"]["operationId"]] == ["same", "same_get"]
    assert paths["/a"]["post"]["operationId"] == "same_post"


def test_what_is_hidden_or_automatic_is_left_out() -> None:
    """Hidden routes, HEAD and OPTIONS that answer by themselves, and the document's own routes are not in it."""
    document = checked(everything(), SETTINGS)
    assert not {"/secret", "/openapi.json", "/docs", "/barn"} & set(document["paths"])
    assert set(document["paths"]["/report"]) == {"get"}


def test_words_come_from_docstrings_and_options() -> None:
    """Summary and description are a docstring's first paragraph and its rest, unless the options say other ones."""
    app: App[Any] = App()

    @app.get("/a", deprecated=True, tags=["x", "x"])
    def first() -> None:
        """One
        line.

        And more
          of it.
        """

    @app.get("/b", summary="S", description="D")
    def second() -> None:
        """Not this."""

    @app.get("/c")
    def no_words_at_all() -> None: ...

    paths = checked(app, OpenAPI("A", "1", tags={"z": "last letter"}))["paths"]
    operation = paths["/a"]["get"]
    assert (operation["summary"], operation["description"]) == ("One line.", "And more\n  of it.")
    assert operation["deprecated"] is True
    assert operation["tags"] == ["x"]
    assert (paths["/b"]["get"]["summary"], paths["/b"]["get"]["description"]) == ("S", "D")
    assert paths["/c"]["get"]["summary"] == "No words at all"


def test_tags_are_in_the_order_of_the_settings_then_of_the_routes() -> None:
    """Those that the settings describe come first."""
    names = [tag["name"] for tag in checked(everything(), SETTINGS)["tags"]]
    assert names == ["trees", "pickers", HOSTILE, "live", "tools"]


# -- parameters


def test_parameters_say_all_that_is_known_of_them() -> None:
    """Place, name, whether it is required, default, constraints, description, examples, deprecation."""
    app: App[Any] = App()

    class Size(enum.Enum):
        SMALL = "s"
        LARGE = "l"

    @app.get("/{number:int}/{name}")
    def handler(
        number: Annotated[int, msgspec.Meta(ge=1)],
        name: str,
        limit: Annotated[int, msgspec.Meta(le=50, description="How many."), Query()] = 10,
        many: Annotated[list[Size], Query("size", description="Sizes.", examples=[["s"]])] = [Size.LARGE],  # noqa: B006
        maybe: float | None = None,
        x_api_version: Annotated[str, Header(deprecated=True)] = "2",
        token: Annotated[UUID | None, Cookie("sid")] = None,
        *,
        needed: bool,
    ) -> None: ...

    operation = checked(app)["paths"]["/{number}/{name}"]["get"]
    int64 = {"type": "integer", "format": "int64"}
    assert operation["parameters"] == [
        {"name": "number", "in": "path", "required": True, "schema": int64 | {"minimum": 1, "maximum": 2**63 - 1}},
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},
        {
            "name": "limit", "in": "query", "description": "How many.",
            "schema": int64 | {"minimum": -(2**63), "maximum": 50, "default": 10},
        },
        {
            "name": "size", "in": "query", "description": "Sizes.", "style": "form", "explode": True,
            "schema": {
                "type": "array", "items": {"title": "Size", "enum": ["l", "s"]}, "default": ["l"], "examples": [["s"]]
            },
        },
        {"name": "maybe", "in": "query", "schema": {"type": "number"}},
        {"name": "needed", "in": "query", "required": True, "schema": {"type": "boolean"}},
        {"name": "x-api-version", "in": "header", "deprecated": True, "schema": {"type": "string", "default": "2"}},
        {"name": "sid", "in": "cookie", "schema": {"type": "string", "format": "uuid"}},
    ]  # fmt: skip


def test_fields_of_records_are_parameters() -> None:
    """A record in the query is its fields; none of them is required where the record is not."""

    class Filter(msgspec.Struct, rename="camel"):
        first_name: str
        min_age: Annotated[int, msgspec.Meta(ge=0, description="Years.")] = 18

    app: App[Any] = App()

    @app.get("/a")
    def needed(wanted: Annotated[Filter, Query()]) -> None: ...

    @app.get("/b")
    def optional(wanted: Annotated[Filter | None, Query()] = None) -> None: ...

    paths = checked(app)["paths"]
    names = [(one["name"], one.get("required", False)) for one in paths["/a"]["get"]["parameters"]]
    assert names == [("firstName", True), ("minAge", False)]
    age = parameter(paths["/a"]["get"], "minAge")
    assert age["description"] == "Years."
    assert (age["schema"]["minimum"], age["schema"]["default"]) == (0, 18)
    assert not any(one.get("required") for one in paths["/b"]["get"]["parameters"])


def test_parameters_of_dependencies_are_merged() -> None:
    """Each is there once, is required if anybody requires it, and has to fit everybody; those of one that is made when
    the application starts are none of a request."""

    def shared() -> int:
        return 1

    def inner(page: Annotated[int, msgspec.Meta(ge=1)], q: str = "") -> int:
        return page

    def outer(found: Annotated[int, Depends(inner)], x_key: Annotated[str, Header()]) -> int:
        return found

    app: App[Any] = App()

    @app.get("/")
    def handler(
        one: Annotated[int, Depends(outer)],
        other: Annotated[int, Depends(shared, scope="app")],
        q: str,
        page: Annotated[int, msgspec.Meta(le=9)] = 1,
    ) -> None: ...

    operation = checked(app)["paths"]["/"]["get"]
    assert [(one["name"], one.get("required", False)) for one in operation["parameters"]] == [
        ("q", True),
        ("page", True),
        ("x-key", True),
    ]
    bounds = [part.get("minimum", 0) for part in parameter(operation, "page")["schema"]["allOf"]]
    assert bounds == [-(2**63), 1]


def test_converters_of_ones_own_give_their_schema() -> None:
    """What the pattern's converter gives is what the path takes, annotated or not."""
    day = Converter(parse=lambda text: UUID(text), format=str, kind=UUID)
    app: App[Any] = App(converters={"day": day})

    @app.get("/{one:day}/{two:float}/{rest:path}")
    def handler(one, two: float, rest: str) -> None: ...  # type: ignore[no-untyped-def]

    found = checked(app)["paths"]["/{one}/{two}/{rest}"]["get"]["parameters"]
    assert [one["schema"] for one in found] == [
        {"type": "string", "format": "uuid"},
        {"type": "number"},
        {"type": "string", "minLength": 1},
    ]


def test_literals_are_written_as_urls_have_them() -> None:
    """A blank in a pattern is %20 in the document's path."""
    app: App[Any] = App()
    app.get("/a b/ü")(lambda: None)
    assert list(checked(app)["paths"]) == ["/a%20b/%C3%BC"]


def test_paths_that_differ_only_in_a_parameters_name_are_one() -> None:
    """Methods of one path come together under its first name; routes that differ in a parameter's kind keep apart."""
    app: App[Any] = App()

    @app.get("/{key:int}")
    def read(key: int) -> None: ...

    @app.delete("/{number:int}")
    def remove(number: int) -> None: ...

    @app.get("/{name}")
    def by_name(name: str) -> None: ...

    @app.get("/x/{key:int}")
    def one(key: int) -> None: ...

    @app.get("/x/{key}")
    def other(key: str) -> None: ...

    paths = checked(app)["paths"]
    assert {path: sorted(item) for path, item in paths.items()} == {
        "/{key}": ["delete", "get"],
        "/{name}": ["get"],
        "/x/{key}": ["get"],
        "/x/{key_str}": ["get"],
    }
    assert paths["/{key}"]["delete"]["parameters"][0]["name"] == "key"
    assert paths["/x/{key_str}"]["get"]["parameters"][0]["name"] == "key_str"


# -- bodies


def test_bodies_are_json_and_messagepack() -> None:
    """A record is a component; a body is optional where there may be none; the marker describes it."""

    class Item(msgspec.Struct):
        name: str

    app: App[Any] = App()

    @app.post("/a")
    def needed(item: Annotated[Item, Body(description="It.", examples=[Item("x")])]) -> None: ...

    @app.post("/b")
    def optional(item: Item | None) -> None: ...

    @app.post("/c")
    def raw(content: bytes) -> None: ...

    document = checked(app)
    body = document["paths"]["/a"]["post"]["requestBody"]
    assert body["required"] is True
    assert body["description"] == "It."
    assert set(body["content"]) == {"application/json", "application/msgpack"}
    media = body["content"]["application/json"]
    assert media == {
        "schema": {"$ref": "#/components/schemas/Item"},
        "examples": {"example 1": {"value": {"name": "x"}}},
    }
    assert document["paths"]["/b"]["post"]["requestBody"]["required"] is False
    assert document["paths"]["/c"]["post"]["requestBody"] == {
        "required": False,
        "content": {"application/octet-stream": {"schema": {}}},
    }


def test_forms_are_described_with_their_files() -> None:
    """Fields and records are merged; with files it is multipart, without either kind; any form is any object."""

    class Record(msgspec.Struct):
        title: Annotated[str, msgspec.Meta(max_length=9)]
        count: int | None = None

    class Model(pydantic.BaseModel):
        code: str = pydantic.Field(min_length=3)

    app: App[Any] = App()

    @app.post("/files")
    async def files(
        one: UploadFile, more: list[UploadFile], record: Annotated[Record, Form()], note: Annotated[str, Form()] = "-"
    ) -> None: ...

    @app.post("/plain")
    async def plain(record: Annotated[Record, Form()]) -> None: ...

    @app.post("/model")
    async def model(record: Annotated[Model, Form()]) -> None: ...

    @app.post("/any")
    async def free(form: FormData) -> None: ...

    document = checked(app)
    content = document["paths"]["/files"]["post"]["requestBody"]["content"]
    assert list(content) == ["multipart/form-data"]
    schema = content["multipart/form-data"]["schema"]
    file = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    assert schema["required"] == ["one", "more", "title"]
    assert schema["properties"]["one"] == file
    assert schema["properties"]["more"] == {"type": "array", "items": file}
    assert schema["properties"]["title"] == {"type": "string", "maxLength": 9}
    assert schema["properties"]["count"]["type"] == "integer"
    assert schema["properties"]["note"] == {"type": "string", "default": "-"}
    either = ["application/x-www-form-urlencoded", "multipart/form-data"]
    assert list(document["paths"]["/plain"]["post"]["requestBody"]["content"]) == either
    body = document["paths"]["/model"]["post"]["requestBody"]["content"][either[0]]["schema"]
    assert schema_of(document, body)["properties"]["code"]["minLength"] == 3
    assert document["paths"]["/any"]["post"]["requestBody"]["content"][either[0]]["schema"]["type"] == "object"


# -- components


def test_classes_of_one_name_are_told_apart() -> None:
    """Two of one name are two components, wherever they are met; one class is one component, however often."""

    first, second = FirstThings.Thing, SecondThings.Thing
    Both = msgspec.defstruct("Both", [("one", first), ("two", list[second])])  # type: ignore[valid-type]  # noqa: N806
    app: App[Any] = App()
    app.post("/a")(_taking(first))
    app.post("/b")(_taking(second))
    app.post("/c")(_taking(Both))
    document = checked(app)
    schemas = document["components"]["schemas"]
    assert set(schemas) == {"Thing", "Thing_2", "Both", "Problem"}
    assert schemas["Thing"]["properties"]["value"] == {"type": "integer"}
    assert schemas["Thing_2"]["properties"]["value"] == {"type": "string"}
    assert schemas["Thing_2"]["properties"]["next"]["anyOf"][0] == {"$ref": "#/components/schemas/Thing_2"}
    assert schemas["Both"]["properties"]["one"] == {"$ref": "#/components/schemas/Thing"}
    assert schemas["Both"]["properties"]["two"]["items"] == {"$ref": "#/components/schemas/Thing_2"}


def _taking(kind: Any) -> Any:
    def handler(value: Any) -> None: ...

    handler.__annotations__["value"] = kind
    return handler


def test_models_of_pydantic_are_components_as_they_are_read_and_written() -> None:
    """What differs between reading and writing has two names; what is inside of other records is found."""

    app: App[Any] = App()

    @app.post("/a")
    def handler(model: Model) -> Around:
        return Around(model)

    document = checked(app)
    schemas = document["components"]["schemas"]
    assert set(schemas) == {"Model", "Model_Output", "Inner", "Around", "Problem"}
    assert len(schemas["Model"]["properties"]["price"]["anyOf"]) == 2
    assert schemas["Model_Output"]["properties"]["price"]["type"] == "string"
    assert schemas["Around"]["properties"]["model"] == {"$ref": "#/components/schemas/Model_Output"}


def test_a_class_called_problem_does_not_replace_ours() -> None:
    """A record of an application's own may be called as the problem document is."""

    class Problem(msgspec.Struct):
        riddle: str

    app: App[Any] = App()
    app.post("/")(_taking(Problem))
    document = checked(app)
    answer = document["paths"]["/"]["post"]["responses"]["422"]["content"]["application/problem+json"]["schema"]
    assert "detail" in schema_of(document, answer)["properties"]
    assert {"Problem", "Problem_2"} <= set(document["components"]["schemas"])
