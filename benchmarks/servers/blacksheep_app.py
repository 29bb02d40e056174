"""BlackSheep, for uvicorn and granian: the typed JSON route, and a JSON body that is checked."""

from __future__ import annotations

from blacksheep import Application, FromJSON, FromQuery, Response, json

from benchmarks.servers.pydantic_models import Order, receipt_of

app = Application()


@app.router.get("/users/{int:user_id}")
async def get_user(user_id: int, name: FromQuery[str | None]) -> Response:
    """A typed path parameter, a typed query parameter, and a JSON body."""
    return json({"id": user_id, "name": name.value})


@app.router.post("/orders")
async def add_order(order: FromJSON[Order]) -> Response:
    """A JSON body, checked, and a small JSON answer."""
    return json(receipt_of(order.value).model_dump())
