"""The client's middleware: lines in the log, metrics, spans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
import structlog
from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from prometheus_client.parser import text_string_to_metric_families

from forebay.admin.exposition import expose
from forebay.errors import ConnectFailed, ForebayError, HTTPError, ReadTimeout
from forebay.http import App, HTTPServer, Request
from forebay.http.client import Client
from forebay.http.client.middleware import Logging, Metrics, Tracing
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.observe.metrics import merge
from forebay.testing import VirtualClock
from tests.support import free_port, running

SECRET = "user:pa55word"


class Answers:
    """A transport that answers with a status, or fails with an error."""

    def __init__(self, *answers: int | BaseException) -> None:
        self.answers = list(answers)
        self.requests: list[ClientRequest] = []

    async def start(self) -> None:
        """See Transport."""

    drain = stop = start

    async def send(self, request: ClientRequest) -> ClientResponse:
        """See Transport."""
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        location = [("location", "/new?token=abc")] if answer in (301, 307) else []
        return ClientResponse.made(request, answer, [("content-length", "3"), *location], b"abc")


@asynccontextmanager
async def asking(middleware: Any, *answers: int | BaseException) -> AsyncIterator[tuple[Client, Answers]]:
    """A client of such a transport."""
    transport = Answers(*answers)
    async with Client("http://api.test", transport=transport, middleware=[middleware]) as client:
        yield client, transport


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    """A server, and its URL."""
    app: App[Any] = App()

    @app.get("/headers")
    async def headers(request: Request) -> dict[str, str]:
        return dict(request.headers)

    @app.get("/broken")
    async def broken() -> None:
        raise HTTPError(503, "not now")

    server = HTTPServer(app, bind="http://127.0.0.1:0")
    async with running(server):
        yield f"http://127.0.0.1:{server.addresses[0].port}"


@contextmanager
def lines() -> Iterator[list[Any]]:
    """The lines about requests."""
    found: list[Any] = []
    with structlog.testing.capture_logs() as captured:
        yield found
    found += [line for line in captured if line["event"] == "request"]


# -- Logging


async def test_a_line_for_each_request() -> None:
    """With what came of it, and without what is secret."""
    with lines() as found:
        async with served() as url, Client(url, middleware=[Logging()], trace=True) as client:
            for path in ("/headers?token=abc", "/headers?token=abc", "/nothing"):
                await (await client.get(f"{url.replace('//', f'//{SECRET}@')}{path}")).read()
    first, second, third = found
    assert first.pop("seconds") >= 0
    assert first.pop("bytes") > 0
    assert first == {
        "event": "request", "log_level": "debug", "method": "GET", "url": f"{url}/headers", "status": 200,
        "tries": 1, "reused": False,
    }  # fmt: skip
    assert second["reused"] is True
    assert (third["status"], third["log_level"]) == (404, "info")
    assert "abc" not in str(found)
    assert "pa55word" not in str(found)


async def test_lines_about_failures() -> None:
    """They have the error's class and text, without the query."""
    port = free_port()
    with lines() as found:
        async with Client(f"http://127.0.0.1:{port}", middleware=[Logging()]) as client:
            with pytest.raises(ConnectFailed):
                await client.get("/a?token=abc")
        async with asking(Logging(), ReadTimeout("GET http://api.test/a?token=abc: no answer within 1 s")) as (
            client,
            _,
        ):
            with pytest.raises(ReadTimeout):
                await client.get("/a?token=abc")
    one, two = found
    assert (one["error"], one["status"], one["log_level"]) == ("ConnectFailed", 0, "warning")
    assert "cannot connect" in one["reason"]
    assert two["reason"] == "GET http://api.test/a: no answer within 1 s"
    assert "bytes" not in two


async def test_lines_have_bounds_and_no_secrets_of_others() -> None:
    """An error may name other URLs, and be long; a length may be no number that can be."""
    error = ReadTimeout("no answer of http://user:pa55word@other.test/?api_key=abc " + "x" * 100_000)
    with lines() as found:
        async with asking(Logging(), error) as (client, _):
            with pytest.raises(ReadTimeout):
                await client.get("/")

    async def long(request: ClientRequest, call_next: Callable[[ClientRequest], Any]) -> ClientResponse:
        return ClientResponse.made(request, 200, [("content-length", "9" * 5000)])

    with lines() as more:
        async with asking(Logging(), 200) as (client, _):
            await client.head("/", middleware=[long])
    assert found[0]["reason"].startswith("no answer of http://***@other.test/?api_key=*** xxx")
    assert len(found[0]["reason"]) <= 1000
    assert more[0]["bytes"] is None


async def test_tries_are_those_of_the_request_that_was_sent() -> None:
    """Though that is a copy: with credentials."""

    class Twice(Answers):
        async def send(self, request: ClientRequest) -> ClientResponse:
            request.tried += ["one", "two"]
            return await super().send(request)

    with lines() as found:
        async with Client("http://api.test", transport=Twice(200), middleware=[Logging()], auth=("u", "p")) as client:
            await client.get("/")
    assert found[0]["tries"] == 2


def test_failures_by_the_thousand_are_few_lines() -> None:
    """One a second of each kind; what was left out is told. Successes all have theirs, as levels are for those."""

    def virtually(logging: Logging, *answers: int | BaseException) -> list[Any]:
        async def main() -> None:
            async with asking(logging, *answers) as (client, _):
                for _ in range(100):
                    with suppress(ForebayError):
                        await client.get("/")
                    await clock.elapse(0.03125)

        with lines() as found, VirtualClock() as clock:
            clock.run(main())
        return found

    found = virtually(Logging(), 503)
    assert [line.get("left_out") for line in found] == [None, 31, 31, 31]
    found = virtually(Logging(), ConnectFailed("nobody"))
    assert [line.get("left_out") for line in found] == [None, 31, 31, 31]
    assert len(virtually(Logging(interval=0), 503)) == 100
    assert len(virtually(Logging(), 200)) == 100
    assert len(virtually(Logging(), 404)) == 100


async def test_cancelled_requests_have_a_line() -> None:
    """At the level of good ones: somebody wanted it so."""
    started = asyncio.Event()

    async def hang(request: ClientRequest, call_next: Any) -> ClientResponse:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    transport = Answers(200)
    with lines() as found:
        async with Client("http://api.test", transport=transport, middleware=[Logging(good="info"), hang]) as client:
            task = asyncio.ensure_future(_get(client))
            await started.wait()
            task.cancel()
            await asyncio.wait([task])
    (line,) = found
    assert (line["error"], line["log_level"]) == ("cancelled", "info")


async def _get(client: Client) -> None:
    await client.get("/")


@pytest.mark.parametrize(
    ("options", "text"),
    [({"good": "loud"}, "good 'loud': must be one of debug"), ({"interval": -1}, "interval -1: must be at least 0")],
)
def test_settings_of_the_log_out_of_range(options: dict[str, Any], text: str) -> None:
    """They are refused at once."""
    with pytest.raises(ValueError, match=text):
        Logging(**options)


# -- Metrics


async def test_requests_are_counted_and_timed() -> None:
    """By method, outcome and origin; what Prometheus reads is the same."""
    metrics = Metrics("api")
    seen: list[int] = []

    async def look(request: ClientRequest, call_next: Callable[[ClientRequest], Any]) -> ClientResponse:
        seen.append(metrics.in_flight)
        response: ClientResponse = await call_next(request)
        return response

    async with served() as url, Client(url, middleware=[metrics, look]) as client:
        for path in ("/headers", "/headers", "/nothing", "/broken"):
            await (await client.get(path)).read()
        await (await client.request("BREW", "/pot")).read()
        closed = f"http://127.0.0.1:{free_port()}"
        with pytest.raises(ConnectFailed):
            await client.post(f"{closed}/")
    assert seen == [1] * 6
    assert metrics.in_flight == 0
    text, _ = expose(metrics.collect(), "")
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    counts = {
        (sample.labels["method"], sample.labels["outcome"], sample.labels["origin"]): sample.value
        for sample in families["forebay_client_requests"].samples
        if sample.name == "forebay_client_requests_total"
    }
    assert counts == {
        ("GET", "2xx", url): 2,
        ("GET", "4xx", url): 1,
        ("GET", "5xx", url): 1,
        ("other", "4xx", url): 1,
        ("POST", "ConnectFailed", closed): 1,
    }
    timed = {
        sample.labels["origin"]: sample.value
        for sample in families["forebay_client_request_seconds"].samples
        if sample.name == "forebay_client_request_seconds_count"
    }
    assert timed == {url: 5, closed: 1}
    (gauge,) = families["forebay_client_in_flight"].samples
    assert (gauge.labels, gauge.value) == ({"client": "api"}, 0)
    assert metrics.statistics()["outcomes"] == {"2xx": 2, "4xx": 2, "5xx": 1, "ConnectFailed": 1}
    assert metrics.statistics()["origins"][url]["requests"] == 5
    doubled = {family.name: family for family in merge([metrics.collect(), metrics.collect()])}
    assert sum(sample.value for sample in doubled["forebay_client_requests"].samples) == 12


async def test_there_are_never_many_numbers() -> None:
    """Whatever is asked for, and however it fails."""
    metrics = Metrics(max_origins=3)
    errors = [type(f"Error{number}", (ForebayError,), {})("x") for number in range(40)]
    async with asking(metrics, *errors, 200) as (client, _):
        for _ in errors:
            with pytest.raises(ForebayError):
                await client.get("/")
        for number in range(50):
            await client.get(f"http://host{number}.test/{number}")
    statistics = metrics.statistics()
    assert set(statistics["origins"]) == {"http://api.test", "http://host0.test", "http://host1.test", "other"}
    assert statistics["origins"]["other"]["requests"] == 48
    assert len(statistics["outcomes"]) == 34
    assert statistics["outcomes"]["other"] == 8
    with pytest.raises(ValueError, match="max_origins 0"):
        Metrics(max_origins=0)


async def test_cancelled_requests_are_counted() -> None:
    """They are in flight no more."""
    metrics = Metrics()
    async with asking(metrics, asyncio.CancelledError()) as (client, _):
        with pytest.raises(asyncio.CancelledError):
            await client.get("/")
    assert metrics.statistics()["outcomes"] == {"cancelled": 1}
    assert metrics.in_flight == 0


# -- Tracing


class Recorded(Span):
    """A span that notes what it is told."""

    def __init__(self, number: int, name: str, kind: SpanKind, attributes: Any, parent: SpanContext) -> None:
        self.name, self.kind, self.parent = name, kind, parent
        self.attributes: dict[str, Any] = dict(attributes or {})
        self.status: Status | None = None
        self.ended = 0
        self._context = SpanContext(parent.trace_id or 7, number, False, TraceFlags(TraceFlags.SAMPLED))

    def get_span_context(self) -> SpanContext:
        return self._context

    def end(self, end_time: int | None = None) -> None:
        self.ended += 1

    def set_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def set_attributes(self, attributes: Any) -> None:
        self.attributes.update(attributes)

    def set_status(self, status: Any, description: str | None = None) -> None:
        self.status = status

    def add_event(self, *args: Any, **options: Any) -> None:
        raise AssertionError("no events are added")

    def update_name(self, name: str) -> None:
        raise AssertionError("the name stays")

    def is_recording(self) -> bool:
        return not self.ended

    def record_exception(self, *args: Any, **options: Any) -> None:
        raise AssertionError("the exception is the program's, which records it")


class Provider(trace.TracerProvider, trace.Tracer):
    """Makes such spans."""

    def __init__(self) -> None:
        self.spans: list[Recorded] = []

    def get_tracer(self, *args: Any, **options: Any) -> trace.Tracer:
        return self

    def start_span(
        self, name: str, context: Any = None, kind: Any = SpanKind.INTERNAL, *rest: Any, **more: Any
    ) -> Span:
        parent = trace.get_current_span(context).get_span_context()
        span = Recorded(len(self.spans) + 1, name, kind, more.get("attributes"), parent)
        self.spans.append(span)
        return span

    def start_as_current_span(self, *args: Any, **options: Any) -> Any:
        raise NotImplementedError


async def test_a_span_for_each_request() -> None:
    """With the attributes of the conventions; the server gets its context, the program's span is its parent."""
    provider = Provider()
    outer = provider.start_span("outer")
    async with served() as url, Client(url, middleware=[Tracing(provider)]) as client:
        with trace.use_span(outer):
            heard = await (await client.get("/headers?token=abc&page=2&X-Goog-Signature=abc&AWSAccessKeyId=abc")).json()
        await (await client.get("/broken")).read()
    _, span, broken = provider.spans
    host, port = url.removeprefix("http://").split(":")
    assert heard["traceparent"] == f"00-{7:032x}-{2:016x}-01"
    assert (span.name, span.kind, span.ended) == ("GET", SpanKind.CLIENT, 1)
    assert span.parent.span_id == 1
    assert span.attributes == {
        "http.request.method": "GET",
        "url.full": f"{url}/headers?token=***&page=2&X-Goog-Signature=***&AWSAccessKeyId=***",
        "server.address": host,
        "server.port": int(port),
        "http.response.status_code": 200,
    }
    assert span.status is None
    assert broken.attributes["error.type"] == "503"
    assert broken.status is not None
    assert broken.status.status_code is StatusCode.ERROR
    assert not broken.parent.is_valid


async def test_spans_of_failures() -> None:
    """They are ended, with the class of the error, and without secrets."""
    for error in (ReadTimeout("http://api.test/?token=abc: too late"), asyncio.CancelledError()):
        provider = Provider()
        async with asking(Tracing(provider), error) as (client, _):
            with pytest.raises(type(error)):
                await client.request("BREW", "/?token=abc")
        (span,) = provider.spans
        assert (span.name, span.ended) == ("HTTP", 1)
        assert span.attributes["http.request.method"] == "_OTHER"
        assert span.attributes["http.request.method_original"] == "BREW"
        assert span.attributes["error.type"] == type(error).__name__
        assert span.status is not None
        assert "abc" not in str(span.status.description) + str(span.attributes)
    assert not trace.get_current_span().get_span_context().is_valid


async def test_each_hop_has_its_span() -> None:
    """Which counts those before, and its own context in the headers."""
    provider = Provider()
    async with asking(Tracing(provider), 301, 307, 200) as (client, transport):
        await client.get("/old")
    assert [span.attributes.get("http.request.resend_count") for span in provider.spans] == [None, 1, 2]
    assert [request.headers["traceparent"][36:52] for request in transport.requests] == [
        f"{number:016x}" for number in (1, 2, 3)
    ]


async def test_what_is_inside_is_a_child() -> None:
    """The span is the current one meanwhile, and no longer."""
    provider = Provider()
    inside: list[int] = []

    async def look(request: ClientRequest, call_next: Any) -> ClientResponse:
        inside.append(trace.get_current_span().get_span_context().span_id)
        response: ClientResponse = await call_next(request)
        return response

    async with Client("http://api.test", transport=Answers(200), middleware=[Tracing(provider), look]) as client:
        before = context.get_current()
        await client.get("/")
        assert context.get_current() == before
    assert inside == [1]


async def test_without_a_provider_it_does_nothing() -> None:
    """Only hand on the span that there is around it, which may be that of a server."""
    async with asking(Tracing(), 200) as (client, transport):
        await client.get("/")
        with trace.use_span(Provider().start_span("outer")):
            await client.get("/")
    first, second = transport.requests
    assert "traceparent" not in first.headers
    assert second.headers["traceparent"] == f"00-{7:032x}-{1:016x}-01"


def test_there_are_three() -> None:
    """The package gives them, and nothing else."""
    import forebay.http.client.middleware as package

    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = package.Nothing
