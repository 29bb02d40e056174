"""Counts and times of the requests of a client."""

from __future__ import annotations

from typing import Any

from forebay.chain import Handler
from forebay.engine.loop import Cancelled, now
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.observe.metrics import Family, Histogram, Sample

__all__ = ["Metrics"]

_METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
_OTHER = "other"
_CLASSES = ("", "1xx", "2xx", "3xx", "4xx", "5xx")
_MOST_ERRORS = 32  # classes of errors that are counted by their names


class Metrics:
    """Counts requests, by method, outcome and origin, and times them to the head of their answers, by origin.

    The metrics, beside ``client``, its name (``collect()`` gives them, as to :mod:`forebay.admin`, and
    ``statistics()`` the same as a dict):

    ======================================  =========  =============================================================
    ``forebay_client_requests_total``       counter    ``method``, ``outcome``, ``origin``
    ``forebay_client_request_seconds``      histogram  ``origin``
    ``forebay_client_in_flight``            gauge
    ======================================  =========  =============================================================

    ``outcome`` is ``2xx`` and so on, the class of the error that was raised, or ``cancelled``. A method that is not
    known, an error past the first 32 classes, and an origin past the first ``max_origins``, is ``other``: whatever a
    program asks for, these are a few numbers.

    :param name: of the client; several with one name are added up.
    :param max_origins: at least 1.
    :raises ValueError: ``max_origins`` is out of range.
    """

    __slots__ = ("_counts", "_errors", "_max_origins", "_seconds", "in_flight", "name")

    def __init__(self, name: str = "http-client", *, max_origins: int = 64) -> None:
        if max_origins < 1:
            raise ValueError(f"Metrics max_origins {max_origins}: must be at least 1")
        self.name = name
        self.in_flight = 0
        self._max_origins = max_origins
        self._counts: dict[tuple[str, str, str], int] = {}
        self._seconds: dict[str, Histogram] = {}
        self._errors: set[str] = set()

    async def __call__(
        self, request: ClientRequest, call_next: Handler[ClientRequest, ClientResponse]
    ) -> ClientResponse:
        """Send the request, and count what came of it."""
        began = now()
        self.in_flight += 1
        outcome = "cancelled"
        try:
            response = await call_next(request)
            outcome = _CLASSES[response.status // 100]
        except Cancelled:
            raise
        except Exception as error:
            outcome = self._error(type(error).__name__)
            raise
        finally:
            self.in_flight -= 1
            self._count(request, outcome, now() - began)
        return response

    def _count(self, request: ClientRequest, outcome: str, seconds: float) -> None:
        origin = request.url.origin
        histogram = self._seconds.get(origin)
        if histogram is None:
            if len(self._seconds) >= self._max_origins:
                origin = _OTHER
            histogram = self._seconds.setdefault(origin, Histogram())
        histogram.observe(seconds)
        key = (request.method if request.method in _METHODS else _OTHER, outcome, origin)
        self._counts[key] = self._counts.get(key, 0) + 1

    def _error(self, kind: str) -> str:
        if kind not in self._errors:
            if len(self._errors) >= _MOST_ERRORS:
                return _OTHER
            self._errors.add(kind)
        return kind

    def statistics(self) -> dict[str, Any]:
        """The counts as they are now. ``outcomes`` are those of all requests together."""
        outcomes: dict[str, int] = {}
        for (_, outcome, _), count in self._counts.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
        return {
            "in_flight": self.in_flight,
            "requests": sum(outcomes.values()),
            "outcomes": outcomes,
            "origins": {
                origin: {"requests": sum(one.counts), "seconds": one.sum} for origin, one in self._seconds.items()
            },
        }

    def collect(self) -> list[Family]:
        """As metrics."""
        client = ("client", self.name)
        return [
            Family(
                "forebay_client_requests",
                "counter",
                "Requests made, by what came of them: a class of statuses, or of errors.",
                [
                    Sample("_total", (client, ("method", method), ("outcome", outcome), ("origin", origin)), count)
                    for (method, outcome, origin), count in self._counts.items()
                ],
            ),
            Family(
                "forebay_client_request_seconds",
                "histogram",
                "From the beginning of a request to the head of its answer, all tries included, or to its failure.",
                [
                    sample
                    for origin, one in self._seconds.items()
                    for sample in one.samples((client, ("origin", origin)))
                ],
            ),
            Family(
                "forebay_client_in_flight",
                "gauge",
                "Requests that have no answer yet.",
                [Sample("", (client,), self.in_flight)],
            ),
        ]
