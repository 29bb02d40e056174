"""FastAPI, for uvicorn: the typed JSON route, and a JSON body that is checked.

Return types are models: pydantic then writes the JSON itself, which FastAPI's manual calls the fastest way.
"""

from __future__ import annotations

from fastapi import FastAPI

from benchmarks.servers.pydantic_models import Order, Receipt, User, receipt_of

app = FastAPI()


@app.get("/users/{user_id}")
async def get_user(user_id: int, name: str | None = None) -> User:
    """A typed path parameter, a typed query parameter, and a JSON body."""
    return User(id=user_id, name=name)


@app.post("/orders")
async def add_order(order: Order) -> Receipt:
    """A JSON body, checked, and a small JSON answer."""
    return receipt_of(order)
