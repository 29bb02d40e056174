"""Targets near the caller are preferred, for as long as they can take the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from forebay.policy.target import Target

__all__ = ["prefer_zone"]

T = TypeVar("T", bound=Target)


def prefer_zone(zone: str, used: Sequence[T], weight: float, headroom: float) -> tuple[Sequence[T], float]:
    """Those of ``zone``; and where it has too little left, the others too, with a share that gives them the rest.

    Callers are taken to be spread over the zones as the weights are: so a zone that is whole has enough for its own.

    :param used: those that can be used, of all zones, with the share each has by itself. That of others is changed
        here.
    :param weight: of the zone, when all of it is healthy.
    :param headroom: how much more than its part of the work each can take, at least 1.
    :return: those to choose from, and the part of the work that goes to other zones.
    """
    own = [target for target in used if target.zone == zone]
    others = [target for target in used if target.zone != zone]
    able = sum(target.share for target in own if target.healthy)
    if not others:
        return used, 0.0
    if not able:
        return used, sum(target.share for target in others) / sum(target.share for target in used)
    keeps = headroom * able / weight
    if keeps >= 1.0 - 1e-9:  # 1.4 * 45 / 63 is a hair less, and nobody can have a share of a hair
        return own, 0.0
    spill = 1.0 - keeps
    # the share that gives them so much in all; no more for each weight than the own zone has, or they would be the next
    part = min(1.0, spill / keeps * able / sum(target.share for target in others))
    for target in others:
        target.share *= part
    elsewhere = sum(target.share for target in others)
    return used, elsewhere / (elsewhere + sum(target.share for target in own))
