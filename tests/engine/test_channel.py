"""Channels between tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import uvloop
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forebay.engine.channel import Channel
from forebay.engine.tasks import QueueEmpty
from forebay.errors import ChannelClosed, FramingError, Overloaded, RetryClass

pytestmark = pytest.mark.both_loops


async def turn(count: int = 3) -> None:
    """Let the other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def within(awaitable: Awaitable[int], seconds: float) -> int:
    """What `asyncio.wait_for` is from Python 3.12 on."""
    async with asyncio.timeout(seconds):
        return await awaitable


async def test_items_come_out_in_order_to_the_end() -> None:
    """A producer and a consumer, ten times more items than there are places."""
    channel: Channel[int] = Channel(10)

    async def produce() -> None:
        for n in range(100):
            await channel.send(n)
            assert len(channel) <= 10
        channel.close()

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(produce())
        assert [n async for n in channel] == list(range(100))
    assert channel.statistics() == {
        "length": 0,
        "maximum": 10,
        "sent": 100,
        "received": 100,
        "dropped": 0,
        "refused": 0,
        "senders_waiting": 0,
        "receivers_waiting": 0,
        "closed": True,
    }
    assert repr(channel) == "<Channel channel closed 0/10 wait senders=0 receivers=0>"


async def test_many_producers_and_consumers_share_it_all() -> None:
    """Each item gets to one consumer, and none is left over."""
    channel: Channel[tuple[int, int]] = Channel(3)
    got: list[tuple[int, int]] = []

    async def produce(who: int) -> None:
        for n in range(200):
            await channel.send((who, n))

    async def consume() -> None:
        async for item in channel:
            got.append(item)
            await asyncio.sleep(0)

    async with asyncio.timeout(10), asyncio.TaskGroup() as consumers:
        for _ in range(4):
            consumers.create_task(consume())
        async with asyncio.TaskGroup() as producers:
            for who in range(5):
                producers.create_task(produce(who))
        channel.close()
    assert sorted(got) == [(who, n) for who in range(5) for n in range(200)]
    for who in range(5):
        assert [n for w, n in got if w == who] == list(range(200))


async def test_those_who_wait_are_served_in_turn() -> None:
    """Receivers get items, and senders places, in the order in which they came."""
    channel: Channel[str] = Channel(1)
    receivers = [asyncio.create_task(channel.receive()) for _ in range(3)]
    await turn()
    senders = [asyncio.create_task(channel.send(item)) for item in "abcdef"]
    assert await asyncio.wait_for(asyncio.gather(*receivers), 5) == ["a", "b", "c"]
    await turn()
    assert [sender.done() for sender in senders] == [True] * 4 + [False] * 2
    assert [await channel.receive() for _ in range(3)] == ["d", "e", "f"]
    await asyncio.gather(*senders)


async def test_a_newcomer_does_not_overtake() -> None:
    """Between an item's arrival and the run of the receiver that was let in for it, nobody else takes it."""
    channel: Channel[str] = Channel(2)
    first = asyncio.create_task(channel.receive())
    await turn()
    channel.send_nowait("a")
    with pytest.raises(QueueEmpty):
        channel.receive_nowait()
    channel.send_nowait("b")
    assert await channel.receive() == "b"
    assert first.done()
    assert await first == "a"


async def test_a_receiver_cancelled_with_an_item_in_reach_leaves_it() -> None:
    """In the very iteration in which it was let in; the next in line gets the item, in its order."""
    channel: Channel[str] = Channel(4)
    first, second = asyncio.create_task(channel.receive()), asyncio.create_task(channel.receive())
    await turn()
    channel.send_nowait("a")
    channel.send_nowait("b")
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert await second == "a"
    assert await channel.receive() == "b"
    assert channel.statistics()["received"] == 2


async def test_a_timeout_at_the_moment_of_arrival_loses_nothing() -> None:
    """The receiver has the item, or the channel still has it."""
    for timeout in (asyncio.wait_for, within):
        channel: Channel[int] = Channel(1)
        waiting = asyncio.create_task(timeout(channel.receive(), 5))
        await turn()
        channel.send_nowait(7)
        waiting.cancel()
        (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
        assert len(channel) == (0 if outcome == 7 else 1)


async def test_a_sender_cancelled_has_not_sent() -> None:
    """Also one that was let in a moment ago; its place goes to the next."""
    channel: Channel[str] = Channel(1)
    channel.send_nowait("a")
    second, third = asyncio.create_task(channel.send("b")), asyncio.create_task(channel.send("c"))
    await turn()
    assert channel.receive_nowait() == "a"
    second.cancel()
    await asyncio.wait([second, third])
    assert second.cancelled()
    assert channel.receive_nowait() == "c"
    assert len(channel) == 0


async def test_waiting_and_giving_up_leaves_nothing_behind() -> None:
    """A thousand receivers that gave up are not remembered."""
    channel: Channel[int] = Channel(1)
    for _ in range(1000):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await channel.receive()
    assert channel.statistics()["receivers_waiting"] == 0


async def test_close_lets_out_what_is_queued() -> None:
    """Then comes the end; those who wait for a place are refused, and so is everybody after."""
    channel: Channel[int] = Channel(2, name="orders")
    channel.send_nowait(1)
    channel.send_nowait(2)
    waiting = asyncio.create_task(channel.send(3))
    await turn()
    channel.close()
    channel.close(FramingError("too late to count"))
    with pytest.raises(ChannelClosed, match="orders is closed") as caught:
        await waiting
    assert caught.value.retry is RetryClass.SAFE
    with pytest.raises(ChannelClosed):
        channel.send_nowait(3)
    with pytest.raises(ChannelClosed):
        await channel.send(3)
    assert [n async for n in channel] == [1, 2]
    assert [n async for n in channel] == []
    with pytest.raises(ChannelClosed):
        await channel.receive()
    with pytest.raises(ChannelClosed):
        channel.receive_nowait()


async def test_close_ends_those_who_wait_to_receive() -> None:
    """All of them, each in its way."""
    channel: Channel[int] = Channel()

    async def iterate() -> list[int]:
        return [n async for n in channel]

    waiting, iterating = asyncio.create_task(channel.receive()), asyncio.create_task(iterate())
    await turn()
    channel.close()
    assert await iterating == []
    with pytest.raises(ChannelClosed):
        await waiting


async def test_an_error_comes_after_the_last_item() -> None:
    """To every receiver; senders learn of it as the cause."""
    channel: Channel[int] = Channel()
    channel.send_nowait(1)
    error = FramingError("no more of that")
    channel.close(error)
    got = []
    with pytest.raises(FramingError, match="no more of that"):
        async for n in channel:
            got.append(n)
    assert got == [1]
    for _ in range(50):
        with pytest.raises(FramingError):
            await channel.receive()
    depth, trace = 0, error.__traceback__
    while trace is not None:
        depth, trace = depth + 1, trace.tb_next
    assert depth < 10, "each receiver left its traceback"
    with pytest.raises(ChannelClosed) as caught:
        await channel.send(2)
    assert caught.value.__cause__ is error


async def test_closed_while_an_item_is_promised_to_a_receiver_that_gives_up() -> None:
    """Who waits behind it gets the item, not the end."""
    channel: Channel[str] = Channel()
    first, second = asyncio.create_task(channel.receive()), asyncio.create_task(channel.receive())
    await turn()
    channel.send_nowait("last")
    channel.close()
    first.cancel()
    assert await asyncio.wait_for(second, 5) == "last"


async def test_drop_oldest_never_waits() -> None:
    """The newest stay, and the others are counted."""
    channel: Channel[int] = Channel(3, when_full="drop-oldest")
    for n in range(10):
        await channel.send(n)
    channel.close()
    assert [n async for n in channel] == [7, 8, 9]
    assert channel.statistics()["dropped"] == 7


async def test_refuse_raises_at_once() -> None:
    """Also where it could wait, and it is counted."""
    channel: Channel[int] = Channel(1, when_full="refuse", name="orders")
    await channel.send(1)
    with pytest.raises(Overloaded, match="orders is full: 1 items") as caught:
        await channel.send(2)
    assert caught.value.limit == "channel"
    with pytest.raises(Overloaded):
        channel.send_nowait(2)
    assert channel.statistics()["refused"] == 2
    assert bool(channel)
    assert not channel.closed


@pytest.mark.parametrize("make", [lambda: Channel(0), lambda: Channel(when_full=cast(Any, "maybe"))])
async def test_nonsense_is_refused(make: Callable[[], Any]) -> None:
    """No rendezvous, and only the policies there are."""
    with pytest.raises(ValueError, match="must be"):
        make()


class ChannelMachine(RuleBasedStateMachine):
    """Random sends, receives, cancellations and closes, with and without letting the loop run in between.

    Items are numbered in the order in which they are offered.
    """

    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop
    when_full: Any = "wait"

    def __init__(self) -> None:
        super().__init__()
        self.loop = type(self).new_loop()
        self.channel: Channel[int] = Channel(2, when_full=self.when_full)
        self.offered = 0
        self.sent: set[int] = set()
        self.by_nowait: set[int] = set()
        self.received: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.senders = 0
        self.closed = False
        self.order_of_receivers: list[int] = []
        self.receivers = 0

    def spawn(self, coro: Any) -> None:
        """Start a task that is looked at, at the end."""
        self.tasks.append(self.loop.create_task(coro))

    def call(self, function: Callable[[], None]) -> None:
        """Call ``function`` on the loop, in the same iteration as whatever is called before the next `run`."""
        self.loop.call_soon(function)

    @rule()
    def run(self) -> None:
        """Let the loop run once."""
        self.loop.run_until_complete(asyncio.sleep(0))

    @rule()
    def send(self) -> None:
        """A task that sends one item."""
        item = self.offered
        self.offered += 1

        async def work() -> None:
            try:
                await self.channel.send(item)
            except (ChannelClosed, Overloaded):
                return
            self.sent.add(item)

        self.spawn(work())

    @rule()
    def receive(self) -> None:
        """A task that receives one item."""
        number = self.receivers
        self.receivers += 1

        async def work() -> None:
            try:
                self.received.append(await self.channel.receive())
            except ChannelClosed:
                return
            self.order_of_receivers.append(number)

        self.spawn(work())

    @rule()
    def send_nowait(self) -> None:
        """Sent at once, or not at all."""

        def work() -> None:
            item = self.offered
            self.offered += 1
            try:
                self.channel.send_nowait(item)
            except (ChannelClosed, Overloaded):
                return
            self.sent.add(item)
            self.by_nowait.add(item)

        self.call(work)

    @rule()
    def receive_nowait(self) -> None:
        """Received at once, or not at all."""

        def work() -> None:
            try:
                self.received.append(self.channel.receive_nowait())
            except (ChannelClosed, QueueEmpty):
                return

        self.call(work)

    @precondition(lambda self: self.tasks)
    @rule(choice=st.integers(min_value=0), soon=st.booleans())
    def cancel(self, choice: int, soon: bool) -> None:
        """Cancel any task: before the loop runs again, or in the middle of its next iteration."""
        task = self.tasks[choice % len(self.tasks)]
        if soon:
            self.loop.call_soon(task.cancel)
        else:
            task.cancel()

    @precondition(lambda self: not self.closed)
    @rule(rare=st.integers(0, 9))
    def close(self, rare: int) -> None:
        """Close it, now and then."""
        if rare == 0:
            self.closed = True
            self.call(self.channel.close)

    @invariant()
    def bounded_and_accounted_for(self) -> None:
        """Never more than its maximum, and every item sent is in one place."""
        stats = self.channel.statistics()
        assert stats["length"] <= 2
        assert stats["sent"] == stats["length"] + stats["received"] + stats["dropped"]

    def teardown(self) -> None:
        """Let all come to an end and compare what came out with what went in."""
        try:
            self._finish()
        finally:
            self.loop.close()

    def _finish(self) -> None:
        channel = self.channel

        async def finish() -> None:
            for _ in range(len(self.tasks) + 5):
                await asyncio.sleep(0)
            # Whoever still waits has a reason to.
            waiting = [task for task in self.tasks if not task.done()]
            stats = channel.statistics()
            assert len(waiting) == stats["senders_waiting"] + stats["receivers_waiting"]
            assert not (stats["senders_waiting"] and stats["length"] < 2), "a place is free, and a sender waits"
            assert not (stats["receivers_waiting"] and stats["length"]), "an item is there, and a receiver waits"
            assert not (waiting and self.closed and not stats["length"]), "it is over, and somebody waits"
            channel.close()
            async with asyncio.timeout(5):
                async for item in channel:
                    self.received.append(item)
                await asyncio.gather(*self.tasks, return_exceptions=True)

        self.loop.run_until_complete(finish())
        assert len(set(self.received)) == len(self.received), "duplicated"
        lost = self.sent - set(self.received)
        assert set(self.received) <= self.sent, "received, but its sender says it was not sent"
        assert len(lost) == channel.statistics()["dropped"], f"lost: {lost}"
        waited = [item for item in self.received if item not in self.by_nowait]
        assert waited == sorted(waited), "out of order"
        at_once = [item for item in self.received if item in self.by_nowait]
        assert at_once == sorted(at_once), "out of order"
        assert self.order_of_receivers == sorted(self.order_of_receivers), "receivers out of order"


class UvloopMachine(ChannelMachine):
    """The same under uvloop."""

    new_loop = uvloop.new_event_loop


class DroppingMachine(ChannelMachine):
    """The same where the oldest item gives way."""

    when_full = "drop-oldest"


class RefusingMachine(ChannelMachine):
    """The same where a full channel refuses."""

    when_full = "refuse"


TestWaiting = ChannelMachine.TestCase
TestWaitingUvloop = UvloopMachine.TestCase
TestDropping = DroppingMachine.TestCase
TestRefusing = RefusingMachine.TestCase
