from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, cast

import msgspec
import pytest

from forebay.config import SystemConfig
from forebay.engine.supervisor import Supervisor, WorkerSpec
from forebay.errors import StartError
from forebay.runtime.plan import Plan, system_plan
from forebay.runtime.reload import Changes, apply, compare


def plan(services: Mapping[str, int] | None = None, **gateway: Any) -> Plan:
    """A system of services by name and port, and a gateway unless ``gateway=None``."""
    data: dict[str, Any] = {
        "services": {
            name: {"app": f"{name}:app", "bind": [f"http://127.0.0.1:{port}"]}
            for name, port in (services or {"a": 1}).items()
        },
        "upstreams": {"u": {"targets": [{"url": "http://127.0.0.1:1"}]}},
        "routes": [{"name": "r", "upstream": "u", "match": {"path": gateway.pop("path", "/*")}}],
    }
    if gateway.pop("gateway", True):
        data["gateway"] = {"bind": ["http://127.0.0.1:8080"], **gateway}
    return system_plan(msgspec.convert(data, SystemConfig))


class Recorder:
    """In the place of a supervisor: what is asked of it, in a list that two of them share."""

    def __init__(self, name: str, calls: list[str], failing: Container[str] = ()) -> None:
        self.name = name
        self.calls = calls
        self.failing = failing

    def record(self, call: str) -> None:
        """Remember a call; refuse it where it is to fail."""
        self.calls.append(call)
        if call in self.failing:
            raise StartError(f"{call} refused")

    async def reload(self, specs: Sequence[WorkerSpec], *, only: Container[str], reason: str) -> None:
        """As the supervisor's."""
        shown = [spec.name + ("!" if spec.name in only else "") for spec in specs]
        self.record(f"{self.name}: {' '.join(shown)}".rstrip())

    async def update(self, name: str, payload: object, *, args: Mapping[str, Any], reason: str) -> None:
        """As the supervisor's."""
        assert payload == args["config"]
        self.record(f"{self.name}: update {name}")


async def applied(old: Plan, new: Plan, *, everything: bool = False, failing: Container[str] = ()) -> list[str]:
    """What is asked of the two supervisors."""
    calls: list[str] = []
    services, gateway = Recorder("services", calls, failing), Recorder("gateway", calls, failing)
    changes = compare(old, new, everything=everything)
    try:
        await apply(cast(Supervisor, services), cast(Supervisor, gateway), old, new, changes, "a test")
    except StartError as error:
        calls.append(str(error))
    return calls


def test_nothing_changed() -> None:
    """Then there is nothing to do."""
    assert not compare(plan(), plan(), everything=False)


def test_everything_rolls_services_only() -> None:
    """The gateway runs no code of the user's."""
    assert compare(plan(), plan(), everything=True) == Changes(rolled=["a@1"])


@pytest.mark.parametrize("changed", [{"path": "/x"}, {"trusted_proxies": ["10.0.0.1"]}])
def test_tables_are_swapped_in_place(changed: dict[str, Any]) -> None:
    """Routes, upstreams, trusted proxies."""
    assert compare(plan(), plan(**changed), everything=False) == Changes(updated=["gateway"])


@pytest.mark.parametrize(
    "changed", [{"bind": ["http://127.0.0.1:8081"]}, {"workers": 2}, {"limits": {"connections": 5}}]
)
def test_listeners_need_new_workers(changed: dict[str, Any]) -> None:
    """Addresses, limits and timeouts are the server's in front."""
    assert compare(plan(), plan(**changed), everything=False) == Changes(rolled=["gateway"])


def test_services_come_and_go() -> None:
    """Each is named."""
    changes = compare(plan({"a": 1, "b": 2}), plan({"a": 1, "c": 3}), everything=False)
    assert changes == Changes(started=["c@3"], ended=["b@2"])
    assert changes.shown() == {"started": "c@3", "ended": "b@2"}


async def test_the_order_of_a_whole_change() -> None:
    """New services are there before the gateway knows them, old ones go when it has forgotten them."""
    calls = await applied(plan({"a": 1, "b": 2}), plan({"a": 1, "c": 3}, path="/x"))
    assert calls == ["services: a@1 c@3 b@2", "gateway: update gateway", "services: a@1 c@3"]


async def test_everything_rolls_those_that_stay() -> None:
    """Only those."""
    assert await applied(plan({"a": 1}), plan({"a": 1, "b": 2}), everything=True) == ["services: a@1! b@2"]


async def test_a_gateway_comes_and_goes() -> None:
    """As services do."""
    assert await applied(plan(gateway=None), plan()) == ["gateway: gateway"]
    assert await applied(plan(), plan(gateway=None)) == ["gateway:"]


async def test_a_refused_gateway_changes_services_back() -> None:
    """Whole or not at all."""
    old, new = plan({"a": 1, "b": 2}), plan({"a": 1, "c": 3}, path="/x")
    calls = await applied(old, new, failing=["gateway: update gateway"])
    assert calls[1:] == ["gateway: update gateway", "services: a@1 b@2", "gateway: update gateway refused"]


async def test_a_service_that_does_not_start_changes_nothing() -> None:
    """The gateway never hears of it."""
    calls = await applied(plan({"a": 1}), plan({"b": 2}, path="/x"), failing=["services: b@2 a@1"])
    assert calls == ["services: b@2 a@1", "services: b@2 a@1 refused"]
