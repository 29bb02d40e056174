"""What the HTTP server lets its clients do, and for how long it waits for them, in small frozen groups.

``docs/http-server.md`` has a table of all of them, with what is seen when one is passed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite

__all__ = ["ServerLimits", "ServerTimeouts"]


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one client may ask of the server. Passing one is answered with the status in brackets, and counted.

    :raises ValueError: a limit is no whole number, or less than it can be.
    """

    head: int = 65536
    """Bytes of request line and headers together (431)."""
    line: int = 8192
    """Bytes of the request target (414)."""
    field: int = 16384
    """Bytes of one header line, name and value together (431)."""
    headers: int = 100
    """Header fields of one request (431)."""
    trailers: int = 8192
    """Bytes of the trailer fields after a chunked request's content (431); 0: it may have none."""
    chunk_extensions: int = 1024
    """Bytes of one chunk's line, its size included (400). Those of all chunks together are bounded by the content."""
    connections: int = 10_000
    """Open connections; one more is closed at once."""
    requests: int | None = None
    """Requests of one connection; the last one is answered with ``connection: close``. ``None``: any number."""
    pipelined: int = 16
    """Requests of one connection that wait for the one before them; past it, reading pauses."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name == "requests":
                continue
            least = 0 if field.name == "trailers" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                or_none = ", or None" if field.name == "requests" else ""
                raise ValueError(
                    f"ServerLimits {field.name} {value!r}: must be a whole number of at least {least}{or_none}"
                )


@dataclass(frozen=True, slots=True)
class ServerTimeouts:
    """Seconds the server waits for a client, before every wait there is.

    :raises ValueError: one is no finite number, or less than it can be.
    """

    head: float = 10.0
    """From the first byte of a request to the end of its head; also from connecting to that first byte (408)."""
    idle: float = 75.0
    """Between two requests."""
    body: float = 20.0
    """Between two pieces of a request's content (408)."""
    body_rate: int = 240
    """Bytes a second a request's content must come at on average, after the first ``body`` seconds (408); 0: any."""
    request: float | None = None
    """From the end of a request's head, or of the answer before it, to the end of its answer (504; an answer that was
    begun is cut). ``None``: as long as it takes. An application may set another one for each of its answers."""
    write: float = 30.0
    """Without the client taking a single byte of an answer that waits for it."""
    linger: float = 2.0
    """For the client to read an answer that was given before its request was read to the end (RFC 9112 section 9.6)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name == "request":
                continue
            may_be_zero = field.name in ("body_rate", "linger")
            number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
            if not number or value < 0 or (value == 0 and not may_be_zero):
                bound = "at least 0" if may_be_zero else "more than 0"
                or_none = ", or None" if field.name == "request" else ""
                raise ValueError(f"ServerTimeouts {field.name} {value!r}: must be a finite number, {bound}{or_none}")
