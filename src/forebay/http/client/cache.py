"""Answers that are kept, and given again instead of asking the server (RFC 9111)."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from enum import StrEnum
from math import inf
from types import TracebackType
from typing import Self

import msgspec
import structlog

from forebay.chain import Handler
from forebay.engine.deadlines import fail_after
from forebay.engine.loop import now
from forebay.engine.tasks import Tasks
from forebay.errors import DeadlineExceeded, ForebayError, Overloaded, UpstreamError
from forebay.http.client.cache_changes import Changes
from forebay.http.client.cache_keys import Varying, owner_of, place_of, url_key, varying_of
from forebay.http.client.cache_policy import JUDGED, CachePolicy
from forebay.http.client.cache_rules import (
    HEURISTIC,
    SAFE,
    Use,
    directives,
    kept_headers,
    may_store,
    merged,
    same_representation,
    validators,
    vary_names,
)
from forebay.http.client.cache_store import CachedAnswer, CacheStore, MemoryStore
from forebay.http.client.cache_tee import keep_content
from forebay.http.client.content import EMPTY
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.secret_fields import SECRETS
from forebay.http.headers import Headers
from forebay.observe.sparing import Sparing
from forebay.policy.deadline import deadline

__all__ = ["Cache", "Outcome"]

log = structlog.get_logger("forebay.client")

Next = Handler[ClientRequest, ClientResponse]

_FAILURES = frozenset((500, 502, 503, 504))  # RFC 5861 section 4
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
    closed, or used as ``async with cache:``, to end these; a client closes those among its middleware when it stops. So
    each client has one of its own; several may share a ``store``.

    It is private: it keeps answers that are for one user only. So what is kept for a request with ``authorization``,
    ``cookie`` or another field that is secret by its name, as ``x-api-key``, is given to requests with the same ones
    only. It sees those that the program sets, and what middleware outside of it adds. What a request got with an
    ``authorization`` that was added behind it, as ``auth=`` does, is kept only if the server says ``public`` and the
    like: ``middleware=[Bearer(token), Cache()]`` keeps the rest as well. Cookies of a jar are not looked at, as in a
    browser: clients of several users need a cache each. A ``shared`` one is as a proxy's: it keeps nothing that is for
    one user, unless the server says ``public`` and the like.

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
        "_changes", "_clock", "_closed", "_counts", "_max_entry", "_policy", "_refresh_timeout", "_refreshes",
        "_refreshing", "_shared", "_sparing", "store",
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
        if not 0 < refresh_timeout < inf:
            raise ValueError(f"Cache refresh_timeout {refresh_timeout}: must be above 0 seconds, and finite")
        self.store: CacheStore = store if store is not None else MemoryStore()
        self._shared = shared
        self._max_entry = max_entry
        self._policy = CachePolicy(shared, heuristic, stale_if_error, clock)
        self._refresh_timeout = refresh_timeout
        self._clock = clock
        self._refreshes = Tasks()
        self._refreshing: set[tuple[str, str]] = set()
        self._changes = Changes()
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
        conditions = JUDGED.intersection(headers)
        if answer is not None and not any(name in headers for name in _ELSEWHERE):
            verdict = self._policy.use(headers, answer)
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
            place = place_of(request)
            keys = {url_key(request.url, place)}
            for name in ("location", "content-location"):
                for reference in response.headers.get_all(name)[:1]:
                    try:
                        url = request.url.join(reference)
                    except ValueError:
                        continue
                    if url.same_origin(request.url):  # others could have anything forgotten
                        keys.add(url_key(url, place))
            for key in keys:
                await self._forget(key)
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
            if (
                answer is not None
                and not getattr(error, "inherited", False)
                and self._policy.may_replace_failure(request.headers, answer)
            ):
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
            if response.status in _FAILURES and self._policy.may_replace_failure(request.headers, answer):
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
        name = f"refresh of {look.request.url.origin}{look.request.url.path:.200}"
        task = self._refreshes.spawn(self._refreshed(look, answer), name=name)
        task.add_done_callback(lambda _: self._refreshing.discard(key))

    async def _refreshed(self, look: _Look, answer: CachedAnswer) -> None:
        until = now() + self._refresh_timeout
        deadline.begin(until)  # that of the request is not ours; the context is
        first = look.request
        headers = first.headers.copy()
        for name in JUDGED.intersection(headers):
            del headers[name]  # they are about what the program has
        request = msgspec.structs.replace(  # not copy(), which shares state
            first,
            method="GET",  # whoever asked may have wanted the head alone
            headers=headers,
            tried=[],
            trace=None,
            deadline=until,
            _state={**first.state, "cache": Outcome.REFRESH},
        )
        try:
            async with fail_after(self._refresh_timeout):
                response = await self._ask(_Look(request, look.owner, look.call_next), answer)
                async for _ in response.stream():
                    pass  # it is kept while it is read
        except ForebayError as error:
            log.warning(
                "refresh failed, the old answer is kept",
                request=f"GET {first.url.origin}{first.url.path}",  # queries have secrets
                error=type(error).__name__,
                reason=SECRETS.url(str(error)),
            )

    # -- what is kept

    def _record(self, look: _Look) -> _Recording:
        return _Recording(look, self._clock(), self._changes.next())

    async def _keep(self, recording: _Recording, response: ClientResponse) -> None:
        """Keep an answer, if that is allowed, and once it is read."""
        headers, status = response.headers, response.status
        received_at = self._clock()
        varying = await self._varying(recording.look, response, status, headers)
        if varying is None:
            return
        length = headers.get("content-length", "")
        too_long = length.isdecimal() and (len(length) > 18 or int(length) > self._max_entry)
        if too_long or headers.get("content-type", "").lower().startswith(_EVENTS):
            return
        pairs = kept_headers(response.fields)
        if "date" not in headers:  # RFC 9110 section 6.6.1
            pairs.append(_date(received_at))

        async def keep(content: bytes) -> None:
            answer = CachedAnswer(status, tuple(pairs), content, varying, recording.requested_at, received_at)
            await self._put(recording, answer)

        await keep_content(response, self._max_entry, keep)

    async def _varying(self, look: _Look, response: ClientResponse, status: int, headers: Headers) -> Varying | None:
        """What tells an answer apart; None: it is not to be kept, and what was kept before may be forgotten.

        :param response: which brought it, or made it fresh again.
        """
        asked, sent, names = look.request.headers, response.request.headers, vary_names(headers)
        credentials = sent.get_all("authorization")
        shared = self._shared or credentials != asked.get_all("authorization")  # somebody's, and nobody knew before
        if names is None or not may_store("GET", sent, status, headers, shared=shared):
            if status in HEURISTIC and not (shared and credentials):
                await self._forget(look.url)  # the server knows better now
            return None
        varying = varying_of(asked, names)
        return varying if varying == varying_of(sent, names) else None  # by what was added on the way

    async def _freshened(self, recording: _Recording, answer: CachedAnswer, response: ClientResponse) -> CachedAnswer:
        """What is kept, as a 304 or an answer to HEAD says it is now. It may have become one that is not to be kept."""
        received_at = self._clock()
        pairs = merged(answer.headers, response.fields)
        if "date" not in response.headers:
            pairs = [pair for pair in pairs if pair[0].lower() != b"date"]
            pairs.append(_date(received_at))
        varying = await self._varying(recording.look, response, answer.status, Headers(pairs))
        updated = CachedAnswer(
            answer.status, tuple(pairs), answer.content, varying or (), recording.requested_at, received_at
        )
        if varying is not None:
            await self._put(recording, updated)
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

    async def _put(self, recording: _Recording, answer: CachedAnswer) -> None:
        look, changes = recording.look, self._changes
        key = (look.url, look.owner, answer.varying)
        if changes.since(look.url, recording.number) or changes.since(key, recording.number):
            return  # it may be from before a change, or is older than what is there now
        changes.note(key, recording.number)
        try:
            await self.store.put(look.url, look.owner, answer)
        except Exception as error:  # as above
            self._store_failed(error)
        else:
            self._counts["stored"] += 1
        if changes.since(look.url, recording.number):  # while the store was about it
            await self._forget(look.url)

    async def _forget(self, url: str) -> None:
        self._changes.note(url, self._changes.next())
        try:
            self._counts["invalidated"] += await self.store.remove(url)
        except Exception as error:  # as above
            self._store_failed(error)

    def _store_failed(self, error: Exception) -> None:
        self._counts["store_errors"] += 1
        if (left_out := self._sparing.due("store", now())) is not None:
            log.warning("cache store failed", store=repr(self.store), left_out=left_out, exc_info=error)

    # -- what is given

    def _give(
        self, request: ClientRequest, answer: CachedAnswer, outcome: Outcome, *, judge: bool = False
    ) -> ClientResponse:
        return self._done(request, outcome, self._policy.response(request, answer, judge=judge))

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
        self.url = url_key(request.url, place_of(request))


class _Recording:
    """An answer that is on its way, and is to be kept unless something was changed since ``number``."""

    __slots__ = ("look", "number", "requested_at")

    def __init__(self, look: _Look, requested_at: float, number: int) -> None:
        self.look = look
        self.requested_at = requested_at
        self.number = number


def _date(at: float) -> tuple[bytes, bytes]:
    return b"date", formatdate(at, usegmt=True).encode()
