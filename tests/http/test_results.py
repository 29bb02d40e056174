"""What handlers return, and what is sent of it: JSON, or MessagePack where the client would rather have that."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec
import pytest

from forebay.http import App, Response
from forebay.http.encoding import MSGPACK
from forebay.http.results import encoder_for
from forebay.testing import ClientResponse, TestClient

JSON = "application/json"
BINARY = "application/octet-stream"


class Point(NamedTuple):
    """Its second field is no status."""

    x: int
    y: int


class Octets(bytes):
    """Bytes, and something else."""


async def returned(value: Any, accept: list[str] | None = None, *, status: int | None = None) -> ClientResponse:
    """What is sent for a value."""
    app = App()

    def handler() -> Any:
        return value

    (app.get("/") if status is None else app.get("/", status=status))(handler)

    async with TestClient(app, raise_errors=False) as client:
        return await client.get("/", headers=[("accept", one) for one in accept or ()])


@pytest.mark.parametrize(
    ("value", "status", "plain"),
    [
        (Point(5, 200), 200, [5, 200]),
        ((1, "a", 2), 200, [1, "a", 2]),
        (({"a": 1}, True), 200, [{"a": 1}, True]),
        ((1, 2, 3, 4), 200, [1, 2, 3, 4]),
        (("a",), 200, ["a"]),
        ((), 200, []),
        (({"a": 1}, 201), 201, {"a": 1}),
        (({"a": 1}, HTTPStatus.ACCEPTED), 202, {"a": 1}),
        (({"a": 1}, 201, None), 201, {"a": 1}),
        (({"a": 1}, 201, {}), 201, {"a": 1}),
        (({"a": 1}, 201, {"x-a": "b", "vary": "origin"}), 201, {"a": 1}),
        ((Point(1, 2), 201, {"x-a": "b"}), 201, [1, 2]),
        (HTTPStatus.CREATED, 200, 201),
    ],
)
async def test_json_and_messagepack_are_alike(value: Any, status: int, plain: Any) -> None:
    """Whatever is JSON can be had as MessagePack, with the same status and headers."""
    as_json = await returned(value)
    assert (as_json.status, as_json.headers["content-type"], as_json.json()) == (status, JSON, plain)
    packed = await returned(value, [MSGPACK])
    assert (packed.status, packed.headers["content-type"]) == (status, MSGPACK)
    assert msgspec.msgpack.decode(packed.body) == plain
    assert packed.headers.get("x-a") == as_json.headers.get("x-a")
    assert packed.headers["vary"].split(", ")[-1] == "accept"


@pytest.mark.parametrize("value", [Point(5, 200), (1, 2, 3, 4), {"a": 1}])
async def test_the_status_of_a_route_is_that_of_its_values(value: Any) -> None:
    """Of tuples too that say none themselves."""
    assert (await returned(value, status=201)).status == 201
    assert (await returned((value, 202), status=201)).status == 202
    assert (await returned((value, 202, {"x-a": "b"}), status=201)).status == 202


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (["text/html", MSGPACK], MSGPACK),
        ([f"{MSGPACK};q=0.1", JSON], JSON),
        ([f"{MSGPACK};q=0.5", f"{JSON};q=0.4", "text/html"], MSGPACK),
        (["", MSGPACK], MSGPACK),
        ([f"{JSON}, {MSGPACK}"], JSON),
    ],
)
async def test_all_lines_of_accept_count(accept: list[str], content_type: str) -> None:
    """A list may be sent in several headers (RFC 9110 section 5.3)."""
    assert (await returned({"a": 1}, accept)).headers["content-type"] == content_type


@pytest.mark.parametrize(
    ("value", "content_type", "body"),
    [
        ((b"{}", 200, {"content-type": JSON}), JSON, b"{}"),
        (("{}", 200, {"content-type": JSON}), JSON, b"{}"),
        (({"a": 1}, 200, {"Content-Type": JSON}), JSON, b'{"a":1}'),
        (({"a": 1}, 200, {"content-type": "application/ld+json"}), "application/ld+json", b'{"a":1}'),
        (Response({"a": 1}), JSON, b'{"a":1}'),
        ("a", "text/plain; charset=utf-8", b"a"),
        (Octets(b"a"), BINARY, b"a"),
        (bytearray(b"a"), BINARY, b"a"),
        (memoryview(b"a"), BINARY, b"a"),
        ((bytearray(b"a"), 200, {"x-a": "b"}), BINARY, b"a"),
        (10**30, JSON, b"1" + b"0" * 30),
        ((10**30, 200, {"x-a": "b"}), JSON, b"1" + b"0" * 30),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))), JSON, b'"0001-01-01T00:00:00+23:00"'),
    ],
)
async def test_what_is_no_messagepack(value: Any, content_type: str, body: bytes) -> None:
    """What says itself what it is, and what only JSON can hold."""
    for accept in ([], [MSGPACK]):
        response = await returned(value, accept)
        assert (response.status, response.headers["content-type"], response.body) == (200, content_type, body)


def _endless() -> dict[str, Any]:
    made: dict[str, Any] = {}
    made["self"] = made
    return made


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {"a": object()},
        {(1, 2): 3},
        _endless(),
        "\ud800",
        (i for i in "ab"),
        deque([1]),
        ("a", 99),
        ("a", 600),
    ],
)
async def test_what_cannot_be_sent_is_a_500(value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It is logged, and the client has its answer."""
    for accept in ([], [MSGPACK]):
        response = await returned(value, accept)
        assert (response.status, response.json()["title"]) == (500, "Internal Server Error")
        assert "handler failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            (1, 2, 3),
            r"\(value, 2, 3\): the status must be 200 to 599, and headers a mapping; what is to be JSON, a list",
        ),
        (("a", 99), r"\(value, 99\): the status must be 200 to 599"),
        (("a", 200, [("x-a", "b")]), r"\(value, 200, \[\('x-a', 'b'\)\]\): the status"),
        ((Response("a"), 201), "a Response in a tuple: it has a status and headers of its own"),
    ],
)
def test_tuples_that_are_no_answer(value: Any, message: str) -> None:
    """What is wrong with them is said."""
    with pytest.raises((TypeError, ValueError), match=message):
        encoder_for(Any)(value)
