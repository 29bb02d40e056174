"""Connections of one server that follow different rules for slow peers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forebay.engine.connection import Connection
    from forebay.engine.handler import ConnectionOwner
    from forebay.engine.settings import Outbound

__all__ = ["Tenancy"]


class Tenancy:
    """An owner of connections (:class:`~forebay.engine.handler.ConnectionOwner`) that is another one in everything but
    how much may wait to be sent: that one still counts them, drains them and closes them.

    :param landlord: the owner whose connections they stay.
    :param outbound: what goes for them.
    """

    __slots__ = ("_landlord", "outbound", "ticker", "timing")

    def __init__(self, landlord: ConnectionOwner, outbound: Outbound) -> None:
        self._landlord = landlord
        self.outbound = outbound
        self.ticker = landlord.ticker
        self.timing = landlord.timing

    def __repr__(self) -> str:
        return f"<Tenancy of {self._landlord!r} {self.outbound}>"

    def opened(self, conn: Connection) -> bool:
        """See :class:`~forebay.engine.handler.ConnectionOwner`."""
        return self._landlord.opened(conn)

    def closed(self, conn: Connection) -> None:
        """See :class:`~forebay.engine.handler.ConnectionOwner`."""
        self._landlord.closed(conn)

    def buffered(self, size: int) -> None:
        """See :class:`~forebay.engine.handler.ConnectionOwner`."""
        self._landlord.buffered(size)

    def dropped(self) -> None:
        """See :class:`~forebay.engine.handler.ConnectionOwner`."""
        self._landlord.dropped()
