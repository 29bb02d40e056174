"""A group of targets: which of them may be chosen, how much of the work each gets, which one is next, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any, Generic, TypeVar

from forebay.errors import NoTarget
from forebay.policy.balance import make_balancer
from forebay.policy.hashing import Hashing
from forebay.policy.health import PassiveHealth, Standing
from forebay.policy.outlier_judge import OutlierChange, OutlierJudge
from forebay.policy.sticky import Sticky
from forebay.policy.target import Target, TargetEvent, TargetState
from forebay.policy.target_rules import TargetRules
from forebay.policy.zones import prefer_zone

__all__ = ["Targets"]

T = TypeVar("T", bound=Target)

_UP = Standing.UP  # looked up for every request

_KEPT_FACTOR = 0.1  # of the weight of one that would be ejected, but for the cap


_RULES = TargetRules()


class Targets(Generic[T]):
    """The targets of one name, and the choice among them.

    ============================================  ====================================================
    primaries                                     used are
    ============================================  ====================================================
    enough are healthy                            those, and one at a time those that are probed
    a smaller share than ``panic_threshold`` is   all primaries, as if healthy: *panic*
    none is healthy, backups are                  those to be probed, else the backups
    none is healthy, nor are backups              all primaries: *panic*
    ============================================  ====================================================

    Each :meth:`pick` is followed by :meth:`answered` or :meth:`failed`, or by neither when nothing can be said, and
    then by one :meth:`leave`. Who may be chosen is worked out when something changes, and kept: a choice costs what the
    balancer costs. A target that has left the group goes on being answered and left.

    :param name: for messages.
    :param outliers: finds those that do badly next to the others; ``None``: nobody does.
    :param sticky: makes clients keep their target; ``None``: tokens mean nothing.
    :param on_event: is told of each change of state.
    :param enabled: when not, all primaries are used, with their weights, whatever is known of them.
    """

    __slots__ = (
        "_available",
        "_enabled",
        "_evaluate_at",
        "_group",
        "_recheck_at",
        "_reserve",
        "_used",
        "_wants_latency",
        "balancer",
        "name",
        "no_target",
        "on_event",
        "outliers",
        "panic",
        "panics",
        "rules",
        "spill",
        "sticky",
    )

    def __init__(
        self,
        rules: TargetRules = _RULES,
        members: Iterable[T] = (),
        now: float = 0.0,
        *,
        name: str = "",
        outliers: OutlierJudge | None = None,
        sticky: Sticky | None = None,
        on_event: Callable[[TargetEvent], None] | None = None,
        enabled: bool = True,
    ) -> None:
        self.rules = rules
        self.name = name
        self.outliers = outliers
        self.sticky = sticky
        self.on_event = on_event
        self.balancer = make_balancer(rules.balance)
        self.panic = False
        self.panics = 0
        self.no_target = 0  # picks that found nobody
        self.spill = 0.0  # the part of the work that goes to other zones
        self._enabled = enabled
        self._wants_latency = self.balancer.wants_latency
        self._group: dict[str, T] = {}
        self._available: Sequence[T] = ()  # to be chosen from
        self._used: Sequence[T] = ()  # the same, of all zones: for a retry, when all available ones were tried
        self._reserve: Sequence[T] = ()  # backups that could be used: for a retry, when all of these were tried
        self._recheck_at = -inf
        self._evaluate_at = -inf if outliers is not None else inf
        self.update(members, now)

    def __repr__(self) -> str:
        return f"<Targets {self.name} {list(self._group.values())}>"

    def __len__(self) -> int:
        return len(self._group)

    @property
    def members(self) -> tuple[T, ...]:
        """All of them."""
        return tuple(self._group.values())

    @property
    def enabled(self) -> bool:
        """Whether what is known of targets decides who may be chosen."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._enabled = value
        self._recheck_at = -inf

    # -- the choice

    def pick(self, now: float, key: str = "", tried: Sequence[T] = (), token: str = "") -> T:
        """The target for the next try, counted as in flight there until :meth:`leave`.

        :param key: what balancers that hash go by.
        :param tried: those that failed this request already.
        :param token: what the client brought; afterwards it is to be given :meth:`token` of the target.
        :raises NoTarget: nobody else is left.
        """
        if now >= self._recheck_at:
            self._recheck(now)
        candidates = self._available
        if tried or self.sticky is not None:
            target = self._pick_for(candidates, now, key, tried, token)
        elif len(candidates) > 1:
            target = self.balancer.pick(candidates, now, key)
        elif candidates:
            target = candidates[0]
        else:
            self.no_target += 1
            raise NoTarget(f"{self.name or 'the group'} has no targets")
        target.in_flight += 1
        target.picks += 1
        if target.passive.standing is not _UP and self._enabled and target.passive.begin(now):
            target.cause = "a request tries it"
            try:
                self._refresh(now)  # one probe at a time: the others go elsewhere
            except BaseException:  # of on_event: the caller gets no target, so nobody else would leave it
                self.leave(target)
                raise
        return target

    def _pick_for(self, candidates: Sequence[T], now: float, key: str, tried: Sequence[T], token: str) -> T:
        """The target for a retry, or for a client that may have a token."""
        sticky = self.sticky
        if sticky is not None and sticky.enabled:
            name = sticky.name(token)
            kept = self._group.get(name)
            if kept is not None and kept.reachable and kept not in tried:
                sticky.kept += 1
                return kept
            sticky.missed(token, name)
        if tried:
            for rank in (candidates, self._used, self._reserve):
                candidates = [target for target in rank if target not in tried]
                if candidates:
                    break
        if not candidates:
            self.no_target += 1
            why = "was tried" if self._group else "has left"
            raise NoTarget(f"every target of {self.name or 'the group'} that is up {why}")
        return candidates[0] if len(candidates) == 1 else self.balancer.pick(candidates, now, key)

    def token(self, target: Target) -> str:
        """What a client that goes to ``target`` is to bring next time; empty: nothing."""
        return self.sticky.token(target.name) if self.sticky is not None else ""

    # -- what became of it

    def answered(self, target: T, seconds: float, now: float, failed: bool = False) -> bool:
        """``target`` answered ``seconds`` after it was asked. True when that brought it back.

        :param failed: it did with what counts as a failure, as a 503 may.
        """
        if self._wants_latency and (not failed or seconds > target.latency):  # failing fast is not being fast
            target.observe(seconds, now)
        if failed:
            self.failed(target, "answer", now, seconds)
            return False
        if self.outliers is not None and self._enabled:
            self._observe(target, False, seconds, now)
        if target.passive.standing is not _UP and target.passive.success():
            self._joined(target, "a request was answered", now)
            self._refresh(now)
            return True
        return False

    def failed(self, target: T, why: str, now: float, seconds: float = 0.0) -> bool:
        """``target`` failed a request, after ``seconds``. True when that took it out, or keeps it out after a probe.

        :param why: a short word that never changes.
        """
        target.count_failure(why)
        if not self._enabled or target.gone:
            return False
        if self.outliers is not None:
            self._observe(target, True, seconds, now)
        passive = target.passive
        if passive.standing is _UP and (out := self._out()) >= self.rules.most_ejected(len(self._group)):
            if passive.failure(now, why):
                target.cause = f"{self._failures(passive, why)}; not ejected, as {out} of {len(self._group)} are"
                passive.reset()
            return False
        if not passive.failure(now, why):
            return False
        target.ejections += 1
        target.cause = self._failures(passive, why)
        self._refresh(now)
        return True

    @staticmethod
    def _failures(passive: PassiveHealth, why: str) -> str:
        return f"{passive.fails} failed within {passive.fail_timeout:g} s, the last by {why}"

    def leave(self, target: T) -> None:
        """A try at ``target`` is over; one that came to no verdict lets the next one probe."""
        target.in_flight -= 1
        if target.passive.standing is not _UP and target.passive.standing is Standing.PROBING:
            target.passive.undecided()
            target.cause = "the request that tried it came to no verdict"
            self._recheck_at = -inf

    def checked(self, target: T, why: str, now: float) -> bool:
        """A health check found ``target`` well (``why`` is empty) or not. True when that took it out or brought it
        back."""
        if not target.active.result(not why, why):
            return False
        if why:
            target.ejections += 1
            target.cause = f"{target.active.fall} bad checks in a row, the last: {why}"
        else:
            self._joined(target, "health checks succeeded", now)
        self._refresh(now)
        return True

    # -- who there is

    def update(self, members: Iterable[T], now: float) -> tuple[list[T], list[T]]:
        """Have exactly these targets from now on. One whose name is known stays the object that it is, in its state,
        and is configured as the new one.

        :return: those that have joined, and those that have left.
        :raises ValueError: two have the same name; nothing has changed then.
        """
        given: dict[str, T] = {}
        for member in members:
            if given.setdefault(member.name, member) is not member:
                raise ValueError(f"target {member.name}: is there twice")
        before = self._group
        joined = [member for name, member in given.items() if name not in before]
        left = [target for name, target in before.items() if name not in given]
        for name, known in before.items():
            if name in given and given[name] is not known:
                known.configure(given[name])
                given[name] = known
        self._group = given
        for target in joined:
            target.gone = False
            if before:  # who is there at the beginning has nobody to be slower than
                self._joined(target, "joined", now)
            target.ejected = False  # what was found out about it in its time before, nobody watches any more
            target.factor = 1.0
            if self.outliers is not None:
                self.outliers.add(target.name, now)
        for target in left:
            target.gone = True
            if self.outliers is not None:
                self._apply(self.outliers.remove(target.name, now), now)
        if isinstance(self.balancer, Hashing):
            self.balancer.update(given.values())
        if self.sticky is not None:
            self.sticky.update(given)
        self._refresh(now)
        return joined, left

    def adopt(self, old: Targets[T], now: float) -> None:
        """Go on where ``old``, the group of this name in the configuration before, has been."""
        for name, target in self._group.items():
            if name in old._group and old._group[name] is not target:
                target.adopt(old._group[name])
        self.no_target, self.panics = old.no_target, old.panics
        self._refresh(now)

    # -- what can be seen

    def why(self, target: T, now: float) -> str:
        """How ``target`` stands, and why, in one line."""
        if target.gone:
            return "has left the group"
        if not self._enabled:
            return "used: health does not count, it is switched off"
        said = self._said(target, now)
        if self.panic and not target.backup and not target.healthy:
            healthy = sum(other.healthy for other in self._group.values() if not other.backup)
            primaries = sum(not other.backup for other in self._group.values())
            return f"panic, so it is used: {healthy} of {primaries} are healthy; {said}"
        if target.healthy and target not in self._available:
            return f"{said}; not used: {'a backup' if target.backup else 'in another zone'}"
        return said

    def _said(self, target: T, now: float) -> str:
        state, cause = target.state, target.cause
        passive = target.passive
        if state is TargetState.UP:
            return "up"
        if state is TargetState.STARTING:
            return f"slow start {target.slow_share:.0%}: {cause}"
        if state is TargetState.WEAKENED:
            return f"weight x {target.factor:g}: {cause}"
        if state is TargetState.DOWN:
            return f"down: {cause}"
        if target.ejected and self.outliers is not None:
            return self.outliers.why(target.name, now)
        if state is TargetState.PROBING:
            return "probing: one request tries it" if passive.standing is Standing.PROBING else "probing: a try is due"
        return f"ejected for {max(0.0, passive.until - now):.0f} s more: {cause}"

    def history(self, target: T) -> tuple[TargetEvent, ...]:
        """The last changes of its state, the newest last."""
        return tuple(target.changes)

    def statistics(self) -> dict[str, Any]:
        """The group, and each target by name."""
        targets = self._group
        return {
            "enabled": self._enabled,
            "balance": self.rules.balance,
            "targets": len(targets),
            "healthy": sum(target.healthy for target in targets.values()),
            "used": len(self._available),
            "ejected": self._out(),
            "in_flight": sum(target.in_flight for target in targets.values()),
            "panic": self.panic,
            "panics": self.panics,
            "spill": self.spill,
            "no_target": self.no_target,
            "each": {name: target.statistics() for name, target in targets.items()},
        }

    # -- who may be chosen

    def _out(self) -> int:
        """How many are out for what became of requests."""
        return sum(target.ejected or target.passive.standing is not _UP for target in self._group.values())

    def _joined(self, target: T, why: str, now: float) -> None:
        target.cause = why
        target.joined = now
        target.credit = 0.0  # turns from before it left are neither owed nor owing

    def _observe(self, target: T, failed: bool, seconds: float, now: float) -> None:
        outliers = self.outliers
        if outliers is not None and not target.gone and outliers.observe(target.name, failed, seconds, now):
            self._evaluate_at = self._recheck_at = -inf

    def _apply(self, changes: Sequence[OutlierChange], now: float) -> None:
        for change in changes:
            target = self._group.get(change.name)
            if target is None:
                continue
            target.factor = change.factor
            if not change.ejected:
                if target.ejected:
                    self._joined(target, change.why, now)
                target.ejected = False
            elif not target.ejected:
                if self._out() < self.rules.most_ejected(len(self._group)):
                    target.ejected = True
                    target.ejections += 1
                else:
                    target.factor = _KEPT_FACTOR
            target.cause = change.why

    def _recheck(self, now: float) -> None:
        """The time has come at which something may have changed by itself."""
        if self.outliers is not None and now >= self._evaluate_at:
            self._evaluate_at = now + self.rules.evaluate_every
            self._apply(self.outliers.evaluate(now), now)
        self._refresh(now)

    def _refresh(self, now: float) -> None:
        """Find out anew who may be used, with what share, and when that may next change by itself."""
        targets = self._group.values()
        changed: list[tuple[T, TargetState]] = []
        recheck_at = self._evaluate_at
        slow_start = self.rules.slow_start
        for target in targets:
            target.slow_share = 1.0
            if slow_start is not None:
                target.slow_share = slow_start.share(target.joined, now)
                recheck_at = min(recheck_at, slow_start.next_step(target.joined, now))
            if target.passive.standing is Standing.DOWN and target.passive.until > now:
                recheck_at = min(recheck_at, target.passive.until)
            state = self._state_of(target, now)
            if state is not target.state:
                changed.append((target, target.state))
                target.state = state
            target.share = float(target.weight)
            if target.healthy and self._enabled:
                target.share *= target.slow_share * target.factor
        self._recheck_at = recheck_at
        events = self._choose_from(now)
        for target, before in changed:
            said = f"up: {target.cause}" if target.state is TargetState.UP else self.why(target, now)
            event = TargetEvent(now, target.name, before, target.state, said)
            target.changes.append(event)
            events.append(event)
        if self.on_event is not None:
            for event in events:  # all is as they say by now: who hears of one may call, or raise
                self.on_event(event)

    def _state_of(self, target: T, now: float) -> TargetState:
        if not self._enabled:
            return TargetState.UP
        if not target.active.up:
            return TargetState.DOWN
        if target.ejected:
            return TargetState.EJECTED
        passive = target.passive
        if passive.standing is not _UP:
            waits = passive.standing is Standing.DOWN and now < passive.until
            return TargetState.EJECTED if waits else TargetState.PROBING
        if target.slow_share < 1.0:
            return TargetState.STARTING
        return TargetState.WEAKENED if target.factor < 1.0 else TargetState.UP

    def _choose_from(self, now: float) -> list[TargetEvent]:
        """Set who is available, and who is in reserve; what is to be said about the group."""
        rules = self.rules
        usable: list[T] = []
        reserve: list[T] = []
        primaries: list[T] = []
        healthy = 0
        for target in self._group.values():
            may = target.healthy or (target.state is TargetState.PROBING and target.passive.allows(now))
            if target.backup:
                if may:
                    reserve.append(target)
                continue
            primaries.append(target)
            healthy += target.healthy
            if may:
                usable.append(target)
        self._reserve = reserve
        self.spill = 0.0
        panic = bool(primaries) and healthy < rules.panic_threshold * len(primaries) and (healthy > 0 or not reserve)
        if not (usable or reserve):
            panic = bool(self._group)
        used = (primaries or list(self._group.values())) if panic else (usable or reserve)
        for target in self._group.values():
            target.reachable = False
        for target in used:
            target.reachable = panic or target.healthy
        self._available = self._used = used
        if rules.zone and used and not panic:
            zone, rank = rules.zone, used[0].backup
            weight = sum(t.weight for t in self._group.values() if t.zone == zone and t.backup is rank)
            self._available, self.spill = prefer_zone(zone, used, weight, rules.zone_headroom)
        if panic is self.panic:
            return []
        self.panic = panic
        self.panics += panic
        before, after = ("normal", "panic") if panic else ("panic", "normal")
        return [TargetEvent(now, "", before, after, f"{healthy} of {len(primaries)} are healthy")]
