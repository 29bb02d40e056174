"""The commands. Each one reads its arguments, and hands on to :mod:`forebay.config` and :mod:`forebay.runtime`."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Literal, NoReturn

import click
import msgspec

from forebay.admin.process import package_version
from forebay.cli.faultproxy import faultproxy_command
from forebay.cli.fetch import fetch_command
from forebay.cli.new import new_command
from forebay.cli.routes import module_and_name, routes_command
from forebay.cli.summary import print_summary
from forebay.config import (
    AccessLogConfig,
    SystemConfig,
    TLSConfig,
    cannot_log_to,
    load_settings,
    load_system,
)
from forebay.engine.address import BIND_SCHEMES, parse_address
from forebay.errors import ConfigError, ForebayError, StartError
from forebay.http.access_format import compile_format
from forebay.runtime.logs import LogSettings, configure_logging
from forebay.runtime.plan import FileSource, app_plan
from forebay.runtime.system import run_plan

__all__ = ["main"]

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_START = 3


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit: 0 clean, 2 usage or invalid configuration, 3 could not start, 1 anything else."""
    _open_standard_streams()
    try:
        code = program.main(arguments, prog_name="forebay", standalone_mode=False)
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "forebay"
        _complain(f"{command}: {_line(error.format_message()).rstrip('.')} (see {command} --help)")
        code = EXIT_USAGE
    except ConfigError as error:
        _complain(*str(error).splitlines())
        code = EXIT_USAGE
    except StartError as error:
        _complain(f"forebay: {_line(str(error))}")
        code = EXIT_START
    except ForebayError as error:
        _complain(f"forebay: {_line(str(error))}")
        code = EXIT_ERROR
    except OSError as error:  # standard output is a full disk, as a rule
        _complain(f"forebay: {_line(str(error))}")
        code = EXIT_ERROR
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_ERROR
    sys.exit(code or 0)


def _open_standard_streams() -> None:
    """Those that we were started without lead nowhere. Else a socket would get their number, which uvloop aborts at."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115  # until we exit


def _complain(*lines: str) -> None:
    for line in lines:
        click.echo(line, err=True)


def _line(text: str) -> str:
    return " ".join(text.split())


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, no_args_is_help=False)
def program() -> None:
    """Serve, route and watch network services.

    \b
    Example:
      forebay run shop.users:app     an App, a Service, or any ASGI application
      forebay up forebay.toml        a whole system
      forebay new demo               a project to begin with
    """


def _bind(_: click.Context, __: click.Parameter, urls: tuple[str, ...]) -> tuple[str, ...]:
    for url in urls:
        try:
            parse_address(url, schemes=BIND_SCHEMES)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return urls


def _log_path(_: click.Context, __: click.Parameter, path: str | None) -> str | None:
    if path is not None and (reason := cannot_log_to(path)):
        raise click.BadParameter(f"'{path}' {reason}; give the path of a file, or - for standard output")
    return path


def _log_format(_: click.Context, __: click.Parameter, form: str | None) -> str | None:
    if form is not None:
        try:
            compile_format(form)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return form


def _workers(_: click.Context, __: click.Parameter, text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= 64):
        raise click.BadParameter(f"'{text}' is neither a number from 1 to 64 nor 'auto'")
    return int(text)


def _root_path(_: click.Context, __: click.Parameter, path: str) -> str:
    if path and (not path.startswith("/") or path.endswith("/")):
        raise click.BadParameter(f"'{path}' must begin with a slash and not end with one, as in /api")
    return path


_pem = click.Path(exists=True, dir_okay=False, readable=True)
_admin = click.option("--admin", metavar="HOST:PORT|off", help="Probes, metrics and status page. [127.0.0.1:9900]")
_drain = click.option("--drain-timeout", metavar="DURATION", help="For what is in flight when it ends. [30s]")
_level = click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="[info]")
_format = click.option(
    "--log-format",
    type=click.Choice(["auto", "console", "logfmt", "json"]),
    help="auto: console on a terminal, else logfmt.",
)
_no_watch = click.option("--no-watch", is_flag=True, help="Reload on SIGHUP only, not when FILE changes.")


def _flags(**given: str | None) -> dict[str, str]:
    """Flags that were given, by the key of the configuration they stand for."""
    return {f"system.{name}": value for name, value in given.items() if value is not None}


@program.command("run")
@click.argument("target", metavar="MODULE:NAME", callback=module_and_name)
@click.option("--bind", metavar="URL", multiple=True, callback=_bind, help="Where to listen; may be repeated.")
@click.option("--workers", metavar="N|auto", default="1", callback=_workers, help="Processes; auto: one per core. [1]")
@click.option("--factory", is_flag=True, help="NAME is a function that returns what is to run.")
@click.option(
    "--root-path", metavar="PATH", default="", callback=_root_path, help="Under which a proxy mounts an ASGI app."
)
@click.option("--certificate", metavar="FILE", type=_pem, help="PEM file to show on https:// addresses; with --key.")
@click.option("--key", metavar="FILE", type=_pem, help="PEM file with the certificate's private key.")
@click.option("--access-log", metavar="PATH|-", callback=_log_path, help="Log requests; -: to standard output.")
@click.option(
    "--access-log-format",
    metavar="NAME|FORMAT",
    callback=_log_format,
    help="common, combined, json, or a format of your own. [combined]",
)
@_admin
@_drain
@_level
@_format
def run_command(
    target: str,
    bind: tuple[str, ...],
    workers: int | Literal["auto"],
    factory: bool,
    root_path: str,
    certificate: str | None,
    key: str | None,
    access_log: str | None,
    access_log_format: str | None,
    admin: str | None,
    drain_timeout: str | None,
    log_level: str | None,
    log_format: str | None,
) -> int:
    """Run an App, a Service, or any ASGI application.

    It finds out which of them NAME is. Applications listen on http://HOST:PORT, https://HOST:PORT, unix:///PATH or
    fd://N, by default on http://127.0.0.1:8000. A Service brings its own address, and may be given another one of its
    kind. SIGHUP starts new workers with new code and drains the old ones; SIGTERM and SIGINT drain.

    \b
    Example:
      forebay run shop.users:app --bind http://127.0.0.1:7001 --workers 2
      forebay run shop.asgi:application --access-log -
      forebay run shop.main:make_app --factory \\
        --bind 'https://*:8443' --certificate server.pem --key server.key
    """
    tls = _tls(bind, certificate, key)
    log = _access_log(access_log, access_log_format)
    flags = _flags(admin=admin, drain_timeout=drain_timeout, log_level=log_level, log_format=log_format)
    settings = load_settings(os.environ, flags)
    if "FOREBAY_SYSTEM_NAME" not in os.environ:
        settings = msgspec.structs.replace(settings, name=target.partition(":")[0].rpartition(".")[2])
    configure_logging(LogSettings(settings.log_level, settings.log_format))
    asked_for_admin = admin is not None or "FOREBAY_SYSTEM_ADMIN" in os.environ
    plan = app_plan(
        target,
        bind,
        workers,
        settings,
        admin_optional=not asked_for_admin,
        tls=tls,
        access_log=log,
        factory=factory,
        root_path=root_path,
    )
    return run_plan(plan)


def _tls(bind: tuple[str, ...], certificate: str | None, key: str | None) -> TLSConfig | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        there, missing = ("--key", "--certificate") if certificate is None else ("--certificate", "--key")
        raise click.UsageError(f"{there} needs {missing} as well")
    if not any(url.lower().startswith("https://") for url in bind):
        raise click.UsageError("--certificate is of no use without --bind https://HOST:PORT")
    return TLSConfig(certificate=certificate, key=key)


def _access_log(path: str | None, form: str | None) -> AccessLogConfig | None:
    if path is None:
        if form is not None:
            raise click.UsageError("--access-log-format needs --access-log, as in --access-log -")
        return None
    return AccessLogConfig(path=path) if form is None else AccessLogConfig(path=path, format=form)


@program.command("gateway")
@click.argument("file", metavar="FILE")
@_admin
@_drain
@_level
@_format
@_no_watch
def gateway_command(file: str, no_watch: bool, **settings: str | None) -> int:
    """Run the gateway that FILE describes.

    A change of FILE, and SIGHUP, reload it: the new file is applied whole or refused whole, and no request is lost.

    \b
    Example:
      forebay gateway gateway.toml
    """
    return _run_file(file, _flags(**settings), watching=not no_watch, gateway_only=True)


@program.command("up", short_help="Run the whole system that FILE describes.")
@click.argument("file", metavar="[FILE]", default="forebay.toml")
@_admin
@_drain
@_level
@_format
@_no_watch
def up_command(file: str, no_watch: bool, **settings: str | None) -> int:
    """Run the whole system that FILE describes: its services, the gateway, and admin. FILE is forebay.toml by default.

    A change of FILE reloads what differs; SIGHUP also starts all services anew, with new code. No request is lost.

    \b
    Example:
      forebay up forebay.toml
    """
    return _run_file(file, _flags(**settings), watching=not no_watch, gateway_only=False)


def _run_file(file: str, flags: dict[str, str], *, watching: bool, gateway_only: bool) -> int:
    def load() -> SystemConfig:
        return load_system(file, environ=os.environ, flags=flags, gateway_only=gateway_only)

    source = FileSource(file, load)
    plan = source.first()
    configure_logging(LogSettings(plan.system.log_level, plan.system.log_format))

    def started() -> None:
        with suppress(OSError, SystemExit):  # rich exits when nobody reads it, which is no reason not to run
            print_summary(plan)

    return run_plan(plan, source=source, watching=watching, on_started=started)


@program.command("check", short_help="Say what is wrong with a configuration.")
@click.argument("file", metavar="FILE")
def check_command(file: str) -> int:
    """Say what is wrong with a configuration, and where; exit with 2 when anything is.

    \b
    Example:
      forebay check forebay.toml
    """
    config = load_system(file, environ=os.environ)
    parts = [("service", len(config.services)), ("upstream", len(config.upstreams)), ("route", len(config.routes))]
    counted = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in parts if count)
    click.echo(f"{file}: good ({counted})")
    return 0


@program.command("version")
def version_command() -> int:
    """Say which version this is.

    \b
    Example:
      forebay version
    """
    parts = [f"Python {platform.python_version()}"]
    for name in ("uvloop", "httptools", "msgspec"):
        with suppress(PackageNotFoundError):  # uvloop is not everywhere
            parts.append(f"{name} {installed_version(name)}")
    click.echo(f"forebay {package_version()} ({', '.join(parts)})")
    return 0


program.add_command(faultproxy_command)
program.add_command(fetch_command)
program.add_command(routes_command)
program.add_command(new_command)
