"""Every error Forebay raises, in one tree.

::

    ForebayError
    ├── ConfigError               a file or an option is wrong              exit 2
    ├── StartError                something could not be started            exit 3
    │   └── MissingExtra          an optional package is not installed
    ├── CrashLoop                 a worker keeps dying; we gave up          exit 1
    ├── ConnectionClosed          the peer is gone, or we closed
    ├── FramingError              bytes that are not a message
    │   ├── FrameTooLong          a message past its codec's maximum
    │   └── ProxyHeaderError      no PROXY header where one has to be
    ├── ProtocolError             hostile or broken HTTP; carries a status
    ├── WebSocketError            hostile or broken WebSocket frames; carries a close code
    ├── HTTPError                 an answer other than success
    │   └── ValidationError       input that does not fit; lists every field
    ├── DeadlineExceeded          the time given to a piece of work is over
    ├── Overloaded                a limit refused the work before it began
    │   └── PoolExhausted         everything of a pool is held; names the holders
    ├── ChannelClosed             nothing more goes through a channel between tasks
    ├── ExecutorStopped           the executor of a job drains or was stopped
    ├── NotTransferable           what a job takes or gives cannot cross to another process
    ├── ProcessDied               the process that ran a job ended before the job did
    └── UpstreamError             whoever we called failed
        ├── NoTarget              nobody is left to call
        ├── CircuitOpen           it failed too often to be called just now
        ├── ConnectFailed         no connection came about
        │   ├── ConnectTimeout
        │   │   └── TLSTimeout
        │   ├── ProxyFailed       the proxy did not let us through
        │   └── TLSFailed         connected, but not securely
        ├── UpstreamClosed        the connection ended before the answer did
        ├── UpstreamTimeout       no answer in time
        │   ├── ReadTimeout       nothing came for too long
        │   └── WriteTimeout      nothing of what we send was taken for too long
        ├── UpstreamProtocolError an answer that is not HTTP
        │   ├── ContentTooLarge   more content than we take
        │   ├── ContentUndecodable  content that is not in the coding it says
        │   └── TooManyRedirects
        └── UpstreamStatus        an answer, but not the one that was hoped for

Two properties decide what happens next, and nothing ever reads a message text to find out:

* ``source``: who caused it. ``client`` is answered with a 4xx, ``upstream`` with a 502 to 504, ``internal`` with a 500.
* ``retry``: may the same work be tried again? ``safe``: nothing was processed. ``maybe``: it may have been, so only
  idempotent work may go again (RFC 9110 section 9.2.2). ``never``: the same input gives the same error.

Both have a default on the class, and can be given for one instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = [
    "ChannelClosed",
    "CircuitOpen",
    "ConfigError",
    "ConnectFailed",
    "ConnectTimeout",
    "ConnectionClosed",
    "ContentTooLarge",
    "ContentUndecodable",
    "CrashLoop",
    "DeadlineExceeded",
    "ExecutorStopped",
    "FieldError",
    "ForebayError",
    "FrameTooLong",
    "FramingError",
    "HTTPError",
    "MissingExtra",
    "NoTarget",
    "NotTransferable",
    "Overloaded",
    "PoolExhausted",
    "Problem",
    "ProcessDied",
    "ProtocolError",
    "ProxyFailed",
    "ProxyHeaderError",
    "ReadTimeout",
    "RetryClass",
    "Source",
    "StartError",
    "TLSFailed",
    "TLSTimeout",
    "TooManyRedirects",
    "UpstreamClosed",
    "UpstreamError",
    "UpstreamProtocolError",
    "UpstreamStatus",
    "UpstreamTimeout",
    "ValidationError",
    "WebSocketError",
    "WriteTimeout",
]


class Source(StrEnum):
    """Who caused an error."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    INTERNAL = "internal"


class RetryClass(StrEnum):
    """Whether the same work may be tried again."""

    SAFE = "safe"
    MAYBE = "maybe"
    NEVER = "never"


class ForebayError(Exception):
    """The root. ``str(error)`` is one readable line."""

    source: Source = Source.INTERNAL
    retry: RetryClass = RetryClass.NEVER

    def __init__(self, message: str, *, source: Source | None = None, retry: RetryClass | None = None) -> None:
        super().__init__(message)
        if source is not None:
            self.source = source
        if retry is not None:
            self.retry = retry

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args, self.__dict__)  # not by __init__, whose arguments differ


def _again(kind: type[ForebayError], args: tuple[Any, ...], attributes: dict[str, Any]) -> ForebayError:
    """An error as it was before it went to another process."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a configuration: where, what, and what would be right."""

    message: str
    key: str = ""  # dotted, with indices: upstreams.users.targets[1].weight
    line: int = 0  # 1-based; 0 when it cannot be told
    remedy: str = ""

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        key = f"{self.key}: " if self.key else ""
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{where}{key}{self.message}{remedy}"


class ConfigError(ForebayError):
    """A configuration was refused whole. ``problems`` lists everything that is wrong with it."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{file}: {problem}" for problem in self.problems))


class StartError(ForebayError):
    """Something could not be started: an address in use, a module that does not import, a file that is missing."""


class MissingExtra(StartError):
    """An optional package is needed. The message names the extra that brings it."""

    def __init__(self, extra: str, needed_for: str) -> None:
        self.extra = extra
        super().__init__(f"{needed_for} needs an extra: pip install 'forebay[{extra}]'")


class CrashLoop(ForebayError):
    """A worker died too often in too short a time, and is not started again."""


class ConnectionClosed(ForebayError):
    """The connection is closed, so nothing more can be sent or received on it."""

    source = Source.CLIENT
    retry = RetryClass.MAYBE


class FramingError(ForebayError):
    """The bytes received are not a message of the connection's framing."""

    source = Source.CLIENT


class FrameTooLong(FramingError):
    """A message is longer than its framing's maximum."""


class ProxyHeaderError(FramingError):
    """A connection did not begin with a PROXY header, where one has to come first."""


class ProtocolError(ForebayError):
    """The peer broke the protocol.

    :param status: what to answer with, where there still is somebody to answer.
    :param reason: the kind of breach in a word or two, under which it is counted.
    """

    source = Source.CLIENT

    def __init__(self, message: str, *, status: int = 400, reason: str = "malformed") -> None:
        self.status = status
        self.reason = reason
        super().__init__(message)


class WebSocketError(ForebayError):
    """The peer sent what is no WebSocket message, or one that is not acceptable. ``code`` is the close code to send."""

    source = Source.CLIENT

    def __init__(self, message: str, *, code: int = 1002) -> None:
        self.code = code
        super().__init__(message)


class HTTPError(ForebayError):
    """Raised by a handler to answer with ``status``; leaves as ``application/problem+json`` (RFC 9457).

    :param status: 400 to 599.
    :param detail: what is wrong with this request; shown to the client.
    :param headers: sent with the answer.
    """

    source = Source.CLIENT

    def __init__(
        self, status: int, detail: str = "", *, title: str = "", headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"HTTPError status {status}: must be 400 to 599")
        self.status = status
        self.detail = detail
        self.title = title
        self.headers = tuple(headers)
        super().__init__(
            f"{status} {detail}".rstrip(),
            source=Source.INTERNAL if status >= 500 else Source.CLIENT,
            retry=RetryClass.SAFE if status in (429, 503) else RetryClass.NEVER,
        )


@dataclass(frozen=True, slots=True)
class FieldError:
    """One input that does not fit its type: where it stood, and why not."""

    place: str  # path, query, header, body
    name: str
    message: str


class ValidationError(HTTPError):
    """The request's input does not fit the handler's signature. ``errors`` lists every field that failed."""

    def __init__(self, errors: Sequence[FieldError], *, status: int = 422) -> None:
        self.errors = tuple(errors)
        super().__init__(status, "; ".join(f"{e.place} {e.name}: {e.message}" for e in self.errors))


class DeadlineExceeded(ForebayError):
    """The time that was given to a piece of work is over.

    :param inherited: it was the time of the caller, and not what was given to this piece of work alone: nobody here is
        to blame, and there is no time left to try again.
    """

    retry = RetryClass.MAYBE

    def __init__(self, message: str, *, retry: RetryClass | None = None, inherited: bool = False) -> None:
        self.inherited = inherited
        super().__init__(message, retry=RetryClass.NEVER if inherited and retry is None else retry)


class Overloaded(ForebayError):
    """A limit refused the work before it began.

    :param limit: its name.
    :param retry_after: seconds until it is worth another try; None: not known.
    :param reason: why, in a short word that never changes, where there are several; else empty.
    """

    retry = RetryClass.SAFE

    def __init__(self, limit: str, message: str, *, retry_after: float | None = None, reason: str = "") -> None:
        self.limit = limit
        self.retry_after = retry_after
        self.reason = reason
        super().__init__(message)


class PoolExhausted(Overloaded):
    """Nothing of a pool came free in time. ``holders`` says who has it all: one line each, with the task, how long it
    has held it, and ``FILE:LINE`` of where it took it."""

    def __init__(
        self, limit: str, message: str, *, holders: Sequence[str] = (), retry_after: float | None = None
    ) -> None:
        self.holders = tuple(holders)
        super().__init__(limit, message, retry_after=retry_after)


class ChannelClosed(ForebayError):
    """The channel is closed: nothing was sent, or nothing is left to receive."""

    retry = RetryClass.SAFE


class ExecutorStopped(ForebayError):
    """The executor takes no new jobs (``retry`` is ``safe``), or was stopped while it ran this one (``maybe``)."""

    retry = RetryClass.SAFE


class NotTransferable(ForebayError):
    """The arguments, the result or the error of a job cannot be sent to another process or back from it."""


class ProcessDied(ForebayError):
    """The process that ran a job ended before the job did, so it may have been done in part. The message says how."""

    retry = RetryClass.MAYBE


class UpstreamError(ForebayError):
    """Whoever we called failed. ``target`` is its address, where one was chosen."""

    source = Source.UPSTREAM
    status = 502

    def __init__(self, message: str, *, target: str = "", retry: RetryClass | None = None) -> None:
        self.target = target
        super().__init__(message, retry=retry)


class NoTarget(UpstreamError):
    """No target may be called: all are down, ejected, or were tried already."""

    retry = RetryClass.SAFE
    status = 503


class CircuitOpen(UpstreamError):
    """The breaker of a target is open: it failed too often, and is left alone for a while. Nothing was sent.

    :param retry_after: seconds until it is tried again; None: not known.
    :param reason: ``open``, ``half-open`` or ``forced-open``.
    """

    retry = RetryClass.SAFE
    status = 503

    def __init__(
        self, message: str, *, target: str = "", retry_after: float | None = None, reason: str = "open"
    ) -> None:
        self.retry_after = retry_after
        self.reason = reason
        super().__init__(message, target=target)


class ConnectFailed(UpstreamError):
    """No connection came about: refused, unreachable, or no such name. Nothing was sent.

    :ivar steps: what was tried, and when, where that was watched: see :func:`forebay.engine.dial`.
    """

    retry = RetryClass.SAFE
    steps: Sequence[tuple[str, float, dict[str, Any]]] = ()


class ConnectTimeout(ConnectFailed):
    """The connection did not come about in time. Nothing was sent."""

    status = 504


class TLSTimeout(ConnectTimeout):
    """Connected, but the TLS handshake did not come about in time. Nothing was sent."""


class ProxyFailed(ConnectFailed):
    """The proxy on the way was reached, and did not connect us to the target. Nothing was sent to that.

    :param answered: the status it answered with; 0: none.
    """

    def __init__(self, message: str, *, target: str = "", answered: int = 0) -> None:
        self.answered = answered
        super().__init__(message, target=target)


class TLSFailed(ConnectFailed):
    """The TLS handshake failed: a certificate was refused, or there is no protocol in common. Nothing was sent."""

    retry = RetryClass.NEVER


class UpstreamClosed(UpstreamError):
    """The connection ended before the answer did. The request may have been processed."""

    retry = RetryClass.MAYBE


class UpstreamTimeout(UpstreamError):
    """The answer did not come in time. The request may have been processed."""

    retry = RetryClass.MAYBE
    status = 504


class ReadTimeout(UpstreamTimeout):
    """No byte of the answer came for too long. The request may have been processed."""


class WriteTimeout(UpstreamTimeout):
    """The other side took nothing of the request for too long. It may have processed what it had."""


class UpstreamProtocolError(UpstreamError):
    """What came back is not a well-formed answer."""


class ContentTooLarge(UpstreamProtocolError):
    """The answer's content is longer than what is taken of it."""


class ContentUndecodable(UpstreamProtocolError):
    """The answer's content is not in the coding or the charset that it says."""


class TooManyRedirects(UpstreamProtocolError):
    """The answer redirects to yet another place, once too often."""


class UpstreamStatus(UpstreamError):
    """The answer is an error: raised where the program asks for that.

    :param answered: its status, 400 to 599.
    :param response: all of it; its content may be read.
    """

    def __init__(self, message: str, *, answered: int, response: Any = None, target: str = "") -> None:
        self.answered = answered
        self.response = response
        super().__init__(
            message,
            target=target,
            retry=RetryClass.SAFE
            if answered in (425, 429)
            else RetryClass.MAYBE
            if answered in (500, 502, 503, 504)
            else RetryClass.NEVER,
        )
