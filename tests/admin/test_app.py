from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from forebay.admin import admin_server
from forebay.errors import StartError
from tests.admin.fake import Fake, FakeWorker
from tests.support import raw_client, running


@asynccontextmanager
async def admin(system: Fake, token: str | None = None, address: str = "127.0.0.1:0") -> AsyncIterator[int]:
    """The admin listener of ``system``; its port."""
    async with running(admin_server(system, address, token)) as server:
        yield server.addresses[0].port


async def get(port: int, path: str, host: str = "127.0.0.1", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """GET with a Host of our choice."""
    async with raw_client(port) as client:
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        await client.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n".encode())
        return await client.response()


async def test_alive() -> None:
    """As long as it answers at all."""
    system = Fake()
    system.reasons = ["draining"]
    async with admin(system) as port:
        assert (await get(port, "/livez"))[0] == 200


async def test_ready_or_not() -> None:
    """503 and why, as soon as there is a reason."""
    system = Fake()
    async with admin(system) as port:
        status, headers, body = await get(port, "/readyz")
        assert (status, json.loads(body)["status"]) == (200, "ready")
        assert headers["content-type"].startswith("application/json")
        system.reasons = ["the system is draining"]
        status, _, body = await get(port, "/readyz")
        assert (status, json.loads(body)["reasons"]) == (503, ["the system is draining"])


async def test_metrics() -> None:
    """What the system collects and what admin adds, in the type that was asked for."""
    async with admin(Fake()) as port:
        status, headers, body = await get(port, "/metrics")
        assert status == 200
        assert headers["content-type"].startswith("text/plain; version=")
        assert b'forebay_http_requests_total{method="GET",server="users",status="200"} 1234.0' in body
        assert b"forebay_build_info" in body
        openmetrics = await get(port, "/metrics", accept="application/openmetrics-text;version=1.0.0")
        assert openmetrics[1]["content-type"].startswith("application/openmetrics-text")


async def test_workers_as_json() -> None:
    """For programs."""
    system = Fake()
    system.workers = [FakeWorker(pid=7), FakeWorker(index=1, pid=0, state="backoff")]
    async with admin(system) as port:
        status, _, body = await get(port, "/debug/workers")
    assert status == 200
    workers: list[dict[str, Any]] = json.loads(body)["workers"]
    assert [(one["name"], one["index"], one["pid"], one["state"], one["seconds_up"]) for one in workers] == [
        ("users@7001", 0, 7, "ready", 3685.0),
        ("users@7001", 1, 0, "backoff", None),
    ]


async def test_the_status_page() -> None:
    """HTML that may load nothing."""
    async with admin(Fake()) as port:
        status, headers, body = await get(port, "/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert b"the &lt;shop&gt;" in body


@pytest.mark.parametrize("path", ["/", "/metrics", "/debug/workers"])
async def test_with_a_token_it_is_needed(path: str) -> None:
    """Exactly that one, as a bearer token."""
    async with admin(Fake(), token="s3cret") as port:
        for wrong in ({}, {"authorization": "Bearer other"}, {"authorization": "Basic s3cret"}):
            status, headers, body = await get(port, path, **wrong)
            assert (status, headers["www-authenticate"][:6]) == (401, "Bearer")
            assert b"users" not in body
        assert (await get(port, path, authorization="Bearer s3cret"))[0] == 200
        assert (await get(port, path, host="ops.example.com", authorization="bearer s3cret"))[0] == 200


async def test_probes_need_no_token_but_say_less_without() -> None:
    """What probes a service seldom can send one."""
    system = Fake()
    system.reasons = ["users@7001: worker 0 is not ready"]
    async with admin(system, token="s3cret") as port:
        status, _, body = await get(port, "/readyz", host="10.0.0.1")
        assert (status, json.loads(body)) == (503, {"status": "not ready"})
        assert (await get(port, "/livez", host="10.0.0.1"))[0] == 200
        assert "reasons" in json.loads((await get(port, "/readyz", authorization="Bearer s3cret"))[2])


@pytest.mark.parametrize("host", ["evil.example.com", "evil.example.com:9900", "127.0.0.1.evil.example.com"])
async def test_names_that_are_not_of_this_machine_are_refused(host: str) -> None:
    """A name on the internet may resolve to 127.0.0.1 in somebody's browser."""
    async with admin(Fake()) as port:
        status, _, body = await get(port, "/", host=host)
    assert status == 403
    assert b"shop" not in body


@pytest.mark.parametrize("host", ["localhost", "localhost:9900", "127.0.0.1:9900", "[::1]:9900", "[::1]"])
async def test_names_of_this_machine_are_served(host: str) -> None:
    """With a port or without."""
    async with admin(Fake()) as port:
        assert (await get(port, "/", host=host))[0] == 200


async def test_probes_are_answered_whatever_they_call_us() -> None:
    """Load balancers probe by addresses of their own, and some by HTTP/1.0 without a Host."""
    async with admin(Fake()) as port:
        status, _, body = await get(port, "/readyz", host="10.0.0.1")
        assert (status, json.loads(body)) == (200, {"status": "ready"})
        async with raw_client(port) as client:
            await client.send(b"GET /livez HTTP/1.0\r\n\r\n")
            assert (await client.response())[0] == 200


def test_past_loopback_a_token_is_needed() -> None:
    """Else it does not start."""
    with pytest.raises(StartError, match="admin_token"):
        admin_server(Fake(), "0.0.0.0:9900")
