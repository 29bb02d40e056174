"""Asks a small application what schemathesis makes of its document, and judges the answers by that document.

A program of its own: importing schemathesis registers settings of hypothesis, and strategies of its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated, Any
from uuid import UUID

import msgspec
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has no stubs

from forebay.errors import HTTPError
from forebay.http import App
from forebay.http.binding import Form, Header, Query
from forebay.http.openapi import OpenAPI, build_document
from forebay.testing import TestClient

_TAKEN = ("method", "url", "headers", "params", "cookies", "data", "json", "files")


def crud() -> App[Any]:
    """A small application whose handlers do something."""

    class NewItem(msgspec.Struct, forbid_unknown_fields=True):
        name: Annotated[str, msgspec.Meta(min_length=1, max_length=10)]
        price: Annotated[float, msgspec.Meta(ge=0)]
        tags: Annotated[list[str], msgspec.Meta(max_length=3)] = []

    class Item(NewItem, kw_only=True):
        id: int

    app: App[Any] = App("crud")
    stored: dict[int, Item] = {}

    @app.get("/items")
    def search(
        q: str = "",
        limit: Annotated[int, msgspec.Meta(ge=1, le=9)] = 5,
        kind: Annotated[list[int] | None, Query()] = None,
    ) -> list[Item]:
        return [one for one in stored.values() if q in one.name][:limit]

    @app.post("/items", status=201)
    def add(item: NewItem, x_trace: Annotated[UUID | None, Header()] = None) -> Item:
        made = Item(id=len(stored), name=item.name, price=item.price, tags=item.tags)
        stored[made.id] = made
        return made

    @app.get("/items/{item_id:int}")
    def read(item_id: int) -> Item:
        if item_id not in stored:
            raise HTTPError(404, "there is no such item")
        return stored[item_id]

    @app.delete("/items/{item_id:int}")
    def remove(item_id: int) -> None:
        stored.pop(item_id, None)

    @app.post("/form")
    async def form(name: Annotated[str, Form()], age: Annotated[int, Form()] = 3) -> dict[str, int]:
        return {"age": age}

    return app


async def keeps_to() -> None:
    """Ask an application what schemathesis makes of its document, and have it judge the answers."""
    app = crud()
    document = build_document(app, OpenAPI("Shop", "1"))
    schema = schemathesis.openapi.from_dict(document)
    loop = asyncio.get_running_loop()
    counts: Counter[int] = Counter()
    async with TestClient(app) as client:

        async def ask(case: Any) -> None:
            made = case.as_transport_kwargs(base_url="http://testserver")
            prepared: Any = requests.Request(**{key: made[key] for key in _TAKEN if key in made}).prepare()
            body = prepared.body or b""
            content = body.encode() if isinstance(body, str) else body
            answer = await client.request(
                str(prepared.method), str(prepared.url), headers=dict(prepared.headers or {}), content=content
            )
            counts[answer.status] += 1
            documented = case.operation.definition.raw["responses"]
            assert answer.status < 500, (case, answer.status)
            assert str(answer.status) in documented, (case, answer.status, answer.body)
            assert answer.status != 415, (case, answer.body)
            expected = documented[str(answer.status)].get("content", {})
            if expected:
                kind = answer.headers["content-type"].partition(";")[0]
                content_schema = {**expected[kind]["schema"], "components": document["components"]}
                Draft202012Validator(content_schema).validate(answer.json())

        def run() -> None:
            for result in schema.get_all_operations():
                operation: Any = result.ok()  # type: ignore[union-attr]  # it raises what is wrong

                @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
                @given(case=operation.as_strategy())
                def one(case: Any) -> None:
                    asyncio.run_coroutine_threadsafe(ask(case), loop).result(20)

                one()

        await asyncio.to_thread(run)
    print("answered", dict(counts))
    assert {200, 201, 204} <= set(counts)


if __name__ == "__main__":
    asyncio.run(keeps_to())
