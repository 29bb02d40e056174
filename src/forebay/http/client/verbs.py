"""The ways to ask: what a client has beside ``request``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from forebay.http.client.options import Requesting, RequestOptions
from forebay.http.client.url import URL

if TYPE_CHECKING:
    from forebay.engine import Connection
    from forebay.http.client.download import Downloaded
    from forebay.http.client.events import EventSource
    from forebay.http.client.websockets import ReconnectingWebSocket
    from forebay.http.websocket import WebSocket

__all__ = ["Verbs"]


class Verbs:
    """One method for each method of HTTP, and one for each thing that takes more than one request."""

    def request(self, method: str, url: str | URL, **options: Unpack[RequestOptions]) -> Requesting:
        """Make a request."""
        raise NotImplementedError  # the client has it; this is only a base

    def get(self, url: str | URL, **options: Unpack[RequestOptions]) -> Requesting:
        """See :meth:`request`, as for all of these."""
        return self.request("GET", url, **options)

    def head(self, url: str | URL, **options: Unpack[RequestOptions]) -> Requesting:
        """The same without content: that of the response is left out by the server."""
        return self.request("HEAD", url, **options)

    def options(self, url: str | URL, **options: Unpack[RequestOptions]) -> Requesting:
        """``*`` for a URL asks the server as a whole."""
        return self.request("OPTIONS", url, **options)

    def post(self, url: str | URL, **options: Unpack[RequestOptions]) -> Requesting:
        """With ``json=``, ``form=``, ``files=``, ``msgpack=`` or ``content=``."""
        return self.request("POST", url, **options)

    def put(self, url: str | URL, **options: Unpack[RequestOptions]) -> Requesting:
        """With content as for :meth:`post`."""
        return self.request("PUT", url, **options)

    def patch(self, url: str | URL, **options: Unpack[RequestOptions]) -> Requesting:
        """With content as for :meth:`post`."""
        return self.request("PATCH", url, **options)

    def delete(self, url: str | URL, **options: Unpack[RequestOptions]) -> Requesting:
        """It may have content, too."""
        return self.request("DELETE", url, **options)

    # More than a request

    async def download(self, url: str | URL, path: str | Path, **options: Any) -> Downloaded:
        """Get ``url`` into a file, and go on where that was broken off: see
        :func:`forebay.http.client.download.download`."""
        from forebay.http.client.download import download

        return await download(self._client, url, path, **options)

    def events(self, url: str | URL, **options: Any) -> EventSource:
        """Server-sent events, over as many connections as it takes: ``async with client.events(url) as events``; see
        :class:`forebay.http.client.events.EventSource`."""
        from forebay.http.client.events import EventSource

        return EventSource(self._client, url, **options)

    def websocket(self, url: str | URL, **options: Any) -> ReconnectingWebSocket:
        """A WebSocket that is opened again when it breaks: ``async with client.websocket(url) as ws``; see
        :class:`forebay.http.client.websockets.ReconnectingWebSocket`."""
        from forebay.http.client.websockets import ReconnectingWebSocket

        return ReconnectingWebSocket.over(self._client, url, **options)

    async def open_websocket(self, url: str | URL, **options: Any) -> WebSocket:
        """One WebSocket, which is the caller's to close: see :func:`forebay.http.client.websockets.open_websocket`."""
        from forebay.http.client.websockets import open_websocket

        return await open_websocket(self._client, url, **options)

    async def upgrade(self, url: str | URL, protocol: str, **options: Any) -> Connection:
        """A connection that speaks another protocol: see :func:`forebay.http.client.upgrade.upgrade`."""
        from forebay.http.client.upgrade import upgrade

        return await upgrade(self._client, url, protocol, **options)

    @property
    def _client(self) -> Any:
        """Itself, as the client that it is a part of."""
        return self
