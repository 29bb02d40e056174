"""Answers that are kept, and given again instead of asking the server (RFC 9111)."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from enum import StrEnum
from types import TracebackType
from typing import Self
from weakref import WeakSet

import msgspec
import structlog

from forebay.chain import Handler
from forebay.engine.deadlines import fail_after
from forebay.engine.loop import now
from forebay.engine.tasks import Tasks
from forebay.errors import DeadlineExceeded, ForebayError, Overloaded, UpstreamError
from forebay.http.client.cache_keys import owner_of, url_key, varying_of
from forebay.http.client.cache_rules import (
    HEURISTIC,
    SAFE,
    Use,
    directives,
    initial_age,
    kept_headers,
    lifetime,
    may_replace_failure,
    may_store,
    merged,
    same_representation,
    use,
    validators,
    vary_names,
)
from forebay.http.client.cache_store import CachedAnswer, CacheStore, MemoryStore
from forebay.http.client.cache_tee import keep_content
from forebay.http.client.content import EMPTY
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.conditions import NOT_MODIFIED, precondition, read_http_date
from forebay.observe.sparing import Sparing
from forebay.policy.deadline import deadline

__all__ = ["Cache", "Outcome"]

log = structlog.get_logger("forebay.client")

Next = Handler[ClientRequest, ClientResponse]

_FAILURES = frozenset((500, 502, 503, 504))  # RFC 5861 section 4
_HERE = frozenset(("if-modified-since", "if-none-match"))  # conditions that a cache may judge (RFC 9111 section 4.3.2)
_ELSEWHERE = ("if-match", "if-range", "if-unmodified-since", "range")
_REFRESHES = 32  # behind the scenes, at once
_EVENTS = "text/event-stream"


def _wall() -> float:
    return time.time()


class Outcome(StrEnum):
    """What the cache did for a request: ``request.state["cache"]``, where it was asked."""

    HIT = "hit"
    """It gave a fresh answer."""
    STALE = "stale"
    """It gave one that is not fresh any more, because the request or the server allows it."""
    STALE_IF_ERROR = "stale-if-error"
    """It gave one that is not fresh any more, because the server failed."""
    REVALIDATED = "revalidated"
    """The server said that what was kept still holds."""
    MISS = "miss"
    """It asked the server."""
    BYPASS = "bypass"
    """The request is none for a cache."""
    REFRESH = "refresh"
    """It asks the server behind the scenes: only what is inside of the cache sees that."""
    REFUSED = "refused"
    """It had no answer, and was not to ask the server (``only-if-cached``)."""


class Cache:
    """Keeps answers to GET, and gives them again for as long as the server allows, to requests for the same URL that
    are the same in what the answer's ``vary`` names. An answer of the cache has an ``age`` header.

    It heeds RFC 9111: ``cache-control`` of both sides, ``expires``, ``pragma``, ``vary``; what is not fresh any more is
    validated by ``etag`` and ``last-modified``; a request that changes something forgets what is kept of its URL; and
    RFC 5861: ``stale-while-revalidate``, for which it asks the server behind the scenes, and ``stale-if-error``. To be
    closed, or used as ``async with cache:``, to end these.

    It is private: it keeps answers that are for one user only. So what is kept for a request with ``authorization`` or
    ``cookie`` is given to requests with the same ones only. It can see those that the program sets and what middleware
    outside of it adds. A ``shared`` one is as a proxy's: it keeps none of that, unless the server says ``public`` and
    the like.

    Content is kept while it is read, and only if it is read to its end. What the server sends in parts (206), in answer
    to content, or as an event stream is not kept.

    :param store: where they are kept; default: 32 MiB of memory.
    :param shared: whether those who use it may be several users.
    :param max_entry: bytes of the content of one answer, as it was sent, at least 1.
    :param heuristic: how long an answer is fresh that does not say: the part of the time since it was changed last,
        0 to 1; 0: not at all.
    :param stale_if_error: seconds for which an old answer replaces a failure, where neither side says so, at least 0.
    :param refresh_timeout: seconds for asking the server behind the scenes, above 0.
    :param clock: seconds since the epoch.
    :raises ValueError: a number is out of its range.
    """

    __slots__ = (
        "_clock", "_closed", "_counts", "_heuristic", "_max_entry", "_recordings", "_refresh_timeout", "_refreshes",
        "_refreshing", "_shared", "_sparing", "_stale_if_error", "store",
    )  # fmt: skip

    def __init__(
        self,
        store: CacheStore | None = None,
        *,
        shared: bool = False,
        max_entry: int = 4 * 1024 * 1024,
        heuristic: float = 0.1,
        stale_if_error: float = 0.0,
        refresh_timeout: float = 30.0,
        clock: Callable[[], float] = _wall,
    ) -> None:
        if max_entry < 1:
            raise ValueError(f"Cache max_entry {max_entry}: must be at least 1 byte")
        if not 0 <= heuristic <= 1:
            raise ValueError(f"Cache heuristic {heuristic}: must be 0 to 1")
        if not stale_if_error >= 0 or not refresh_timeout > 0:
            raise ValueError(
                f"Cache stale_if_error {stale_if_error}, refresh_timeout {refresh_timeout}: "
                "must be at least 0 seconds, and above 0"
            )
        self.store: CacheStore = store if store is not None else MemoryStore()
        self._shared = shared
        self._max_entry = max_entry
        self._heuristic = heuristic
        self._stale_if_error = stale_if_error
        self._refresh_timeout = refresh_timeout
        self._clock = clock
        self._refreshes = Tasks()
        self._refreshing: set[tuple[str, str]] = set()
        self._recordings: WeakSet[_Recording] = WeakSet()
        self._sparing = Sparing()
        self._closed = False
        self._counts = {outcome.value.replace("-", "_"): 0 for outcome in Outcome if outcome is not Outcome.REFRESH}
        self._counts |= {"stored": 0, "invalidated": 0, "refreshes": 0, "store_errors": 0}

    def __repr__(self) -> str:
        return f"Cache({self.store!r}{', shared=True' if self._shared else ''})"

    async def __aenter__(self) -> Self:
        self._closed = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End what it does behind the scenes. What is kept stays."""
        self._closed = True
        await self._refreshes.cancel()

    def statistics(self) -> dict[str, int]:
        """Counts since the start: requests by :class:`Outcome`; answers ``stored``; URLs' answers ``invalidated``;
        ``refreshes`` begun behind the scenes; ``store_errors``; and those of the store."""
        return {**self._counts, **self.store.statistics()}

    async def __call__(self, request: ClientRequest, call_next: Next) -> ClientResponse:
        headers = request.headers
        if request.method not in SAFE:
            return await self._change(request, call_next)
        asked = directives(headers)
        only_cached = "only-if-cached" in asked
        if request.method not in ("GET", "HEAD") or request.content is not EMPTY or "upgrade" in headers:
            return await self._pass(request, call_next)
        if "no-store" in asked and not only_cached:
            return await self._pass(request, call_next)
        look = _Look(request, "" if self._shared else owner_of(headers), call_next)
        answer = await self._find(look)
        conditions = _HERE.intersection(headers)
        if answer is not None and not any(name in headers for name in _ELSEWHERE):
            age = self._age(answer)
            verdict = use(headers, answer.fields, self._lifetime(answer), age, shared=self._shared)
            if verdict is Use.REFRESH and not only_cached:
                self._refresh(look, answer)
            if verdict is not Use.VALIDATE:
                outcome = Outcome.HIT if verdict is Use.FRESH else Outcome.STALE
                return self._give(request, answer, outcome, judge=bool(conditions))
        if only_cached:
            return self._done(request, Outcome.REFUSED, ClientResponse.made(request, 504))  # RFC 9111 section 5.2.1.7
        if request.method == "HEAD":
            return await self._head(look, answer)
        if conditions or any(name in headers for name in _ELSEWHERE):
            return await self._conditional(look, answer)
        return await self._ask(look, answer)

    # -- what is asked of the server

    async def _pass(self, request: ClientRequest, call_next: Next) -> ClientResponse:
        return self._done(request, Outcome.BYPASS, await call_next(request))

    async def _change(self, request: ClientRequest, call_next: Next) -> ClientResponse:
        """A request that may change something: what is kept of its URL holds no longer (RFC 9111 section 4.4)."""
        response = await call_next(request)
        if 200 <= response.status < 400:
            places = {url_key(request.url)}
            for name in ("location", "content-location"):
                for reference in response.headers.get_all(name)[:1]:
                    try:
                        place = request.url.join(reference)
                    except ValueError:
                        continue
                    if place.same_origin(request.url):  # others could have anything forgotten
                        places.add(url_key(place))
            for one in places:
                await self._forget(one)
        return self._done(request, Outcome.BYPASS, response)

    async def _ask(self, look: _Look, answer: CachedAnswer | None) -> ClientResponse:
        """GET, with the conditions of what is kept."""
        request = sent = look.request
        conditions = validators(answer.fields) if answer is not None else []
        if conditions:
            sent = request.copy()
            for name, value in conditions:
                sent.headers[name] = value
        recording = self._record(look)
        try:
            response = await look.call_next(sent)
        except (UpstreamError, Overloaded, DeadlineExceeded) as error:
            if answer is not None and not getattr(error, "inherited", False) and self._hides_failure(request, answer):
                return self._give(request, answer, Outcome.STALE_IF_ERROR)
            raise
        if answer is not None:
            if conditions and response.status == 304:
                response.discard()
                if same_representation(answer.fields, response.headers):
                    updated = await self._freshened(recording, answer, response)
                    return self._give(request, updated, Outcome.REVALIDATED)
                await self._forget(look.url)  # it is about something that is not here
                return await self._ask(look, None)
            if response.status in _FAILURES and self._hides_failure(request, answer):
                response.discard()
                return self._give(request, answer, Outcome.STALE_IF_ERROR)
        await self._keep(recording, response)
        return self._done(request, Outcome.MISS, response)

    async def _conditional(self, look: _Look, answer: CachedAnswer | None) -> ClientResponse:
        """GET with conditions or ranges of the program's own: the answer is for it, but may say something of what is
        kept."""
        recording = self._record(look)
        response = await look.call_next(look.request)
        if response.status == 304 and answer is not None:
            tags = response.headers.get_all("etag")
            if tags and same_representation(answer.fields, response.headers):
                await self._freshened(recording, answer, response)
        elif response.status == 200:
            await self._keep(recording, response)
        return self._done(look.request, Outcome.MISS, response)

    async def _head(self, look: _Look, answer: CachedAnswer | None) -> ClientResponse:
        """HEAD: it says whether what is kept of GET still holds (RFC 9111 section 4.3.5)."""
        recording = self._record(look)
        response = await look.call_next(look.request)
        if answer is not None and response.status == 200 and answer.status == 200:
            said = response.headers.get_all("content-length")[:1]
            if same_representation(answer.fields, response.headers) and said in ([], [str(len(answer.content))]):
                await self._freshened(recording, answer, response)
            else:
                await self._forget(look.url)
        return self._done(look.request, Outcome.MISS, response)

    def _refresh(self, look: _Look, answer: CachedAnswer) -> None:
        """Ask the server behind the scenes (RFC 5861 section 3), once at a time for each URL, and once a second."""
        key = (look.url, look.owner)
        if self._closed or key in self._refreshing or len(self._refreshing) >= _REFRESHES:
            return
        if self._sparing.due(key, now()) is None:
            return
        self._counts["refreshes"] += 1
        self._refreshing.add(key)
        task = self._refreshes.spawn(self._refreshed(look, answer), name=f"refresh of {look.url:.200}")
        task.add_done_callback(lambda _: self._refreshing.discard(key))

    async def _refreshed(self, look: _Look, answer: CachedAnswer) -> None:
        until = now() + self._refresh_timeout
        deadline.begin(until)  # that of the request is not ours; the context is
        request = msgspec.structs.replace(  # not copy(), which shares state
            look.request,
            headers=look.request.headers.copy(),
            tried=[],
            trace=None,
            deadline=until,
            _state={"cache": Outcome.REFRESH},
        )
        try:
            async with fail_after(self._refresh_timeout):
                response = await self._ask(_Look(request, look.owner, look.call_next), answer)
                async for _ in response.stream():
                    pass  # it is kept while it is read
        except ForebayError as error:
            log.warning("refresh failed, the old answer is kept", request=str(request), exc_info=error)

    # -- what is kept

    def _record(self, look: _Look) -> _Recording:
        recording = _Recording(look, self._clock())
        self._recordings.add(recording)
        return recording

    async def _keep(self, recording: _Recording, response: ClientResponse) -> None:
        """Keep an answer, if that is allowed, and once it is read."""
        look, headers, status = recording.look, response.headers, response.status
        received_at = self._clock()
        sent = response.request.headers
        names = vary_names(headers)
        if names is None or not may_store("GET", sent, status, headers, shared=self._shared):
            if status in HEURISTIC:
                await self._forget(look.url)  # the server knows better now
            return
        varying = varying_of(look.request.headers, names)
        if varying != varying_of(sent, names):
            return  # it varies by what was added on the way, which nobody knows before
        length = headers.get("content-length", "")
        too_long = length.isdecimal() and int(length) > self._max_entry
        if too_long or headers.get("content-type", "").lower().startswith(_EVENTS):
            return
        pairs = kept_headers(response.fields)
        if "date" not in headers:  # RFC 9110 section 6.6.1
            pairs.append((b"date", formatdate(received_at, usegmt=True).encode()))

        async def keep(content: bytes) -> None:
            if recording.valid:
                answer = CachedAnswer(status, tuple(pairs), content, varying, recording.requested_at, received_at)
                await self._put(look, answer)

        await keep_content(response, self._max_entry, keep)

    async def _freshened(self, recording: _Recording, answer: CachedAnswer, response: ClientResponse) -> CachedAnswer:
        """What is kept, as a 304 or an answer to HEAD says it is now."""
        received_at = self._clock()
        pairs = merged(answer.headers, response.fields)
        if "date" not in response.headers:
            pairs = [pair for pair in pairs if pair[0].lower() != b"date"]
            pairs.append((b"date", formatdate(received_at, usegmt=True).encode()))
        updated = CachedAnswer(
            answer.status, tuple(pairs), answer.content, answer.varying, recording.requested_at, received_at
        )
        if recording.valid:
            await self._put(recording.look, updated)
        return updated

    async def _find(self, look: _Look) -> CachedAnswer | None:
        try:
            answers = await self.store.get(look.url, look.owner)
        except Exception as error:  # whatever a store may raise: there is a server to ask
            self._store_failed(error)
            return None
        headers = look.request.headers
        for answer in answers:
            if answer.varying == varying_of(headers, [name for name, _ in answer.varying]):
                return answer
        return None

    async def _put(self, look: _Look, answer: CachedAnswer) -> None:
        try:
            await self.store.put(look.url, look.owner, answer)
        except Exception as error:  # as above
            self._store_failed(error)
        else:
            self._counts["stored"] += 1

    async def _forget(self, url: str) -> None:
        for recording in self._recordings:
            if recording.look.url == url:
                recording.valid = False
        try:
            self._counts["invalidated"] += await self.store.remove(url)
        except Exception as error:  # as above
            self._store_failed(error)

    def _store_failed(self, error: Exception) -> None:
        self._counts["store_errors"] += 1
        if (left_out := self._sparing.due("store", now())) is not None:
            log.warning("cache store failed", store=repr(self.store), left_out=left_out, exc_info=error)

    # -- what is given

    def _age(self, answer: CachedAnswer) -> float:
        at_first = initial_age(answer.fields, answer.requested_at, answer.received_at)
        return at_first + max(0.0, self._clock() - answer.received_at)

    def _lifetime(self, answer: CachedAnswer) -> float:
        return lifetime(
            answer.status, answer.fields, answer.received_at, shared=self._shared, heuristic=self._heuristic
        )

    def _hides_failure(self, request: ClientRequest, answer: CachedAnswer) -> bool:
        return may_replace_failure(
            request.headers,
            answer.fields,
            self._lifetime(answer),
            self._age(answer),
            shared=self._shared,
            default=self._stale_if_error,
        )

    def _give(
        self, request: ClientRequest, answer: CachedAnswer, outcome: Outcome, *, judge: bool = False
    ) -> ClientResponse:
        status, content = answer.status, answer.content
        pairs = [pair for pair in answer.headers if pair[0].lower() != b"age"]
        pairs.append((b"age", b"%d" % self._age(answer)))
        if judge and status == 200 and self._not_modified(request, answer):
            status = NOT_MODIFIED
            pairs = [pair for pair in pairs if pair[0].lower() not in (b"content-length", b"content-encoding")]
        if status == NOT_MODIFIED or request.method == "HEAD":
            content = b""
        response = ClientResponse(request, status, pairs)
        response.got(content, ())
        return self._done(request, outcome, response)

    def _not_modified(self, request: ClientRequest, answer: CachedAnswer) -> bool:
        """What the program's own conditions come to (RFC 9111 section 4.3.2)."""
        headers, fields, at = request.headers, answer.fields, self._clock()
        conditions = {
            name.encode(): ", ".join(headers.get_all(name)).encode("latin-1", "replace")
            for name in _HERE
            if name in headers
        }
        etag = fields.get("etag", "").encode("latin-1")
        changed = fields.get("last-modified", fields.get("date", "")).encode("latin-1")
        modified = read_http_date(changed, at)
        return precondition(conditions, "GET", etag, modified, at=at) == NOT_MODIFIED

    def _done(self, request: ClientRequest, outcome: Outcome, response: ClientResponse) -> ClientResponse:
        if request.state.get("cache") is not Outcome.REFRESH:
            self._counts[outcome.value.replace("-", "_")] += 1
            request.state["cache"] = outcome
        return response


class _Look:
    """Somebody looks for an answer."""

    __slots__ = ("call_next", "owner", "request", "url")

    def __init__(self, request: ClientRequest, owner: str, call_next: Next) -> None:
        self.request = request
        self.owner = owner
        self.call_next = call_next
        self.url = url_key(request.url)


class _Recording:
    """An answer that is on its way, and is to be kept unless something was changed meanwhile."""

    __slots__ = ("__weakref__", "look", "requested_at", "valid")

    def __init__(self, look: _Look, requested_at: float) -> None:
        self.look = look
        self.requested_at = requested_at
        self.valid = True
