"""What workers run, and how they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from forebay.engine.cores import worker_count
from forebay.policy.recycle import Recycle

__all__ = ["WorkerSpec"]


@dataclass(frozen=True)
class WorkerSpec:
    """What workers run.

    :param name: unique in its supervisor; its workers are called ``name#0``, ``name#1``, ...
    :param entry: ``"module:function"``. The function is called in the worker with ``args`` as keyword arguments, and
        returns a :class:`~forebay.service.Service` or an awaitable of one. The service may also offer ``collect()``,
        and, for live updates, ``prepare(payload)``, ``commit()`` and ``rollback()``, each sync or async.
    :param args: what MessagePack can carry.
    :param count: how many workers; ``"auto"``: one per usable core, as far as the control group's CPU quota goes.
    :param affinity: keep each worker on one core: worker 0 on the first usable one, worker 1 on the next, and so on.
    :param recycle: after how many connections or how much time a worker is replaced.
    :param memory_limit: bytes; a worker with more resident memory is replaced. Not more often than once a minute, and
        ever less often while that does not help.
    :param watchdog: a worker whose event loop is blocked for so many seconds has its stacks dumped to the log, is
        killed, and started again. ``None``: it may block for as long as it likes.

    ``size`` is the number of workers, also where ``count`` is ``"auto"``.
    """

    name: str
    entry: str
    args: Mapping[str, Any] = field(default_factory=dict)
    count: int | Literal["auto"] = 1
    affinity: bool = False
    recycle: Recycle = field(default_factory=Recycle)
    memory_limit: int | None = None
    watchdog: float | None = 10.0
    size: int = field(init=False)

    def __post_init__(self) -> None:
        module, separator, function = self.entry.partition(":")
        if not (module and separator and function):
            raise ValueError(f"entry {self.entry!r} of {self.name}: expected module:function")
        size = worker_count() if self.count == "auto" else self.count
        if size < 1:
            raise ValueError(f"count {self.count} of {self.name}: must be at least 1")
        if self.memory_limit is not None and self.memory_limit < 1:
            raise ValueError(f"memory_limit {self.memory_limit} of {self.name}: must be at least 1")
        if self.watchdog is not None and self.watchdog <= 0:
            raise ValueError(f"watchdog {self.watchdog} of {self.name}: must be above 0")
        object.__setattr__(self, "size", size)  # frozen for everybody else
