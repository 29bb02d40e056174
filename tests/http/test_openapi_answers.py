"""The OpenAPI document: what it says of answers, security and places, how it is served, and that it is kept to."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.http import App, Response
from forebay.http.binding import Form
from forebay.http.middleware import BasicAuth, BearerAuth, ETag
from forebay.http.openapi import OpenAPI, build_document, install
from forebay.http.uploads import UploadFile
from forebay.testing import TestClient
from tests.http.openapi_app import PLAIN, SETTINGS, TOKEN, checked, everything, json_of


class Signed(pydantic.BaseModel):
    """A form."""

    name: str


# -- answers


@pytest.mark.parametrize(
    ("returns", "status", "expected"),
    [
        (str, None, {"200": ["text/plain"]}),
        (bytes, None, {"200": ["application/octet-stream"]}),
        (None, None, {"204": []}),
        (None, 201, {"201": []}),
        (dict[str, int], None, {"200": ["application/json", "application/msgpack"]}),
        (list[int], 202, {"202": ["application/json", "application/msgpack"]}),
        (dict[str, int] | None, None, {"200": ["application/json", "application/msgpack"], "204": []}),
        (tuple[str, int], None, {"default": ["text/plain"]}),
        (tuple[str, int, dict[str, str]], 201, {"default": ["text/plain"]}),
        (Response, None, {"default": []}),
        (Any, None, {"default": []}),
        (Any, 203, {"203": []}),
        (str | bytes, None, {"200": ["text/plain", "application/octet-stream"]}),
    ],
)
def test_answers_follow_the_return_annotation(returns: Any, status: int | None, expected: dict[str, list[str]]) -> None:
    """Status and content types are those that such a result is sent with."""

    def handler() -> Any: ...

    handler.__annotations__["return"] = returns
    app: App[Any] = App()
    app.get("/", **({} if status is None else {"status": status}))(handler)  # type: ignore[arg-type]
    responses = checked(app)["paths"]["/"]["get"]["responses"]
    assert {key: list(answer.get("content", {})) for key, answer in responses.items()} == expected
    assert all(answer["description"] for answer in responses.values())


def test_a_union_of_records_is_one_document_of_either_shape() -> None:
    """Its content is any of them."""

    class Cat(msgspec.Struct, tag=True):
        lives: int

    class Dog(msgspec.Struct, tag=True):
        tricks: list[str]

    def pet() -> Any: ...

    pet.__annotations__["return"] = Cat | Dog | None
    app: App[Any] = App()
    app.get("/")(pet)
    found = json_of(checked(app)["paths"]["/"]["get"])
    assert [one["$ref"].rpartition("/")[2] for one in found["anyOf"]] == ["Cat", "Dog"]


def test_other_answers_are_said_by_the_option() -> None:
    """A text describes one that is known, or a problem; a type is its content; a status of success takes the place of
    what was not known."""

    class Detail(msgspec.Struct):
        why: str

    app: App[Any] = App()

    @app.get("/a", responses={200: "Found.", 404: "Lost.", 409: Detail, 410: ("Gone.", Detail)})
    def plain() -> dict[str, int]:
        return {}

    @app.get("/b", responses={201: "Made."})
    def other() -> tuple[dict[str, int], int]:
        return {}, 201

    paths = checked(app)["paths"]
    answers = paths["/a"]["get"]["responses"]
    assert answers["200"]["description"] == "Found."
    assert "application/json" in answers["200"]["content"]
    assert answers["404"]["description"] == "Lost."
    assert list(answers["404"]["content"]) == ["application/problem+json"]
    assert json_of(paths["/a"]["get"], "409") == {"$ref": "#/components/schemas/Detail"}
    assert answers["410"]["description"] == "Gone."
    answers = paths["/b"]["get"]["responses"]
    assert list(answers) == ["201"]
    assert "application/json" in answers["201"]["content"]


def test_what_cannot_be_unfit_has_no_422() -> None:
    """Routes whose arguments always fit do not speak of fields that do not."""
    app: App[Any] = App()

    @app.get("/{key:int}")
    def always(key: int, q: str = "") -> None: ...

    @app.get("/b")
    def sometimes(q: int = 1) -> None: ...

    @app.get("/c")
    def needed(q: str) -> None: ...

    paths = checked(app)["paths"]
    assert set(paths["/{key}"]["get"]["responses"]) == {"204", "404"}
    assert set(paths["/b"]["get"]["responses"]) == {"204", "422"}
    assert set(paths["/c"]["get"]["responses"]) == {"204", "422"}


async def test_answers_to_conditions_are_documented() -> None:
    """``ETag`` answers with 304, which has no content, and with 412; to GET only."""
    app: App[Any] = App(middleware=[ETag()])

    @app.route("/a", methods=["GET", "POST"])
    def tagged() -> str:
        return "a"

    item = checked(app)["paths"]["/a"]
    assert set(item["get"]["responses"]) == {"200", "304", "412"}
    assert "content" not in item["get"]["responses"]["304"]
    assert set(item["post"]["responses"]) == {"200"}
    async with TestClient(app) as client:
        assert (await client.get("/a", headers={"if-none-match": "*"})).status == 304
        assert (await client.get("/a", headers={"if-match": '"other"'})).status == 412
        assert (await client.post("/a", headers={"if-match": '"other"'})).status == 200


@pytest.mark.parametrize("part", ["%00", "%FF", "%2E%2E"])
async def test_texts_that_no_path_can_have_are_documented(part: str) -> None:
    """A part of the path that may be any text may be one with which no request is taken."""
    app: App[Any] = App()

    @app.get("/text/{text}")
    def any_text(text: str) -> str:
        return text

    @app.get("/id/{key:uuid}")
    def no_text(key: UUID) -> str:
        return str(key)

    paths = checked(app)["paths"]
    assert set(paths["/text/{text}"]["get"]["responses"]) == {"200", "400", "404"}
    assert set(paths["/id/{key}"]["get"]["responses"]) == {"200", "404"}
    async with TestClient(app) as client:
        assert (await client.get(f"/text/{part}")).status == 400


async def test_a_form_is_required_where_it_has_a_field_that_is() -> None:
    """Without any, no content is an empty form; what disks say against files is documented."""
    app: App[Any] = App()

    @app.post("/a")
    async def fields(word: Annotated[str, Form()] = "-") -> str:
        return word

    @app.post("/b")
    async def model(signed: Annotated[Signed, Form()]) -> str:
        return signed.name

    @app.post("/c")
    async def files(file: UploadFile) -> str:
        return "-"

    paths = checked(app)["paths"]
    assert [paths[path]["post"]["requestBody"]["required"] for path in paths] == [False, True, True]
    assert not {"503", "507"} & set(paths["/a"]["post"]["responses"])
    assert {"503", "507"} <= set(paths["/c"]["post"]["responses"])
    async with TestClient(app) as client:
        assert (await client.post("/a")).body == b"-"
        assert (await client.post("/b")).status == 422


# -- security


def test_schemes_of_any_name_are_components() -> None:
    """What no component may be called is called in another way."""
    app: App[Any] = App(middleware=[BearerAuth({TOKEN: "a"}, name="the token of ü")])
    app.get("/a")(lambda: None)
    document = checked(app)
    assert list(document["components"]["securitySchemes"]) == ["the_token_of_"]
    assert document["paths"]["/a"]["get"]["security"] == [{"the_token_of_": []}]


def test_security_comes_from_the_middleware_around_a_route() -> None:
    """Of application, group and route; all of them are needed, an optional one makes an alternative."""
    token = BearerAuth({TOKEN: "a"})
    app: App[Any] = App(middleware=[token])
    group = app.group("/g", middleware=[BasicAuth(lambda user, password: user, optional=True)])

    @app.get("/a")
    def plain() -> None: ...

    @group.get("/b", middleware=[BearerAuth({TOKEN: "a"}, name="other")])
    def both() -> None: ...

    document = checked(app)
    assert document["paths"]["/a"]["get"]["security"] == [{"bearerAuth": []}]
    assert document["paths"]["/g/b"]["get"]["security"] == [
        {"bearerAuth": [], "basicAuth": [], "other": []},
        {"bearerAuth": [], "other": []},
    ]
    assert document["components"]["securitySchemes"]["basicAuth"] == {"type": "http", "scheme": "basic"}
    assert {"401", "403"} <= set(document["paths"]["/a"]["get"]["responses"])


def test_middleware_answers_are_documented() -> None:
    """Rates, forged requests and time that is up."""
    paths = checked(everything(), SETTINGS)["paths"]
    assert {"401", "403", "429"} <= set(paths["/pickers"]["post"]["responses"])
    assert "504" in paths["/report"]["get"]["responses"]
    assert paths["/weather"]["get"]["security"] == [{"basicAuth": []}, {}]
    assert "security" not in paths["/report"]["get"]


# -- places


def test_mounted_applications_are_part_of_it() -> None:
    """Below their prefix, inside the middleware of what they are mounted in; parameters of the prefix are described."""
    inner: App[Any] = App("inner")
    deep: App[Any] = App("deep")

    @deep.get("/")
    def root() -> None: ...

    @inner.get("/x/{key:int}", tags=["inner"])
    def one(key: int) -> None: ...

    inner.mount("/deep", deep)
    app: App[Any] = App(middleware=[BearerAuth({TOKEN: "a"})])
    app.mount("/in", inner)
    paths = checked(app)["paths"]
    assert set(paths) == {"/in/x/{key}", "/in/deep"}
    assert paths["/in/x/{key}"]["get"]["tags"] == ["inner"]
    assert paths["/in/deep"]["get"]["security"] == [{"bearerAuth": []}]


def test_hosts_are_servers_of_their_operations() -> None:
    """A parameter of the host is a variable; a second route of one path, for another host, is an extension."""
    app: App[Any] = App()

    @app.get("/x")
    def anywhere() -> None: ...

    @app.group(host="{tenant}.example.com").get("/x")
    def somewhere(tenant: str) -> None: ...

    @app.group(host="api.example.com").get("/y")
    def there() -> None: ...

    paths = checked(app)["paths"]
    assert paths["/y"]["get"]["servers"] == [{"url": "//api.example.com"}]
    (other,) = paths["/x"]["x-hosts"]
    assert other["servers"] == [{"url": "//{tenant}.example.com", "variables": {"tenant": {"default": "www"}}}]
    assert "parameters" not in other


def test_a_route_for_any_host_comes_first() -> None:
    """It is what the path has, whichever was registered first."""
    app: App[Any] = App()
    app.group(host="api.example.com").get("/x", name="some")(lambda: None)
    app.get("/x", name="every")(lambda: None)
    item = checked(app)["paths"]["/x"]
    assert item["get"]["operationId"] == "every"
    assert "servers" not in item["get"]
    assert [one["operationId"] for one in item["x-hosts"]] == ["some"]


def test_websockets_and_unknown_methods_are_extensions() -> None:
    """OpenAPI has no place for them."""
    document = checked(everything(), SETTINGS)
    (chat,) = document["x-websockets"]
    assert chat["path"] == "/chat/{room}"
    assert [one["name"] for one in chat["parameters"]] == ["room", "nick"]
    assert "responses" not in chat
    assert not any("chat" in path for path in document["paths"])
    assert set(document["paths"]["/both"]["x-methods"]) == {"PURGE"}


# -- settings, and how it is served


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"title": ""}, "title"),
        ({"version": " "}, "version"),
        ({"path": "openapi.json"}, "must be like /openapi.json"),
        ({"docs": "/docs/"}, "without a slash"),
        ({"path": "/{x}"}, "without parameters"),
        ({"docs": "/openapi.json"}, "must differ"),
        ({"servers": "https://a.example"}, "must be a list"),
        ({"servers": ["ftp://a.example"]}, "must be a URL"),
        ({"servers": ["javascript:alert(1)"]}, "must be a URL"),
        ({"servers": ["https://a.example; script-src *"]}, "must be a URL"),
        ({"servers": ["//a.example"]}, "must be a URL"),
        ({"servers": ["https://a.example:x"]}, "must be a URL"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], words: str) -> None:
    """Each says what is wrong and what is valid."""
    with pytest.raises(ValueError, match=words):
        OpenAPI(**{"title": "A", "version": "1", **wrong})


async def test_the_document_is_served_once_for_who_has_it() -> None:
    """It has a tag; who has that gets 304; it is what ``build_document`` gives."""
    app = everything()
    async with TestClient(app) as client:
        response = await client.get("/openapi.json")
        assert response.status == 200
        assert response.headers["content-type"] == "application/json"
        assert response.json() == build_document(app, SETTINGS)
        again = await client.get("/openapi.json", headers={"if-none-match": response.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        changed = await client.get("/openapi.json", headers={"if-match": '"other"'})
        assert changed.status == 412
        head = await client.request("HEAD", "/openapi.json")
        assert head.status == 200


async def test_where_it_is_mounted_is_its_server() -> None:
    """An application below a prefix has that as its server, unless servers were set."""
    inner: App[Any] = App("inner")
    install(inner, PLAIN)
    fixed: App[Any] = App("fixed")
    install(fixed, OpenAPI("A", "1", servers=["https://a.example/v1"]))
    app: App[Any] = App()
    app.mount("/in", inner)
    app.mount("/fixed", fixed)
    async with TestClient(app) as client:
        assert (await client.get("/in/openapi.json")).json()["servers"] == [{"url": "/in"}]
        assert (await client.get("/fixed/openapi.json")).json()["servers"] == [{"url": "https://a.example/v1"}]
    async with TestClient(inner) as client:
        assert "servers" not in (await client.get("/openapi.json")).json()


async def test_the_root_path_of_another_server_is_its_server() -> None:
    """What an ASGI server says of where the application is."""
    app: App[Any] = App()
    install(app, PLAIN)

    async def below(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = {"path": "/v 1" + scope["path"], "raw_path": b"/v%201" + scope["raw_path"]}
            scope = {**scope, "root_path": "/v 1", **path}
        await app(scope, receive, send)

    async with TestClient(below) as client:
        assert (await client.get("/openapi.json")).json()["servers"] == [{"url": "/v%201"}]


async def test_an_application_that_has_grown_is_described_anew() -> None:
    """Routes that were registered after it was stopped are in the document when it runs again."""
    app: App[Any] = App()
    install(app, PLAIN)
    async with TestClient(app) as client:
        assert (await client.get("/openapi.json")).json()["paths"] == {}
    app.get("/new")(lambda: None)
    async with TestClient(app) as client:
        assert list((await client.get("/openapi.json")).json()["paths"]) == ["/new"]


async def test_document_and_page_can_be_left_out() -> None:
    """Without ``docs`` there is no page, without ``path`` there is nothing."""
    app: App[Any] = App()
    install(app, OpenAPI("A", "1", path="/api/spec", docs=None))
    bare: App[Any] = App()
    install(bare, OpenAPI("A", "1", path=None))
    async with TestClient(app) as client:
        assert (await client.get("/api/spec")).status == 200
        assert (await client.get("/docs")).status == 404
    assert bare.routes == ()


# -- the application keeps to it


def test_schemathesis_finds_nothing_that_is_not_documented() -> None:
    """Requests that are valid by the document are never answered by 5xx, nor by a status or a content that it does not
    name. In a process of its own: importing schemathesis warns, and changes settings of hypothesis."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.http.openapi_keeping"], capture_output=True, text=True, timeout=55
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "answered" in done.stdout


@given(st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_any_words_make_a_valid_document(summary: str, description: str) -> None:
    """Whatever stands in options is text in the document."""
    app: App[Any] = App()
    app.get("/", summary=summary, description=description, tags=[summary])(lambda: None)
    document = checked(app)
    assert document["paths"]["/"]["get"].get("description", "") == description
