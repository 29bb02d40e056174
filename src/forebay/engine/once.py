"""Something that is done once, by whoever needs it first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, TypeVar

from forebay.engine.single_flight import SingleFlight

__all__ = ["Once"]

T = TypeVar("T")


class Once(Generic[T]):
    """Runs an async function once, when it is first needed; everybody gets what it came to::

        connect = Once(dial_the_registry)
        ...
        registry = await connect()

    Those who come while it runs wait for it (:class:`~forebay.engine.single_flight.SingleFlight`, and what is said
    there of context variables and of a function that waits for itself holds here). A caller that is cancelled leaves
    the others alone, also the one who came first; with the last of them the work is cancelled too, and who comes next
    begins anew.

    A failure is not kept: those who waited all get the same error, and who comes next tries again. To be used from one
    loop at a time.

    ``runs`` counts how often the function was started, ``failures`` how often it raised or was cancelled.

    :param function: what is to be done once.
    """

    __slots__ = ("_flight", "_function", "_name", "_result", "failures", "runs")

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self._function = function
        self._name = getattr(function, "__qualname__", type(function).__qualname__)
        self._flight: SingleFlight[T] = SingleFlight()
        self._result: T | _Nothing = _NOTHING
        self.runs = 0
        self.failures = 0

    def __repr__(self) -> str:
        return f"<Once {self._name} {'done' if self.done else 'running' if len(self._flight) else 'not done'}>"

    @property
    def done(self) -> bool:
        """Whether there is a result, so that a call does not wait."""
        return self._result is not _NOTHING

    async def __call__(self) -> T:
        """What the function came to.

        :raises Exception: whatever it raised.
        :raises RuntimeError: it waits for itself.
        """
        result = self._result
        if not isinstance(result, _Nothing):
            return result
        flight = self._flight
        return await flight.run(self._name, partial(self._run, flight))

    def reset(self) -> None:
        """Forget the result: who comes next does it again. Who waits still gets what the run under way comes to."""
        self._result = _NOTHING
        self._flight.forget(self._name)
        self._flight = SingleFlight()  # a run under way sees by it that its result is not wanted any more

    def statistics(self) -> dict[str, Any]:
        """Counts since it was made, and whether it is done."""
        return {"done": self.done, "running": len(self._flight) > 0, "runs": self.runs, "failures": self.failures}

    async def _run(self, flight: SingleFlight[T]) -> T:
        self.runs += 1
        try:
            result = await self._function()
        except BaseException:
            self.failures += 1
            raise
        if flight is self._flight:
            self._result = result  # here, not where it is awaited: the one who awaits it may just be cancelled
        return result


class _Nothing:
    __slots__ = ()


_NOTHING = _Nothing()
