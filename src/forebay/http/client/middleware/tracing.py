"""OpenTelemetry spans for the requests of a client."""

from __future__ import annotations

from opentelemetry import propagate
from opentelemetry.propagators.textmap import Setter
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider, get_tracer, use_span

from forebay.chain import Handler
from forebay.engine.loop import Cancelled
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.secret_fields import SECRETS, Secrets
from forebay.http.headers import MutableHeaders

__all__ = ["Tracing"]

_METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
_RESENDS = "forebay.tracing.resends"  # in request.state: how many hops there were before


class _Fields(Setter[MutableHeaders]):
    def set(self, carrier: MutableHeaders, key: str, value: str) -> None:
        carrier[key] = value


_FIELDS = _Fields()


class Tracing:
    """A client span around each request, with what the semantic conventions for HTTP ask for, and the span's context in
    the headers (``traceparent``, or what the global propagator sets), so that the server's spans become its children.

    Attributes: ``http.request.method`` (``_OTHER`` for an unknown one, with ``http.request.method_original``),
    ``url.full`` (secrets masked), ``server.address``, ``server.port``, ``http.request.resend_count`` (of a hop after a
    redirect), ``http.response.status_code``, ``error.type`` (a status from 400 on, or the class of the exception, which
    make the span one that failed). Its name is the method.

    :param provider: of the tracer; None: the global one, which does nothing until the program sets one up.
    :param secrets: what is masked in URLs.
    """

    __slots__ = ("_secrets", "_tracer")

    def __init__(self, provider: TracerProvider | None = None, *, secrets: Secrets = SECRETS) -> None:
        self._tracer = get_tracer("forebay.http.client", tracer_provider=provider)
        self._secrets = secrets

    async def __call__(
        self, request: ClientRequest, call_next: Handler[ClientRequest, ClientResponse]
    ) -> ClientResponse:
        """Send the request within a span."""
        url, method = request.url, request.method
        known = method in _METHODS
        attributes: dict[str, str | int] = {
            "http.request.method": method if known else "_OTHER",
            "url.full": self._secrets.url(str(url)),
            "server.address": url.host,
            "server.port": url.port,
        }
        if not known:
            attributes["http.request.method_original"] = method
        resends = request.state.get(_RESENDS, 0)
        request.state[_RESENDS] = resends + 1
        if resends:
            attributes["http.request.resend_count"] = resends
        span = self._tracer.start_span(method if known else "HTTP", kind=SpanKind.CLIENT, attributes=attributes)
        with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            propagate.inject(request.headers, setter=_FIELDS)
            try:
                response = await call_next(request)
            except (Exception, Cancelled) as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR, self._secrets.url(str(error))))
                raise
            status = response.status
            span.set_attribute("http.response.status_code", status)
            if status >= 400:
                span.set_attribute("error.type", str(status))
                span.set_status(Status(StatusCode.ERROR))
            return response
