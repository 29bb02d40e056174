"""What a pool says to those who get nothing of it."""

from __future__ import annotations

from collections.abc import Sequence

from forebay.engine.holders import Holder
from forebay.errors import ConnectTimeout, DeadlineExceeded, ForebayError, Overloaded, PoolExhausted
from forebay.policy.pool import PoolPlan
from forebay.policy.pool_actions import Refuse, RefusedBecause

__all__ = ["refused"]


def refused(name: str, plan: PoolPlan, refusal: Refuse, by_deadline: bool, holders: Sequence[Holder]) -> ForebayError:
    """The error of a refusal other than ``DIAL_FAILED``, which has its own.

    :param name: of the pool.
    :param by_deadline: whether it was the caller's deadline that ended the wait.
    :param holders: who has held something for longest.
    """
    pool, why = f"pool {name}", refusal.why
    if why is RefusedBecause.STOPPED or why is RefusedBecause.DRAINING:
        return Overloaded(pool, f"{pool} {'is stopped' if why is RefusedBecause.STOPPED else 'drains'}")
    if why is RefusedBecause.SLOW_DIAL:
        message = f"{pool}: {refusal.key} was not dialled within {refusal.waited:.3g} s"
        return DeadlineExceeded(message) if by_deadline else ConnectTimeout(message, target=str(refusal.key))
    settings = plan.settings
    if why is RefusedBecause.QUEUE_FULL:
        message = f"nothing is free for {refusal.key}, and {settings.max_waiting} may wait, who do"
    else:
        message = f"nothing came free for {refusal.key} within {refusal.waited:.3g} s"
    message = (
        f"{pool}: {message}: {plan.total} of {settings.max_total} are taken, "
        f"{plan.count(refusal.key)} of {settings.max_per_key} for this key, {plan.waiting} wait"
    )
    told = [str(one) for one in holders]
    if told:
        message += "; taken longest ago at " + "; ".join(told)
    if by_deadline and why is RefusedBecause.TIMEOUT:
        return DeadlineExceeded(message)
    return PoolExhausted(pool, message, holders=told)
