"""Prices that move, in the browser: one source of server-sent events for everybody who looks.

Run it, and open http://127.0.0.1:8000::

    forebay run examples.ticker:app
    curl -N http://127.0.0.1:8000/events                # until Ctrl-C
    curl -N -H 'last-event-id: ...' http://127.0.0.1:8000/events

A browser that lost its connection comes back by itself and says which event it had last. It gets what it missed, as
long as the hub keeps that; otherwise, and after the server was replaced, it gets a ``missed`` event, upon which the
page asks for all prices anew.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from forebay import App
from forebay.engine import Tasks, sleep
from forebay.http import Events, EventStream, FileResponse, Request, last_event_id
from forebay.http.middleware import SecurityHeaders

PAGE = Path(__file__).with_suffix(".html")
STEP = 0.5  # seconds between two prices
HISTORY = 240  # events kept for those who come back: two minutes of them
RETRY = 1.0  # seconds until a browser comes back
SYMBOLS = {"RIVER": 120.0, "WEIR": 48.5, "SLUICE": 310.25, "TURBINE": 77.75, "PENSTOCK": 15.1}


class Price(Struct):
    """What one thing costs, and when that was found out."""

    symbol: str
    price: float
    at: float
    """Seconds since the epoch."""


class Market:
    """All prices, and the hub that tells of their changes."""

    def __init__(self) -> None:
        self.events = Events(history=HISTORY)
        self.prices = {symbol: Price(symbol, price, time.time()) for symbol, price in SYMBOLS.items()}

    def move(self) -> None:
        """Something costs another price."""
        old = self.prices[random.choice(list(self.prices))]
        moved = round(max(0.01, old.price * random.gauss(1.0, 0.004)), 2)
        new = self.prices[old.symbol] = Price(old.symbol, moved, time.time())
        self.events.publish(new, event="price")

    async def run(self) -> None:
        """Move prices for ever."""
        while True:
            await sleep(STEP)
            self.move()


@asynccontextmanager
async def lifespan(app: App[Market]) -> AsyncIterator[None]:
    """The market is open while the application runs."""
    tasks = Tasks()
    tasks.spawn(app.state.run(), name="market")  # what it raises is logged
    try:
        yield
    finally:
        await tasks.cancel()


def make_app() -> App[Market]:
    """A ticker of its own."""
    app = App("ticker", state=Market(), lifespan=lifespan, middleware=[SecurityHeaders()])

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE)

    @app.get("/prices")
    def prices(market: Market) -> list[Price]:
        """All prices as they are now."""
        return list(market.prices.values())

    @app.get("/events")
    def events(request: Request, market: Market) -> EventStream:
        """Each price that changes, as an event ``price``."""
        return EventStream(market.events.subscribe(last_event_id(request)), retry=RETRY)

    return app


app = make_app()
