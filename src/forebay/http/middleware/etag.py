"""Entity tags for answers, so that clients need not fetch again what they have (RFC 9110 sections 8.8.3 and 13)."""

from __future__ import annotations

import time
from hashlib import blake2b

from forebay.http.conditions import NOT_MODIFIED, precondition, read_http_date, select
from forebay.http.files import FileResponse
from forebay.http.headers import MutableHeaders
from forebay.http.messages import Next, Request, Response
from forebay.http.problems import problem

__all__ = ["ETag"]

_NOT_IN_304 = frozenset(("content-type", "content-encoding", "content-language", "content-length", "content-range"))


class ETag:
    """Gives answers an entity tag made of their content, and answers conditional requests by it.

    For answers 200 to GET and HEAD whose content is in memory: they get an ``etag``; one whose tag the client has
    (``if-none-match``) becomes 304 without content, and one that is not what the client means (``if-match``) 412. A
    tag, or a ``last-modified``, that the handler has set itself is kept and used in the same way, also for streams. The
    handler runs all the same: it is the sending that is saved. Files (``FileResponse``) have tags of their own. Answers
    with ``cache-control: no-store`` are left alone.

    Inside of ``Compression`` the tag is of the content before it was compressed, and must be weak; outside, of what is
    sent.

    :param weak: ``W/"..."`` (default): the content means the same, whatever its encoding. A strong tag says that it is
        the same octet for octet, which ``if-match`` needs.
    :param max_size: bytes of content past which no tag is made, as that takes about a microsecond per kilobyte. At
        least 0, default 1 MiB.
    :raises ValueError: ``max_size`` is less than 0.
    """

    __slots__ = ("_max_size", "_weak")

    def __init__(self, *, weak: bool = True, max_size: int = 1024 * 1024) -> None:
        if max_size < 0:
            raise ValueError(f"ETag: max_size={max_size} must be 0 bytes or more")
        self._weak = weak
        self._max_size = max_size

    def __repr__(self) -> str:
        return f"ETag(weak={self._weak}, max_size={self._max_size})"

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Tag the answer, and look whether it is needed."""
        response = await call_next(request)
        if response.status != 200 or isinstance(response, FileResponse) or request.method not in ("GET", "HEAD"):
            return response
        headers = response.headers
        tag = headers.get("etag", "")
        if not tag and response.stream is None and len(response.body) <= self._max_size:
            if "no-store" in headers.get("cache-control", "").lower():
                return response
            digest = blake2b(response.body, digest_size=16).hexdigest()
            tag = f'W/"{digest}"' if self._weak else f'"{digest}"'
            headers.add("etag", tag)
        exchange = request.exchange
        if not exchange.fields.conditional:
            return response
        fields = select(exchange.headers)
        if fields is None:
            return response
        at = time.time()
        changed = headers.get("last-modified")
        modified = None if changed is None else read_http_date(changed.encode("latin-1", "replace"), at)
        if not tag and modified is None:
            return response  # nothing is known of it, and nothing can be said
        verdict = precondition(fields, request.method, tag.encode("latin-1", "replace"), modified, at=at)
        if not verdict:
            return response
        stream, response.stream = response.stream, None
        if stream is not None and (close := getattr(stream, "aclose", None)) is not None:
            await close()
        if verdict != NOT_MODIFIED:
            return Response.encoded(*problem(verdict, "what is at this path is not what the request is meant for"))
        unchanged = Response.encoded(NOT_MODIFIED, b"", b"")  # a new one: the handler may keep the other for later
        unchanged.headers = MutableHeaders.encoded(headers.encode(_NOT_IN_304))
        return unchanged
