"""What Forebay serves in the scenarios of the web framework: the typed JSON route of :mod:`benchmarks.apps` with more
around it, and a JSON body that is checked. Started as a user starts it: ``forebay run benchmarks.web_apps:body``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from msgspec import Meta, Struct

from benchmarks.apps import User, get_user
from forebay import App
from forebay.http.binding import Depends
from forebay.http.middleware import CORS, RequestId

middleware = App("middleware", middleware=[RequestId(), CORS(origins=["https://shop.example"])])
middleware.get("/users/{user_id:int}")(get_user)


class Tenant(Struct):
    """What the dependency gives."""

    name: str


async def find_tenant() -> Tenant:
    """A dependency without a cost of its own."""
    return Tenant("acme")


async def open_tenant() -> AsyncIterator[Tenant]:
    """The same with something to close after the response."""
    yield Tenant("acme")


dependency = App("dependency")
dependency_closed = App("dependency-closed")


@dependency.get("/users/{user_id:int}")
async def get_user_of(user_id: int, tenant: Annotated[Tenant, Depends(find_tenant)], name: str | None = None) -> User:
    """The typed route with a dependency."""
    return User(user_id, name)


@dependency_closed.get("/users/{user_id:int}")
async def get_user_in(user_id: int, tenant: Annotated[Tenant, Depends(open_tenant)], name: str | None = None) -> User:
    """The typed route with a dependency that is closed."""
    return User(user_id, name)


class Item(Struct):
    """A line of an order."""

    sku: Annotated[str, Meta(min_length=1, max_length=20)]
    name: Annotated[str, Meta(min_length=1)]
    quantity: Annotated[int, Meta(ge=1, le=1000)]
    cents: Annotated[int, Meta(ge=0)]
    gift: bool = False


class Order(Struct):
    """What is sent."""

    customer: Annotated[str, Meta(min_length=1)]
    express: bool
    items: Annotated[list[Item], Meta(min_length=1, max_length=100)]
    note: str | None = None


class Receipt(Struct):
    """What is answered."""

    customer: str
    items: int
    cents: int


body = App("body")


@body.post("/orders")
async def add_order(order: Order) -> Receipt:
    """A JSON body, checked, and a small JSON answer."""
    return Receipt(order.customer, len(order.items), sum(item.quantity * item.cents for item in order.items))
