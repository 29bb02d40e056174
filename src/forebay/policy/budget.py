"""How much of the traffic may be second tries."""

from __future__ import annotations

from math import inf
from typing import Any

from forebay.policy.verdict import Refused

__all__ = ["RetryBudget"]

_SLICES = 10  # the steps in which the window moves
_KEPT = _SLICES + 1  # the present one is not over: so nothing is lost before the whole window has passed
_NEVER = -(1 << 62)  # a slice long before all others
_ROUNDING = 1e-9  # ten times a tenth is to be one


class RetryBudget:
    """Retries and hedges are at most a share of the requests, plus a small rate (the idea is that of Finagle's budget).

    Attempts per request do not bound a retry storm: when everything fails, three attempts are three times the load, on
    a server that fails because of its load. A budget does: whatever happens, a client sends at most ``1 + share`` times
    its requests. One budget belongs to everything that calls one service, and is shared by its retries and its hedges.

    Each request is worth ``share`` of a second try, for ``window`` seconds; what is oldest is spent first. What is
    spent does not come back when the window has passed: that would let all clients of a bad server try again in the
    same moment, each ``window`` anew. For any span of time, then,

        second tries <= share x requests + min_per_second x (span + window)

    where the requests are those of the span and of the window before it, and of a tenth more, in which the window
    moves. Over a budget's whole life there are none before it.

    :param share: of the requests, 0 to 1. The default of a fifth is far more than fails on good days, and little enough
        not to matter to a server on a bad one.
    :param min_per_second: allowed beside the share, at least 0, so that a client with hardly any requests can try again
        at all. It is saved for a window as well: by default two tries, which one request with three attempts needs.
    :param window: seconds, above 0, for which requests count; it moves in tenths. The longer it is, the more is saved
        up in good times to be spent at the beginning of bad ones.
    :param enabled: whether it refuses anything; it goes on counting.

    Memory and time of each operation are constant.
    """

    __slots__ = (
        "_gone",
        "_most",
        "_next_slice",
        "_requests_before",
        "_reserve",
        "_reserve_at",
        "_slice",
        "_slice_number",
        "enabled",
        "min_per_second",
        "refused",
        "requests",
        "retries",
        "share",
        "window",
    )

    def __init__(
        self, share: float = 0.2, *, min_per_second: float = 0.2, window: float = 10.0, enabled: bool = True
    ) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share {share}: must be 0 to 1")
        if not 0 <= min_per_second < inf:
            raise ValueError(f"min_per_second {min_per_second}: must be at least 0, and finite")
        if not 0 < window < inf:
            raise ValueError(f"window {window}: must be above 0, and finite")
        self.share = share
        self.min_per_second = min_per_second
        self.window = window
        self.enabled = enabled
        self.requests = self.retries = self.refused = 0  # ever; retries are all second tries
        self._gone = 0.0  # of the second tries that all requests were worth: spent, or too old
        self._most = min_per_second * window  # of the minimum that is saved
        self._reserve = self._most  # what there was of it at _reserve_at
        self._reserve_at = -inf
        self._slice = window / _SLICES
        self._slice_number = _NEVER
        self._next_slice = -inf  # when the present slice ends; any time is past the one there never was
        self._requests_before = [0] * _KEPT  # a ring: how many there had been when each slice began

    def deposit(self, now: float) -> None:
        """A request is made, for the first time."""
        if now >= self._next_slice:
            self._advance(now)
        self.requests += 1

    def withdraw(self, now: float) -> Refused | None:
        """A second try is about to be made: None when it may, and then it is paid for."""
        if self.spend(now):
            return None
        return Refused("budget", "spent", self.detail)

    @property
    def detail(self) -> str:
        """What there is to say when it refuses, in one line."""
        return f"{self.retries} second tries of {self.requests} requests spent what there was"

    def spend(self, now: float) -> bool:
        """As :meth:`withdraw`, for those who need no words: True when it may."""
        if now >= self._next_slice:
            self._advance(now)
        saved = self.share * self.requests - self._gone
        if saved >= 1.0 - _ROUNDING:
            self._gone += 1.0
        else:
            if now > self._reserve_at:
                if (passed := now - self._reserve_at) < self.window:
                    self._reserve = min(self._reserve + passed * self.min_per_second, self._most)
                else:
                    self._reserve = self._most
                self._reserve_at = now
            if saved + self._reserve >= 1.0 - _ROUNDING:
                self._gone += saved
                self._reserve -= 1.0 - saved
            elif self.enabled:
                self.refused += 1
                return False
        self.retries += 1
        return True

    def statistics(self) -> dict[str, Any]:
        """Counts, ever, and ``saved``: how many second tries there are by the share alone, as of the last call."""
        return {
            "enabled": self.enabled,
            "share": self.share,
            "requests": self.requests,
            "retries": self.retries,
            "refused": self.refused,
            "saved": max(0, int(self.share * self.requests - self._gone + _ROUNDING)),
        }

    def _advance(self, now: float) -> None:
        """Begin the slice that ``now`` is in, and forget what requests before the window were worth."""
        number = int(now // self._slice)
        before = self._requests_before
        for begun in range(max(self._slice_number + 1, number - _SLICES), number + 1):
            before[begun % _KEPT] = self.requests
        self._gone = max(self._gone, self.share * before[(number - _SLICES) % _KEPT])
        self._slice_number = number
        self._next_slice = (number + 1) * self._slice
