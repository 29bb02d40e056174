"""HAR documents have what HAR 1.2 asks for, and no secrets."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import UpstreamClosed
from forebay.http.client.client import Client
from forebay.http.client.har import har
from forebay.http.client.trace import Step, Trace
from tests.http.client.kit import Asked, Peer, playing
from tests.http.client.test_waterfall import full

# http://www.softwareishard.com/blog/har-12-spec/: what has to be there, what may be there
TEXT, NUMBER, LIST, OBJECT = str, (int, float), list, dict
PAIR = ({"name": TEXT, "value": TEXT}, {"comment": TEXT})
COOKIE = (
    {"name": TEXT, "value": TEXT},
    {"path": TEXT, "domain": TEXT, "expires": TEXT, "httpOnly": bool, "secure": bool, "comment": TEXT},
)
FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "log": ({"version": TEXT, "creator": OBJECT, "entries": LIST}, {"browser": OBJECT, "pages": LIST, "comment": TEXT}),
    "creator": ({"name": TEXT, "version": TEXT}, {"comment": TEXT}),
    "entries": (
        {"startedDateTime": TEXT, "time": NUMBER, "request": OBJECT, "response": OBJECT, "cache": OBJECT,
         "timings": OBJECT},
        {"pageref": TEXT, "serverIPAddress": TEXT, "connection": TEXT, "comment": TEXT},
    ),
    "request": (
        {"method": TEXT, "url": TEXT, "httpVersion": TEXT, "cookies": LIST, "headers": LIST, "queryString": LIST,
         "headersSize": int, "bodySize": int},
        {"postData": OBJECT, "comment": TEXT},
    ),
    "response": (
        {"status": int, "statusText": TEXT, "httpVersion": TEXT, "cookies": LIST, "headers": LIST, "content": OBJECT,
         "redirectURL": TEXT, "headersSize": int, "bodySize": int},
        {"comment": TEXT},
    ),
    "cookies": COOKIE,
    "headers": PAIR,
    "queryString": PAIR,
    "params": ({"name": TEXT}, {"value": TEXT, "fileName": TEXT, "contentType": TEXT, "comment": TEXT}),
    "postData": ({"mimeType": TEXT, "text": TEXT}, {"params": LIST, "comment": TEXT}),
    "content": ({"size": int, "mimeType": TEXT}, {"compression": int, "text": TEXT, "encoding": TEXT, "comment": TEXT}),
    "cache": ({}, {"beforeRequest": OBJECT, "afterRequest": OBJECT, "comment": TEXT}),
    "timings": (
        {"send": NUMBER, "wait": NUMBER, "receive": NUMBER},
        {"blocked": NUMBER, "dns": NUMBER, "connect": NUMBER, "ssl": NUMBER, "comment": TEXT},
    ),
}  # fmt: skip


def check(what: dict[str, Any], name: str = "log") -> None:
    """Fail unless ``what`` has all fields that it has to have, no others than it may have, each of its type."""
    needed, allowed = FIELDS[name]
    assert needed.keys() <= what.keys(), (name, needed.keys() - what.keys())
    for key, value in what.items():
        kind = (needed | allowed)[key]
        assert isinstance(value, kind), (name, key, value)
        assert not isinstance(value, bool) or kind is bool, (name, key, value)
        if isinstance(value, dict):
            check(value, key)
        elif isinstance(value, list):
            for one in value:
                check(one, key)


def checked(what: Any, **settings: Any) -> list[dict[str, Any]]:
    """The entries of a document that is right, as they are when it was written and read."""
    log = json.loads(msgspec.json.encode(har(what, **settings)))["log"]
    check(log)
    assert log["version"] == "1.2"
    for entry in log["entries"]:
        assert datetime.fromisoformat(entry["startedDateTime"]).tzinfo is not None
        timings = entry["timings"]
        parts = [ms for name, ms in timings.items() if name != "ssl"]
        assert all(ms >= 0 or ms == -1 for ms in parts)
        assert min(timings["send"], timings["wait"], timings["receive"]) >= 0
        assert entry["time"] == pytest.approx(sum(ms for ms in parts if ms > 0), abs=0.01)
        assert timings["ssl"] <= timings["connect"] + 0.01
    return list(log["entries"])


async def answer(peer: Peer, asked: Asked) -> None:
    """A redirect that sets a cookie, JSON, and what is no text."""
    match asked.target.partition("?")[0]:
        case "/old":
            cookie = "Set-Cookie: sid=hunter2; Path=/; HttpOnly; Expires=Wed, 21 Oct 2026 07:28:00 GMT\r\n"
            await peer.answer(b"", 303, f"{cookie}Location: /new?token=hunter2\r\n")
        case "/binary":
            await peer.answer(b"\0\xff" * 8, 200, "Content-Type: image/png\r\n")
        case "/large":
            await peer.answer(b"x" * 1_000_000)
        case _:
            await peer.answer(b'{"password": "hunter2", "a": 1}', 200, "Content-Type: application/json\r\n")


async def play(peer: Peer) -> None:
    """Answer all of them."""
    while (asked := await peer.asked()) is not None:
        await answer(peer, asked)


@pytest.mark.parametrize("trace", [True, False, Trace(keep_bytes=100_000)], ids=["traced", "not traced", "bytes kept"])
async def test_a_redirect(trace: bool | Trace) -> None:
    """Each hop is an entry with its own head and content; secrets are in none of them."""
    async with playing(play) as server, Client() as client:
        response = await client.post(
            server.url + "/old?a=1&api_key=hunter2",
            form={"password": "hunter2", "b": "2"},
            headers={"cookie": "c=hunter2", "authorization": "Bearer hunter2"},
            trace=trace,
        )
        await response.read()
    first, second = checked(response)
    assert "hunter2" not in json.dumps([first, second])
    request = first["request"]
    assert (request["method"], request["url"]) == ("POST", f"{server.url}/old?a=1&api_key=***")
    assert request["queryString"] == [{"name": "a", "value": "1"}, {"name": "api_key", "value": "***"}]
    assert request["cookies"] == [{"name": "c", "value": "***"}]
    assert {"name": "authorization", "value": "Bearer ***"} in request["headers"]
    assert "host" in [header["name"] for header in request["headers"]]
    assert request["postData"] == {
        "mimeType": "application/x-www-form-urlencoded",
        "params": [{"name": "password", "value": "***"}, {"name": "b", "value": "2"}],
        "text": "password=***&b=2",
    }
    assert request["bodySize"] == len("password=hunter2&b=2")
    moved = first["response"]
    assert (moved["status"], moved["redirectURL"]) == (303, "/new?token=***")
    assert moved["cookies"] == [
        {
            "name": "sid",
            "value": "***",
            "path": "/",
            "httpOnly": True,
            "secure": False,
            "expires": "2026-10-21T07:28:00+00:00",
        }
    ]
    assert second["request"]["method"] == "GET"
    assert second["response"]["content"] == {
        "size": 31, "mimeType": "application/json", "text": '{"password": "***", "a": 1}'
    }  # fmt: skip
    if trace:
        assert first["serverIPAddress"] == "127.0.0.1"
        assert first["timings"]["connect"] > 0
        assert second["timings"]["connect"] == -1  # the connection was there
        assert first["startedDateTime"] <= second["startedDateTime"]
    if isinstance(trace, Trace):
        assert request["headersSize"] == trace.sent.index(b"\r\n\r\n") + 4


async def test_secrets_when_asked_for() -> None:
    """Without masking all is there."""
    async with playing(play) as server, Client() as client:
        response = await client.get(server.url + "/x?token=hunter2", trace=True)
        await response.read()
    (entry,) = checked(response, secrets=None)
    assert entry["request"]["url"].endswith("?token=hunter2")
    assert "hunter2" in entry["response"]["content"]["text"]


async def test_content_is_bounded_and_binary_is_base64() -> None:
    """What is left out is said; what is no text is base64."""
    async with playing(play) as server, Client() as client:
        response = await client.post(server.url + "/binary", content=b"x" * 100)
        await response.read()
        unread = await client.get(server.url + "/large")
        (entry,) = checked(unread)
        assert "text" not in entry["response"]["content"]
        await unread.close()
    (entry,) = checked(response, limit=10)
    content = entry["response"]["content"]
    assert b64decode(content["text"]) == b"\0\xff" * 5
    assert (content["size"], content["encoding"], content["comment"]) == (16, "base64", "6 bytes more are left out")
    assert entry["request"]["postData"]["text"] == "x" * 10
    assert entry["request"]["postData"]["comment"] == "90 bytes more are left out"
    with pytest.raises(ValueError, match="limit -1: must be at least 0"):
        har(response, limit=-1)


async def test_content_that_was_streamed() -> None:
    """Its size is there, and as much of it as somebody kept."""
    async with playing(play) as server, Client() as client:
        response = await client.get(server.url + "/large", trace=True)
        async for _ in response.stream():
            pass
    (entry,) = checked(response)
    content = entry["response"]["content"]
    assert (content["size"], content["comment"]) == (1_000_000, "the content was streamed, and is not kept")
    (entry,) = checked(response, contents={response: b"xxx"})
    content = entry["response"]["content"]
    assert (content["size"], content["text"]) == (1_000_000, "xxx")


async def test_failures_and_several() -> None:
    """A request without an answer has an entry with status 0 and the reason; entries are in order of time."""

    async def leaves(peer: Peer) -> None:
        await peer.asked()

    trace = Trace()
    async with playing(leaves) as server, playing(play) as good, Client() as client:
        with pytest.raises(UpstreamClosed):
            await client.post(server.url + "/", trace=trace)
        response = await client.get(good.url, trace=True)
        await response.read()
    first, second = checked([response, trace])
    assert first["response"]["status"] == 0
    assert "closed the connection" in first["comment"]
    assert second["response"]["status"] == 200


def test_legs_of_a_trace() -> None:
    """Redirect, dead connection and retry are entries; their parts add up."""
    entries = checked(full())
    assert [entry["response"]["status"] for entry in entries] == [302, 0, 503, 200]
    assert entries[0]["timings"] == {
        "blocked": 0.1, "dns": 11.9, "connect": 318.0, "ssl": 40.0, "send": 1.0, "wait": 89.0, "receive": 1.0
    }  # fmt: skip
    assert entries[3]["timings"]["blocked"] == 140.0  # the pause before it


@given(st.lists(st.tuples(st.sampled_from(Step), st.floats(0, 1e4)), max_size=20))
def test_any_trace(events: list[tuple[Step, float]]) -> None:
    """Steps in any order give a document that is right."""
    trace = Trace()
    for step, at in sorted(events, key=lambda event: event[1]):
        trace.mark(step, at)
    checked(trace)
