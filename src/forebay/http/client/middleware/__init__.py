"""The middleware of clients that ships to watch requests: one file each, each a class whose object is the middleware.

::

    metrics = Metrics("orders")
    async with Client("http://orders:8000", middleware=[Tracing(), metrics, Logging()]) as client:
        ...

They see each hop of a redirected request, and nothing of the tries that policies make of one: what they time is all of
them, up to the head of the answer.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forebay.http.client.middleware.logging import Logging
    from forebay.http.client.middleware.metrics import Metrics
    from forebay.http.client.middleware.tracing import Tracing

_HOMES = {"Logging": "logging", "Metrics": "metrics", "Tracing": "tracing"}

__all__ = ["Logging", "Metrics", "Tracing"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'forebay.http.client.middleware' has no attribute {name!r}")
    found = getattr(import_module(f"forebay.http.client.middleware.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
