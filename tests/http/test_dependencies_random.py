"""Random graphs of dependencies that fail at random points: whatever happens, each is closed once, in reverse order.

``FOREBAY_SOAK_ROUNDS=10000 .venv/bin/pytest tests/http/test_dependencies_random.py`` does 10,000 rounds, which takes
about a minute; fewer by default.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from structlog.testing import capture_logs

from forebay.engine.tasks import place_of_task
from forebay.errors import HTTPError
from forebay.http import App, Request
from forebay.http.binding import Depends, Header, blocking
from forebay.http.call import Call
from forebay.http.exchange import Exchange
from forebay.testing import TestClient
from tests.support import eventually

ROUNDS = int(os.environ.get("FOREBAY_SOAK_ROUNDS", "1500"))

pytestmark = pytest.mark.timeout(120 + ROUNDS // 20)


KINDS = ("plain", "coroutine", "generator", "async generator", "manager", "async manager", "blocking")
ENDS = ("fine", "error", "denied", "timeout", "unfit", "leave", "stream", "leave stream", "fail stream", "unsendable")


@dataclass
class Plan:
    """What is to happen in one request: which dependency fails, at which point, and how the handler ends."""

    end: str = "fine"
    failing: int = -1
    point: str = "before"
    opened: list[int] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    made: Counter[int] = field(default_factory=Counter)
    hangs: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False


class Broken(Exception):
    """What a dependency or handler fails with."""


class World:
    """An application with a random graph of dependencies."""

    def __init__(self, rng: random.Random) -> None:
        self.plans: dict[str, Plan] = {}
        self.app = App("random", threads=4)
        self.functions: list[Any] = []
        for number in range(rng.randint(1, 8)):
            count = rng.randint(0, min(3, number))
            needs = rng.sample(range(number), count)
            self.functions.append(self.dependency(number, rng.choice(KINDS), needs))
        used = sorted(rng.sample(range(len(self.functions)), rng.randint(1, len(self.functions))))
        parameters = ", ".join(f"d{number}: Annotated[int, Depends(functions[{number}])]" for number in used)
        made: dict[str, Any] = {"Annotated": Annotated, "Depends": Depends, "functions": self.functions, "self": self}
        made["Header"] = Header
        exec(
            f"async def handler(x_plan: Annotated[str, Header()], {parameters}, n: int = 0):\n"
            f"    return await self.handle(self.plans[x_plan])",
            made,
        )
        self.app.get("/", timeout=None)(made["handler"])
        self.app.get("/timeout", timeout=0.001)(made["handler"])

    def dependency(self, number: int, kind: str, needs: list[int]) -> Any:
        """One function of that kind, which needs the others."""
        parameters = ", ".join(
            ["x_plan: Annotated[str, Header()]"]
            + [f"d{need}: Annotated[int, Depends(functions[{need}])]" for need in needs]
        )
        waits = "await asyncio.sleep(0)"
        enter, leave = f"self.enter(x_plan, {number})", f"self.leave(x_plan, {number})"
        body = {
            "plain": f"def f({parameters}):\n return self.make(x_plan, {number})",
            "blocking": f"def f({parameters}):\n return self.make(x_plan, {number})",
            "coroutine": f"async def f({parameters}):\n {waits}\n return self.make(x_plan, {number})",
            "generator": f"def f({parameters}):\n {enter}\n try:\n  yield {number}\n finally:\n  {leave}",
            "async generator": (
                f"async def f({parameters}):\n {enter}\n try:\n  {waits}\n  yield {number}\n finally:\n"
                f"  {waits}\n  {leave}"
            ),
        }
        body["manager"], body["async manager"] = body["generator"], body["async generator"]
        made: dict[str, Any] = {
            "Annotated": Annotated, "Depends": Depends, "Header": Header, "functions": self.functions, "self": self,
            "asyncio": asyncio,
        }  # fmt: skip
        exec(body[kind], made)
        around: Any = {"manager": contextmanager, "async manager": asynccontextmanager, "blocking": blocking}.get(kind)
        return made["f"] if around is None else around(made["f"])

    def make(self, key: str, number: int) -> int:
        plan = self.plans[key]
        plan.made[number] += 1
        if plan.failing == number:
            raise Broken if plan.point == "before" else HTTPError(409, "broken")
        return number

    def enter(self, key: str, number: int) -> None:
        self.make(key, number)
        self.plans[key].opened.append(number)

    def leave(self, key: str, number: int) -> None:
        plan = self.plans[key]
        plan.closed.append(number)
        if plan.failing == -2 - number:
            raise Broken("close")

    def unsettled(self) -> list[Plan]:
        """Those of which less was closed than opened."""
        return [plan for plan in self.plans.values() if len(plan.closed) != len(plan.opened)]

    def settled(self) -> bool:
        """Has as much been closed as was opened?"""
        return not self.unsettled()

    async def handle(self, plan: Plan) -> Any:
        end = plan.end
        if end == "error":
            raise Broken
        if end == "denied":
            raise HTTPError(403, "no")
        if end in ("timeout", "leave"):
            plan.hangs.set()
            await asyncio.Event().wait()
        if end == "unsendable":
            return object()
        if end in ("stream", "leave stream", "fail stream"):
            return self.pieces(plan)
        return "fine"

    async def pieces(self, plan: Plan) -> AsyncIterator[bytes]:
        yield b"piece"
        if plan.end == "fail stream":
            raise Broken
        if plan.end == "leave stream":
            plan.hangs.set()
            await asyncio.Event().wait()


async def ask(world: World, client: TestClient, key: str) -> None:
    """One request as its plan has it."""
    plan = world.plans[key]
    path = "/timeout" if plan.end == "timeout" else "/?n=x" if plan.end == "unfit" else "/"
    asked = asyncio.ensure_future(client.get(path, headers={"x-plan": key}, timeout=20.0))
    if plan.end in ("leave", "leave stream"):
        hangs = asyncio.ensure_future(plan.hangs.wait())
        await asyncio.wait((asked, hangs), return_when=asyncio.FIRST_COMPLETED)
        hangs.cancel()
        asked.cancel()
    (outcome,) = await asyncio.gather(asked, return_exceptions=True)
    status = getattr(outcome, "status", None)
    if plan.end == "unfit" and plan.failing == -1:
        assert status == 422
    elif plan.end in ("fine", "stream") and plan.failing < 0:
        assert status == 200


async def test_random_graphs_of_dependencies() -> None:
    """Whatever fails, wherever: each is made at most once, each that was opened is closed once, in reverse order; and
    nothing is left over: neither tasks, nor open contexts, threads or files, nor anything of a request."""
    rng = random.Random(5)
    files = len(os.listdir("/proc/self/fd"))
    per_world, done = 50, 0
    with capture_logs() as logs:
        while done < ROUNDS:
            world = World(rng)
            async with TestClient(world.app, raise_errors=False, max_connections=20) as client:
                for number in range(per_world):
                    plan = world.plans[str(number)] = Plan(rng.choice(ENDS))
                    if rng.random() < 0.4:
                        plan.failing = rng.randrange(-1 - len(world.functions), len(world.functions))
                        plan.point = rng.choice(["before", "denied"])
                await asyncio.gather(*(ask(world, client, key) for key in world.plans))
                try:
                    await eventually(world.settled, 10)
                except AssertionError:
                    waiting = [place_of_task(task) for task in asyncio.all_tasks()]
                    raise AssertionError(f"still open: {world.unsettled()}; {waiting}; {logs[-5:]}") from None
            for plan in world.plans.values():
                assert max(plan.made.values(), default=1) == 1, plan
                assert plan.closed == plan.opened[::-1], plan
            assert not world.app.socket_tasks
            done += per_world
            logs.clear()  # their errors have tracebacks, which know the requests
    del world, client, plan
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, (Call, Request, Exchange))]
    assert len(os.listdir("/proc/self/fd")) == files
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("random")]
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left
