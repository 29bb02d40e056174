"""Going from one plan to another while everything runs: applied whole, or refused whole."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from forebay.engine.supervisor import Supervisor
from forebay.errors import ForebayError
from forebay.gateway import can_update
from forebay.runtime.plan import GATEWAY, Plan

__all__ = ["Changes", "apply", "compare"]

log = structlog.get_logger("forebay.runtime")


@dataclass(slots=True)
class Changes:
    """What has to happen."""

    started: list[str] = field(default_factory=list)
    rolled: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)  # in place
    ended: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.started or self.rolled or self.updated or self.ended)

    def shown(self) -> dict[str, str]:
        """For a log line."""
        parts = {"started": self.started, "rolled": self.rolled, "updated": self.updated, "ended": self.ended}
        return {name: ",".join(names) for name, names in parts.items() if names}


def compare(old: Plan, new: Plan, *, everything: bool) -> Changes:
    """What leads from ``old`` to ``new``.

    :param everything: roll services that did not change as well: their code may have.
    """
    changes = Changes()
    before = {spec.name: spec for spec in old.specs}
    for spec in new.specs:
        if spec.name not in before:
            changes.started.append(spec.name)
        elif spec is new.gateway:
            if spec != before[GATEWAY]:
                (changes.updated if _in_place(old, new) else changes.rolled).append(GATEWAY)
        elif everything or spec != before[spec.name]:
            changes.rolled.append(spec.name)
    changes.ended = [name for name in before if name not in {spec.name for spec in new.specs}]
    return changes


def _in_place(old: Plan, new: Plan) -> bool:
    """Only what a running gateway can swap differs: not where it listens, nor how many workers it has."""
    return old.config is not None and new.config is not None and can_update(old.config, new.config)


async def apply(services: Supervisor, gateway: Supervisor, old: Plan, new: Plan, changes: Changes, reason: str) -> None:
    """Make ``changes``. New services are there before the gateway knows them; old ones go when it has forgotten them.

    :raises ForebayError: something would not start or was refused; what had been changed already is changed back.
    """
    touched = any(name != GATEWAY for name in changes.started + changes.rolled)
    if touched:
        going = [spec for spec in old.services if spec.name in changes.ended]
        await services.reload([*new.services, *going], only=changes.rolled, reason=reason)
    try:
        await _apply_gateway(gateway, new, changes, reason)
    except ForebayError:
        if touched:
            log.warning("changing services back", reason=reason)
            await services.reload(old.services, only=(), reason="changed back")
        raise
    if any(name != GATEWAY for name in changes.ended):
        await services.reload(new.services, only=(), reason=reason)


async def _apply_gateway(supervisor: Supervisor, new: Plan, changes: Changes, reason: str) -> None:
    if GATEWAY in changes.updated:
        assert new.gateway is not None  # it is what is updated
        await supervisor.update(GATEWAY, new.gateway.args["config"], args=new.gateway.args, reason=reason)
    elif GATEWAY in {*changes.started, *changes.rolled, *changes.ended}:
        await supervisor.reload([new.gateway] if new.gateway else [], only=(), reason=reason)
