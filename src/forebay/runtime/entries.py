"""What a worker process runs. The supervisor names these functions, and they are called in the worker."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from forebay.runtime.logs import LogSettings, configure_logging
from forebay.runtime.targets import import_target, to_service
from forebay.service import Service

__all__ = ["app", "gateway"]


def app(*, name: str, target: str, bind: Sequence[str] | None, logs: Mapping[str, Any]) -> Service:
    """An application of the user's.

    :param name: what its server is called in logs and metrics.
    :param target: ``MODULE:NAME``.
    :param bind: where to listen; None: where it says itself.
    :param logs: a :class:`LogSettings` as builtins.
    :raises StartError: it cannot be imported, or is nothing that can be run.
    """
    _configure(name, logs)
    return to_service(target, import_target(target), bind, name=name)


def gateway(*, name: str, config: Mapping[str, Any], logs: Mapping[str, Any]) -> Service:
    """The gateway of ``config``, a :class:`SystemConfig` as builtins."""
    from forebay.config import SystemConfig  # here, so that an application's worker does not load them
    from forebay.gateway import Gateway

    _configure(name, logs)
    return Gateway(msgspec.convert(config, SystemConfig), name=name)


def _configure(name: str, logs: Mapping[str, Any]) -> None:
    worker = os.environ.get("FOREBAY_WORKER", name)  # set by the supervisor: with the worker's number
    configure_logging(msgspec.convert(logs, LogSettings), worker=worker)
