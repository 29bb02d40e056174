"""A client's transport to an application in the same process: real connections, real bytes, and no socket."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from forebay.engine.connection import Connection, ConnectionHandler
from forebay.engine.settings import Outbound
from forebay.errors import ConnectFailed
from forebay.http.asgi import ASGIApplication
from forebay.http.client.endpoint import Endpoint
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.settings import Limits, Timeouts
from forebay.http.client.transport import HTTPTransport
from forebay.http.exchange import Application
from forebay.http.server import HTTPServer, ServerLimits, ServerTimeouts
from forebay.testing.memory_server import MemoryServer

__all__ = ["AppTransport"]

_OUTBOUND = Outbound(limit=None, timeout=None)  # whoever sends has timeouts of their own


class AppTransport:
    """Has an application answer a client's requests, whatever host they are for.

    ::

        async with Client("http://users", transport=AppTransport(app)) as client:
            assert (await client.get("/users/7")).status == 200

    The client, its pool and its connections are those that are used over a network, and so is the server: only the
    sockets are missing. Under ``https`` the application is told that the connection is encrypted, which it is not.
    Starting the client starts the application (its lifespan), stopping it drains and stops that. What a handler raises
    is answered with 500, as over a network.

    :param application: an ``App``, anything with ``on_request``, or an ASGI callable.
    :param timeouts: of connections: ``connect`` and ``tls`` mean nothing here. Those of reading and writing are the
        client's.
    :param limits: of answers and connections.
    :param hosts: those that the application answers for, such as ``users`` or ``users:8080``; others cannot be
        connected to. Empty: all.
    :param client: the IP address that the application sees.
    :param server_limits: of the server, as are ``server_timeouts``.
    :raises TypeError: ``application`` is none.
    :raises ValueError: ``client`` is no address.
    """

    __slots__ = ("_client", "_hosts", "_http", "_server")

    def __init__(
        self,
        application: Any,
        *,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
        hosts: tuple[str, ...] = (),
        client: str = "127.0.0.1",
        server_limits: ServerLimits | None = None,
        server_timeouts: ServerTimeouts | None = None,
    ) -> None:
        ip_address(client)
        self._client = client
        self._hosts = hosts
        self._server = MemoryServer(_application(application), limits=server_limits, timeouts=server_timeouts)
        self._http = HTTPTransport(timeouts, limits, connect=self._connect, name="app")

    def __repr__(self) -> str:
        return f"<AppTransport to {self._server.name}>"

    @property
    def server(self) -> HTTPServer:
        """The server, for its counters, and to drain it in a test."""
        return self._server

    async def start(self) -> None:
        """Start the application.

        :raises Exception: whatever its start raised.
        """
        await self._server.start()
        try:
            await self._http.start()
        except BaseException:
            await self._server.stop()
            raise

    async def send(self, request: ClientRequest) -> ClientResponse:
        """See :meth:`HTTPTransport.send`."""
        return await self._http.send(request)

    async def drain(self) -> None:
        """Let requests under way come to their end."""
        await self._http.drain()

    async def stop(self) -> None:
        """End what is still under way, and stop the application."""
        try:
            await self._http.stop()
            await self._server.drain()
        finally:
            await self._server.stop()

    def statistics(self) -> dict[str, Any]:
        """As those of a transport over a network."""
        return self._http.statistics()

    async def _connect(self, endpoint: Endpoint, handler: ConnectionHandler) -> Connection:
        if self._hosts and endpoint.authority not in self._hosts:
            known = ", ".join(self._hosts)
            raise ConnectFailed(f"the test has no host {endpoint.authority}: it has {known}", target=endpoint.name)
        port = endpoint.address.port
        return self._server.connect(handler, client=self._client, port=port, secure=endpoint.secure, outbound=_OUTBOUND)


def _application(application: Any) -> Application:
    if hasattr(application, "on_request"):
        served: Application = application
        return served
    if not callable(application):
        raise TypeError(f"AppTransport cannot serve {application!r}: it has no on_request, and cannot be called")
    return ASGIApplication(application)
