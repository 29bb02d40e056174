"""What an HTTP server serves, and what an application gives to an exchange to hear of its client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from forebay.engine.connection import CloseReason

if TYPE_CHECKING:
    from forebay.http.exchange import Exchange

__all__ = ["Application", "Receiver"]


class Receiver:
    """Consumes a request's body and hears about its client. Every method may be left as it is.

    All are called on the loop, and none after the exchange is finished.
    """

    __slots__ = ()

    def on_body(self, data: bytes) -> None:
        """The next piece of the content."""

    def on_body_end(self) -> None:
        """The content is complete; see :attr:`Exchange.trailers`."""

    def on_writable(self) -> None:
        """The client reads again, after :meth:`Exchange.write` had returned False."""

    def on_deadline(self) -> None:
        """The time given to :meth:`Exchange.expire_in` is over. It may still be answered now, but not later: what is
        not answered then is 504, or cut where an answer was begun, and ``on_disconnect`` follows."""

    def on_drain(self) -> None:
        """The server drains: an answer under way that has no end of its own should come to one."""

    def on_disconnect(self, reason: CloseReason) -> None:
        """Nothing can be answered any more: the client is gone, or broke the body's framing, or the server stops, or
        the deadline has passed (``CloseReason.TIMEOUT``)."""


class Application(Protocol):
    """What an HTTP server serves."""

    name: str
    body_limit: int | None
    """Bytes of a request's content that are accepted (413 beyond it); None: any number."""

    def on_request(self, exchange: Exchange) -> None:
        """Answer ``exchange``, now or later. Must not block; an exception is logged and answered with 500."""
