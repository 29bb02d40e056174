"""One byte stream, one reading: request smuggling and desync, straight to the server and through nginx and HAProxy.

Every variant carries a second request that only some readings find. Straight, what the server understood and how it
refused the rest must be what the RFCs and our strictness say, however the bytes arrive. Through a front, whatever the
front makes of a variant, the server must see exactly the requests which the front has passed on:

- each request carries a tag of the front, seen once, and method and target as the front has read them: one that hides
  in what the front took for content would have none;
- the client gets as many answers of the server as requests of its own were understood, each its own, in order;
- another client, whose request follows over the same connections, gets its own answer: had the server read one octet
  more or less of a content than the front sent, this request would begin with it, or be part of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import pytest
import uvloop

from tests.http import desync_cases, desync_streams
from tests.http.desync_cases import Outcome, Variant
from tests.http.fronts import FRONTS, in_front
from tests.http.witness import Broken, Record, ask, deliver, read_answers, timeouts, witnessing
from tests.support import RawClient

VARIANTS: tuple[Variant, ...] = (*desync_cases.VARIANTS, *desync_streams.VARIANTS)
NUMBERS = range(len(VARIANTS))
LANES = 60
"""Variants under way at once: most of the time is spent waiting until a connection is closed for being idle."""

_OURS = re.compile(r"/(?:a|h|early|victim)/(\d{4})")


@dataclass
class Sight:
    """What came of one variant."""

    answers: bytes = b""
    victim: bytes = b""
    records: list[Record] = field(default_factory=list)


async def in_lanes(work: Callable[[int], Awaitable[None]], numbers: Iterable[int] = NUMBERS) -> None:
    """Do ``work`` for each number, some at once."""
    left = iter(numbers)

    async def lane() -> None:
        for number in left:
            await work(number)

    await asyncio.gather(*(lane() for _ in range(LANES)))


def sort_records(records: list[Record], sights: list[Sight]) -> list[Record]:
    """Give each variant the requests that carry its number; what is left belongs to none."""
    strays = []
    for record in records:
        match = _OURS.search(record.target)
        if match is None:
            strays.append(record)
        else:
            sights[int(match[1])].records.append(record)
    return strays


# -- straight to the server

SPLITS: dict[str, Callable[[bytes], list[bytes]]] = {
    "whole": lambda data: [data],
    "line by line, CR and LF apart": lambda data: (
        re.findall(rb"[^\r\n]+|\r|\n", data)[:400] if len(data) < 5000 else [data]
    ),
    "in twos": lambda data: [data[at : at + 2] for at in range(0, len(data), 2)] if len(data) < 1000 else [data],
}


async def _straight(split: Callable[[bytes], list[bytes]]) -> tuple[list[Sight], list[Record], int]:
    sights = [Sight() for _ in VARIANTS]
    async with witnessing(timeouts=timeouts(head=1.5, idle=1.0, body=1.5)) as (server, witness, port):

        async def send(number: int) -> None:
            client = await RawClient.connect(port)
            await deliver(client, split(VARIANTS[number].numbered(number)))
            sights[number].answers = await client.rest(10)
            await client.close()

        await in_lanes(send)
        return sights, sort_records(witness.records, sights), server.in_flight


async def _straight_in_all_splits() -> dict[str, tuple[list[Sight], list[Record], int]]:
    seen = await asyncio.gather(*map(_straight, SPLITS.values()))
    return dict(zip(SPLITS, seen, strict=True))


@pytest.fixture(scope="module")
def straight() -> dict[str, tuple[list[Sight], list[Record], int]]:
    """All variants, sent to a server in each of the ways to split them."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_straight_in_all_splits())


def ends_the_connection(record: Record) -> bool:
    """Whether a client said that nothing would follow. One that sends more all the same may lose its answer to a reset
    (RFC 9112 section 9.6)."""
    options = ",".join(record.values("connection")).lower()
    return "close" in options or not (record.http11 or "keep-alive" in options)


def outcome_of(sight: Sight, number: int) -> tuple[Outcome, list[int]]:
    """What the server made of a variant, and how often it answered with what."""
    answers = [answer for answer in read_answers(sight.answers) if answer.status >= 200]
    complete = [record for record in sight.records if record.complete]
    answered = [answer.serial for answer in answers if answer.serial is not None]
    if sight.answers or not (complete and ends_the_connection(complete[-1])):
        assert answered == [record.serial for record in complete]
    statuses = [answer.status for answer in answers]
    refusals = [answer for answer in answers if answer.serial is None]
    assert len(refusals) <= 1
    assert all(answer is answers[-1] and answer.closes for answer in refusals), "a refusal is the last answer"
    mark = f"{number:04}"
    reads = tuple((r.method, r.target.replace(mark, "NNNN"), r.body.replace(mark.encode(), b"NNNN")) for r in complete)
    return Outcome(reads, frozenset(answer.status for answer in refusals)), statuses


def fits(seen: Outcome, allowed: Outcome) -> bool:
    """Whether it is one of those that are right: refused with one of the statuses, or not at all."""
    return seen.reads == allowed.reads and (
        bool(seen.refusal) and seen.refusal <= allowed.refusal if allowed.refusal else not seen.refusal
    )


@pytest.mark.parametrize("number", NUMBERS, ids=[variant.name for variant in VARIANTS])
def test_straight(straight: dict[str, tuple[list[Sight], list[Record], int]], number: int) -> None:
    """RFC 9112 sections 2.2, 5, 6.3, 7.1, 9.3 and 11.2: the right reading or a refusal, and the same however the bytes
    arrive."""
    variant = VARIANTS[number]
    seen = {name: outcome_of(sights[number], number) for name, (sights, _, _) in straight.items()}
    for name, (outcome, _) in seen.items():
        assert any(fits(outcome, allowed) for allowed in variant.outcomes), f"{name}: {outcome}"
    readings = {outcome.reads for outcome, _ in seen.values()}
    if variant.data.startswith(desync_cases.EARLY):  # whether more is read depends on what of the content is there
        longest = max(readings, key=len)
        readings = {longest if longest[: len(reading)] == reading else reading for reading in readings}
    assert len(readings) == 1, f"read in different ways: {seen}"


def test_straight_nothing_is_left(straight: dict[str, tuple[list[Sight], list[Record], int]]) -> None:
    """No request came out of the blue, and none is still in flight."""
    for name, (_, strays, in_flight) in straight.items():
        assert strays == [], name
        assert in_flight == 0, name


# -- through a front


@dataclass
class Front:
    """What came of all variants through one front."""

    sights: list[Sight]
    strays: list[Record]
    accepted: int
    requests: int


async def send_through(port: int, sights: list[Sight], numbers: Iterable[int] = NUMBERS) -> None:
    """Send variants to a front, each followed by the request of another client."""

    async def send(number: int) -> None:
        client = await RawClient.connect(port)
        await deliver(client, [VARIANTS[number].numbered(number)])
        answers = asyncio.ensure_future(client.rest(15))
        victim = b"GET /victim/%04d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % number
        sights[number].victim = await ask(port, victim, timeout=15)
        sights[number].answers = await answers
        await client.close()

    await in_lanes(send, numbers)


async def _through(name: str, folder: Path) -> Front:
    sights = [Sight() for _ in VARIANTS]
    patient = timeouts(head=5.0, idle=60.0, body=5.0)
    async with witnessing(timeouts=patient) as (server, witness, backend), in_front(name, folder, backend) as port:
        await send_through(port, sights)
        accepted = server.statistics()["connections"]["accepted"]
        return Front(sights, sort_records(witness.records, sights), accepted, len(witness.records))


async def _through_all(folder: Path) -> dict[str, Front]:
    fronts = await asyncio.gather(*(_through(name, folder / str(n)) for n, name in enumerate(FRONTS)))
    return dict(zip(FRONTS, fronts, strict=True))


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Front]:
    """All variants, sent through each front to a server of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_through_all(tmp_path_factory.mktemp("fronts")))


def _problems(sight: Sight, number: int) -> Iterator[str]:
    """What is wrong with what came of a variant."""
    victims = [record for record in sight.records if record.target.startswith("/victim/")]
    records = [record for record in sight.records if record not in victims]
    for record in sight.records:
        if len(record.values("x-tag")) != 1 or record.values("x-read") != [f"{record.method} {record.target}"]:
            yield f"not passed on by the front: {record}"
    try:
        answers = read_answers(sight.answers, cut=True)
        own = read_answers(sight.victim)
    except Broken as error:
        yield f"{error}"
        return
    answered = [answer.serial for answer in answers if answer.serial is not None]
    complete = [record.serial for record in records if record.complete]
    if answered != complete:
        yield f"answered {answered}, understood {complete}: {[record.reading for record in records]}"
    if [answer.serial for answer in own] != [record.serial for record in victims]:
        yield f"another client got {sight.victim[:200]!r}"
    if [record.reading for record in victims] != [("GET", f"/victim/{number:04}", b"")]:
        yield f"another client's request was understood as {[record.reading for record in victims]}"


@pytest.mark.parametrize("name", FRONTS)
def test_through_a_front(through: dict[str, Front], name: str) -> None:
    """RFC 9112 section 11.2: front and server never read one stream in two ways, for no variant."""
    wrong = {
        VARIANTS[number].name: problems
        for number, sight in enumerate(through[name].sights)
        if (problems := list(_problems(sight, number)))
    }
    assert wrong == {}


@pytest.mark.parametrize("name", FRONTS)
def test_through_a_front_nothing_is_made_up(through: dict[str, Front], name: str) -> None:
    """Every request belongs to a variant, no tag came twice, and clients did share connections to the server."""
    front = through[name]
    assert front.strays == []
    tags = Counter(chain.from_iterable(record.values("x-tag") for sight in front.sights for record in sight.records))
    assert {tag: count for tag, count in tags.items() if count > 1} == {}
    passed_on = [sight for sight in front.sights if any("/victim/" not in record.target for record in sight.records)]
    assert len(passed_on) > 150, "else nothing is shown"
    assert front.accepted < front.requests / 2


# -- and would it be noticed?


async def _careless(folder: Path, numbers: list[int]) -> list[Sight]:
    """Variants through nginx to a server that takes no request to have content."""
    records: list[Record] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
            line, *fields = head.strip().split("\r\n")
            method, target, _ = line.split(" ")
            headers = [(name, value.strip()) for name, _, value in (one.partition(":") for one in fields)]
            record = Record(len(records), method, target, "http", "a", True, None, False, headers, complete=True)
            records.append(record)
            writer.write(b"HTTP/1.1 200 OK\r\nx-serial: %d\r\ncontent-length: 0\r\n\r\n" % record.serial)

    async def serve_until_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await serve(reader, writer)
        writer.close()

    sights = [Sight() for _ in VARIANTS]
    server = await asyncio.start_server(serve_until_the_end, "127.0.0.1", 0)
    async with server, in_front("nginx", folder, server.sockets[0].getsockname()[1]) as port:
        await send_through(port, sights, numbers)
    sort_records(records, sights)
    return sights


async def test_a_server_that_misreads_would_be_noticed(tmp_path: Path) -> None:
    """CL.0: content that is taken for the next request, by a server that is not ours."""
    numbers = [n for n, variant in enumerate(VARIANTS) if variant.name.endswith(("with length", "with chunks"))]
    sights = await _careless(tmp_path / "front", numbers)
    hidden = [number for number in numbers if any("/h/" in record.target for record in sights[number].records)]
    assert hidden
    assert all(list(_problems(sights[number], number)) for number in hidden)
