"""What FastAPI and BlackSheep bind and answer with: pydantic models, as both recommend for what is to be checked."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field


class Item(BaseModel):
    """A line of an order."""

    sku: Annotated[str, Field(min_length=1, max_length=20)]
    name: Annotated[str, Field(min_length=1)]
    quantity: Annotated[int, Field(ge=1, le=1000)]
    cents: Annotated[int, Field(ge=0)]
    gift: bool = False


class Order(BaseModel):
    """What is sent."""

    customer: Annotated[str, Field(min_length=1)]
    express: bool
    items: Annotated[list[Item], Field(min_length=1, max_length=100)]
    note: str | None = None


class Receipt(BaseModel):
    """What is answered."""

    customer: str
    items: int
    cents: int


class User(BaseModel):
    """What the typed route answers with."""

    id: int
    name: str | None


def receipt_of(order: Order) -> Receipt:
    """What it comes to."""
    cents = sum(item.quantity * item.cents for item in order.items)
    return Receipt(customer=order.customer, items=len(order.items), cents=cents)
