"""A running system: the supervisor's workers, the admin listener beside them, and reloading."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog

from forebay.admin import admin_server
from forebay.config.watch import watch
from forebay.engine import Event, Tasks, gather, run, serve_until_signalled
from forebay.engine.supervisor import Supervisor, WorkerInfo
from forebay.errors import ConfigError, ForebayError, StartError
from forebay.http import HTTPServer
from forebay.observe import Counter, Family, merge
from forebay.runtime.logs import HeldBack
from forebay.runtime.plan import FileSource, Plan
from forebay.runtime.reload import apply, compare
from forebay.service import Group, State

__all__ = ["RunningSystem", "run_plan"]

log = structlog.get_logger("forebay.runtime")

_GRACE = 5.0  # seconds past the drain deadline in which workers that were cut report and exit


class RunningSystem:
    """A Service: admin, then services, then the gateway are started; they are drained in reverse.

    :param source: where reloads take the plan from; without one a reload starts the same again, with new code.
    :param watching: reload also when the file of ``source`` changes.
    :param on_started: called once everything is ready.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        source: FileSource | None = None,
        watching: bool = False,
        on_started: Callable[[], None] | None = None,
    ) -> None:
        self.plan = plan
        self.name = plan.system.name
        self.state = State.NEW
        self.started_at = time.time()
        self.last_reload = ""
        self.admin: HTTPServer | None = None
        # Two, so that what the gateway calls is there before it is called, and drained after it.
        drain = plan.system.drain_timeout
        self.services = Supervisor("services", plan.services, drain_timeout=drain)
        self.gateway = Supervisor("gateway", [plan.gateway] if plan.gateway else [], drain_timeout=drain)
        self._group = Group(self.name, [self.services, self.gateway], drain_timeout=drain + _GRACE)
        self._source = source
        self._watching = watching
        self._on_started = on_started
        self._tasks = Tasks()
        self._wanted: dict[str, bool] = {}  # reloads asked for: from the reason to whether everything is rolled
        self._wake = Event()
        self._reloads = {outcome: Counter() for outcome in ("applied", "refused", "unchanged")}

    def __repr__(self) -> str:
        return f"<RunningSystem {self.name} {self.state} {[spec.name for spec in self.plan.specs]}>"

    # -- Service

    async def start(self) -> None:
        """Start everything. On an error everything is stopped again and it is raised."""
        self.state = State.STARTING
        try:
            await self._start_admin()
            await self._group.start()
        except BaseException:
            await self.stop()
            raise
        self.state = State.RUNNING
        self._tasks.spawn(self._reload_on_demand(), name="reload")
        if self._source is not None and self._watching:
            self._tasks.spawn(self._watch_file(self._source), name="watch the configuration")
        admin = str(self.admin.addresses[0]) if self.admin else "off"
        log.info("ready", system=self.name, workers=len(self.workers), admin=admin)
        if self._on_started is not None:
            self._on_started()

    async def drain(self) -> None:
        """Not ready any more, then finish what is in flight: gateway, services, admin."""
        self.state = State.DRAINING
        try:
            await gather(self._group.drain(), self._tasks.cancel())  # a reload under way does not hold it up
        finally:
            if self.admin is not None:
                await self.admin.drain()

    async def stop(self) -> None:
        """Cut what is left."""
        self.state = State.STOPPED
        await self._tasks.cancel()
        try:
            await self._group.stop()
        finally:
            if self.admin is not None:
                await self.admin.stop()

    async def wait(self) -> None:
        """Return when the workers have ended; CrashLoop when they were given up."""
        await gather(self.services.wait(), self.gateway.wait())

    async def _start_admin(self) -> None:
        address = self.plan.system.admin
        if address == "off":
            return
        admin = admin_server(self, address, self.plan.system.admin_token)
        try:
            await admin.start()
        except StartError as error:
            if not self.plan.admin_optional:
                raise
            log.warning("going on without admin", reason=str(error), remedy="give it an address with --admin HOST:PORT")
        else:
            self.admin = admin

    # -- what admin shows

    @property
    def workers(self) -> Sequence[WorkerInfo]:
        """All workers there should be."""
        return [*self.services.workers, *self.gateway.workers]

    def now(self) -> float:
        """The clock of all times here: UNIX time in seconds."""
        return time.time()

    def unready(self) -> list[str]:
        """Why no traffic should come."""
        if self.state is not State.RUNNING:
            return [f"the system is {self.state}"]
        ready = {(worker.name, worker.index) for worker in self.workers if worker.state == "ready"}
        return [
            f"{spec.name}: worker {index} is not ready"
            for spec in self.plan.specs
            for index in range(spec.size)
            if (spec.name, index) not in ready
        ]

    async def collect(self) -> list[Family]:
        """The metrics of all workers, of admin and of reloads."""
        parts = [await self.services.collect(), await self.gateway.collect()]
        if self.admin is not None:
            parts.append(self.admin.collect())
        samples = [one for outcome, n in self._reloads.items() for one in n.samples((("outcome", outcome),))]
        parts.append([Family("forebay_reloads", "counter", "Reloads asked for, by what came of them.", samples)])
        return merge(parts)

    # -- reloading

    def request_reload(self, reason: str, *, everything: bool) -> None:
        """Reload soon. Reloads come one after the other; what is asked for meanwhile is one more.

        :param everything: roll unchanged services as well, for new code.
        """
        self._wanted[reason] = self._wanted.get(reason, False) or everything
        self._wake.set()

    async def _reload_on_demand(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            wanted, self._wanted = self._wanted, {}
            await self.reload(", ".join(wanted), everything=any(wanted.values()))

    async def reload(self, reason: str, *, everything: bool) -> str:
        """Read the configuration again and go over to it, whole or not at all; says which in the log.

        :return: ``applied``, ``unchanged`` or ``refused``.
        """
        log.info("reloading", reason=reason)
        try:
            plan = self.plan if self._source is None else self._source.again(self.plan)
            changes = compare(self.plan, plan, everything=everything)
            if changes:
                await apply(self.services, self.gateway, self.plan, plan, changes, reason)
        except ConfigError as error:
            for problem in error.problems:
                log.error("configuration refused", file=error.file, problem=str(problem))
            return self._reloaded("refused", reason, "the old configuration stays")
        except ForebayError as error:
            log.error("reload refused", reason=reason, problem=str(error))
            return self._reloaded("refused", reason, "the old configuration stays")
        self.plan = plan
        if not changes:
            return self._reloaded("unchanged", reason, "nothing to do")
        return self._reloaded("applied", reason, **changes.shown())

    def _reloaded(self, outcome: str, reason: str, note: str = "", **changes: str) -> str:
        self._reloads[outcome].value += 1
        self.last_reload = f"last reload: {outcome} ({reason})"
        extra = {"note": note} if note else changes
        (log.warning if outcome == "refused" else log.info)("reload done", outcome=outcome, reason=reason, **extra)
        return outcome

    async def _watch_file(self, source: FileSource) -> None:
        async for _ in watch(source.path):
            self.request_reload(f"{source.path.name} changed", everything=False)


def run_plan(
    plan: Plan,
    *,
    source: FileSource | None = None,
    watching: bool = False,
    on_started: Callable[[], None] | None = None,
) -> int:
    """Run a plan until a signal ends it, and return the exit code.

    :raises StartError: it could not be started.
    """

    held_back = HeldBack()

    def started() -> None:
        held_back.release()
        if on_started is not None:
            on_started()

    async def main() -> int:
        system = RunningSystem(plan, source=source, watching=watching, on_started=started)
        return await serve_until_signalled(
            system,
            drain_timeout=plan.system.drain_timeout,
            cut_timeout=2 * _GRACE,  # the workers' deadline comes first, then the group's
            on_reload=lambda: system.request_reload("SIGHUP", everything=True),
        )

    try:
        return run(main())
    finally:
        held_back.discard()
