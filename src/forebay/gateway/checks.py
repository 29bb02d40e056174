"""Asking targets whether they are well, and telling their upstream. What follows from it is decided in ``policy``."""

from __future__ import annotations

from forebay.config import schema
from forebay.engine import (
    Address,
    CloseReason,
    Connection,
    ConnectionHandler,
    Future,
    dial,
    timeout,
)
from forebay.engine.health_checks import CheckTiming, Unwell
from forebay.engine.health_checks import HealthChecks as Driver
from forebay.errors import ProtocolError, UpstreamError
from forebay.gateway.plan import Plan
from forebay.gateway.upstream import Target, Upstream
from forebay.wire.http1 import ResponseReader

__all__ = ["HealthChecks", "ask"]


class HealthChecks:
    """Checks every target of every upstream that has ``health``, until it is cancelled."""

    __slots__ = ("_drivers",)

    def __init__(self) -> None:
        self._drivers: list[Driver[Target]] = []

    def start(self, plan: Plan) -> None:
        """Check the targets of ``plan`` from now on, for the first time at once."""
        for upstream in plan.upstreams.values():
            if upstream.health is not None:
                driver = _driver(upstream, upstream.health)
                driver.start(upstream.targets)
                self._drivers.append(driver)

    async def cancel(self) -> None:
        """Check no more; return when nothing is under way."""
        drivers, self._drivers = self._drivers, []
        for driver in drivers:
            await driver.cancel()


def _driver(upstream: Upstream, health: schema.Health) -> Driver[Target]:
    """What checks the targets of one upstream."""

    async def check(target: Target) -> None:
        if why := await ask(target.address, health.path, health.timeout):
            raise Unwell(why)

    return Driver(check, upstream.checked, CheckTiming(health.interval, health.timeout))


async def ask(address: Address, path: str, seconds: float) -> str:
    """``GET path`` on a fresh connection. Empty when the answer is 2xx or 3xx and begins in time; else why not."""
    question = _Question()
    try:
        async with timeout(seconds):
            conn = await dial(address, question, timeout=seconds)
            host = str(address).removeprefix(f"{address.scheme}://")
            conn.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
            return await question.outcome
    except UpstreamError as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    finally:
        question.end()


class _Question(ConnectionHandler):
    """The connection of one check."""

    __slots__ = ("_conn", "_reader", "outcome")

    def __init__(self) -> None:
        self.outcome: Future[str] = Future()
        self._conn: Connection | None = None
        self._reader = ResponseReader(self)
        self._reader.expect("GET")

    def end(self) -> None:
        if self._conn is not None:
            self._conn.abort(CloseReason.APP)

    def on_open(self, conn: Connection) -> None:
        self._conn = conn

    def on_message(self, conn: Connection, data: bytes) -> None:
        if self.outcome.done():
            return
        try:
            self._reader.feed(data)
        except ProtocolError as error:
            self._say(f"not HTTP: {error}")

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self._say(f"connection ended: {reason}")

    def on_head(self) -> None:
        status = self._reader.status
        if status >= 200:
            self._say("" if status < 400 else f"status {status}")

    def on_body(self, data: bytes) -> None:
        """Not looked at."""

    def on_end(self) -> None:
        """The head said it all."""

    def _say(self, why: str) -> None:
        if not self.outcome.done():
            self.outcome.set_result(why)
