"""Logging of a process of ours: structlog through the standard library's logging, to standard error.

Only the program does this. The library itself adds no handlers: whoever embeds it decides where its events go.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from typing import Literal

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["HeldBack", "LogSettings", "configure_logging"]


class LogSettings(msgspec.Struct, frozen=True):
    """How much is logged and in which form. ``auto``: for people on a terminal, else logfmt."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "logfmt", "json"] = "auto"


def configure_logging(settings: LogSettings, *, worker: str = "") -> None:
    """Send all that is logged in this process, by structlog or by ``logging``, to standard error.

    :param worker: the name that every line carries, so that lines of several processes can be told apart.
    """
    form = settings.format
    if form == "auto":
        form = "console" if sys.stderr.isatty() else "logfmt"

    def name_worker(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event.setdefault("process", worker)
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        *([name_worker] if worker else []),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(form)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    logging.captureWarnings(True)
    for chatty in ("asyncio", "watchfiles"):  # their debug and info lines are about themselves
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


class HeldBack:
    """Keeps what is logged while a program starts until it is known how that went.

    A start that fails is then told in one line, not in one that is the last of many. A warning lets everything out at
    once, so that nothing is told too late.
    """

    def __init__(self) -> None:
        root = logging.getLogger()
        self._direct = root.handlers[:]
        held = (logging.handlers.MemoryHandler(1000, logging.WARNING, one, flushOnClose=False) for one in self._direct)
        self._held = [] if root.isEnabledFor(logging.DEBUG) else list(held)
        root.handlers[:] = self._held or self._direct

    def release(self) -> None:
        """Let everything out, and hold nothing back from now on."""
        for handler in self._held:
            handler.flush()
        self.discard()

    def discard(self) -> None:
        """Forget what was held back, and hold nothing back from now on."""
        logging.getLogger().handlers[:] = self._direct
        for handler in self._held:
            handler.close()
        self._held = []


def _renderers(form: str) -> list[Processor]:
    if form == "console":
        plain = structlog.dev.plain_traceback  # the other one shows the values of variables, secrets included
        return [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), timestamp_key="time", exception_formatter=plain)
        ]
    if form == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.LogfmtRenderer(
            key_order=["time", "level", "process", "logger", "event"], drop_missing=True, bool_as_flag=False
        ),
    ]


def _json(event: EventDict, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
