"""Whose fault an error of a request is."""

from __future__ import annotations

from forebay.errors import (
    CircuitOpen,
    ConnectFailed,
    ConnectTimeout,
    DeadlineExceeded,
    NoTarget,
    ProxyFailed,
    ReadTimeout,
    TLSFailed,
    TLSTimeout,
    UpstreamClosed,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    WriteTimeout,
)

__all__ = ["TOO_LATE", "failure_reason"]

_REASONS: dict[type[UpstreamError], str] = {
    ConnectFailed: "connect-failed",
    ConnectTimeout: "connect-timeout",
    TLSFailed: "tls-failed",
    TLSTimeout: "tls-timeout",
    UpstreamClosed: "closed",
    UpstreamTimeout: "timeout",
    ReadTimeout: "read-timeout",
    WriteTimeout: "write-timeout",
    UpstreamProtocolError: "protocol-error",
}


TOO_LATE = "timeout"
"""The time that the try was given is over."""


def failure_reason(error: BaseException) -> str | None:
    """In a short word that never changes, what the target did wrong. None where the error does not speak against it:
    the caller left or its time was over, there was no free connection, a proxy refused, or it is the program's own."""
    if isinstance(error, DeadlineExceeded):
        return None if error.inherited else TOO_LATE
    if not isinstance(error, UpstreamError) or isinstance(error, NoTarget | CircuitOpen | ProxyFailed):
        return None
    return _REASONS.get(type(error), "failed")
