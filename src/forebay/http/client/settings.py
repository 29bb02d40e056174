"""How long a client waits for what, and how much it takes of whom."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf

__all__ = ["Limits", "Timeouts"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that each part of a request may take, above 0; ``None``: as long as it takes. Past them, the error (of
    :mod:`forebay.errors`) is:

    :param pool: for a connection to be free or dialled: :class:`PoolExhausted`.
    :param connect: for the host's addresses, and a connection to one of them: :class:`ConnectTimeout`.
    :param tls: for the TLS handshake: :class:`TLSTimeout`.
    :param write: for the server to take anything at all of what waits to be sent: :class:`WriteTimeout`.
    :param read: between bytes of the answer, the first included: :class:`ReadTimeout`. The time in which nobody takes
        what has come does not count.
    :param total: for all of it, redirects, retries and content included: :class:`DeadlineExceeded`. A
        deadline around the call (:class:`forebay.policy.deadline`) counts as well.
    :raises ValueError: one is out of range.

    The defaults let no server hold a caller for ever, and leave a slow but working one its time. ``total`` is for the
    program to say, which alone knows how long somebody waits for it.
    """

    connect: float | None = 5.0
    tls: float | None = 10.0
    pool: float | None = 10.0
    write: float | None = 30.0
    read: float | None = 30.0
    total: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            seconds = getattr(self, field.name)
            if seconds is not None and not 0 < seconds < inf:
                raise ValueError(f"Timeouts {field.name} {seconds}: must be above 0 seconds and finite, or None")


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections a client keeps, and how much of a server's answer it takes. Hostile servers are assumed.

    :param connections: open at once, to all targets together, at least 1.
    :param per_target: open at once to one scheme, host and port, at least 1.
    :param idle: kept for the next request, at least 0.
    :param idle_timeout: seconds above 0 after which an unused one is closed; None: never. Less than what servers and
        balancers keep, so that we close it, and not they, just when it is used.
    :param lifetime: seconds above 0 after which one is used no more, so that new addresses of a name are seen; None:
        for ever.
    :param waiting: requests that may wait for a connection, at least 0; more are refused at once.
    :param head: bytes of a status line and its header fields, or of trailers, at least 1,024.
    :param fields: header fields of an answer, at least 1.
    :param interim: answers before the answer (1xx), at least 0.
    :param body: bytes of content, decompressed, that ``read``, ``text``, ``json`` and ``msgpack`` take, at least 1.
    :param decompressed: bytes that compressed content may become when it is streamed or saved, at least 1.
    :param buffer: bytes of content that are received before somebody asks for it, at least 1,024. What fits is there
        when the answer is, and its connection is free again.
    :param unread: seconds above 0 in which nobody asks for more of an answer's content, after which that is told in the
        log, with the line that made the request, and its connection is closed; None: never.
    :raises ValueError: one is out of range.
    """

    connections: int = 100
    per_target: int = 50
    idle: int = 100
    idle_timeout: float | None = 60.0
    lifetime: float | None = None
    waiting: int = 1000
    head: int = 64 * 1024
    fields: int = 200
    interim: int = 16
    body: int = 64 * 1024 * 1024
    decompressed: int = 4 * 1024 * 1024 * 1024
    buffer: int = 256 * 1024
    unread: float | None = 60.0

    def __post_init__(self) -> None:
        least = {"idle": 0, "waiting": 0, "interim": 0, "head": 1024, "buffer": 1024}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("idle_timeout", "lifetime", "unread"):
                if value is not None and not 0 < value < inf:
                    raise ValueError(f"Limits {field.name} {value}: must be above 0 seconds and finite, or None")
            elif not value >= least.get(field.name, 1):
                raise ValueError(f"Limits {field.name} {value}: must be at least {least.get(field.name, 1)}")
