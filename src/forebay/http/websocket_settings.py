"""What WebSockets may do, and how long they wait, in one frozen group."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from forebay.engine.settings import Outbound
from forebay.wire.deflate import DeflateSettings

__all__ = ["WebSocketSettings", "check_subprotocols", "is_token"]

_COMPRESSION = DeflateSettings()
_OUTBOUND = Outbound()
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[^\s/?#@:\[\]]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class WebSocketSettings:
    """What one WebSocket may do. Times are seconds; the connection's timers are up to 200 ms late.

    :raises ValueError: a setting makes no sense; says which, and what would.
    """

    max_message: int = 1 << 20
    """Bytes of one message, all its fragments together and inflated; a longer one ends the connection with 1009."""
    compression: DeflateSettings | None = _COMPRESSION
    """How permessage-deflate (RFC 7692) is negotiated; ``None``: it is not. By default each message is compressed by
    itself, in both directions, so that a silent connection keeps no window. ``DeflateSettings(
    server_no_context_takeover=False, client_no_context_takeover=False)`` lets messages refer to those before."""
    ping_interval: float | None = 20.0
    """Silence after which the peer is sent a ping; ``None``: it never is, and a peer that is gone is not noticed."""
    ping_timeout: float = 20.0
    """For anything to come after the ping; then the connection is cut, with code 1006."""
    close_timeout: float = 5.0
    """For the peer's close frame after ours, and then for the end of the TCP connection; then it is cut."""
    queue: int = 64
    """Messages that wait for a coroutine handler, past which nothing more is read. 256 KiB of them do the same."""
    subprotocols: tuple[str, ...] = ()
    """A server's, in order of preference: the first that the client offers as well is chosen. A client's: its offer."""
    origins: tuple[str, ...] | Literal["same", "*"] = "same"
    """Pages that may connect from a browser, as ``scheme://host[:port]``; ``same``: those of the host that the request
    is for; ``*``: all. Others are refused with 403. Requests without ``Origin`` do not come from browsers, and pass."""
    outbound: Outbound = _OUTBOUND
    """How much may wait to be sent to a slow peer, and what happens then."""

    def __post_init__(self) -> None:
        for name in ("max_message", "queue"):
            if getattr(self, name) < 1:
                raise ValueError(f"WebSocketSettings {name} {getattr(self, name)}: must be at least 1")
        for name in ("ping_interval", "ping_timeout", "close_timeout"):
            seconds = getattr(self, name)
            if seconds is None and name == "ping_interval":
                continue
            if seconds is None or not isfinite(seconds) or seconds <= 0:
                raise ValueError(f"WebSocketSettings {name} {seconds}: must be a finite number of seconds above 0")
        check_subprotocols(self.subprotocols, "WebSocketSettings ")
        if isinstance(self.origins, str):
            if self.origins not in ("same", "*"):
                raise ValueError(
                    f"WebSocketSettings origins {self.origins!r}: must be 'same', '*' or a tuple of origins"
                )
            return
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin.lower()):
                raise ValueError(
                    f"WebSocketSettings origin {origin!r}: must be like https://example.com or https://a.b:8443"
                )


def is_token(text: str) -> bool:
    """Whether ``text`` is a token, as subprotocols are: RFC 9110 section 5.6.2."""
    return _TOKEN.fullmatch(text) is not None


def check_subprotocols(given: object, where: str = "") -> None:
    """Whether ``given`` can be offered, or chosen from.

    :raises ValueError: it is no sequence of tokens that differ (RFC 6455 section 4.1); says ``where``.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):  # each letter of a str would be one
        raise ValueError(f"{where}subprotocols {given!r}: must be a tuple of names")
    for subprotocol in given:
        if not isinstance(subprotocol, str) or not is_token(subprotocol):
            raise ValueError(f"{where}subprotocol {subprotocol!r}: must be a token (RFC 9110 section 5.6.2)")
    if len(set(given)) < len(given):
        raise ValueError(f"{where}subprotocols {given!r}: must be there once each")
