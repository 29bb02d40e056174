"""Finding the targets of a group that fail, or are slow: they lose weight, leave, and come back.

What is judged, and the idea of comparing a target with its group, is that of Envoy's outlier detection; the graded
answer to latency is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median_low
from typing import Any, Literal

from forebay.policy.outlier_rules import OutlierRules
from forebay.policy.outlier_target import Change, ObservedTarget

__all__ = ["Change", "OutlierRules", "Outliers"]

_RULES = OutlierRules()


@dataclass(slots=True)
class _Group:
    """What targets are compared with: means and medians of those that have enough calls."""

    good: float = 1.0  # mean share of good calls
    spread: float = 0.0  # its standard deviation
    least_good: float = 0.0  # a share below this stands out; 0.0: nothing does
    latency: float = 0.0  # median of the quantile, seconds; 0.0: not known


@dataclass(slots=True)
class _Ground:
    """Why a target should not be used as it is."""

    target: ObservedTarget
    reason: str
    why: str
    failing: bool  # it leaves at once; else it is slow
    severity: float  # among its kind; the worst go first where the cap lets not all go


class Outliers:
    """Watches the calls to a group of targets and says which are to have less weight, and which none.

    Every call is told by :meth:`observe`; :meth:`evaluate` is called about once a second, and returns what has changed:
    the weight of a target is multiplied with ``factor``, and an ``ejected`` one is not used (where there is any other).
    One that has returned begins with little weight, by the slow start of the group.

    ========== ================================================= =========================================
    from       condition                                         to
    ========== ================================================= =========================================
    in use     slow                                              the first step: less weight
    a step     slow, ``step_time`` after the last step           the next step, or ejected after the last
    a step     not slow, ``step_time`` after the last step       one step back up
    a step     too few calls to say, for ``window`` seconds      one step back up
    any of     failing                                           ejected
    these
    these      to be ejected, but the cap is reached             the last step, ``kept``
    ejected    its time is over                                  in use: returned
    ejected    the group got so small that the cap is passed     in use: returned early
    any        switched off, at the next evaluation              in use
    ========== ================================================= =========================================

    *Failing* is who fails ``consecutive_failures`` in a row, more than ``error_rate`` of its calls, or so much more
    than the group that it stands out; *slow* whose p99 is past ``latency_limit``, or ``latency_ratio`` times the
    group's median. Latency counts for failed calls too: those that time out are the slowest.

    :param history: changes kept for each target, the newest.
    :param enabled: whether anything is detected; when not, calls are not counted, and all targets are used.
    """

    __slots__ = ("_changes", "_history", "_targets", "enabled", "rules")

    def __init__(self, rules: OutlierRules = _RULES, *, history: int = 32, enabled: bool = True) -> None:
        if history < 1:
            raise ValueError(f"history {history}: must be at least 1")
        self.rules = rules
        self.enabled = enabled
        self._history = history
        self._targets: dict[str, ObservedTarget] = {}
        self._changes: dict[str, dict[str, int]] = {}  # what: reason: how many

    def __len__(self) -> int:
        return len(self._targets)

    def add(self, name: str, now: float) -> None:
        """Watch this target too. One that is watched already stays as it is."""
        if name not in self._targets:
            self._targets[name] = ObservedTarget(name, self.rules, now, self._history)

    def remove(self, name: str, now: float) -> Sequence[Change]:
        """Watch this target no more. Those that come back by it, since less may be out of a smaller group."""
        self._targets.pop(name, None)
        changes: list[Change] = []
        ejected = [target for target in self._targets.values() if target.ejected]
        most = self.rules.most_ejected(len(self._targets))
        ejected.sort(key=lambda target: target.until)
        for target in ejected[: max(0, len(ejected) - most)]:
            target.bring_back(now)
            why = f"early, {len(ejected)} of {len(self._targets)} would be ejected, past the cap of {most}"
            self._note(changes, target, now, "returned", "cap", why)
        return changes

    def observe(self, name: str, failed: bool, seconds: float, now: float) -> bool:
        """A call to ``name`` ended after ``seconds``. True: it failed too often in a row, so that it is worth calling
        :meth:`evaluate` now. Calls to targets that are out, or are not watched, say nothing."""
        target = self._targets.get(name)
        if target is None or target.ejected or not self.enabled:
            return False
        target.window.record(failed, False, now)
        target.latency.observe(seconds, now)
        if not failed:
            target.run = 0
            return False
        run = target.run = target.run + 1
        if run > target.worst_run:
            target.worst_run = run
        return run == self.rules.consecutive_failures

    def evaluate(self, now: float) -> Sequence[Change]:
        """Judge all targets; what has changed, in the order in which it did. To be called about once a second."""
        changes: list[Change] = []
        if not self.enabled:
            self._switch_off(now, changes)
            return changes
        used: list[ObservedTarget] = []
        for target in self._targets.values():
            if target.ejected and now >= target.until:
                target.bring_back(now)
                self._note(changes, target, now, "returned", "time", "its time out is over")
            if not target.ejected:
                target.measure(now)
                used.append(target)
        group = self._group(used)
        grounds: list[_Ground] = []
        for target in used:
            ground = self._failing(target, group) or self._slow(target, group)
            target.worst_run = target.run
            if ground is not None:
                grounds.append(ground)
            else:
                target.kept = ""
                target.forgive(now)
                if target.level:
                    self._recover(target, now, changes)
        grounds.sort(key=lambda ground: (not ground.failing, -ground.severity))
        for ground in grounds:
            self._act(ground, now, changes)
        return changes

    def ejected(self) -> list[str]:
        """The names of those that are out."""
        return [target.name for target in self._targets.values() if target.ejected]

    def factor(self, name: str) -> float:
        """What the weight of ``name`` is to be multiplied with: 1.0 down to 0.0, which is ejected. ``KeyError``: not
        watched."""
        return self._targets[name].factor

    def returned_at(self, name: str) -> float | None:
        """When ``name`` last came back: where its slow start begins. ``None``: never. ``KeyError``: not watched."""
        return self._targets[name].returned_at

    def why(self, name: str, now: float) -> str:
        """How ``name`` stands and why, with figures. ``KeyError``: not watched."""
        target = self._targets[name]
        return target.why(now) if self.enabled else "in use: outlier detection is off"

    def history(self, name: str) -> tuple[Change, ...]:
        """The last changes of ``name``, the newest last. ``KeyError``: not watched."""
        return tuple(self._targets[name].history)

    def statistics(self) -> dict[str, Any]:
        """How many targets there are, are ``ejected``, have less weight (``lighter``); changes by kind and reason; and
        each target as of the last evaluation."""
        targets = self._targets.values()
        return {
            "enabled": self.enabled,
            "targets": len(targets),
            "ejected": sum(target.ejected for target in targets),
            "lighter": sum(target.level > 0 and not target.ejected for target in targets),
            "most_ejected": self.rules.most_ejected(len(targets)),
            "changes": {what: dict(reasons) for what, reasons in self._changes.items()},
            "each": {target.name: target.statistics() for target in targets},
        }

    def _group(self, used: Sequence[ObservedTarget]) -> _Group:
        rules = self.rules
        group = _Group()
        shares = [1.0 - target.error_rate for target in used if target.calls >= rules.min_calls]
        if len(shares) >= rules.min_group:
            group.good = sum(shares) / len(shares)
            # of this very group, not an estimate for a larger one, by which five could not have an outlier either
            group.spread = sqrt(sum((share - group.good) ** 2 for share in shares) / len(shares))
            group.least_good = group.good - max(rules.deviation * group.spread, rules.deviation_margin)
        latencies = [target.quantile for target in used if target.quantile]
        if len(latencies) >= rules.min_group:
            group.latency = median_low(latencies)
        return group

    def _failing(self, target: ObservedTarget, group: _Group) -> _Ground | None:
        rules = self.rules
        if rules.consecutive_failures and target.worst_run >= rules.consecutive_failures:
            why = f"{target.worst_run} failures in a row"
            return _Ground(target, "consecutive-failures", why, True, 2.0)  # more than any share
        if target.calls < rules.min_calls:
            return None
        rate = target.error_rate
        said = f"{target.failures} of {target.calls} calls failed within {rules.window:g} s, {rate:.1%}"
        if rate > rules.error_rate:
            return _Ground(target, "error-rate", f"{said}, past {rules.error_rate:.1%}", True, rate)
        if 1.0 - rate < group.least_good:
            others = f"the group has {1.0 - group.good:.1%} +- {group.spread:.1%}"
            why = f"{said}, past {1.0 - group.least_good:.1%}: {others}"
            return _Ground(target, "error-rate-stands-out", why, True, rate)
        return None

    def _slow(self, target: ObservedTarget, group: _Group) -> _Ground | None:
        rules, quantile = self.rules, target.quantile
        if quantile > rules.latency_limit:
            why = f"{target.latency_said()} past {rules.latency_limit:g} s over {target.timed} calls"
            return _Ground(target, "latency", why, False, quantile)
        if group.latency and quantile > max(rules.latency_ratio * group.latency, rules.latency_floor):
            why = (
                f"{target.latency_said()} over {target.timed} calls, past {rules.latency_ratio:g} times "
                f"the group's median, {group.latency:.2g} s"
            )
            return _Ground(target, "latency-stands-out", why, False, quantile)
        return None

    def _act(self, ground: _Ground, now: float, changes: list[Change]) -> None:
        target, rules = ground.target, self.rules
        if not ground.failing:
            if now - target.stepped_at < rules.step_time:
                return  # wait for what the last step does
            if target.level < len(rules.steps):
                target.step_to(target.level + 1, now)
                self._note(changes, target, now, "lighter", ground.reason, ground.why)
                return
        out = sum(other.ejected for other in self._targets.values())
        if out < rules.most_ejected(len(self._targets)):
            seconds = target.eject(now)
            self._note(changes, target, now, "ejected", ground.reason, f"{ground.why}; out for {seconds:g} s")
        elif target.kept != ground.reason:
            target.kept = ground.reason
            if target.level < len(rules.steps):
                target.step_to(len(rules.steps), now)
            why = f"{ground.why}; not ejected: cap, {out} of {len(self._targets)} are"
            self._note(changes, target, now, "kept", ground.reason, why)

    def _recover(self, target: ObservedTarget, now: float, changes: list[Change]) -> None:
        """Give it more weight again, if it is time."""
        rules = self.rules
        rested = now - target.stepped_at
        if target.quantile and rested >= rules.step_time:
            why = f"{target.latency_said()} over {target.timed} calls: not too slow now"
            reason = "latency"
        elif rested >= rules.window:
            why = f"{target.timed} calls within {rules.window:g} s are too few to call it slow"
            reason = "few-calls"
        else:
            return
        target.step_to(target.level - 1, now)
        self._note(changes, target, now, "heavier", reason, why)

    def _switch_off(self, now: float, changes: list[Change]) -> None:
        for target in self._targets.values():
            was_out = target.ejected
            if was_out or target.level:
                target.bring_back(now)
                why = "outlier detection was switched off"
                self._note(changes, target, now, "returned" if was_out else "heavier", "off", why)
            target.run = target.worst_run = 0
            target.kept = ""

    def _note(
        self,
        changes: list[Change],
        target: ObservedTarget,
        now: float,
        what: Literal["lighter", "heavier", "ejected", "kept", "returned"],
        reason: str,
        why: str,
    ) -> None:
        change = Change(target.name, now, what, target.factor, target.ejected, reason, why)
        target.history.append(change)
        changes.append(change)
        counts = self._changes.setdefault(what, {})
        counts[reason] = counts.get(reason, 0) + 1
