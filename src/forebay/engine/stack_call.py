"""A call on its way through a stack, and what its layers have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, NamedTuple

from forebay.engine.deadlines import fail_after
from forebay.engine.loop import now

__all__ = ["Call", "Layer", "Nature", "Next", "invoke", "status_of"]

_EARLY = 0.002  # seconds by which timers may be early: they are in milliseconds


class Nature(NamedTuple):
    """What calls of one kind have in common.

    :ivar method: of the request, where it is one.
    :ivar idempotent: whether they may be made twice; None: as ``method`` says.
    :ivar first: the name of the first argument, which may be given by it.
    """

    method: str
    idempotent: bool | None
    first: str


class Call:
    """One call on its way through a stack.

    :ivar at: the time, as of the last layer that had to wait: those behind it need not look at the clock again.
    :ivar limit: the time limit around all tries, while it is inside of one.
    :ivar attempt: that of the try under way, while it is inside of one.
    :ivar until: when the time is over that it was given from the outside; whoever is late then is whom it calls.
    """

    __slots__ = ("args", "at", "attempt", "function", "kwargs", "limit", "nature", "until")

    def __init__(
        self,
        function: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        nature: Nature,
        until: float = inf,
    ) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.nature = nature
        self.until = until
        self.at = now()
        self.limit: fail_after | None = None
        self.attempt: fail_after | None = None

    @property
    def subject(self) -> Any:
        """What it is about: the request of a middleware, the first argument of a decorated function; or None."""
        return self.args[0] if self.args else self.kwargs.get(self.nature.first)

    def beside(self) -> Call:
        """The same call, for a try that is made at the same time as another one."""
        other = Call(self.function, self.args, self.kwargs, self.nature, self.until)
        other.limit = self.limit
        return other

    def is_late(self) -> bool:
        """Whether it is interrupted because its time is over, and that is not the time of its caller."""
        if now() >= self.until - _EARLY:
            return True
        whole, attempt = self.limit, self.attempt
        if whole is not None and not whole.inherited:  # what a try inherits is from there
            return whole.over or (attempt is not None and attempt.over)
        return attempt is not None and attempt.over and not attempt.inherited


Next = Callable[[Call], Awaitable[Any]]


class Layer:
    """Lets a policy decide about a call. ``next`` is what is within: another layer, and at last the call itself. It is
    an attribute, and not an argument as middleware has it, since all of them together are to cost little."""

    next: Next
    state: Any

    @property
    def enabled(self) -> bool:
        """Whether it decides anything; when not, calls go through, and are counted."""
        return bool(self.state.enabled)

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self.state.enabled = value

    async def __call__(self, call: Call) -> Any:
        """Make the call, or do not."""
        raise NotImplementedError

    def statistics(self) -> dict[str, Any]:
        """What has been decided so far."""
        raise NotImplementedError


def invoke(call: Call) -> Awaitable[Any]:
    """What is within all layers: the call itself."""
    return call.function(*call.args, **call.kwargs)


def status_of(result: Any) -> int | None:
    """The status of a response; None of what has none."""
    status = getattr(result, "status", None)
    return status if isinstance(status, int) else None
