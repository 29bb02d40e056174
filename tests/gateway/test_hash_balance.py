"""Balancers that hash, through the gateway: requests that are alike go to the same target."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from forebay.config import load_system, schema
from forebay.errors import ConfigError, ConnectFailed
from forebay.gateway import Gateway
from forebay.gateway.upstream import Upstream
from forebay.policy.balance import BALANCERS
from tests.gateway.kit import backend, config_of, gateway_to, port_of
from tests.support import RawClient, raw_client

USERS = [f"user-{number}" for number in range(90)]
HASHING = pytest.mark.parametrize("balance", ["consistent-hash", "maglev"])


@asynccontextmanager
async def backends(*names: str) -> AsyncIterator[list[str]]:
    """The URLs of running backends."""
    async with AsyncExitStack() as stack:
        yield [(await stack.enter_async_context(backend(name)))[1] for name in names]


async def who(client: RawClient, path: str = "/", **headers: str) -> str:
    """The name of the backend that answers."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    await client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
    status, _, body = await client.response()
    assert status == 200
    return str(json.loads(body)["by"])


async def homes(client: RawClient) -> dict[str, str]:
    """By user, who answers."""
    return {user: await who(client, x_user=user) for user in USERS}


async def reconfigure(gateway: Gateway, config: schema.SystemConfig) -> None:
    """Let a running gateway have ``config``, but for where it listens."""
    gateway.prepare(msgspec.to_builtins(msgspec.structs.replace(config, gateway=gateway.config.gateway)))
    await gateway.commit()


def test_the_names_in_configuration_are_those_of_the_balancers() -> None:
    """All there are, and no other."""
    assert set(get_args(schema.Balance)) == set(BALANCERS)


@HASHING
async def test_a_client_keeps_its_target(balance: str) -> None:
    """Again and again, on another connection, and from one gateway to the next; and all targets have clients."""
    async with backends("one", "two", "three") as urls:
        options: dict[str, Any] = {"balance": balance, "hash_key": "header:X-User"}
        async with gateway_to(*urls, **options) as gateway, raw_client(port_of(gateway)) as client:
            before = await homes(client)
            assert set(before.values()) == {"one", "two", "three"}
            assert await homes(client) == before
            async with raw_client(port_of(gateway)) as another:
                assert await homes(another) == before
        async with gateway_to(*reversed(urls), **options) as gateway, raw_client(port_of(gateway)) as client:
            assert await homes(client) == before


@HASHING
async def test_when_a_target_dies_only_its_share_moves(balance: str) -> None:
    """Its clients go to the others and stay there; nobody else notices, and no request is lost."""
    async with backends("one", "two") as urls, AsyncExitStack() as stack:
        _, dying = await stack.enter_async_context(backend("three"))
        options: dict[str, Any] = {"balance": balance, "hash_key": "header:x-user"}
        async with gateway_to(*urls, dying, **options) as gateway, raw_client(port_of(gateway)) as client:
            before = await homes(client)
            await stack.aclose()
            after = await homes(client)
            assert set(after.values()) == {"one", "two"}
            assert all(after[user] == home for user, home in before.items() if home != "three")
            assert {after[user] for user, home in before.items() if home == "three"} == {"one", "two"}
            assert await homes(client) == after


async def test_when_a_target_leaves_the_configuration_only_its_share_moves() -> None:
    """And it comes back when the target does."""
    async with backends("one", "two", "three") as urls:
        options: dict[str, Any] = {"balance": "consistent-hash", "hash_key": "header:x-user"}
        async with gateway_to(*urls, **options) as gateway, raw_client(port_of(gateway)) as client:
            before = await homes(client)
            await reconfigure(gateway, config_of(*urls[:2], **options))
            after = await homes(client)
            assert {before[user] for user in USERS if after[user] != before[user]} == {"three"}
            assert set(after.values()) == {"one", "two"}
            await reconfigure(gateway, config_of(*urls, **options))
            assert await homes(client) == before


async def test_a_client_is_its_address_unless_something_else_is_asked_for() -> None:
    """As a trusted proxy names it; of IPv6 the network, of which one customer has many addresses."""
    async with backends("one", "two", "three") as urls:
        options: dict[str, Any] = {"balance": "consistent-hash", "trusted_proxies": ["127.0.0.1"]}
        async with gateway_to(*urls, **options) as gateway, raw_client(port_of(gateway)) as client:
            clients = [f"203.0.113.{number}" for number in range(60)]
            found = {address: await who(client, x_forwarded_for=address) for address in clients}
            assert set(found.values()) == {"one", "two", "three"}
            assert found == {address: await who(client, x_forwarded_for=address) for address in clients}
            network = {await who(client, x_forwarded_for=f"2001:db8::{number:x}") for number in range(1, 20)}
            assert len(network) == 1
            assert len({await who(client) for _ in range(20)}) == 1


async def test_by_path() -> None:
    """However it is spelt, whatever the query, and whoever asks."""
    async with backends("one", "two", "three") as urls:
        options: dict[str, Any] = {"balance": "maglev", "hash_key": "path"}
        async with gateway_to(*urls, **options) as gateway, raw_client(port_of(gateway)) as client:
            found = {number: await who(client, f"/things/{number}?by=me") for number in range(60)}
            assert set(found.values()) == {"one", "two", "three"}
            assert found == {number: await who(client, f"/%74hings/{number}") for number in found}


async def test_by_cookie() -> None:
    """By one of them; the others do not matter."""
    async with backends("one", "two", "three") as urls:
        options: dict[str, Any] = {"balance": "consistent-hash", "hash_key": "cookie:session"}
        async with gateway_to(*urls, **options) as gateway, raw_client(port_of(gateway)) as client:
            found = {user: await who(client, cookie=f"session={user}") for user in USERS}
            assert set(found.values()) == {"one", "two", "three"}
            assert found == {user: await who(client, cookie=f"seen={user}x; session={user}; a=b") for user in USERS}


@HASHING
@pytest.mark.parametrize("hash_key", ["header:x-user", "cookie:session"])
async def test_requests_without_a_key_are_spread(balance: str, hash_key: str) -> None:
    """By chance, but not all to the same target."""
    async with (
        backends("one", "two", "three") as urls,
        gateway_to(*urls, balance=balance, hash_key=hash_key) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        counts = Counter([await who(client, x_forwarded_for="1.2.3.4") for _ in range(90)])
        assert all(counts[name] > 5 for name in ("one", "two", "three")), counts


@HASHING
def test_it_does_not_matter_who_was_out_at_the_beginning(balance: str) -> None:
    """A gateway that begins with a target that is down comes to the same choice as one that does not."""
    urls = [f"http://10.0.0.{number}:80" for number in range(5)]
    config = schema.Upstream(targets=[schema.Target(url=url) for url in urls], balance=balance)  # type: ignore[arg-type]  # a name of one

    def choice(upstream: Upstream, user: str, now: float) -> str:
        target = upstream.pick(now, key=user)
        upstream.answered(target, 0.01, now)
        upstream.leave(target)
        return target.name

    whole, hurt = Upstream("u", config), Upstream("u", config)
    hurt.broke(hurt.targets[2], ConnectFailed("refused"), 1.0)
    for user in USERS:
        home = choice(whole, user, 1.0)
        assert (choice(hurt, user, 1.0) == home) is (home != urls[2])
    probe = hurt.pick(20.0, tried=[target for target in hurt.targets if target.name != urls[2]])
    hurt.answered(probe, 0.01, 20.0)
    hurt.leave(probe)
    assert [choice(hurt, user, 20.0) for user in USERS] == [choice(whole, user, 20.0) for user in USERS]


def test_others_ask_for_no_key() -> None:
    """Nothing is read from requests for a balancer that does not look at it."""
    targets = [schema.Target(url="http://a:1")]
    assert Upstream("u", schema.Upstream(targets=targets, hash_key="path")).hash_key == ""
    assert Upstream("u", schema.Upstream(targets=targets, hash_key="path", balance="maglev")).hash_key == "path"


FILE = """\
[gateway]
bind = ["http://127.0.0.1:8080"]

[upstreams.u]
balance = "consistent-hash"
hash_key = KEY
targets = [{ url = "http://127.0.0.1:7001" }]

[[routes]]
name = "r"
upstream = "u"
"""


@pytest.mark.parametrize("key", ["client-ip", "path", "header:X-User", "cookie:session_id"])
def test_keys_that_can_be_configured(tmp_path: Path, key: str) -> None:
    """Each is what is said."""
    path = tmp_path / "forebay.toml"
    path.write_text(FILE.replace("KEY", f'"{key}"'))
    assert load_system(path).upstreams["u"].hash_key == key


@pytest.mark.parametrize("key", ['"ip"', '"header"', '"header:"', '"cookie:a b"', '"path:x"', '"header:a:b"', '""'])
def test_keys_that_cannot_be_configured(tmp_path: Path, key: str) -> None:
    """Where it is said, and what could be said instead."""
    path = tmp_path / "forebay.toml"
    path.write_text(FILE.replace("KEY", key))
    with pytest.raises(ConfigError) as caught:
        load_system(path)
    (problem,) = caught.value.problems
    assert (problem.key, problem.line, problem.message) == ("upstreams.u.hash_key", 6, f"cannot be {key}")
    assert problem.remedy == '"client-ip", "path", "header:NAME" or "cookie:NAME"'
