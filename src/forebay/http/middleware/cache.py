"""Answers kept for those who ask the same."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Hashable, Sequence
from typing import Any
from weakref import WeakSet

from forebay.engine.loop import now, timeout
from forebay.engine.tasks import Gate
from forebay.http.conditions import read_http_date
from forebay.http.files import FileResponse
from forebay.http.messages import Next, Request, Response
from forebay.http.negotiation import wants_msgpack

__all__ = ["Cache"]

_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ALONE = frozenset(  # conditions and parts: what is answered then, unless it is a 200, is for this request only
    (b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"range")
)
_PERSONAL = frozenset((b"authorization", b"cookie"))
_NOT_KEPT = frozenset(("content-length", "age"))  # of the headers: those are said anew each time
_SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
_OVERHEAD = 512  # bytes that an answer takes beside its key, headers and content
_EVENTS = "text/event-stream"

Place = tuple[str, str, bytes]  # scheme, host, path
Key = tuple[Any, ...]


class _Entry:
    """An answer; or, without one, the knowledge that there is none to be kept."""

    __slots__ = ("age", "body", "lines", "place", "size", "stored_at", "until")

    def __init__(self, place: Place, key: Key, at: float, until: float) -> None:
        self.place = place
        self.stored_at = at
        self.until = until
        self.lines: bytes | None = None
        self.body = b""
        self.age = 0
        self.size = _OVERHEAD + _size((place[1], place[2], *key))

    def fill(self, lines: bytes, body: bytes, age: int) -> None:
        self.lines = lines
        self.body = body
        self.age = age
        self.size += len(lines) + len(body)


def _size(part: Any) -> int:
    if isinstance(part, str | bytes):
        return len(part)
    return sum(map(_size, part)) if isinstance(part, tuple | frozenset) else 0


class _Flight:
    """A handler at work, or a stream of it that is sent and kept."""

    __slots__ = ("__weakref__", "alone", "failed", "gate", "key", "place", "valid")

    def __init__(self, place: Place, key: Key, alone: bool) -> None:
        self.place = place
        self.key = key
        self.alone = alone
        self.gate = Gate()
        self.valid = True  # nothing was changed at this place since it began
        self.failed = False  # there is no answer for those who wait


class Cache:
    """Keeps answers with status 200 to GET and HEAD, and gives them to those who ask the same: method, scheme, host,
    path, query, and the headers in ``vary``. In this worker's memory; the one that was asked for the longest ago makes
    room.

    An answer lives for the ``s-maxage`` or ``max-age`` of its ``cache-control``, less its ``age``, or until it
    ``expires``, else for ``ttl``. When many ask at once for one that is not there, the handler is called once, and its
    answer, if it can be kept, is for all. If it cannot, each asks for itself, and that is remembered for ``ttl``, or
    until one of them gets an answer that can be kept.

    Never kept: answers that set a cookie, say ``private``, ``no-store``, ``no-cache`` or ``max-age=0``, or have a
    ``vary`` that names a header which is not in ``vary`` here; files, which the system caches; what is longer than
    ``max_body``. Not looked up and not kept: requests with ``authorization`` or ``cookie``, unless these are in
    ``vary`` or there is a ``key``; with an identity, unless there is a ``key``; with content; with an upgrade.
    Requests with conditions or ranges get an answer that is there, whole (an ``ETag`` outside makes a 304 of it); when
    the handler itself heeds them, with a 304 or 206, that is for them only. Of what handlers return as JSON or
    MessagePack, by ``accept``, the JSON is kept.

    Streams are passed on while they are kept, so the first client waits no longer than without; those who ask meanwhile
    ask for themselves. Server-sent events are never kept.

    An answer other than an error to a method that changes something, at the same URL, forgets what is kept of it (RFC
    9111 section 4.4). What clients say in ``cache-control`` is not heeded: any of them could have everything made anew.

    Answers say what became of them in ``cache-status`` (RFC 9211), and how old they are in ``age`` when they were kept;
    the access log gets ``cache``: hit, miss or bypass. Put ``Compression`` outside, or ``accept-encoding`` in ``vary``.

    :param ttl: seconds, for answers that do not say.
    :param size: bytes kept, keys and headers included.
    :param max_body: bytes of one answer's content.
    :param vary: headers of the request that answers depend on.
    :param key: what else they depend on; None: this request is not for the cache. With it, ``authorization``, cookies
        and identities are no obstacle: it has to tell apart those who get different answers.
    :param patience: seconds to wait for a handler that is at work for another request of the same.
    :param name: in ``cache-status``; None leaves the header out.
    :param clock: seconds.
    :raises ValueError: a parameter is out of its range, or no name of a header.
    """

    __slots__ = (
        "_by_place", "_clock", "_entries", "_flights", "_key", "_max_body", "_name", "_patience", "_personal", "_size",
        "_ttl", "_under_way", "_used", "_vary", "_vary_bytes", "bypassed", "evicted", "hits", "invalidated", "misses",
        "shared", "stored",
    )  # fmt: skip

    def __init__(
        self,
        *,
        ttl: float = 60.0,
        size: int = 32 * 1024 * 1024,
        max_body: int = 1024 * 1024,
        vary: Sequence[str] = (),
        key: Callable[[Request], Hashable | None] | None = None,
        patience: float = 10.0,
        name: str | None = "forebay",
        clock: Callable[[], float] = now,
    ) -> None:
        if not ttl > 0 or not patience > 0:
            raise ValueError(f"Cache: ttl {ttl}, patience {patience}: must be more than 0 seconds")
        if not 1 <= max_body <= size:
            raise ValueError(f"Cache: max_body {max_body}: must be 1 byte to size, which is {size}")
        for field in (vary,) if isinstance(vary, str) else (*vary, *([name] if name is not None else ())):
            if isinstance(vary, str) or not _FIELD.fullmatch(field):
                raise ValueError(f"Cache: vary {vary!r}, name {name!r}: must be a list of header names, and a token")
        self._ttl = ttl
        self._size = size
        self._max_body = max_body
        self._vary = frozenset(field.lower() for field in vary)
        self._vary_bytes = tuple(sorted(field.encode() for field in self._vary))
        self._personal = frozenset() if key is not None else _PERSONAL.difference(self._vary_bytes)
        self._key = key
        self._patience = patience
        self._name = name
        self._clock = clock
        self._entries: dict[Key, _Entry] = {}  # the one that was asked for last is last
        self._by_place: dict[Place, set[Key]] = {}
        self._flights: dict[Key, _Flight] = {}  # those that others may wait for
        self._under_way: WeakSet[_Flight] = WeakSet()  # all, for as long as somebody is at work for them
        self._used = 0
        self.hits = self.misses = self.bypassed = self.shared = self.stored = self.evicted = self.invalidated = 0

    def __repr__(self) -> str:
        vary = f", vary={sorted(self._vary)!r}" if self._vary else ""
        return f"Cache(ttl={self._ttl:g}, size={self._size}{vary}{', key=...' if self._key is not None else ''})"

    async def __call__(self, request: Request, call_next: Next) -> Response:
        place = (request.scheme, request.host.lower(), request.raw_path)
        if request.method not in ("GET", "HEAD"):
            response = await call_next(request)
            if request.method not in _SAFE and 200 <= response.status < 400:
                self._invalidate(place)
            return response
        key, alone = self._look_at(request, place)
        if key is None:
            return await self._pass(request, call_next)
        while True:
            entry = self._find(key)
            if entry is not None:
                if entry.lines is None:
                    return await self._pass(request, call_next, _Flight(place, key, alone))
                self.hits += 1
                return self._kept(request, entry)
            flight = self._flights.get(key)
            if flight is None:
                return await self._lead(request, call_next, _Flight(place, key, alone))
            if not await self._follow(flight, alone):
                return await self._pass(request, call_next, _Flight(place, key, alone))

    def invalidate(self, path: str | bytes) -> int:
        """Forget all answers for ``path``, as it is sent (percent-encoded, without query), on every host; how many."""
        raw = path.encode() if isinstance(path, str) else path
        places = {place for place in self._by_place if place[2] == raw}
        places |= {flight.place for flight in self._under_way if flight.place[2] == raw}
        return sum(map(self._invalidate, places))

    def clear(self) -> None:
        """Forget all answers, those that are being made as well."""
        for flight in self._under_way:
            flight.valid = False
        self._entries.clear()
        self._by_place.clear()
        self._used = 0

    def statistics(self) -> dict[str, int]:
        """Counts since the start, ``entries`` and ``bytes`` now. A request is one of ``hits``, ``misses`` and
        ``bypassed``; ``shared`` of them waited for another's answer."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "bypassed": self.bypassed,
            "shared": self.shared,
            "stored": self.stored,
            "evicted": self.evicted,
            "invalidated": self.invalidated,
            "entries": len(self._entries),
            "bytes": self._used,
        }

    # -- what is asked for

    def _look_at(self, request: Request, place: Place) -> tuple[Key | None, bool]:
        """The key of a request, None where it is not for the cache; and whether its answer may be for it alone."""
        exchange = request.exchange
        if exchange.has_body:
            return None, True
        alone = False
        found: dict[bytes, list[bytes]] = {}
        for name, value in exchange.headers:
            lower = name.lower()
            if lower in self._personal or lower == b"upgrade":
                return None, True
            alone = alone or lower in _ALONE
            if lower in self._vary_bytes:
                found.setdefault(lower, []).append(value.strip(b" \t"))
        further: Hashable = None
        if self._key is not None:
            further = self._key(request)
            if further is None:
                return None, True
        elif request.identity is not None:
            return None, True
        values = [b", ".join(found[name]) if name in found else None for name in self._vary_bytes]
        packed = exchange.fields.msgpack and wants_msgpack(exchange.header(b"accept"))  # JSON says no ``vary: accept``
        return (request.method, *place, exchange.query, *values, packed, further), alone

    def _find(self, key: Key) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() >= entry.until:
            self._remove(key)
            return None
        del self._entries[key]
        self._entries[key] = entry
        return entry

    def _kept(self, request: Request, entry: _Entry) -> Response:
        at = self._clock()
        response = Response.encoded(200, entry.lines or b"", entry.body)
        response.headers.add("age", str(int(entry.age + at - entry.stored_at)))
        self._say(request, response, "hit", f"hit; ttl={int(entry.until - at)}")
        return response

    def _say(self, request: Request, response: Response, note: str, status: str) -> None:
        request.note("cache", note)
        if self._name is not None and response.status != 101:
            response.headers.add("cache-status", f"{self._name}; {status}")

    # -- what is made

    async def _pass(self, request: Request, call_next: Next, flight: _Flight | None = None) -> Response:
        """Call the handler for this request only. With a ``flight`` the answer may be kept."""
        self.bypassed += 1
        if flight is None:
            response, kept = (await call_next(request)).copy(), False
        else:
            response, kept = await self._make(request, call_next, flight)
        self._say(request, response, "bypass", "fwd=bypass; stored" if kept else "fwd=bypass")
        return response

    async def _follow(self, flight: _Flight, alone: bool) -> bool:
        """Wait for another's answer; whether to look again."""
        self.shared += 1
        try:
            async with timeout(self._patience):
                await flight.gate.wait()
        except TimeoutError:
            return False
        return not flight.failed or (flight.alone and not alone)  # that was no answer for everybody

    async def _lead(self, request: Request, call_next: Next, flight: _Flight) -> Response:
        """Call the handler, here and not in a Task of its own: what belongs to the request ends with it. Who is
        cancelled leaves the lead to one of those who wait."""
        self.misses += 1
        key = flight.key
        self._flights[key] = flight
        try:
            response, kept = await self._make(request, call_next, flight)
            flight.failed = not kept or response.stream is not None  # which is not there yet
            if not kept and not flight.alone and key not in self._entries:  # one that was asked for beside it may be
                self._add(key, _Entry(flight.place, key, self._clock(), self._clock() + self._ttl))
        except Exception:
            flight.failed = True
            raise
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.gate.open()
        self._say(request, response, "miss", "fwd=miss; stored" if kept else "fwd=miss")
        return response

    async def _make(self, request: Request, call_next: Next, flight: _Flight) -> tuple[Response, bool]:
        """Call the handler; its answer, and whether it is kept."""
        self._under_way.add(flight)
        response = (await call_next(request)).copy()
        lifetime = self._lifetime(response)
        if lifetime and response.stream is not None:
            response.stream = _Tee(response.stream, self._max_body, self._keeper(flight, response, lifetime))
        elif lifetime:
            self._store(flight, response.headers.encode(_NOT_KEPT), response.body, response, lifetime)
        return response, lifetime > 0

    def _lifetime(self, response: Response) -> float:
        """Seconds an answer may be kept; 0: not at all."""
        if response.status != 200 or isinstance(response, FileResponse) or len(response.body) > self._max_body:
            return 0
        headers = response.headers
        if "set-cookie" in headers or "content-range" in headers:
            return 0
        if response.stream is not None:
            length = headers.get("content-length", "")
            if headers.get("content-type", "").startswith(_EVENTS) or (
                length.isdecimal() and int(length) > self._max_body
            ):
                return 0
        varies = {one.strip().lower() for one in ",".join(headers.get_all("vary")).split(",") if one.strip()}
        if not varies <= self._vary:
            return 0
        said = ",".join(headers.get_all("cache-control")).lower()
        return self._said(said, headers.get("age", ""), headers.get("expires"))

    def _said(self, cache_control: str, age: str, expires: str | None) -> float:
        directives: dict[str, str] = {}
        for part in cache_control.split(","):
            name, _, value = part.strip().partition("=")
            directives.setdefault(name.strip(), value.strip().strip('"'))
        if directives.keys() & {"private", "no-store", "no-cache"}:
            return 0
        for name in ("s-maxage", "max-age"):
            if name in directives:
                seconds = directives[name]
                if not seconds.isdecimal() or len(seconds) > 10:
                    return 0
                return max(0, int(seconds) - (int(age) if age.isdecimal() and len(age) <= 10 else 0))
        if expires is None:
            return self._ttl
        at = time.time()
        date = read_http_date(expires.encode("latin-1", "replace"), at)
        return 0 if date is None else max(0, date - at)  # what is no date is in the past (RFC 9111 section 5.3)

    def _keeper(self, flight: _Flight, response: Response, lifetime: float) -> Callable[[bytes], None]:
        lines = response.headers.encode(_NOT_KEPT)
        return lambda body: self._store(flight, lines, body, response, lifetime)

    def _store(self, flight: _Flight, lines: bytes, body: bytes, response: Response, lifetime: float) -> None:
        if not flight.valid:
            return
        at = self._clock()
        age = response.headers.get("age", "")
        entry = _Entry(flight.place, flight.key, at, at + lifetime)
        entry.fill(lines, body, int(age) if age.isdecimal() and len(age) <= 10 else 0)
        self.stored += 1
        self._add(flight.key, entry)

    # -- what is kept

    def _add(self, key: Key, entry: _Entry) -> None:
        self._remove(key)
        if entry.size > self._size:
            return
        self._entries[key] = entry
        self._by_place.setdefault(entry.place, set()).add(key)
        self._used += entry.size
        while self._used > self._size:
            self._remove(next(iter(self._entries)))
            self.evicted += 1

    def _remove(self, key: Key) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._used -= entry.size
        keys = self._by_place[entry.place]
        keys.discard(key)
        if not keys:
            del self._by_place[entry.place]
        return True

    def _invalidate(self, place: Place) -> int:
        for flight in self._under_way:
            if flight.place == place:
                flight.valid = False
        gone = sum(self._remove(key) for key in list(self._by_place.get(place, ())))
        self.invalidated += gone
        return gone


class _Tee:
    """A stream that is passed on, and kept if it comes to its end within a bound."""

    __slots__ = ("_keep", "_left", "_parts", "_pieces", "_source")

    def __init__(self, source: AsyncIterable[bytes | str], bound: int, keep: Callable[[bytes], None]) -> None:
        self._source = source
        self._pieces: AsyncIterator[bytes | str] | None = None
        self._parts: list[bytes] | None = []
        self._left = bound
        self._keep = keep

    def __aiter__(self) -> _Tee:
        return self

    async def __anext__(self) -> bytes:
        if self._pieces is None:
            self._pieces = aiter(self._source)
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            parts, self._parts = self._parts, None
            if parts is not None:
                self._keep(b"".join(parts))
            raise
        data = piece.encode() if isinstance(piece, str) else bytes(piece)
        if self._parts is not None:
            self._parts.append(data)
            self._left -= len(data)
            if self._left < 0:
                self._parts = None
        return data

    async def aclose(self) -> None:
        """End the stream it is made of; what was not complete is not kept."""
        self._parts = None
        for source in (self._pieces, self._source):
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()
                return
