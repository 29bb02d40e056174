"""The content of a request while nobody has taken it."""

from __future__ import annotations

from forebay.wire.http1 import HeaderPairs

__all__ = ["BODY_BUFFER", "Content"]

BODY_BUFFER = 65536
"""Bytes of a request body that wait for a receiver, or are read to be thrown away; past it, reading pauses."""


class Content:
    """The content of a request, as far as it came and nobody has taken it."""

    __slots__ = ("chunks", "complete", "expects", "received", "trailers", "wanted")

    def __init__(self, expects: bool) -> None:
        self.expects = expects  # the client waits to be asked for it
        self.received = 0
        self.chunks: list[bytes] | None = None
        self.complete = False
        self.wanted = False  # the receiver takes it as it comes
        self.trailers: HeaderPairs = ()
