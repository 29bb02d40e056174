"""Connecting to somebody else's server."""

from __future__ import annotations

import asyncio
import os
import socket

from forebay.engine.address import Address
from forebay.engine.connection import Connection
from forebay.engine.framed import make_connection
from forebay.engine.handler import CloseReason, ConnectionHandler
from forebay.engine.loop import ticker
from forebay.errors import ConnectFailed, ConnectTimeout
from forebay.wire.framing import Framing

__all__ = ["dial"]


async def dial(
    address: Address,
    handler: ConnectionHandler,
    *,
    timeout: float = 3.0,
    framing: Framing | None = None,
    write_high: int = 64 * 1024,
    write_low: int | None = None,
    write_timeout: float | None = 30.0,
) -> Connection:
    """Connect to ``address``. ``handler.on_open`` was called when this returns.

    The connection has no idle timeout; see :meth:`Connection.expire_in`. The other parameters are those of
    :class:`~forebay.engine.server.TCPServer`.

    :param timeout: seconds for finding the host's address and connecting to it.
    :raises ConnectFailed: it was refused, is unreachable, or its name is not known. Nothing was sent.
    :raises ConnectTimeout: it did not come about in time. Nothing was sent.
    """
    owner = _Dialler(write_high, write_low, write_timeout)
    conn = make_connection(owner, handler, framing=framing)
    try:
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().create_connection(lambda: conn, address.host, address.port)
    except TimeoutError as error:
        owner.give_up(conn)
        if error.errno is not None:  # the kernel's own
            raise ConnectTimeout(f"cannot connect to {address}: {_reason(error)}", target=str(address)) from error
        raise ConnectTimeout(f"cannot connect to {address} within {timeout:g} s", target=str(address)) from None
    except OSError as error:
        raise ConnectFailed(f"cannot connect to {address}: {_reason(error)}", target=str(address)) from error
    except BaseException:
        owner.give_up(conn)
        raise
    return conn


class _Dialler:
    """Owns one connection that was dialled."""

    __slots__ = ("is_open", "ticker", "write_high", "write_low", "write_timeout")

    def __init__(self, write_high: int, write_low: int | None, write_timeout: float | None) -> None:
        self.ticker = ticker()
        self.write_high = write_high
        self.write_low = write_high // 4 if write_low is None else write_low
        self.write_timeout = write_timeout
        self.is_open = False

    def opened(self, conn: Connection) -> bool:
        self.is_open = True
        return True

    def closed(self, conn: Connection) -> None:
        self.is_open = False

    def give_up(self, conn: Connection) -> None:
        """Nobody will use the connection, though it may have come about in the very last moment."""
        if self.is_open:
            conn.abort(CloseReason.TIMEOUT)


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "its host name is not known"
    return os.strerror(error.errno).lower() if error.errno else str(error)
