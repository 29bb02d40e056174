"""Coroutine handlers that are stepped where their messages arrive behave like any Task, whatever races what.

The connections here have no socket: the tests say in which turn of the loop which message arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from forebay.engine import CloseReason, Connection, TCPServer
from forebay.engine.styles import _Coroutine
from forebay.engine.tasks import start_task
from forebay.errors import ConnectionClosed, DeadlineExceeded, FramingError
from forebay.wire.framing import Lines
from tests.conftest import LOOPS
from tests.support import eventually, running

pytestmark = pytest.mark.both_loops

Handler = Callable[[Connection], Coroutine[Any, Any, None]]


class Wire(asyncio.Transport):
    """What a connection is on, seen from the other end."""

    def __init__(self, server: TCPServer) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.reading = True
        self.ended = False
        self._task: asyncio.Task[None] | None = None
        self.loop = asyncio.get_running_loop()
        self.conn = server.make()
        self.conn.connection_made(self)

    @property
    def task(self) -> asyncio.Task[None]:
        """The handler's; looked at while it runs, it is known ever after."""
        if self._task is None:
            handler = self.conn._handler
            assert isinstance(handler, _Coroutine)
            self._task = handler.task
        assert self._task is not None
        return self._task

    def deliver(self, *messages: str) -> None:
        """Let messages arrive, in one chunk."""
        self.conn.data_received("".join(f"{message}\n" for message in messages).encode())

    def soon(self, *messages: str) -> None:
        """Let them arrive as they do: out of no task, in the next turn of the loop."""
        self.loop.call_soon(self.deliver, *messages)

    def lose(self, error: Exception | None = None) -> None:
        """End."""
        if not self.ended:
            self.ended = True
            self.loop.call_soon(self.conn.connection_lost, error)

    # asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return self.ended

    def write_eof(self) -> None:
        self.lose()

    def close(self) -> None:
        self.lose()

    def abort(self) -> None:
        self.lose()


@asynccontextmanager
async def wired(handler: Handler, **options: Any) -> AsyncIterator[Wire]:
    """A connection whose handler waits for its first message."""
    server = TCPServer(handler, bind="tcp://127.0.0.1:0", **{"framing": Lines(), **options})
    async with running(server):
        wire = Wire(server)
        await turns(3)
        assert not wire.task.done()
        yield wire


async def turns(count: int) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


# What a handler may do with a message, for the property below. Each appends what it has received.


async def take(conn: Connection, got: list[str]) -> None:
    got.append(await conn.receive())


async def take_in_time(conn: Connection, got: list[str]) -> None:
    try:
        got.append(await conn.receive(0.0005))
    except DeadlineExceeded:
        return


async def take_at_once(conn: Connection, got: list[str]) -> None:
    try:
        got.append(await conn.receive(0))
    except DeadlineExceeded:
        return


async def wait_for(conn: Connection, got: list[str]) -> None:
    try:
        got.append(await asyncio.wait_for(conn.receive(), 0.0005))
    except TimeoutError:
        return


async def iterate_in_time(conn: Connection, got: list[str]) -> None:
    try:
        async with asyncio.timeout(0.0005):
            async for message in conn:
                got.append(message)
                await asyncio.sleep(0)
    except TimeoutError:
        return
    raise ConnectionClosed("the end")


async def take_in_a_task(conn: Connection, got: list[str]) -> None:
    reader = asyncio.ensure_future(anext(conn))
    try:
        await asyncio.wait([reader])
    finally:
        keep(reader, got)
    if isinstance(reader.exception(), StopAsyncIteration):
        raise ConnectionClosed("the end")


async def take_in_an_eager_task(conn: Connection, got: list[str]) -> None:
    reader = start_task(conn.receive())
    try:
        await asyncio.wait([reader])
    finally:
        keep(reader, got)
    if isinstance(reader.exception(), ConnectionClosed):
        raise ConnectionClosed("the end")


async def take_in_a_task_that_is_cancelled(conn: Connection, got: list[str]) -> None:
    reader = start_task(conn.receive())
    try:
        await turns(2)
    finally:
        keep(reader, got)


def keep(reader: asyncio.Future[str], got: list[str]) -> None:
    """Cancel a reader, and do not wait for it, unless it has received something."""
    if not reader.done():
        reader.cancel()
    elif not reader.cancelled() and reader.exception() is None:
        got.append(reader.result())


async def take_in_a_group(conn: Connection, got: list[str]) -> None:
    async def read() -> None:
        got.append(await conn.receive())

    async def write() -> None:
        await asyncio.sleep(0)
        await conn.send("from the group")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            group.create_task(write())
    except* ConnectionClosed as group_error:
        raise ConnectionClosed("the end") from group_error


async def sleep(conn: Connection, got: list[str]) -> None:
    await asyncio.sleep(0.0003)


async def turn(conn: Connection, got: list[str]) -> None:
    await asyncio.sleep(0)


async def await_a_future(conn: Connection, got: list[str]) -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def complete() -> None:
        if not future.done():
            future.set_result(None)

    loop.call_soon(complete)
    await future


async def send(conn: Connection, got: list[str]) -> None:
    await conn.send("here")


ACTIONS = [
    take,
    take_in_time,
    take_at_once,
    wait_for,
    iterate_in_time,
    take_in_a_task,
    take_in_an_eager_task,
    take_in_a_task_that_is_cancelled,
    take_in_a_group,
    sleep,
    turn,
    await_a_future,
    send,
]
EVENTS = ["one", "burst", "soon", "soon burst", "turn", "turn", "turns", "pause", "cancel"]


async def interleaved(actions: list[Any], events: list[str], limit: int) -> None:
    """Let a handler do ``actions`` again and again while ``events`` happen; what it gets must be what was sent."""
    got: list[str] = []
    sent: list[str] = []
    over = asyncio.Event()

    async def handle(conn: Connection) -> None:
        me = asyncio.current_task()
        assert me is not None
        try:
            for action in cycle(actions):
                try:
                    await action(conn, got)
                except ConnectionClosed:
                    break
                except asyncio.CancelledError:
                    assert me.cancelling()
                    me.uncancel()
                assert asyncio.current_task() is me
        finally:
            over.set()

    def deliver(wire: Wire, count: int) -> None:
        messages = [str(len(sent) + number) for number in range(count)]
        sent.extend(messages)
        wire.deliver(*messages)

    with capture_logs() as logs:
        async with wired(handle, inbound_limit=limit) as wire:
            for event in events:
                while not wire.reading:
                    await asyncio.sleep(0)
                match event:
                    case "one":
                        deliver(wire, 1)
                    case "burst":
                        deliver(wire, 3)
                    case "soon":
                        wire.loop.call_soon(deliver, wire, 1)
                    case "soon burst":
                        wire.loop.call_soon(deliver, wire, 3)
                    case "turn":
                        await turns(1)
                    case "turns":
                        await turns(4)
                    case "pause":
                        await asyncio.sleep(0.0006)
                    case "cancel":
                        wire.task.cancel()
            wire.loop.call_soon(wire.conn.eof_received)
            await asyncio.wait_for(over.wait(), 5)
            assert got == sent
            assert await eventually(lambda: wire.conn.close_reason) is CloseReason.PEER
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


@pytest.mark.parametrize("kind", LOOPS)
@settings(max_examples=150)
@given(
    actions=st.lists(st.sampled_from(ACTIONS), max_size=6).map(lambda some: [*some, take]),
    events=st.lists(st.sampled_from(EVENTS), max_size=25),
    limit=st.integers(1, 8),
)
def test_nothing_is_lost_or_moved(kind: str, actions: list[Any], events: list[str], limit: int) -> None:
    """Whatever a handler does between its messages, and however they, timeouts and cancellations race, it gets each
    message once, in order, and then the end; a cancellation that was dealt with does not come again.
    """
    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(asyncio.wait_for(interleaved(actions, events, limit), 20))


# Cancellation


async def test_a_message_in_the_turn_of_the_cancellation_is_kept() -> None:
    """Who is cancelled while waiting hears of that first; the message comes next, and the cancellation not again."""
    told: list[str] = []

    async def handle(conn: Connection) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await conn.receive()
        except asyncio.CancelledError:
            task.uncancel()
            told.append("cancelled")
        told.append(await conn.receive())
        await asyncio.sleep(0)
        told.append(await conn.receive())

    async with wired(handle) as wire:
        wire.task.cancel()
        wire.soon("one", "two")
        await asyncio.wait_for(wire.task, 5)
        assert told == ["cancelled", "one", "two"]


async def test_a_timeout_that_a_message_races() -> None:
    """The timeout wins once it has struck; the handler is not cancelled a second time for it."""
    told: list[str] = []

    async def handle(conn: Connection) -> None:
        await conn.receive()
        loop = asyncio.get_running_loop()
        when = loop.time() + 0.01
        try:
            async with asyncio.timeout_at(when):
                loop.call_at(when, wire.deliver, "second")  # right after the timeout, in the same turn
                await conn.receive()
        except TimeoutError:
            told.append("too late")
        await asyncio.sleep(0.001)
        told.append(await conn.receive())

    async with wired(handle) as wire:
        wire.soon("first")
        await asyncio.wait_for(asyncio.shield(wire.task), 5)
        assert told == ["too late", "second"]


@pytest.mark.parametrize("then", ["receives", "sleeps", "turns", "awaits a task", "returns"])
async def test_a_handler_that_cancels_itself_in_a_step(then: str) -> None:
    """It gets the cancellation where it next waits, not before, and once."""
    told: list[str] = []

    async def handle(conn: Connection) -> None:
        await conn.receive()
        task = asyncio.current_task()
        assert task is not None
        task.cancel("by itself")
        told.append("goes on")
        try:
            match then:
                case "receives":
                    await conn.receive()
                case "sleeps":
                    await asyncio.sleep(60)
                case "turns":
                    await asyncio.sleep(0)
                case "awaits a task":
                    await asyncio.create_task(asyncio.sleep(60))
        except asyncio.CancelledError as error:
            told.append(str(error))
            task.uncancel()
        told.append(await conn.receive())

    async with wired(handle) as wire:
        wire.soon("one")
        await turns(5)
        wire.soon("two")
        await asyncio.wait([wire.task], timeout=5)
        expected = ["goes on", "by itself", "two"]
        if then == "returns":
            assert told[0] == "goes on"
        else:
            assert told == expected
            assert not wire.task.cancelled()


async def test_cancelling_waits_for_what_the_handler_awaits() -> None:
    """A task that the handler awaits is cancelled first, and cleans up, also when a step had just begun it."""
    told: list[str] = []

    async def careful() -> None:
        told.append("begins")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.001)
            told.append("has cleaned up")

    async def handle(conn: Connection) -> None:
        task = asyncio.create_task(careful())
        await asyncio.sleep(0.001)
        await conn.receive()
        try:
            await task
        finally:
            told.append("handler")

    async with wired(handle) as wire:
        await eventually(lambda: told)
        await asyncio.sleep(0.005)

        def deliver_and_cancel() -> None:
            wire.deliver("now")
            wire.task.cancel()

        wire.loop.call_soon(deliver_and_cancel)
        await asyncio.wait([wire.task], timeout=5)
        assert told == ["begins", "has cleaned up", "handler"]
        assert wire.task.cancelled()
        assert wire.conn.close_reason is CloseReason.STOPPED


async def test_what_suppresses_its_cancellation() -> None:
    """A step that left a task which ignores being cancelled goes on with its result, as any Task would."""
    told: list[str] = []

    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return "result"

    async def handle(conn: Connection) -> None:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0.001)
        await conn.receive()
        told.append(await task)

    async with wired(handle) as wire:
        await asyncio.sleep(0.005)
        wire.soon("now")
        wire.loop.call_soon(lambda: wire.task.cancel())
        await asyncio.wait([wire.task], timeout=5)
        assert told == ["result"]


# Tasks of the handler's own


async def test_a_reader_task_after_the_first_message() -> None:
    """A handler may take some messages itself, and leave the rest to a task it starts in the same step."""
    got: list[str] = []

    async def read(conn: Connection) -> None:
        async for message in conn:
            got.append(message)

    async def handle(conn: Connection) -> None:
        got.append(await conn.receive())
        async with asyncio.TaskGroup() as group:
            group.create_task(read(conn))
            await conn.send("ready")

    async with wired(handle) as wire:
        wire.soon("one")
        await turns(3)
        wire.soon("two")
        wire.soon("three", "four")
        await turns(3)
        wire.loop.call_soon(wire.conn.eof_received)
        await asyncio.wait_for(wire.task, 5)
        assert got == ["one", "two", "three", "four"]
        assert wire.sent == [b"ready\n"]


async def test_two_readers_at_once() -> None:
    """The second one is told so, whichever it is: the handler, or a task of its own."""
    errors: list[str] = []

    async def read(conn: Connection) -> None:
        try:
            await conn.receive()
        except RuntimeError as error:
            errors.append(f"task: {error}")

    async def task_is_late(conn: Connection) -> None:
        task = asyncio.create_task(read(conn))
        await conn.receive()
        await task

    async def handler_is_late(conn: Connection) -> None:
        task = asyncio.create_task(read(conn))
        await asyncio.sleep(0.001)
        try:
            await conn.receive()
        except RuntimeError as error:
            errors.append(f"handler: {error}")
        await task

    for handle in (task_is_late, handler_is_late):
        async with wired(handle) as wire:
            await asyncio.sleep(0.01)
            wire.soon("one")
            await asyncio.wait_for(wire.task, 5)
    problem = "two tasks receive from one connection at once"
    assert errors == [f"task: {problem}", f"handler: {problem}"]


# Who is running


async def test_the_current_task_and_its_context() -> None:
    """In and between steps: one task, one context, which is nobody else's."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    seen: list[Any] = []

    async def handle(conn: Connection) -> None:
        variable.set(await conn.receive())
        async for message in conn:
            seen.append((variable.get(), message, asyncio.current_task()))
            if message == "wait":
                await asyncio.sleep(0)
                seen.append((variable.get(), "waited", asyncio.current_task()))
                inherited = asyncio.create_task(asyncio.sleep(0, variable.get()))
                assert await inherited == variable.get()

    async with wired(handle) as one:
        server = one.conn.owner
        assert isinstance(server, TCPServer)
        two = Wire(server)
        await turns(2)
        one.soon("first")
        two.soon("second")
        for message in ("a", "wait"):
            one.soon(message)
            two.soon(message)
            await turns(5)
        assert variable.get() == "unset"
        for wire, name in ((one, "first"), (two, "second")):
            assert [(message, task) for value, message, task in seen if value == name] == [
                ("a", wire.task),
                ("wait", wire.task),
                ("waited", wire.task),
            ]


async def test_messages_that_another_task_delivers() -> None:
    """They are queued, not stepped: the other task stays the current one; order is kept."""
    got: list[str] = []

    async def handle(conn: Connection) -> None:
        async for message in conn:
            got.append(message)
            assert asyncio.current_task() is wire.task

    async with wired(handle) as wire:
        wire.deliver("one", "two")
        assert got == []
        assert asyncio.current_task() is not wire.task
        wire.soon("three")
        await eventually(lambda: len(got) == 3)
        assert got == ["one", "two", "three"]


async def test_a_step_that_delivers_to_others() -> None:
    """A handler may do what makes another connection's message, or its own next one, arrive within its step."""
    got: dict[Connection, list[str]] = {}

    async def handle(conn: Connection) -> None:
        async for message in conn:
            got.setdefault(conn, []).append(message)
            if message == "relay":
                other.deliver("relayed")
                wire.deliver("own")
                got[conn].append("still here")

    async with wired(handle) as wire:
        server = wire.conn.owner
        assert isinstance(server, TCPServer)
        other = Wire(server)
        await turns(2)
        wire.soon("relay", "next")
        await eventually(lambda: len(got.get(wire.conn, [])) == 4)
        assert got[wire.conn] == ["relay", "still here", "own", "next"]
        assert got[other.conn] == ["relayed"]


# The end


@pytest.mark.parametrize("how", ["returns", "raises", "exits"])
async def test_the_end_in_a_step(how: str) -> None:
    """It ends the handler's Task, closes the connection, and what else was in the chunk is not handled."""
    got: list[str] = []

    class Exit(BaseException):
        """One that is no Exception."""

    async def handle(conn: Connection) -> None:
        async for message in conn:
            got.append(message)
            if how == "raises":
                raise ValueError("in a step")
            if how == "exits":
                raise Exit
            return

    with capture_logs() as logs:
        async with wired(handle) as wire:
            wire.soon("one", "two")
            await asyncio.wait([wire.task], timeout=5)
            assert got == ["one"]
            if how == "exits":
                assert isinstance(wire.task.exception(), Exit)
            else:
                reason = CloseReason.APP if how == "returns" else CloseReason.ERROR
                assert await eventually(lambda: wire.conn.close_reason) is reason
    if how == "raises":
        (failure,) = [entry for entry in logs if entry["event"] == "handler failed"]
        trace = failure["exc_info"].__traceback__
        names = []
        while trace is not None:
            names.append(trace.tb_frame.f_code.co_name)
            trace = trace.tb_next
        assert names[-1] == "handle"
        assert failure["exc_info"].__context__ is None


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_what_the_end_of_the_stream_finds(elsewhere: bool) -> None:
    """A handler gets what came before a framing error, then the error, whether it waits for messages or elsewhere."""
    got: list[Any] = []

    async def handle(conn: Connection) -> None:
        try:
            async for message in conn:
                got.append(message)
                if elsewhere:
                    await asyncio.sleep(0.001)
        except FramingError as error:
            got.append(type(error))
            raise

    async with wired(handle, framing=Lines(10)) as wire:
        wire.loop.call_soon(wire.conn.data_received, b"one\ntwo\n" + b"x" * 20)
        await asyncio.wait([wire.task], timeout=5)
        assert got[:2] == ["one", "two"]
        assert issubclass(got[2], FramingError)
        assert len(got) == 3
        assert wire.conn.close_reason is CloseReason.FRAMING


@pytest.mark.parametrize("reason", [CloseReason.RESET, CloseReason.SLOW_CONSUMER, CloseReason.APP])
async def test_a_step_that_loses_its_connection(reason: CloseReason) -> None:
    """A handler that waits for something else is cancelled for a peer that is gone, and not for its own end."""
    told: list[str] = []
    release = asyncio.Event()

    async def handle(conn: Connection) -> None:
        await conn.receive()
        conn.abort(reason)
        try:
            await release.wait()
        except asyncio.CancelledError:
            told.append("cancelled")
            raise
        told.append("finished")

    async with wired(handle) as wire:
        wire.soon("one")
        await turns(4)
        release.set()
        await asyncio.wait([wire.task], timeout=5)
        assert told == (["finished"] if reason is CloseReason.APP else ["cancelled"])


async def test_a_handler_that_waits_for_a_message_is_told_and_not_cancelled() -> None:
    """Also when the end of the stream and the loss of the connection come in one turn."""
    told: list[str] = []

    async def handle(conn: Connection) -> None:
        async for _ in conn:
            pass
        told.append("end")

    for eof_first in (False, True):
        async with wired(handle) as wire:
            wire.soon("one")
            if eof_first:
                wire.loop.call_soon(wire.conn.eof_received)
            wire.loop.call_soon(wire.conn.connection_lost, ConnectionResetError())
            wire.ended = True
            await asyncio.wait([wire.task], timeout=5)
            assert not wire.task.cancelled()
    assert told == ["end", "end"]


@pytest.mark.parametrize("state", ["resting", "in a step", "elsewhere", "with messages left"])
async def test_drain(state: str) -> None:
    """A handler finishes what it does, gets what had arrived before, then the end; the reason is the drain."""
    got: list[str] = []
    go = asyncio.Event()

    async def handle(conn: Connection) -> None:
        async for message in conn:
            got.append(message)
            if message == "drain":
                conn.start_drain()
            if message == "wait":
                await go.wait()
                await conn.send("finished")

    async with wired(handle) as wire:
        match state:
            case "in a step":
                wire.soon("drain")
            case "elsewhere":
                wire.soon("wait")
            case "with messages left":
                wire.soon("wait", "left", "over")
        await turns(3)
        wire.loop.call_soon(wire.conn.start_drain)
        await turns(3)
        go.set()
        await asyncio.wait([wire.task], timeout=5)
        assert not wire.task.cancelled()
        assert wire.conn.close_reason is CloseReason.DRAIN
        if state == "with messages left":
            assert got == ["wait", "left", "over"]
        assert wire.sent == ([b"finished\n"] if "wait" in got else [])


async def test_reading_stops_for_a_slow_handler() -> None:
    """At the limit; it goes on once the handler has caught up."""
    go = asyncio.Event()
    got: list[str] = []

    async def handle(conn: Connection) -> None:
        async for message in conn:
            got.append(message)
            if message == "wait":
                await go.wait()

    async with wired(handle, inbound_limit=4) as wire:
        wire.soon("wait")
        await turns(2)
        for number in range(3):
            wire.soon(str(number))
        await turns(2)
        assert wire.reading
        wire.soon("3")
        await turns(2)
        assert [wire.reading] == [False]
        wire.soon("4")  # was on its way
        go.set()
        await eventually(lambda: len(got) == 6)
        assert wire.reading
        assert got == ["wait", "0", "1", "2", "3", "4"]


# What is left


async def test_nothing_is_left_of_closed_connections() -> None:
    """Not one object waits for the garbage collector, however the handler ended."""

    async def handle(conn: Connection) -> None:
        async for message in conn:
            match message:
                case "return":
                    return
                case "raise":
                    raise ValueError
                case "sleep":
                    await asyncio.sleep(60)
                case "turn":
                    await asyncio.sleep(0)

    def alive() -> int:
        return sum(isinstance(thing, Connection | _Coroutine | Wire) for thing in gc.get_objects())

    with capture_logs() as logs:
        async with wired(handle) as first:
            server = first.conn.owner
            assert isinstance(server, TCPServer)
            gc.collect()
            gc.disable()
            try:
                before = alive()
                for last in ("return", "raise", "turn", "cancel", "sleep", "reset"):
                    wires = [Wire(server) for _ in range(50)]
                    await turns(2)
                    for wire in wires:
                        wire.soon("turn", "hello")
                        wire.soon(last)
                    await turns(5)
                    for wire in wires:
                        if last == "cancel":
                            wire.task.cancel()
                        elif last in ("sleep", "reset"):
                            wire.lose(ConnectionResetError())
                        else:
                            wire.loop.call_soon(wire.conn.eof_received)
                    await eventually(lambda: server.connections == 1)
                    await turns(5)
                    for wire in wires:
                        del wire.conn, wire._task  # as transports do
                    wires.clear()
                    del wire
                    logs.clear()  # with what was raised
                    await turns(2)
                    assert alive() == before, last
            finally:
                gc.enable()
