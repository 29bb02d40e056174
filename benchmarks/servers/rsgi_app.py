"""The plain response over granian's own interface, RSGI."""

from __future__ import annotations

from typing import Any

HEADERS = [("content-type", "text/plain; charset=utf-8")]


async def app(scope: Any, protocol: Any) -> None:
    """A response of 13 bytes."""
    protocol.response_str(200, HEADERS, "Hello, world!")
