"""The gateway's life: start, new configurations while it works, drain, stop."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from forebay.config import schema
from forebay.errors import ConfigError, StartError
from forebay.gateway import Gateway, can_update
from forebay.service import Service
from tests.engine.connecting import client_context, tls_files
from tests.gateway.kit import (
    HELLO,
    FakeConnection,
    backend,
    config_of,
    fake_target,
    gateway_to,
    metric,
    port_of,
    says_hello,
)
from tests.support import RawClient, eventually, free_port, raw_client, running


def test_it_is_a_service() -> None:
    """What owners of services rely on."""
    assert isinstance(Gateway(config_of("http://127.0.0.1:1")), Service)


async def test_an_address_that_is_taken() -> None:
    """One readable line, and nothing left behind."""
    async with gateway_to("http://127.0.0.1:1") as gateway:
        other = Gateway(config_of("http://127.0.0.1:1", bind=[str(gateway.addresses[0])]))
        with pytest.raises(StartError, match="cannot listen on"):
            await other.start()
        await other.stop()


async def test_a_new_configuration_while_requests_are_in_flight() -> None:
    """They finish where they began, new ones go where the new one says, and old connections are closed."""

    async def slow(fake: FakeConnection) -> None:
        await fake.request()
        await go_on.wait()
        await fake.send(HELLO)
        await fake.until_closed()
        closed.set()

    go_on, closed = asyncio.Event(), asyncio.Event()
    async with fake_target(slow) as old, backend("new") as (_, url), gateway_to(old.url) as gateway:
        async with raw_client(port_of(gateway)) as one, raw_client(port_of(gateway)) as other:
            await one.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await eventually(lambda: old.seen)
            config = msgspec.structs.replace(config_of(url), gateway=gateway.config.gateway)
            gateway.prepare(msgspec.to_builtins(config))
            await gateway.commit()
            assert json.loads((await other.get("/"))[2])["by"] == "new"
            go_on.set()
            assert (await one.response())[2] == b"hello"
            await asyncio.wait_for(closed.wait(), 5)
            assert json.loads((await one.get("/"))[2])["by"] == "new"
        assert metric(gateway, "forebay_gateway_requests", route="r", status="200") == 3


async def test_old_idle_connections_are_closed_by_a_new_configuration() -> None:
    """Also where the target stays."""
    async with (
        fake_target(says_hello) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        assert (await client.get("/"))[0] == 200
        gateway.prepare(msgspec.to_builtins(gateway.config))
        await gateway.commit()
        await eventually(lambda: not target.tasks)
        assert (await client.get("/"))[0] == 200
        assert target.connections == 2


async def test_what_was_learned_stays() -> None:
    """A target that is out stays out, buckets stay empty, counters go on."""
    dead = schema.Target(url=f"http://127.0.0.1:{free_port()}", weight=9)
    limit = schema.Filter(rate_limit=schema.RateLimit(rate=0.01, burst=2))
    async with (
        backend() as (_, url),
        gateway_to(dead, url, filters=[limit]) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        assert (await client.get("/"))[0] == 200
        assert metric(gateway, "forebay_gateway_target_up", target=dead.url) == 0
        gateway.prepare(msgspec.to_builtins(gateway.config))
        await gateway.commit()
        assert metric(gateway, "forebay_gateway_target_up", target=dead.url) == 0
        assert [(await client.get("/"))[0] for _ in range(2)] == [200, 429]
        assert metric(gateway, "forebay_gateway_upstream_failures", target=dead.url) == 1
        assert metric(gateway, "forebay_gateway_requests", status="200") == 2


async def test_a_configuration_that_cannot_be_used_changes_nothing() -> None:
    """Refused by prepare, whatever is wrong with it; then the old one is still there, and commit has nothing to do."""
    async with (
        backend() as (_, url),
        gateway_to(url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        good = msgspec.to_builtins(gateway.config)
        route = good["routes"][0]
        for bad in (
            {**good, "routes": [{**route, "upstream": "nobody"}]},
            {**good, "routes": [route, {**route, "name": "twice"}]},
            {**good, "upstreams": {"u": {"targets": [{"url": "ftp://x"}]}}},
            {**good, "nonsense": 1},
            {**good, "gateway": {"bind": ["http://127.0.0.1:1"]}},
        ):
            with pytest.raises(ConfigError):
                gateway.prepare(bad)
            with pytest.raises(RuntimeError, match="commit without prepare"):
                await gateway.commit()
        gateway.prepare(good)
        gateway.rollback()
        with pytest.raises(RuntimeError, match="commit without prepare"):
            await gateway.commit()
        assert (await client.get("/"))[0] == 200


def test_what_can_be_updated() -> None:
    """Routes, upstreams and trusted proxies; not what the server in front was started with."""
    old = config_of("http://127.0.0.1:1")
    assert can_update(old, config_of("http://127.0.0.1:2", trusted_proxies=["10.0.0.0/8"], balance="random"))
    assert not can_update(old, config_of("http://127.0.0.1:1", bind=["http://127.0.0.1:9"]))
    assert not can_update(old, config_of("http://127.0.0.1:1", limits=schema.GatewayLimits(head=1000)))
    assert not can_update(old, schema.SystemConfig())


async def test_drain_answers_what_is_in_flight() -> None:
    """New connections are refused, the request under way is answered, and then it is done."""

    async def slow(fake: FakeConnection) -> None:
        await fake.request()
        await go_on.wait()
        await fake.send(HELLO)
        await fake.until_closed()

    go_on = asyncio.Event()
    async with fake_target(slow) as target:
        gateway = Gateway(config_of(target.url))
        async with running(gateway), raw_client(port_of(gateway)) as client:
            port = port_of(gateway)
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await eventually(lambda: target.seen)
            draining = asyncio.create_task(gateway.drain())
            await asyncio.sleep(0)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            assert not draining.done()
            go_on.set()
            status, headers, body = await client.response()
            assert (status, body, headers["connection"]) == (200, b"hello", "close")
            await asyncio.wait_for(draining, 5)
        await eventually(lambda: not target.tasks)  # the idle connection was closed as well


async def test_stop_cuts_what_is_in_flight() -> None:
    """Client and target both see the end, and so does a connection that is just being made."""

    async def silent(fake: FakeConnection) -> None:
        await fake.head()
        await fake.until_closed()

    async with fake_target(silent) as target:
        gateway = Gateway(config_of(target.url))
        async with running(gateway), raw_client(port_of(gateway)) as one, raw_client(port_of(gateway)) as other:
            await one.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await eventually(lambda: target.seen)
            await other.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await gateway.stop()
            assert await one.rest() == b""
            await eventually(lambda: not target.tasks)


async def test_it_serves_https_and_unix_sockets_and_logs_requests(tmp_path: Path) -> None:
    """With the certificate and the access log of its section; a change of either needs a new worker."""
    chain, key = tls_files()[0].files
    served: dict[str, Any] = {
        "bind": ["https://127.0.0.1:0", f"unix://{tmp_path}/gateway"],
        "tls": schema.TLSConfig(certificate=chain, key=key),
        "access_log": schema.AccessLogConfig(path=str(tmp_path / "log"), format="{scheme} {path} {status}"),
    }
    async with backend() as (_, url), gateway_to(url, **served) as gateway:
        assert [address.scheme for address in gateway.addresses] == ["https", "unix"]
        for opening in (
            asyncio.open_connection("127.0.0.1", port_of(gateway), ssl=client_context()),
            asyncio.open_unix_connection(f"{tmp_path}/gateway"),
        ):
            client = RawClient(*await asyncio.wait_for(opening, 5))
            status, _, body = await client.get("/things")
            assert (status, json.loads(body)["target"]) == (200, "/things")
            client.writer.transport.abort()
        for changed in ({"tls": None, "bind": ["http://127.0.0.1:0"]}, {"access_log": None}):
            assert not can_update(gateway.config, config_of(url, **{**served, **changed}))
    assert (tmp_path / "log").read_text().splitlines() == ["https /things 200", "http /things 200"]
