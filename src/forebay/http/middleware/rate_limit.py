"""How often somebody may come."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import structlog

from forebay.engine.loop import now
from forebay.http.headers import MutableHeaders
from forebay.http.messages import Request, Response
from forebay.http.problems import problem
from forebay.http.request_hook import RequestHook
from forebay.observe.sparing import Sparing
from forebay.policy import limits
from forebay.wire.http1 import encode_headers

__all__ = ["RateLimit"]

log = structlog.get_logger("forebay.http")

_RATE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)/([smh])", re.ASCII)  # as the configuration of the gateway has it
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_NAME = re.compile(r"[!#-\[\]-~]{1,64}")
_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LONG_KEY = 64  # characters: longer keys are hashed, so that the table is bounded in bytes too

KeyOf = Callable[[Request], str | None]
CostOf = Callable[[Request], int]


class RateLimit(RequestHook):
    """Answers 429 to those who come too often: a bucket of ``burst`` tokens for each, that ``rate`` fills again.

    Answers say what is left, in ``ratelimit`` and ``ratelimit-policy`` (draft-ietf-httpapi-ratelimit-headers-09); a 429
    says in ``retry-after`` when there is enough again, in whole seconds. Buckets are those of this worker: several
    workers let through as many times as much. A WebSocket counts as the one request it begins with.

    :param rate: ``"100/s"``, ``"90/m"`` or ``"1000/h"``.
    :param burst: tokens that a bucket holds; default: the number in ``rate``, so ``"1000/h"`` lets a thousand come at
        once.
    :param key: who shares a bucket. ``"client"``: an IPv4 address, or an IPv6 /64, which is what one customer is given
        (behind proxies, ``TrustedProxies`` has to find it). ``"identity"``: ``str(request.identity)``, which
        authentication further out has set, and the client for those without. Another text: the value of that header,
        and the client for those without; a client can change it at will, unless something in front checks it. Or a
        function of the request; where that says None, the request is not limited.
    :param cost: tokens a request takes, or a function that says so. 0: none. More than ``burst``: the whole bucket.
    :param max_keys: buckets remembered; past it, the one that was let through the longest ago is full again.
    :param name: of the policy, in the headers and the log; tells several limits apart.
    :param headers: whether answers other than 429 say what is left.
    :param clock: seconds.
    :raises ValueError: a parameter is not as it must be.
    """

    __slots__ = (
        "_allowed", "_buckets", "_burst", "_clock", "_cost", "_headers", "_item", "_key", "_key_name", "_name",
        "_policy", "_policy_line", "_rate", "_refused", "_sparing",
    )  # fmt: skip

    def __init__(
        self,
        rate: str,
        *,
        burst: int | None = None,
        key: str | KeyOf = "client",
        cost: int | CostOf = 1,
        max_keys: int = 50_000,
        name: str = "default",
        headers: bool = True,
        clock: Callable[[], float] = now,
    ) -> None:
        found = _RATE.fullmatch(rate.replace(" ", ""))
        if found is None or not float(found[1]):
            raise ValueError(f'RateLimit: rate {rate!r}: must be a number per unit of time (s, m, h), as in "100/s"')
        per_second = float(found[1]) / _SECONDS[found[2]]
        if burst is None:
            burst = max(1, int(float(found[1])))
        if burst < 1 or max_keys < 1:
            raise ValueError(f"RateLimit: burst {burst}, max_keys {max_keys}: must be at least 1")
        if not callable(cost) and cost < 0:
            raise ValueError(f"RateLimit: cost {cost}: must be 0 or more tokens")
        if not _NAME.fullmatch(name):
            raise ValueError(f"RateLimit: name {name!r}: must be 1 to 64 ASCII characters without quotes and blanks")
        self._rate = rate
        self._burst = burst
        self._buckets = limits.RateLimit(per_second, burst, max_keys=max_keys)
        self._key = key if callable(key) else _key_named(key)
        self._key_name = key if isinstance(key, str) else getattr(key, "__qualname__", "...")
        self._cost = cost
        self._name = name
        self._headers = headers
        self._clock = clock
        self._policy = f'"{name}";q={burst};w={max(1, math.ceil(burst / per_second - 1e-9))}'
        self._policy_line = encode_headers([("ratelimit-policy", self._policy)])
        self._item = f'"{name}";r='
        self._allowed = self._refused = 0
        self._sparing = Sparing()

    def __repr__(self) -> str:
        return f"RateLimit({self._rate!r}, burst={self._burst}, key={self._key_name!r}, name={self._name!r})"

    def before(self, request: Request) -> Response | bytes | None:
        """Take the request's tokens, and say what is left; refuse it where there are not enough."""
        key = self._key(request)
        if key is None:
            return None
        cost = self._cost(request) if callable(self._cost) else self._cost
        if cost < 0:
            raise ValueError(f"{self!r}: cost {cost} of {request!r}: must be 0 or more tokens")
        if len(key) > _LONG_KEY:
            key = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=24).hexdigest()
        wait, left, full_in = self._buckets.take_several(key, min(cost, self._burst), self._clock())
        state = f"{self._item}{max(0, math.floor(left + 1e-6))};t={max(0, math.ceil(full_in - 1e-6))}"
        if wait:
            return self._refuse(request, wait, state)
        self._allowed += 1
        return b"%bratelimit: %b\r\n" % (self._policy_line, state.encode()) if self._headers else None

    def merge(self, headers: MutableHeaders, lines: bytes) -> None:
        """Add the lines beside those of limits with other names. One of ours is there when the handler sends the same
        answer again."""
        for line in lines.decode().split("\r\n"):
            name, _, value = line.partition(": ")
            if name:
                others = [other for other in headers.get_all(name) if not other.startswith(f'"{self._name}";')]
                headers.pop(name, None)
                for one in (*others, value):
                    headers.add(name, one)

    def statistics(self) -> dict[str, int]:
        """Requests ``allowed`` and ``refused`` since the start, and the ``keys`` remembered now."""
        return {"allowed": self._allowed, "refused": self._refused, "keys": len(self._buckets)}

    def _refuse(self, request: Request, wait: float, state: str) -> Response:
        self._refused += 1
        if (left_out := self._sparing.due("refused", self._clock())) is not None:
            log.warning("rate limited", limit=self._name, client=request.client, route=request.route, left_out=left_out)
        headers = (
            ("retry-after", str(max(1, math.ceil(wait - 1e-6)))),
            ("ratelimit-policy", self._policy),
            ("ratelimit", state),
        )
        return Response.encoded(*problem(429, "too many requests; try again later", headers=headers))


def _key_named(name: str) -> KeyOf:
    if name == "client":
        return _client
    if name == "identity":
        return _identity
    if not _FIELD.fullmatch(name):
        raise ValueError(f"RateLimit: key {name!r}: must be client, identity, the name of a header, or a function")

    def header(request: Request) -> str:
        value = request.headers.get(name)
        return _client(request) if value is None else f"h {value}"

    return header


def _identity(request: Request) -> str:
    identity: Any = request.identity
    return _client(request) if identity is None else f"i {identity}"


def _client(request: Request) -> str:
    client = request.client
    if ":" not in client:
        return client
    try:
        address = ipaddress.IPv6Address(client.partition("%")[0])
    except ValueError:
        return client
    return str(address.ipv4_mapped) if address.ipv4_mapped else address.exploded[:19]
