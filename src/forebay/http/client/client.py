"""The HTTP client: what programs ask."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from inspect import isawaitable
from typing import Any, Literal, Self, Unpack

import msgspec

from forebay.chain import Handler, compile_chain
from forebay.engine import ClientTLS, Slots, Throttle, fail_after, now
from forebay.engine.deadlines import TimeLimits
from forebay.engine.dial import Resolve
from forebay.engine.dns_cache import DNSCache
from forebay.engine.tasks import Gate
from forebay.errors import DeadlineExceeded, TooManyRedirects
from forebay.http.client.base_url import BaseURL
from forebay.http.client.content import encode_content
from forebay.http.client.cookie_jar import CookieJar
from forebay.http.client.cookies import KeepsCookies, cookie_field, jar_of
from forebay.http.client.decoding import accepted_codings
from forebay.http.client.endpoint import Endpoint
from forebay.http.client.options import (
    Auth,
    ClientMiddleware,
    HeaderFields,
    Requesting,
    RequestOptions,
    Tracing,
    auth_of,
    check_options,
    check_timeouts,
    header_pairs,
    middleware_of,
    redirects_of,
    set_headers,
    trace_of,
)
from forebay.http.client.policies import Policies
from forebay.http.client.proxies import Proxies
from forebay.http.client.redirects import CREDENTIALS, REDIRECTS, Redirects, redirected
from forebay.http.client.request import ClientRequest, check_method
from forebay.http.client.resolver import ResolvedTarget, Resolver, resolver_of
from forebay.http.client.response import ClientResponse
from forebay.http.client.settings import Limits, Timeouts
from forebay.http.client.targets import Balancing, HealthCheck
from forebay.http.client.trace import Step, Trace, TraceEvent
from forebay.http.client.transport import HTTPTransport, Transport
from forebay.http.client.url import URL
from forebay.http.client.verbs import Verbs
from forebay.http.headers import MutableHeaders
from forebay.policy.breaker import Breaker, Circuits
from forebay.policy.budget import RetryBudget
from forebay.policy.bulkhead import Bulkhead
from forebay.policy.hedge import Hedge
from forebay.policy.limiters import Limiter
from forebay.policy.retry import Retry
from forebay.policy.target import TargetEvent
from forebay.policy.target_rules import TargetRules
from forebay.service import State
from forebay.wire.heads import encode_headers

__all__ = ["Client"]

_TIMEOUTS = Timeouts()
_FOLLOW = Redirects()


class Client(Verbs):
    """Asks HTTP servers. A :class:`~forebay.service.Service`; also ``async with Client(...) as client``::

        async with Client("http://127.0.0.1:8000", timeouts=Timeouts(total=10), retry=Retry(attempts=3)) as client:
            response = await client.get("/users/1")
            user = await response.json(User)

    One is for a whole program, or for each service that it calls: its connections are kept, and its policies know what
    became of all requests. To be used on one loop, by any number of tasks.

    A request goes through, from the outside to the inside: ``total`` timeout, redirects, the client's middleware in
    their order, the request's, ``auth``, cookies, retry, hedge, bulkhead, limiter, targets with their breakers, the
    pool, and a connection. ``repr`` tells what there is of it.

    :param base: the URL that paths are relative to; or several, of which each request goes to one; or a
        :class:`~forebay.http.client.resolver.Resolver`, which knows them; ``unix:///path`` for a UNIX socket; "": whole
        URLs have to be given.
    :param timeouts: see :class:`Timeouts`, as for ``limits`` :class:`Limits`.
    :param headers: of every request, unless it has others of that name. Where a request is for another origin than that
        of ``base`` from the start, they go there too, but for ``authorization``, ``cookie``, ``proxy-authorization``
        and ``x-api-key``. Other secrets are better in ``auth``.
    :param cookies: a jar that keeps what servers set; or cookies to begin one with; True: an empty one. By default no
        cookies are kept, since a client is mostly not one user.
    :param auth: shows who we are, to the origin of ``base``: see :mod:`forebay.http.client.auth`. A tuple of user and
        password is ``Basic``; so are those in ``base``, where there is no ``auth``.
    :param tls: how to speak TLS: own CA, client certificate, ...
    :param proxy: the URL of a proxy for all requests, or :class:`Proxies`; None: those of the environment
        (``HTTPS_PROXY``, ...); "": none.
    :param redirects: how many are followed, or :class:`Redirects`; False: none.
    :param middleware: around each request, the first outermost. Those that have a ``close`` are closed at the end.
    :param retry: and ``hedge``, ``breaker``, ``bulkhead``, ``limiter``, ``budget``, ``attempt_timeout``: see
        :class:`~forebay.http.client.policies.Policies`.
    :param balance: how one of several targets is chosen: a name, rules, or :class:`Balancing`.
    :param health: how targets are asked how they are.
    :param on_target: is told of changes of a target's state.
    :param trace: whether responses have a ``trace``; or what is called with each step of each request.
    :param decompress: whether compressed content is asked for.
    :param resolve: finds the addresses of names; None: a :class:`~forebay.engine.dns_cache.DNSCache` of its own.
    :param transport: in place of connections: see :class:`Transport`.
    :param name: as it is called in logs and statistics.
    :raises ValueError: an argument makes no sense.
    :raises TypeError: one is of another type.
    """

    def __init__(
        self,
        base: str | URL | Sequence[str | ResolvedTarget] | Resolver = "",
        *,
        timeouts: Timeouts = _TIMEOUTS,
        limits: Limits | None = None,
        headers: HeaderFields = (),
        cookies: CookieJar | Mapping[str, str] | bool | None = None,
        auth: Auth | None = None,
        tls: ClientTLS | None = None,
        proxy: str | Proxies | None = None,
        redirects: Redirects | int | bool = _FOLLOW,
        middleware: Sequence[ClientMiddleware] = (),
        retry: Retry | None = None,
        hedge: Hedge | None = None,
        breaker: Breaker | Circuits | None = None,
        bulkhead: Bulkhead | Slots | None = None,
        limiter: Limiter | Throttle | None = None,
        budget: RetryBudget | None = None,
        attempt_timeout: float | None = None,
        balance: str | TargetRules | Balancing | None = None,
        health: HealthCheck | None = None,
        on_target: Callable[[TargetEvent], None] | None = None,
        trace: bool | Callable[[TraceEvent], None] = False,
        decompress: bool = True,
        resolve: Resolve | None = None,
        transport: Transport | None = None,
        name: str = "http-client",
    ) -> None:
        self.name = name
        self.state = State.NEW
        check_timeouts(timeouts)
        if isinstance(trace, Trace):
            raise TypeError("Client trace: a Trace is of one request; give True, or what is called with each step")
        trace_of(trace)
        self.timeouts = timeouts
        self.requests = 0
        self.middleware: Sequence[ClientMiddleware] = list(middleware_of(middleware))
        resolver = None if isinstance(base, str | URL) else resolver_of(base)
        self._base = BaseURL(str(base) if resolver is None else resolver.url)
        self.cookies = jar_of(cookies, self._base.url)
        self._auth = auth_of(self._base.user if auth is None else auth)
        self._redirects = redirects_of(redirects)
        self._trace: Tracing = trace
        self._headers = _default_headers(headers, decompress=decompress)
        self._headers_for_others = self._headers.copy()
        for field in CREDENTIALS:
            self._headers_for_others.pop(field, None)
        self._total = None if timeouts.total is None else TimeLimits(timeouts.total)
        self._under_way = 0
        self._at_rest = Gate()
        self._names = DNSCache() if resolve is None and transport is None else None
        self.transport: Transport = transport or HTTPTransport(
            timeouts, limits, tls=tls, proxies=_proxies_of(proxy), resolve=resolve or self._names, name=name
        )
        self.policies = Policies(
            self.transport.send,
            retry=retry,
            hedge=hedge,
            bulkhead=bulkhead,
            limiter=limiter,
            breaker=breaker,
            attempt_timeout=attempt_timeout,
            budget=budget,
            resolver=resolver,
            balance=Balancing.of(balance),
            health=health,
            on_target=on_target,
        )
        self._inner: Handler[ClientRequest, ClientResponse] = self.policies.send
        if self.cookies is not None:
            self._inner = KeepsCookies(self.cookies, self._inner)
        self._chain = self._compiled((), self._auth)

    def _compiled(
        self, middleware: Sequence[ClientMiddleware], auth: ClientMiddleware | None
    ) -> Handler[ClientRequest, ClientResponse]:
        layers = [*self.middleware, *middleware]
        if auth is not None:
            layers.append(auth)
        return compile_chain(layers, self._inner)

    def __repr__(self) -> str:
        named = [_name_of(layer) for layer in self.middleware]
        if self._auth is not None:
            named.append(_name_of(self._auth))
        if self.cookies is not None:
            named.append("cookies")
        chain = " > ".join([*named, repr(self.policies)])
        return f"<Client {self._base} {self.state}: {chain}>"

    # Its life

    async def start(self) -> None:
        """Begin.

        :raises RuntimeError: it was started before, or is stopped meanwhile.
        """
        if self.state is not State.NEW:
            raise RuntimeError(f"client {self.name} was started before")
        self.state = State.STARTING
        self.middleware = tuple(self.middleware)  # some may have been added, and none is from now on
        self._chain = self._compiled((), self._auth)
        try:
            await self.transport.start()
            await self.policies.start()
            if self.state is not State.STARTING:
                raise RuntimeError(f"client {self.name} was stopped before it had started")
        except BaseException:
            self.state = State.STARTING  # what began after it was stopped is to be stopped as well
            await self.stop()
            raise
        self.state = State.RUNNING

    async def drain(self) -> None:
        """Take no more requests, and return when none is under way, with all its redirects, tries and content."""
        if self.state is State.RUNNING:
            self.state = State.DRAINING
            while self._under_way:
                self._at_rest.close()
                await self._at_rest.wait()
            await self.policies.drain()
            await self.transport.drain()

    async def stop(self) -> None:
        """Close all connections, in the middle of requests too."""
        if self.state is not State.STOPPED:
            self.state = State.STOPPED
            async with AsyncExitStack() as ending:  # the last first
                if self._names is not None:
                    ending.push_async_callback(self._names.close)
                ending.push_async_callback(self.transport.stop)
                ending.push_async_callback(self.policies.stop)
                for layer in (*self.middleware, self._auth):
                    if (close := getattr(layer, "close", None)) is not None:  # of a Cache, for one
                        ending.push_async_callback(_closed, close)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def statistics(self) -> dict[str, Any]:
        """Counts since the start, and what there is now: of the pool, the policies and the targets."""
        found: dict[str, Any] = {"name": self.name, "state": str(self.state), "requests": self.requests}
        if self.policies.outer.layers or self.policies.inner.layers or self.policies.targets is not None:
            found["policies"] = self.policies.statistics()
        statistics = getattr(self.transport, "statistics", None)
        if statistics is not None:
            found["pool"] = statistics()
        return found

    # Requests

    def request(self, method: str, url: str | URL, **options: Unpack[RequestOptions]) -> Requesting:
        """Make a request: ``await`` gives the response, when its head is there; ``async with`` closes it at the end.

        :param url: a path below ``base``, with or without a query; or a whole URL.
        :param params: fields to add to the query; a list stands for several of its name.
        :param headers: beside the client's, or in place of those of the same name. In a list of pairs a name may come
            several times.
        :param cookies: to send beside those that are kept, in place of a ``cookie`` header.
        :param content: sent as it is: bytes, text, a ``Path``, an open binary file, or an async iterable, which is sent
            in chunks as it comes, and only once.
        :param json: or ``msgpack``, ``form``, ``files``: content in that encoding. ``json=None`` is ``null``.
        :param timeouts: in place of the client's, all of them but ``connect`` and ``tls``, which are those of the
            connections.
        :param auth: in place of the client's, and of user and password in the URL; False: none. To other origins than
            that of ``base``, the client's own does not go.
        :param redirects: in place of the client's, as is ``trace``; a ``Trace`` is for one request.
        :param middleware: for this request, within the client's, and around ``auth``.
        :param idempotent: whether it may be sent twice; None: as the method says, or an ``idempotency-key``.
        :param expect_continue: whether the server is asked first if it wants the content (RFC 9110 section 10.1.1).
        :raises ValueError: the request is not well-formed.
        :raises TypeError: there is no such option, which is named, or it is of another type.
        :raises PoolExhausted: no connection came free in time.
        :raises ConnectFailed: the server cannot be reached: :class:`ConnectTimeout`, :class:`TLSFailed`, ...
        :raises UpstreamTimeout: the server is too slow: :class:`ReadTimeout`, :class:`WriteTimeout`.
        :raises UpstreamClosed: the connection ended before the answer did.
        :raises UpstreamProtocolError: the answer is not well-formed, or redirects too often.
        :raises DeadlineExceeded: it was not done in time.
        :raises CircuitOpen: and other errors of the policies there are.
        """
        check_method(method)
        if self.state is not State.RUNNING:
            raise RuntimeError(f"client {self.name} is {self.state}: use it in async with Client(...) as client")
        place = self._base.find(url)
        request = ClientRequest(method, place.url, self._headers.copy(), timeouts=self.timeouts)
        if self._trace is not False:
            request.trace = trace_of(self._trace)
        limit, redirects, chain = self._total, self._redirects, self._chain
        auth: Auth | Literal[False] | None = place.user
        middleware: Sequence[ClientMiddleware] = ()
        if place.home:
            request.endpoint = self._base.endpoint
        else:
            request.headers = self._headers_for_others.copy()
        if options:
            check_options(options)
            self._fill(request, options)
            if request.timeouts is not self.timeouts:
                limit = None if request.timeouts.total is None else TimeLimits(request.timeouts.total)
            if (own := options.get("redirects")) is not None:
                redirects = redirects_of(own)
            if (given := options.get("auth")) is not None:
                auth = given
            middleware = middleware_of(options.get("middleware") or ())
        if auth is not None or middleware:
            shown = self._auth if auth is None else None if auth is False else auth_of(auth)
            chain = self._compiled(middleware, shown)
        if not place.home and (auth is None or auth is False):
            request.foreign = True  # what this client has to show is for its base
        self.requests += 1
        return Requesting(self._perform(request, chain, redirects, limit))

    def _fill(self, request: ClientRequest, options: RequestOptions) -> None:
        if params := options.get("params"):
            request.url = request.url.with_params(params)
        if (headers := options.get("headers")) is not None:
            set_headers(request.headers, headers)
        if cookies := options.get("cookies"):
            request.headers["cookie"] = cookie_field(cookies)
        request.content = encode_content(
            options.get("content"),
            options.get("json", msgspec.UNSET),
            options.get("msgpack", msgspec.UNSET),
            options.get("form"),
            options.get("files"),
        )
        request.idempotent = options.get("idempotent")
        request.expect_continue = bool(options.get("expect_continue"))
        if (timeouts := options.get("timeouts")) is not None:
            check_timeouts(timeouts)
            request.timeouts = timeouts
        if (trace := options.get("trace")) is not None:
            request.trace = trace_of(trace)

    async def _perform(
        self,
        request: ClientRequest,
        chain: Handler[ClientRequest, ClientResponse],
        redirects: Redirects,
        limit: TimeLimits | None,
    ) -> ClientResponse:
        if limit is not None:
            return await self._in_time(request, chain, redirects, limit)
        self._under_way += 1
        try:
            response = await chain(request)
            if response.status in REDIRECTS:
                response = await self._follow(request, response, chain, redirects)
            return response
        finally:
            self._under_way -= 1
            if not self._under_way and self.state is not State.RUNNING:
                self._at_rest.open()

    async def _in_time(
        self,
        request: ClientRequest,
        chain: Handler[ClientRequest, ClientResponse],
        redirects: Redirects,
        limits: TimeLimits,
    ) -> ClientResponse:
        request.deadline = now() + limits.seconds
        limit: fail_after = limits.new()
        try:
            async with limit:
                return await self._perform(request, chain, redirects, None)
        except DeadlineExceeded as error:
            if not limit.over or limit.inherited:
                raise
            raise DeadlineExceeded(f"{request}: not done within {limits.seconds:g} s") from error

    async def _follow(
        self,
        first: ClientRequest,
        response: ClientResponse,
        chain: Handler[ClientRequest, ClientResponse],
        rules: Redirects,
    ) -> ClientResponse:
        """Follow redirects (RFC 9110 section 15.4)."""
        history: list[ClientResponse] = []
        request = first
        while rules.limit and response.status in REDIRECTS:
            try:
                location = response.headers.get("location")
                following = redirected(request, response.status, location, rules, first.url, self._find)
            except BaseException:
                response.discard()
                raise
            if following is None:
                break
            response.history = tuple(history)
            response.discard()
            if len(history) >= rules.limit:
                message = f"{first}: redirected more than {rules.limit} times, now to {following.url}"
                if first.trace is not None:
                    first.trace.mark(Step.FAILED, error=message)
                raise TooManyRedirects(message)
            history.append(response)
            if following.trace is not None:
                following.trace.mark(
                    Step.REDIRECT, status=response.status, method=following.method, url=str(following.url)
                )
            request = following
            response = await chain(request)
        response.history = tuple(history)
        return response

    def _find(self, url: URL, named: bool) -> tuple[URL, Endpoint | None]:
        """Where a redirect leads. A target knows itself by its own name, and not by that of our base URL: what it says
        of itself is ours, and one that it names is meant."""
        if named and self.policies.targets is not None:
            found, endpoint = self.policies.targets.named(url)
            if found:
                return self._base.moved(url), endpoint
        return url, self._base.endpoint if self._base.is_home(url) else None


def _default_headers(given: HeaderFields, *, decompress: bool) -> MutableHeaders:
    fields = {"accept": "*/*", "user-agent": "forebay"}
    if decompress:
        fields["accept-encoding"] = accepted_codings()
    pairs = header_pairs(given)
    for name, _ in pairs:
        fields.pop(name.lower(), None)
        if name.lower() in ("content-length", "transfer-encoding", "host"):
            raise ValueError(f"Client header {name!r}: is of a request, and cannot be of all")
    return MutableHeaders.encoded(encode_headers([*fields.items(), *pairs]))


async def _closed(close: Callable[[], Any]) -> None:
    found = close()
    if isawaitable(found):
        await found


def _proxies_of(proxy: str | Proxies | None) -> Proxies | None:
    if proxy is None:
        return Proxies.from_environment(os.environ)
    if isinstance(proxy, Proxies):
        return proxy
    return Proxies(http=proxy, https=proxy) if proxy else None


def _name_of(layer: Any) -> str:
    return getattr(layer, "__name__", None) or type(layer).__name__
