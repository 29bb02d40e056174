"""When a pool of objects pays, and when it does not: ``python -m benchmarks.object_pool``. Takes about ten seconds.

Each row is one use of an object, as it is used in earnest: made for it, and dropped; or borrowed from a pool, and given
back. What is done with the object is the same in both, and in the figures, because it is that which a pool has to pay
beside.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import httptools
import msgspec

from forebay.engine.object_pool import ObjectPool

ROUNDS = 9
SECONDS = 0.05  # of each round, of which the best counts: what is slower was disturbed
WORTH = 0.9  # of the time without a pool: what is nearer to it is no gain

_REQUEST = b"GET /users/1 HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\r\n"
_CHUNK = b"what somebody has sent"
_TEXT = b'{"id": 1, "name": "Ada"} ' * 40


class Point:
    """A small object."""

    __slots__ = ("x", "y")

    def __init__(self) -> None:
        self.x = self.y = 0.0


class Order(msgspec.Struct):
    """What a decoder of JSON is made for."""

    id: int
    name: str


class Parser:
    """A parser of HTTP requests, with what it calls back."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.parser = httptools.HttpRequestParser(self)

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


@dataclass(frozen=True, slots=True)
class Case:
    """An object: how it is made, made ready for its next use, and used."""

    name: str
    make: Callable[[], Any]
    reset: Callable[[Any], object] | None
    use: Callable[[Any], object]


def _point(point: Point) -> None:
    point.x = 1.0


def _fill(buffer: bytearray) -> None:
    buffer[: len(_CHUNK)] = _CHUNK


def _deflate(compressor: Any) -> bytes:
    return bytes(compressor.compress(_TEXT) + compressor.flush(zlib.Z_FULL_FLUSH))


def _parse(parser: Parser) -> None:
    parser.parser.feed_data(_REQUEST)


def _forget(parser: Parser) -> None:
    parser.headers.clear()


CASES = (
    Case("a small object", Point, None, _point),
    Case("bytearray 4 KiB", lambda: bytearray(4 * 1024), None, _fill),
    Case("bytearray 64 KiB", lambda: bytearray(64 * 1024), None, _fill),
    Case("bytearray 1 MiB", lambda: bytearray(1024 * 1024), None, _fill),
    Case("zlib.compressobj, 1 kB deflated", lambda: zlib.compressobj(wbits=-15), None, _deflate),
    Case("HTTP parser, one request", Parser, _forget, _parse),
    Case(
        "msgspec decoder, one order",
        lambda: msgspec.json.Decoder(Order),
        None,
        lambda decoder: decoder.decode(b'{"id":1,"name":"Ada"}'),
    ),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """Nanoseconds of one use."""

    name: str
    made: float
    borrowed: float  # in a with block
    taken: float  # with take() and give()

    @property
    def pays(self) -> bool:
        """Whether a pool, as it is meant to be used, is quicker by more than a trifle."""
        return self.borrowed < self.made * WORTH


def measure(case: Case, seconds: float = SECONDS, rounds: int = ROUNDS) -> Figures:
    """One case, all three ways."""
    pool = ObjectPool(case.make, case.reset, 16)
    make, use = case.make, case.use

    def made(times: range) -> None:
        for _ in times:
            use(make())

    def borrowed(times: range) -> None:
        for _ in times:
            with pool.borrow() as item:
                use(item)

    def taken(times: range) -> None:
        for _ in times:
            item = pool.take()
            use(item)
            pool.give(item)

    best = [_best(way, seconds, rounds) for way in (made, borrowed, taken)]
    return Figures(case.name, *best)


def _best(way: Callable[[range], None], seconds: float, rounds: int) -> float:
    count, took = 1, 0.0
    while (took := _time(way, count)) < seconds / 10:
        count *= 4
    count = max(1, round(count * seconds / took))
    return min(_time(way, count) for _ in range(rounds)) / count * 1e9


def _time(way: Callable[[range], None], count: int) -> float:
    begin = time.perf_counter()
    way(range(count))
    return time.perf_counter() - begin


def sentence(figures: Iterable[Figures]) -> str:
    """What the figures say, in one sentence."""
    figures = list(figures)
    pays = [f"{found.name} ({found.made / found.borrowed:.1f} times as fast)" for found in figures if found.pays]
    not_so = [f"{found.name} ({found.made / found.borrowed:.1f})" for found in figures if not found.pays]
    gains = [found.made - found.borrowed for found in figures if found.pays]
    least = f", where it saves at least {min(gains):,.0f} ns a use" if gains else ""
    return f"A pool pays for {_list(pays)}{least}; it does not for {_list(not_so)}."


def _list(names: list[str]) -> str:
    if len(names) < 2:
        return names[0] if names else "nothing here"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def main() -> None:
    """Print the table and the sentence."""
    print(f"{'ns per use':34} {'made anew':>12} {'borrow()':>12} {'take, give':>12}   a pool pays")
    figures = []
    for case in CASES:
        found = measure(case)
        figures.append(found)
        verdict = "yes" if found.pays else "no"
        print(
            f"{found.name:34} {found.made:12,.0f} {found.borrowed:12,.0f} {found.taken:12,.0f}   {verdict}", flush=True
        )
    print(f"\n{sentence(figures)}")


if __name__ == "__main__":
    main()
