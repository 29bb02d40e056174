"""The HTTP client: what programs ask."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self, Unpack

import msgspec

from forebay.chain import Handler, compile_chain
from forebay.engine import ClientTLS, Slots, Throttle, fail_after, now
from forebay.engine.deadlines import TimeLimits
from forebay.engine.dial import Resolve
from forebay.engine.dns_cache import DNSCache
from forebay.errors import DeadlineExceeded, TooManyRedirects
from forebay.http.client.auth import Basic
from forebay.http.client.content import Fields, encode_content
from forebay.http.client.cookie_jar import CookieJar
from forebay.http.client.cookies import KeepsCookies, jar_of
from forebay.http.client.decoding import accepted_codings
from forebay.http.client.endpoint import Endpoint, unix_endpoint
from forebay.http.client.options import (
    Auth,
    ClientMiddleware,
    HeaderFields,
    Requesting,
    RequestOptions,
    Tracing,
    field_pairs,
)
from forebay.http.client.policies import Policies
from forebay.http.client.proxies import Proxies
from forebay.http.client.redirects import REDIRECTS, Redirects, redirected
from forebay.http.client.request import ClientRequest, check_method
from forebay.http.client.resolver import ResolvedTarget, Resolver, resolver_of
from forebay.http.client.response import ClientResponse
from forebay.http.client.settings import Limits, Timeouts
from forebay.http.client.targets import Balancing, HealthCheck
from forebay.http.client.trace import Step, Trace
from forebay.http.client.transport import HTTPTransport, Transport
from forebay.http.client.url import URL, parse_url, split_userinfo
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

_URLS_KEPT = 1024
_TIMEOUTS = Timeouts()
_FOLLOW = Redirects()
_NO_REDIRECTS = Redirects(limit=0)


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
    :param headers: of every request, unless it has others of that name. To other origins than that of ``base`` they go
        only when the request is for them from the start, so do not put secrets there: that is what ``auth`` is for.
    :param cookies: a jar that keeps what servers set; or cookies to begin one with; True: an empty one. By default no
        cookies are kept, since a client is mostly not one user.
    :param auth: shows who we are, to the origin of ``base``: see :mod:`forebay.http.client.auth`. A tuple of user and
        password is ``Basic``.
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
    """

    def __init__(
        self,
        base: str | Sequence[str | ResolvedTarget] | Resolver = "",
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
        trace: Tracing = False,
        decompress: bool = True,
        resolve: Resolve | None = None,
        transport: Transport | None = None,
        name: str = "http-client",
    ) -> None:
        self.name = name
        self.state = State.NEW
        self.timeouts = timeouts
        self.requests = 0
        self.middleware = list(middleware)
        self._base: URL | None = None
        self._endpoint: Endpoint | None = None
        auth = self._read_base(base) or auth
        self.cookies = jar_of(cookies, self._base)
        self._auth = _auth_of(auth)
        self._redirects = _redirects_of(redirects)
        self._trace = trace
        self._headers = self._default_headers(headers, decompress=decompress)
        self._urls: dict[str, tuple[URL, Auth | None]] = {}
        self._total = None if timeouts.total is None else TimeLimits(timeouts.total)
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
            resolver=None if isinstance(base, str) else resolver_of(base),
            balance=Balancing.of(balance),
            health=health,
            on_target=on_target,
        )
        self._inner: Handler[ClientRequest, ClientResponse] = self.policies.send
        if self.cookies is not None:
            self._inner = KeepsCookies(self.cookies, self._inner)
        self._chain = self._compiled((), self._auth)

    def _read_base(self, base: str | Sequence[str | ResolvedTarget] | Resolver) -> Auth | None:
        if not isinstance(base, str):
            base = resolver_of(base).url
        if not base:
            return None
        if base.startswith("unix://"):
            self._base = parse_url("http://localhost/")
            self._endpoint = unix_endpoint(base.removeprefix("unix://"))
            return None
        text, user = split_userinfo(base)
        self._base = parse_url(text)
        if self._base.query or self._base.fragment:
            raise ValueError(f"Client base {text!r}: must be without a query and a fragment")
        return user

    def _default_headers(self, given: HeaderFields, *, decompress: bool) -> MutableHeaders:
        fields = {"accept": "*/*", "user-agent": "forebay"}
        if decompress:
            fields["accept-encoding"] = accepted_codings()
        pairs = field_pairs(given)
        for name, _ in pairs:
            fields.pop(name.lower(), None)
            if name.lower() in ("content-length", "transfer-encoding", "host"):
                raise ValueError(f"Client header {name!r}: is of a request, and cannot be of all")
        return MutableHeaders.encoded(encode_headers([*fields.items(), *pairs]))

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
        return f"<Client {self._base or 'of any URL'} {self.state}: {chain}>"

    # Its life

    async def start(self) -> None:
        """Begin.

        :raises RuntimeError: it was started before.
        """
        if self.state is not State.NEW:
            raise RuntimeError(f"client {self.name} was started before")
        self._chain = self._compiled((), self._auth)  # middleware may have been added
        await self.transport.start()
        self.state = State.RUNNING
        try:
            await self.policies.start()
        except BaseException:
            await self.stop()
            raise

    async def drain(self) -> None:
        """Take no more requests, and return when none is under way."""
        if self.state is State.RUNNING:
            self.state = State.DRAINING
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
                        ending.push_async_callback(close)

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
        :param headers: beside the client's, or in place of those of the same name.
        :param cookies: to send beside those that are kept.
        :param content: sent as it is: bytes, text, a ``Path``, an open binary file, or an async iterable, which is sent
            in chunks as it comes, and only once.
        :param json: or ``msgpack``, ``form``, ``files``: content in that encoding.
        :param timeouts: in place of the client's, but for ``connect`` and ``tls``, which are those of the connections;
            as are ``auth``, ``redirects`` and ``trace``.
        :param middleware: for this request, within the client's.
        :param idempotent: whether it may be sent twice; None: as the method says, or an ``idempotency-key``.
        :param expect_continue: whether the server is asked first if it wants the content (RFC 9110 section 10.1.1).
        :raises ValueError: the request is not well-formed.
        :raises TypeError: there is no such option, or it is of another type.
        :raises PoolExhausted: no connection came free in time.
        :raises ConnectFailed: the server cannot be reached: :class:`ConnectTimeout`, :class:`TLSFailed`, ...
        :raises UpstreamTimeout: the server is too slow: :class:`ReadTimeout`, :class:`WriteTimeout`.
        :raises UpstreamClosed: the connection ended before the answer did.
        :raises UpstreamProtocolError: the answer is not well-formed, or redirects too often.
        :raises DeadlineExceeded: it was not done in time.
        :raises CircuitOpen: and other errors of the policies there are.
        """
        request, limit = self._made(method, url, options)
        auth = options.get("auth")
        middleware = options.get("middleware") or ()
        target_auth = self._auth_in_url(url)
        chain = self._chain
        if auth is not None or middleware or target_auth is not None:
            chain = self._compiled(middleware, _auth_of(auth or target_auth) or self._auth)
        elif self._auth is not None and self._base is not None and not request.url.same_origin(self._base):
            request.foreign = True  # the client's credentials are for its base
        redirects = self._redirects
        if (own := options.get("redirects")) is not None:
            redirects = _redirects_of(own)
        self.requests += 1
        return Requesting(self._perform(request, chain, redirects, limit))

    def _made(self, method: str, url: str | URL, options: RequestOptions) -> tuple[ClientRequest, TimeLimits | None]:
        check_method(method)
        if self.state is not State.RUNNING:
            raise RuntimeError(f"client {self.name} is {self.state}: use it in async with Client(...) as client")
        target = self._url(url, options.get("params"))
        headers = self._headers.copy()
        request = ClientRequest(method, target, headers, timeouts=self.timeouts)
        if self._endpoint is not None and self._base is not None and target.same_origin(self._base):
            request.endpoint = self._endpoint
        limit = self._total
        if options:
            for name, value in field_pairs(options.get("headers") or ()):
                headers[name] = value
            if cookies := options.get("cookies"):
                headers["cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
            request.content = encode_content(
                options.get("content"),
                options.get("json", msgspec.UNSET),
                options.get("msgpack", msgspec.UNSET),
                options.get("form"),
                options.get("files"),
            )
            request.idempotent = options.get("idempotent")
            request.expect_continue = options.get("expect_continue", False)
            if (timeouts := options.get("timeouts")) is not None:
                request.timeouts = timeouts
                limit = None if timeouts.total is None else TimeLimits(timeouts.total)
        trace = options.get("trace")
        if trace is None:
            trace = self._trace
        if trace is not False:
            request.trace = trace if isinstance(trace, Trace) else Trace(None if trace is True else trace)
        return request, limit

    def _url(self, url: str | URL, params: Fields | None) -> URL:
        found = url if isinstance(url, URL) else self._known(url)[0]
        return found.with_params(params) if params else found

    def _known(self, url: str) -> tuple[URL, Auth | None]:
        known = self._urls.get(url)
        if known is None:
            known = self._parsed(url)
            if len(self._urls) >= _URLS_KEPT:
                del self._urls[next(iter(self._urls))]
            self._urls[url] = known
        return known

    def _auth_in_url(self, url: str | URL) -> Auth | None:
        return self._urls[url][1] if isinstance(url, str) and url in self._urls else None

    def _parsed(self, url: str) -> tuple[URL, Auth | None]:
        base = self._base
        if not url.startswith("/") and "://" in url.partition("?")[0]:
            text, user = split_userinfo(url)
            return parse_url(text), user
        if base is None:
            raise ValueError(f"request URL {url!r:.200}: must be a whole one, as the client has no base URL")
        if url == "*":
            return base.with_target(url), None
        path = base.path.rstrip("/")
        return base.with_target(url if url.startswith("/") and not path else f"{path}/{url.removeprefix('/')}"), None

    async def _perform(
        self,
        request: ClientRequest,
        chain: Handler[ClientRequest, ClientResponse],
        redirects: Redirects,
        limit: TimeLimits | None,
    ) -> ClientResponse:
        if limit is None:
            response = await chain(request)
            if response.status in REDIRECTS:
                response = await self._follow(request, response, chain, redirects)
            return response
        return await self._in_time(request, chain, redirects, limit)

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
            following = redirected(request, response.status, response.headers.get("location"), rules, first.url)
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
            following.tried = []
            following.endpoint = self._endpoint if self._base and following.url.same_origin(self._base) else None
            if following.trace is not None:
                following.trace.mark(
                    Step.REDIRECT, status=response.status, method=following.method, url=str(following.url)
                )
            request = following
            response = await chain(request)
        response.history = tuple(history)
        return response


def _auth_of(auth: Auth | None) -> ClientMiddleware | None:
    return Basic(*auth) if isinstance(auth, tuple) else auth


def _redirects_of(redirects: Redirects | int | bool) -> Redirects:
    if isinstance(redirects, Redirects):
        return redirects
    if redirects is True:
        return _FOLLOW
    return Redirects(limit=int(redirects)) if redirects else _NO_REDIRECTS


def _proxies_of(proxy: str | Proxies | None) -> Proxies | None:
    if proxy is None:
        return Proxies.from_environment(os.environ)
    if isinstance(proxy, Proxies):
        return proxy
    return Proxies(http=proxy, https=proxy) if proxy else None


def _name_of(layer: Any) -> str:
    return getattr(layer, "__name__", None) or type(layer).__name__
