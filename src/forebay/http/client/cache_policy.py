"""What a cache does with an answer that it keeps: the rules, as its settings and the clock have them now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forebay.http.client.cache_rules import Use, initial_age, lifetime, may_replace_failure, use
from forebay.http.client.cache_store import CachedAnswer
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.conditions import NOT_MODIFIED, precondition, read_http_date
from forebay.http.headers import MutableHeaders

__all__ = ["JUDGED", "CachePolicy"]

JUDGED = frozenset(("if-modified-since", "if-none-match"))
"""The conditions of requests that a cache may judge itself (RFC 9111 section 4.3.2)."""

_UNKNOWN_AGE = 2**31  # older than anything may be (RFC 9111 section 1.2.2)
_SET_BACK = 60.0  # seconds; a clock that is corrected by less is a good one


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """The parameters are those of :class:`~forebay.http.client.cache.Cache`."""

    shared: bool
    heuristic: float
    stale_if_error: float
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        if not 0 <= self.heuristic <= 1:
            raise ValueError(f"Cache heuristic {self.heuristic}: must be 0 to 1")
        if not self.stale_if_error >= 0:
            raise ValueError(f"Cache stale_if_error {self.stale_if_error}: must be at least 0 seconds")

    def use(self, asked: MutableHeaders, answer: CachedAnswer) -> Use:
        """What to do with it, for a request with such headers."""
        return use(asked, answer.fields, self._lifetime(answer), self._age(answer), shared=self.shared)

    def may_replace_failure(self, asked: MutableHeaders, answer: CachedAnswer) -> bool:
        """Whether it may be given where the server failed."""
        life, age, default = self._lifetime(answer), self._age(answer), self.stale_if_error
        return may_replace_failure(asked, answer.fields, life, age, shared=self.shared, default=default)

    def response(self, request: ClientRequest, answer: CachedAnswer, *, judge: bool) -> ClientResponse:
        """The answer, for ``request``.

        :param judge: by the conditions that it has, which may make it a 304.
        """
        status, content = answer.status, answer.content
        pairs = [pair for pair in answer.headers if pair[0].lower() != b"age"]
        pairs.append((b"age", b"%d" % self._age(answer)))
        if judge and status == 200 and self._not_modified(request.headers, answer):
            status = NOT_MODIFIED
            pairs = [pair for pair in pairs if pair[0].lower() not in (b"content-length", b"content-encoding")]
        response = ClientResponse(request, status, pairs)
        response.got(b"" if status == NOT_MODIFIED or request.method == "HEAD" else content, ())
        return response

    def _age(self, answer: CachedAnswer) -> float:
        at_first = initial_age(answer.fields, answer.requested_at, answer.received_at)
        here = self.clock() - answer.received_at
        if here < -_SET_BACK:
            return _UNKNOWN_AGE
        return min(at_first + max(0.0, here), _UNKNOWN_AGE)

    def _lifetime(self, answer: CachedAnswer) -> float:
        fields, received_at = answer.fields, answer.received_at
        return lifetime(answer.status, fields, received_at, shared=self.shared, heuristic=self.heuristic)

    def _not_modified(self, asked: MutableHeaders, answer: CachedAnswer) -> bool:
        """What the program's own conditions come to (RFC 9111 section 4.3.2)."""
        fields, at = answer.fields, self.clock()
        conditions = {
            name.encode(): ", ".join(values).encode("latin-1", "replace")
            for name in JUDGED
            if (values := asked.get_all(name))
        }
        etag = fields.get("etag", "").encode("latin-1")
        changed = fields.get("last-modified", fields.get("date", "")).encode("latin-1")
        return precondition(conditions, "GET", etag, read_http_date(changed, at), at=at) == NOT_MODIFIED
