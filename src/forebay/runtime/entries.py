"""What a worker process runs. The supervisor names these functions, and they are called in the worker."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from forebay.engine import TLS, Certificate
from forebay.http.access_log import AccessLog
from forebay.runtime.logs import LogSettings, configure_logging
from forebay.runtime.targets import call_factory, import_target, to_service
from forebay.service import Service

__all__ = ["app", "gateway"]


def app(
    *,
    name: str,
    target: str,
    bind: Sequence[str] | None,
    logs: Mapping[str, Any],
    tls: Mapping[str, str] | None = None,
    access_log: Mapping[str, str] | None = None,
    factory: bool = False,
    root_path: str = "",
) -> Service:
    """An application of the user's.

    :param name: what its server is called in logs and metrics.
    :param target: ``MODULE:NAME``.
    :param bind: where to listen; None: where it says itself.
    :param logs: a :class:`LogSettings` as builtins.
    :param tls: a :class:`~forebay.config.TLSConfig` as builtins; None: no certificate.
    :param access_log: an :class:`~forebay.config.AccessLogConfig` as builtins; None: no access log.
    :param factory: ``target`` is a function that returns what is to run.
    :param root_path: where a proxy in front has mounted an ASGI application.
    :raises StartError: it cannot be imported, or is nothing that can be run.
    """
    _configure(name, logs)
    options: dict[str, Any] = {}
    if tls is not None:
        options["tls"] = TLS(Certificate(tls["certificate"], tls["key"]))
    if access_log is not None:
        options["access_log"] = AccessLog(access_log["path"], access_log.get("format", "combined"))
    found = import_target(target)
    if factory:
        found = call_factory(target, found)
    return to_service(target, found, bind, name=name, root_path=root_path, options=options)


def gateway(*, name: str, config: Mapping[str, Any], logs: Mapping[str, Any]) -> Service:
    """The gateway of ``config``, a :class:`SystemConfig` as builtins."""
    from forebay.config import SystemConfig  # here, so that an application's worker does not load them
    from forebay.gateway import Gateway

    _configure(name, logs)
    return Gateway(msgspec.convert(config, SystemConfig), name=name)


def _configure(name: str, logs: Mapping[str, Any]) -> None:
    worker = os.environ.get("FOREBAY_WORKER", name)  # set by the supervisor: with the worker's number
    configure_logging(msgspec.convert(logs, LogSettings), worker=worker)
