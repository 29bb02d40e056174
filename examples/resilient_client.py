"""A client that goes on while its servers do not: three of them, of which one becomes slow, and one fails.

Run it, and watch which server answers, what is tried again, and why a server is taken out::

    python examples/resilient_client.py

Everything is in this one program, servers too. It ends after a few seconds, with what a person on call would look at.
"""

from __future__ import annotations

import logging
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import structlog

from forebay.engine import gather, run, sleep
from forebay.errors import ForebayError
from forebay.http import App, Client, HTTPServer, Response, Timeouts
from forebay.http.client.targets import Balancing
from forebay.policy import Breaker, Hedge, Retry
from forebay.policy.target import TargetEvent

REQUESTS = 600
AT_ONCE = 8


@dataclass
class Shop:
    """One of the servers, and what is wrong with it."""

    name: str
    slow: float = 0.0  # seconds
    failing: float = 0.0  # share of requests
    app: App[None] = field(init=False)

    def __post_init__(self) -> None:
        self.app = App(self.name)

        @self.app.get("/price")
        async def price() -> Response:
            await sleep(0.002 + self.slow)
            if random.random() < self.failing:
                return Response("out of order", status=503)
            return Response({"price": 42, "from": self.name})


@dataclass
class Tally:
    """What became of the requests."""

    answered: dict[str, int] = field(default_factory=dict)
    failed: int = 0

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {count}" for name, count in sorted(self.answered.items()))
        return f"{sum(self.answered.values())} answered ({shares}), {self.failed} failed"


async def ask(client: Client, times: int) -> Tally:
    """Ask for the price again and again, a few at a time."""
    tally = Tally()

    async def some() -> None:
        for _ in range(times // AT_ONCE):
            try:
                response = (await client.get("/price")).raise_for_status()
                name = (await response.json(dict[str, int | str]))["from"]
            except ForebayError as error:
                print(f"    failed: {error}")
                tally.failed += 1
            else:
                tally.answered[str(name)] = tally.answered.get(str(name), 0) + 1

    await gather(*(some() for _ in range(AT_ONCE)))
    return tally


async def main() -> None:
    """Three servers, and what goes wrong with them."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))  # what is printed says it
    shops = [Shop("anna"), Shop("bert"), Shop("cleo")]
    names: dict[str, str] = {}  # by URL

    def tell(event: TargetEvent) -> None:
        """A server is used differently from now on."""
        print(f"    {names.get(event.target, 'all servers')}: {event.before} -> {event.after}: {event.why}")

    async with AsyncExitStack() as stack:
        for shop in shops:
            server = HTTPServer(shop.app, bind="http://127.0.0.1:0")
            await server.start()
            stack.push_async_callback(server.stop)
            names[f"http://127.0.0.1:{server.addresses[0].port}"] = shop.name
        client = Client(
            list(names),
            timeouts=Timeouts(connect=1, read=2, total=3),
            retry=Retry(attempts=3),  # of what may be tried again, within a budget
            hedge=Hedge(),  # a second try beside one that is slower than nearly all are
            breaker=Breaker(),  # who fails for long is left alone for a while
            balance=Balancing(max_fails=5, fail_timeout=2.0),  # who fails five times in 2 s is out for as long
            on_target=tell,
        )
        await stack.enter_async_context(client)
        print(client)
        print("all is well:      ", await ask(client, REQUESTS))
        shops[1].slow = 0.1
        print("bert is 50x slower:", await ask(client, REQUESTS))
        shops[2].failing = 0.6
        print("and cleo fails:   ", await ask(client, REQUESTS))
        shops[1].slow = shops[2].failing = 0.0
        policies = client.statistics()["policies"]
        budget = policies["retry"]["budget"]
        print(f"second tries: {budget['retries']} for {budget['requests']} requests")
        for url, target in policies["targets"]["targets"]["each"].items():
            failures = sum(target["failures"].values())
            print(f"    {names[url]}: {target['state']}, {target['picks']} tries, {failures} failed")


if __name__ == "__main__":
    run(main())
