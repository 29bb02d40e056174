"""Changing the protocol of a connection (HTTP/1.1 Upgrade: RFC 9110 section 7.8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from forebay.engine.connection import Connection
from forebay.engine.dial import Mailbox
from forebay.errors import ForebayError, UpstreamClosed, UpstreamProtocolError, UpstreamStatus
from forebay.http.websocket_settings import is_token

if TYPE_CHECKING:
    from forebay.http.client.client import Client
    from forebay.http.client.response import ClientResponse
    from forebay.http.client.url import URL

__all__ = ["switched_connection", "upgrade"]

_OURS = frozenset(("connection", "upgrade"))


async def upgrade(
    client: Client,
    url: str | URL,
    protocol: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    inbound_limit: int = 64,
    **options: Any,
) -> Connection:
    """Ask for ``url`` in another protocol, and return the connection that speaks it: in coroutine style, with
    ``receive`` and ``send``. What came behind the answer is received first. The connection is the caller's, who closes
    it: it is none of the pool any more, and no timeout of the client counts for it.

    :param protocol: its name, and maybe ``/`` and a version.
    :param headers: further ones.
    :param inbound_limit: pieces that wait to be received, past which nothing more is read; at least 1.
    :param options: of ``client.request``.
    :raises ValueError: a parameter is not well-formed.
    :raises UpstreamStatus: the answer is another than 101. ``response`` is all of it, its content too.
    :raises UpstreamProtocolError: the answer is 101, but for another protocol.
    :raises UpstreamClosed: the server closed the connection behind the answer.
    """
    if not all(map(is_token, protocol.split("/", 1))):
        raise ValueError(f"upgrade protocol {protocol!r}: must be a name, or name/version (RFC 9110 section 7.8)")
    mailbox = Mailbox(inbound_limit)
    fields = list(headers.items() if isinstance(headers, Mapping) else headers)
    if bad := [name for name, _ in fields if name.lower() in _OURS]:
        raise ValueError(f"header {bad[0]!r} belongs to the upgrade, and is set by it")
    fields += [("connection", "upgrade"), ("upgrade", protocol)]
    response = await client.request(method, url, headers=fields, **options)
    try:
        await _check(response, protocol)
        conn, rest = switched_connection(response)
    finally:
        await response.close()
    conn.hand_over(mailbox, inbox=mailbox.inbox)
    mailbox.on_open(conn)
    if rest:
        mailbox.on_message(conn, rest)
    return conn


async def _check(response: ClientResponse, protocol: str) -> None:
    if response.status != 101:
        message = f"{response.request}: no upgrade to {protocol}, but {response.status} {response.reason}".rstrip()
        with suppress(ForebayError):  # its status says enough
            await response.read()
        raise UpstreamStatus(message, answered=response.status, response=response, target=response.request.url.origin)
    chosen = response.headers.get("upgrade", "")
    if chosen.lower() != protocol.lower():
        message = f"{response.request}: the answer upgrades to {chosen!r}, not to {protocol}"
        raise UpstreamProtocolError(message, target=response.request.url.origin)


def switched_connection(response: ClientResponse) -> tuple[Connection, bytes]:
    """The connection of a 101, which reads again, and what came behind the head.

    :raises UpstreamClosed: there is none any more.
    """
    try:
        conn, rest = response.take_connection()
    except RuntimeError:
        raise _closed(response) from None
    if conn.closing:
        raise _closed(response)
    conn.resume_reading()
    return conn, rest


def _closed(response: ClientResponse) -> UpstreamClosed:
    message = f"{response.request}: the server closed the connection behind its 101"
    return UpstreamClosed(message, target=response.request.url.origin)
