"""The proxy: the phases a request goes through, from top to bottom.

    match, request filters, pick, connect, send, receive, response filters, log

Everything happens in callbacks of the loop; only connecting and what follows a failure use a Task. A request goes on
being one :class:`Forward` through all its tries. See ``docs/life-of-a-request.md``.

What a failure leads to:

=====================================  ======================  =====================================================
failure                                counts against target   then
=====================================  ======================  =====================================================
no connection                          yes                     any method is tried on another target
a kept connection dies without a byte  no                      as the next line, and this try does not count
a connection dies before the answer    yes                     idempotent methods are tried on another target
no answer within the route's timeout   yes                     504
no answer while the client waits       no                      504; it said so with ``Request-Timeout-Ms``
what comes back is not HTTP            yes                     502
the answer breaks off                  yes                     the client's connection is cut, so it notices
the client leaves                      no                      the connection to the target is closed
=====================================  ======================  =====================================================

A request is tried again only while its content can be sent again: not begun yet, or at most ``REPLAY_LIMIT`` bytes.
"""

from __future__ import annotations

from math import inf

import structlog

from forebay.engine import CloseReason, Tasks, dial, now
from forebay.errors import (
    ForebayError,
    HTTPError,
    NoTarget,
    ProtocolError,
    RetryClass,
    UpstreamClosed,
    UpstreamError,
    UpstreamTimeout,
)
from forebay.gateway.connection import Head, UpstreamConnection
from forebay.gateway.heads import strip_prefix, with_patience
from forebay.gateway.plan import Plan, Route
from forebay.gateway.upstream import Target, reason_of
from forebay.http import Exchange, Receiver
from forebay.http.deadlines import patience_of
from forebay.http.problems import problem, problem_of
from forebay.observe import Family, Sparing
from forebay.policy.retry import IDEMPOTENT
from forebay.wire.http1 import content_length, decode_path, encode_chunk

__all__ = ["REPLAY_LIMIT", "Forward", "Proxy"]

log = structlog.get_logger("forebay.gateway")

REPLAY_LIMIT = 65536
"""Bytes of a request's content that are kept, to send them again."""

_CLIENT_LEFT = 499
_IMPATIENT = 0.005  # seconds by which a timer may be early
_CHUNKED = b"transfer-encoding: chunked\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_SLASH = ord("/")
_NO_CONTENT = frozenset({204, 304})


class Proxy:
    """The application that the gateway's HTTP server serves.

    :param plan: where requests go; replaced whole by :meth:`use`.
    :param body_limit: bytes of a request's content; None: any number, it is streamed.
    """

    def __init__(self, plan: Plan, *, name: str = "gateway", body_limit: int | None = None) -> None:
        self.name = name
        self.body_limit = body_limit
        self.plan = plan
        self.tasks = Tasks()  # connecting
        self.sparing = Sparing()  # with lines about single requests
        self.unrouted = [0] * 600  # answers to requests no route takes, by status

    def use(self, plan: Plan) -> None:
        """Send new requests where ``plan`` says. Those in flight finish as they began."""
        old, self.plan = self.plan, plan
        plan.adopt(old, now())
        old.retire()

    async def shutdown(self) -> None:
        """Called by the server after its connections are closed: close the ones to targets."""
        self.plan.retire()
        await self.tasks.cancel()

    def collect(self) -> list[Family]:
        """Metrics of routes, upstreams and targets."""
        return self.plan.collect(self.unrouted)

    # -- match, request filters

    def on_request(self, exchange: Exchange) -> None:
        """Take one request; a :class:`Forward` answers it."""
        plan = self.plan
        try:
            path = decode_path(exchange.raw_path)
        except ProtocolError as error:
            self._refuse(exchange, self.unrouted, "", error)
            return
        route = plan.table.find(exchange.host, path, exchange.method)
        if route is None:
            self._no_route(exchange, path)
            return
        at = now()
        for request_filter in route.filters:
            refusal = request_filter.check(exchange, at)
            if refusal is not None:
                self._refuse(exchange, route.statuses, route.name, refusal)
                return
        Forward(self, plan, route, exchange, at).begin(at)

    def _no_route(self, exchange: Exchange, path: str) -> None:
        allowed = self.plan.table.allowed(exchange.host, path)
        if allowed:
            error = HTTPError(405, headers=(("allow", ", ".join(allowed)),))
        else:
            error = HTTPError(404, "no route takes this request")
        self._refuse(exchange, self.unrouted, "", error)

    def _refuse(self, exchange: Exchange, statuses: list[int], route: str, error: ForebayError) -> None:
        """Answer a request that goes nowhere. Clients cause these as often as they like, so they are logged quietly."""
        status, headers, body = problem_of(error)
        statuses[status] += 1
        log.debug("request refused", route=route, status=status, client=exchange.client, reason=str(error))
        exchange.respond(status, headers, body)


class Forward(Receiver):
    """One request on its way: told of the client's side by the exchange, and of the target's by the connection."""

    __slots__ = (
        "_attached",
        "_attempt",
        "_deadline",
        "_exchange",
        "_has_body",
        "_held",
        "_patience",
        "_plan",
        "_proxy",
        "_replay",
        "_replay_size",
        "_request_sent",
        "_route",
        "_sent_at",
        "_target",
        "_tried",
        "_up",
    )

    def __init__(self, proxy: Proxy, plan: Plan, route: Route, exchange: Exchange, at: float) -> None:
        self._proxy = proxy
        self._plan = plan
        self._route = route
        self._exchange = exchange
        self._has_body = exchange.has_body
        self._deadline = at + route.timeout  # for the head of the answer
        self._patience = inf  # until when the client waits, if it said so
        if exchange.fields.timeout:
            self._patience = exchange.received_at + patience_of(exchange)
            self._deadline = min(self._deadline, self._patience)
        self._sent_at = at
        self._up: UpstreamConnection | None = None
        self._target: Target | None = None  # in flight there
        self._tried: list[Target] = []
        self._attempt = 1
        self._held = False  # the target waits, because the client does not read
        self._attached = False
        self._request_sent = False  # to its end
        self._replay: list[bytes] | None = None  # the content so far, while it may be needed again
        self._replay_size = 0

    # -- pick, connect

    def begin(self, at: float) -> None:
        """Pick the first target and go there."""
        exchange = self._exchange
        if not self._has_body:
            self._attached = True
            exchange.attach(self)  # from here on we hear when the client leaves
        elif exchange.method in IDEMPOTENT:
            self._replay = []
        route = self._route
        if route.key_of is None:
            target = route.upstream.pick(at)
        else:
            target = route.upstream.pick(at, key=route.key_of(exchange))
        self._target = target
        idle = target.idle
        if idle:
            self._send(idle.pop(), at)
        else:
            self._connect(target, at)

    def _connect(self, target: Target, at: float) -> None:
        self._target = target
        self._proxy.tasks.spawn(self._dial(target, at), name=f"connect to {target.name}")

    async def _dial(self, target: Target, at: float) -> None:
        up = UpstreamConnection(target)
        try:
            limit = min(self._route.upstream.connect_timeout, max(self._deadline - at, 0.001))
            await dial(target.address, up, timeout=limit)
            if self._exchange.finished:  # the client left meanwhile
                self._leave(target)
                up.release(now())
            elif up.conn.closing:
                raise UpstreamClosed("connection ended at once", target=target.name, retry=RetryClass.SAFE)
            else:
                self._send(up, now())
        except UpstreamError as error:
            self.on_failed(error, stale=False)
        except Exception:
            log.exception("forwarding failed", route=self._route.name, target=target.name)
            self.on_failed(UpstreamError("internal error", target=target.name), stale=False)

    # -- send

    def _send(self, up: UpstreamConnection, at: float) -> None:
        self._up = up
        self._sent_at = at
        exchange = self._exchange
        method = exchange.method
        target = exchange.target
        if target[0] != _SLASH:  # absolute-form; a target is asked in origin-form
            target = exchange.raw_path + (b"?" + exchange.query if exchange.query else b"")
        if self._route.strip_prefix:
            target = strip_prefix(target, len(exchange.raw_path), self._route.strip_prefix)
        framing = b""
        fields = exchange.fields
        if self._has_body:
            framing = _CHUNKED if fields.chunked else content_length(fields.content_length or 0)
        elif fields.content_length is not None:
            framing = content_length(0)
        head = self._plan.heads.encode(
            method, target, fields.host or up.target.host, fields.headers, exchange.client, framing, exchange.scheme
        )
        if self._patience != inf:
            head = with_patience(head, self._patience - at)
        if not self._has_body:
            self._request_sent = True
            up.send(self, method, head)
            up.conn.expire_in(self._deadline - at)
            return
        pieces = self._replay or ()
        up.send(self, method, b"".join((head, *(self._framed(piece) for piece in pieces))))
        up.conn.expire_in(None)  # what a kept connection had armed is not for us; first we wait for the client
        self._deadline = self._patience  # the route's time for the head begins when the content is complete
        if not self._attached:
            self._attached = True
            exchange.attach(self)  # hands over what waits, to on_body
        elif exchange.body_complete:
            self.on_body_end()
        else:
            exchange.resume_body()

    def _framed(self, data: bytes) -> bytes:
        return encode_chunk(data) if self._exchange.chunked else data

    def on_body(self, data: bytes) -> None:
        """A piece of the request's content: send it on, and keep it while it may be needed again."""
        up = self._up
        if self._replay is not None:
            self._replay_size += len(data)
            if self._replay_size <= REPLAY_LIMIT or up is None:
                self._replay.append(data)
            else:
                self._replay = None
        if up is None:
            return  # between two tries
        up.conn.write(self._framed(data))
        if not up.conn.writable:
            self._exchange.pause_body()
            up.conn.expire_in(self._route.timeout)  # for the target to read some of it

    def on_body_end(self) -> None:
        """The request's content is complete; the time for the answer begins."""
        up = self._up
        if up is None or self._request_sent:
            return
        self._request_sent = True
        if self._exchange.chunked:
            up.conn.write(_LAST_CHUNK)
        at = now()
        if self._exchange.started:  # and so in time, whatever time is left by now: until its next piece
            up.conn.expire_in(self._route.timeout)
            return
        self._deadline = min(at + self._route.timeout, self._patience)
        up.conn.expire_in(max(0.0, self._deadline - at))

    def on_upstream_writable(self) -> None:
        """The target reads again."""
        up = self._up
        if up is not None and not self._request_sent:
            up.conn.expire_in(None)  # we wait for the client now, whom the server in front watches
            self._exchange.resume_body()

    # -- receive, response filters

    def on_interim(self, status: int, lines: bytes) -> None:
        """Pass 1xx on, but for 100: the server in front has said that already."""
        if status != 100:
            self._exchange.interim(status, lines)

    def on_answer(self, up: UpstreamConnection, head: Head, content: bytes) -> None:
        """The whole answer is there: pass it on in one piece."""
        exchange = self._exchange
        at = now()
        upstream = self._route.upstream
        upstream.answered(up.target, at - self._sent_at, at)
        self._route.statuses[head.status] += 1
        self._done(up, at)  # first: finish() may bring the next request, which can use the connection
        exchange.respond(head.status, head.lines, content, date=False)

    def on_received(self, up: UpstreamConnection) -> None:
        """Pass on what has come of the answer."""
        exchange = self._exchange
        head = up.head
        if head is None:
            return
        complete = up.complete
        data = up.take()
        if not exchange.started:
            at = now()
            route = self._route
            route.upstream.answered(up.target, at - self._sent_at, at)
            status, lines, length = head
            route.statuses[status] += 1
            if length is None and complete and exchange.method != "HEAD" and status not in _NO_CONTENT:
                length = len(data)  # it is all here: no need for chunks
            if complete:
                self._done(up, at)  # first: finish() may bring the next request, which can use the connection
            exchange.start(status, lines, length, date=False)
            if not data and not complete:
                exchange.flush()
        elif complete:
            self._done(up, now())
        going = exchange.write(data) if data else True
        if complete:
            exchange.finish()
        elif going:
            # until the next piece; a target that waits for the rest of the request has all the time the client takes
            up.conn.expire_in(self._route.timeout if self._request_sent or not up.conn.writable else None)
        else:
            self._held = True
            up.conn.pause_reading()
            up.conn.expire_in(None)

    def on_writable(self) -> None:
        """The client reads again."""
        up = self._up
        self._held = False
        if up is not None:
            up.conn.resume_reading()
            up.conn.expire_in(self._route.timeout if self._request_sent or not up.conn.writable else None)  # as above

    # -- log, and all that ends a try

    def _done(self, up: UpstreamConnection, at: float) -> None:
        """The answer is complete."""
        self._up = self._target = None
        self._route.upstream.leave(up.target)
        up.release(at, reusable=self._request_sent)

    def _leave(self, target: Target) -> None:
        if self._target is not None:
            self._target = None
            self._route.upstream.leave(target)

    def on_disconnect(self, reason: CloseReason) -> None:
        """The client has gone: nobody waits for the answer, and the target is not to blame."""
        if not self._exchange.started:
            self._route.statuses[_CLIENT_LEFT] += 1
        up, self._up = self._up, None
        if up is not None:
            self._leave(up.target)
            up.abandon()

    def on_upstream_timeout(self) -> None:
        """The target let its time pass."""
        up = self._up
        if up is None or self._held:
            return
        what = "the rest of the answer" if self._exchange.started else "an answer"
        if not self._request_sent:
            what = "reading the request"
        up.abandon()
        seconds = self._route.timeout if self._patience == inf else min(self._route.timeout, now() - self._sent_at)
        error = UpstreamTimeout(f"{seconds:.3g} s passed without {what}", target=up.target.name)
        self.on_failed(error, stale=False)

    def on_failed(self, error: UpstreamError, stale: bool) -> None:
        """A try failed: try again, or tell the client."""
        self._up = None
        target = self._target
        at = now()
        route = self._route
        upstream = route.upstream
        if target is not None:
            if not stale:
                if min(at, self._deadline) < self._patience - _IMPATIENT:  # else it was the client who gave it no time
                    upstream.broke(target, error, at)
                self._tried.append(target)
            self._leave(target)
        exchange = self._exchange
        if exchange.finished:
            return
        if exchange.started:
            self._log("answer broke off", exchange.status, error)
            exchange.abort(f"upstream: {reason_of(error)}")
            return
        # a kept connection may have died long ago: that says nothing of the target, so it does not use up a try
        attempt = 0 if stale else self._attempt
        if self._can_send_again(at) and self._may_go_again(error, attempt, at):
            try:
                other = self._pick_again(target if stale else None, at)
            except NoTarget:
                pass  # what happened is a better answer than that there is nobody else
            else:
                self._attempt = attempt + 1
                upstream.retries += 1
                self._log_retry("stale-connection" if stale else reason_of(error), other, error, at)
                if self._attached and self._has_body:
                    exchange.pause_body()
                self._request_sent = False
                self._connect(other, at)  # on a fresh connection, whose failure means something
                return
        self._give_up(error)

    def _pick_again(self, stale: Target | None, at: float) -> Target:
        route = self._route
        key = "" if route.key_of is None else route.key_of(self._exchange)
        if stale is not None:
            try:
                return route.upstream.pick(at, key=key, tried=(*self._tried, stale))
            except NoTarget:
                pass  # the same target then
        return route.upstream.pick(at, key=key, tried=self._tried)

    def _may_go_again(self, error: UpstreamError, attempt: int, at: float) -> bool:
        verdict = self._route.retry.decide(
            error=error,
            method=self._exchange.method,
            attempt=attempt,
            began=self._sent_at,
            now=at,
            retry_after=0.0,  # another target need not be waited for
            budget=None,
        )
        return verdict.again

    def _can_send_again(self, at: float) -> bool:
        if self._has_body and self._attached:
            return self._replay is not None and at < self._patience
        return at < self._deadline

    def _give_up(self, error: UpstreamError) -> None:
        status, headers, body = problem(error.status, reason=reason_of(error))
        self._route.statuses[status] += 1
        self._log("request failed", status, error)
        self._exchange.respond(status, headers, body)

    def _log_retry(self, reason: str, other: Target, error: UpstreamError, at: float) -> None:
        left_out = self._proxy.sparing.due(("retry", error.target, reason), at)
        if left_out is not None:
            log.info(
                "trying again",
                route=self._route.name,
                reason=reason,
                target=error.target,
                next=other.name,
                error=str(error),
                left_out=left_out,
            )

    def _log(self, event: str, status: int, error: UpstreamError) -> None:
        left_out = self._proxy.sparing.due((event, error.target, reason_of(error)), now())
        if left_out is None:
            return
        log.warning(
            event,
            left_out=left_out,
            route=self._route.name,
            upstream=self._route.upstream.name,
            target=error.target,
            reason=reason_of(error),
            error=str(error),
            method=self._exchange.method,
            status=status,
            tries=self._attempt,
        )
