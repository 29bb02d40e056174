"""HAR 1.2: requests, answers and their times as a JSON document that browsers' developer tools import.

The format: http://www.softwareishard.com/blog/har-12-spec/
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from forebay.http.client.dump import leg_of
from forebay.http.client.secret_fields import MASK, SECRETS, Secrets
from forebay.http.client.trace import Leg, Step, Trace
from forebay.wire.heads import STATUS_PHRASES

if TYPE_CHECKING:
    from forebay.http.client.response import ClientResponse

__all__ = ["har"]

_LIMIT = 1024 * 1024
_NOTHING_SECRET = Secrets(frozenset(), frozenset(), frozenset())
_FORM = "application/x-www-form-urlencoded"
_TEXTUAL = ("text/", "application/json", "application/xml", "application/javascript", _FORM)
_NO_CONTENT = 304

_Pairs = list[tuple[str, str]]


def har(
    what: ClientResponse | Trace | Iterable[ClientResponse | Trace],
    *,
    limit: int = _LIMIT,
    secrets: Secrets | None = SECRETS,
    contents: Mapping[ClientResponse, bytes] | None = None,
) -> dict[str, Any]:
    """A document with an entry for each request that was sent: redirects, and tries that failed, are entries of their
    own.

    :param what: responses, or traces where there was no response. Times are those of traces, and -1 or 0 without them.
        A response has its content in there if that was read, or is so short that it was there at once; of other
        content there is the size. A trace has no content, and headers only where it keeps bytes.
    :param limit: bytes of each request's and response's content that are put in, at least 0.
    :param secrets: which fields have ``***`` for a value; None: none has.
    :param contents: of responses whose content was streamed, as much of its beginning as was kept.
    :raises ValueError: ``limit`` is negative.
    """
    if limit < 0:
        raise ValueError(f"limit {limit}: must be at least 0 bytes")
    writer = _Writer(limit, secrets or _NOTHING_SECRET, contents or {})
    several = [what] if isinstance(what, Trace) or not isinstance(what, Iterable) else what
    found = [entry for one in several for entry in writer.entries(one)]
    found.sort(key=lambda one: one[0])
    try:
        creator = version("forebay")
    except PackageNotFoundError:  # it runs from its sources
        creator = "0"
    named = {"name": "forebay", "version": creator}
    return {"log": {"version": "1.2", "creator": named, "pages": [], "entries": [entry for _, entry in found]}}


class _Writer:
    """Writes entries."""

    def __init__(self, limit: int, secrets: Secrets, contents: Mapping[ClientResponse, bytes]) -> None:
        self.limit = limit
        self.secrets = secrets
        self.contents = contents

    def entries(self, what: ClientResponse | Trace) -> Iterator[tuple[float, dict[str, Any]]]:
        """An entry for each leg, and for each response that has none, with when it began."""
        if isinstance(what, Trace):
            for leg in what.legs:
                yield self.entry(what, leg, None)
            return
        trace = what.trace
        legs = trace.legs if trace is not None else ()
        answers: dict[int, ClientResponse] = {}
        for number, response in enumerate((*what.history, what)):
            index = None if trace is None else leg_of(trace, number)
            if index is None:
                yield self.entry(trace, None, response)
            else:
                answers[index] = response
        for index, leg in enumerate(legs):
            yield self.entry(trace, leg, answers.get(index))

    def entry(
        self, trace: Trace | None, leg: Leg | None, response: ClientResponse | None
    ) -> tuple[float, dict[str, Any]]:
        started = trace.wall(leg.started) if trace is not None and leg is not None else time.time()
        timings = _timings(leg)
        entry: dict[str, Any] = {
            "startedDateTime": datetime.fromtimestamp(started, UTC).isoformat(timespec="milliseconds"),
            "time": round(sum(ms for name, ms in timings.items() if name != "ssl" and ms > 0), 3),
            "request": self.request(trace, leg, response),
            "response": self.response(trace, leg, response),
            "cache": {},
            "timings": timings,
        }
        if leg is not None:
            if address := leg.times.address:
                entry["serverIPAddress"] = address.rpartition(":")[0].strip("[]") or address
            if leg.error:
                entry["comment"] = self.secrets.url(leg.error)
        return started, entry

    def request(self, trace: Trace | None, leg: Leg | None, response: ClientResponse | None) -> dict[str, Any]:
        request = response.request if response is not None else None
        method = request.method if request is not None else leg.method if leg is not None else ""
        url = str(request.url) if request is not None else leg.url if leg is not None else ""
        head, pairs = _kept_head(trace, leg, received=False)
        if not head and request is not None:
            pairs = [("host", request.url.authority)] if request.headers.get("host") is None else []
            pairs += request.headers.pairs()
        content = request.content if request is not None else None
        query = url.partition("#")[0].partition("?")[2]
        made: dict[str, Any] = {
            "method": method,
            "url": self.secrets.url(url),
            "httpVersion": "HTTP/1.1",
            "cookies": [
                {"name": name, "value": self.value("cookie", value)} for name, value in _cookies(pairs, "cookie")
            ],
            "headers": self.headers(pairs),
            "queryString": self.fields(query),
            "headersSize": head or -1,
            "bodySize": -1 if content is None or content.length is None else content.length,
        }
        if content is not None and content.length != 0:
            made["postData"] = self.post_data(content.data, content.kind or _first(pairs, "content-type"))
        return made

    def response(self, trace: Trace | None, leg: Leg | None, response: ClientResponse | None) -> dict[str, Any]:
        status = response.status if response is not None else leg.status if leg is not None else 0
        head, pairs = _kept_head(trace, leg, received=True)
        if response is not None:
            pairs = [(name, value) for name in response.headers for value in response.headers.get_all(name)]
        done = leg.event(Step.DONE) if leg is not None else None
        size = done.detail.get("bytes", -1) if done is not None else -1
        return {
            "status": status,
            "statusText": response.reason if response is not None else STATUS_PHRASES.get(status, ""),
            "httpVersion": f"HTTP/{response.http_version}" if response is not None else "HTTP/1.1",
            "cookies": [self.cookie(line) for name, line in pairs if name.lower() == "set-cookie"],
            "headers": self.headers(pairs),
            "content": self.content(response, _first(pairs, "content-type"), size),
            "redirectURL": self.secrets.url(_first(pairs, "location")) if 300 <= status < 400 else "",
            "headersSize": head or -1,
            "bodySize": 0 if status == _NO_CONTENT else size,
        }

    def headers(self, pairs: _Pairs) -> list[dict[str, str]]:
        return [{"name": name, "value": self.secrets.header(name, value)} for name, value in pairs]

    def fields(self, encoded: str) -> list[dict[str, str]]:
        """Those of a query or a form."""
        pairs = parse_qsl(encoded, keep_blank_values=True, errors="replace", max_num_fields=None)
        return [{"name": name, "value": MASK if self.secrets.has(name) else value} for name, value in pairs]

    def value(self, header: str, value: str) -> str:
        return MASK if header in self.secrets.headers else value

    def cookie(self, line: str) -> dict[str, Any]:
        """One that a server sets (RFC 6265 section 4.1)."""
        first, *attributes = line.split(";")
        name, _, value = first.strip().partition("=")
        found: dict[str, Any] = {"name": name, "value": self.value("set-cookie", value)}
        found |= {"httpOnly": False, "secure": False}
        for attribute in attributes:
            key, _, said = attribute.strip().partition("=")
            match key.lower():
                case "path" | "domain":
                    found[key.lower()] = said
                case "httponly":
                    found["httpOnly"] = True
                case "secure":
                    found["secure"] = True
                case "expires":
                    with suppress(ValueError, OverflowError):  # no date: as if it were not there
                        found["expires"] = parsedate_to_datetime(said).astimezone(UTC).isoformat()
        return found

    def post_data(self, data: bytes | None, kind: str) -> dict[str, Any]:
        """What was sent, where that was in memory."""
        made: dict[str, Any] = {"mimeType": kind}
        if data is None:
            return made | {"text": "", "comment": "the content was streamed, and is not kept"}
        shown = self.secrets.content(data, kind)
        text = shown[: self.limit].decode("utf-8", "replace")
        if kind.lower().startswith(_FORM) and len(shown) <= self.limit:
            made["params"] = self.fields(data.decode("latin-1"))
        made["text"] = text
        if len(shown) > self.limit:
            made["comment"] = f"{len(shown) - self.limit} bytes more are left out"
        return made

    def content(self, response: ClientResponse | None, kind: str, received: int) -> dict[str, Any]:
        """What was received, as it is without its coding, as far as it was kept; ``received`` bytes came, -1: nobody
        knows."""
        data = None if response is None else response.content
        made: dict[str, Any] = {"size": max(0, received) if data is None else len(data), "mimeType": kind}
        if data is None and response is not None:
            data = self.contents.get(response)
            made["comment"] = "the content was streamed, and is not kept"
            if data is not None:
                made["size"] = max(len(data), received)
                made["comment"] = "the content was streamed: this is what was kept"
        if not data:
            return made
        shown = self.secrets.content(data, kind)
        if len(shown) > self.limit:
            made["comment"] = f"{len(shown) - self.limit} bytes more are left out"
            shown = shown[: self.limit]
        text = _as_text(shown, kind)
        if text is None:
            return made | {"text": b64encode(shown).decode(), "encoding": "base64"}
        return made | {"text": text}


def _timings(leg: Leg | None) -> dict[str, float]:
    """Milliseconds, of which all but ``ssl`` add up to the whole; -1: not in this one. ``connect`` contains ``ssl``."""
    if leg is None:
        return {"blocked": -1, "dns": -1, "connect": -1, "ssl": -1, "send": 0, "wait": 0, "receive": 0}
    times, end = leg.times, leg.ended
    dns = _part(leg.at(Step.DNS_START), leg.at(Step.DNS_DONE), end)
    tls = _part(leg.at(Step.TLS_START), leg.at(Step.TLS_DONE), end)
    begun = leg.at(Step.CONNECT_START)
    connect = _part(leg.at(Step.TLS_START) if begun is None else begun, leg.at(Step.GOT_CONNECTION), end)
    if connect is not None and tls is not None:
        connect = max(connect, tls)
    got, written, first = leg.at(Step.GOT_CONNECTION), leg.written, leg.answered
    sent = end if written is None else written
    answered = end if first is None else max(first, sent)
    send = max(0.0, sent - got) if got is not None else 0.0
    wait = max(0.0, answered - sent) if got is not None else 0.0
    receive = max(0.0, (leg.at(Step.DONE) or end) - answered) if got is not None else 0.0
    rest = times.total - sum(part for part in (dns, connect, send, wait, receive) if part is not None)
    parts = {"blocked": max(0.0, rest), "dns": dns, "connect": connect, "ssl": tls}
    parts |= {"send": send, "wait": wait, "receive": receive}
    return {name: -1 if part is None else round(part * 1000, 3) for name, part in parts.items()}


def _part(start: float | None, end: float | None, over: float) -> float | None:
    return None if start is None else max(0.0, (over if end is None else end) - start)


def _kept_head(trace: Trace | None, leg: Leg | None, *, received: bool) -> tuple[int, _Pairs]:
    """The size and the fields of the head that was sent, or received as the last; 0 where it was not kept."""
    if trace is None or leg is None or not trace.keep_bytes:
        return 0, []
    start, end = leg.received_range if received else leg.sent_range
    data = bytes((trace.received if received else trace.sent)[start:end])
    while True:
        head, mark, rest = data.partition(b"\r\n\r\n")
        if not mark:
            return 0, []
        if not (received and head[8:10] == b" 1" and head[9:12] != b"101"):
            break
        data = rest
    lines = head.decode("latin-1").split("\r\n")[1:]
    split = [line.partition(":") for line in lines if ":" in line]
    return len(head) + len(mark), [(name.strip(), value.strip(" \t")) for name, _, value in split]


def _cookies(pairs: _Pairs, header: str) -> _Pairs:
    found = []
    for name, line in pairs:
        if name.lower() == header:
            split = [one.strip().partition("=") for one in line.split(";") if one.strip()]
            found += [(cookie, value) for cookie, _, value in split]
    return found


def _first(pairs: _Pairs, name: str) -> str:
    return next((value for other, value in pairs if other.lower() == name), "")


def _as_text(data: bytes, kind: str) -> str | None:
    """None: it is none."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace") if kind.lower().startswith(_TEXTUAL) else None
    return None if "\0" in text else text
