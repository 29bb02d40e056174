"""``forebay routes``: the routes of an application, and which one takes a request."""

from __future__ import annotations

import inspect
import re
import sys
from contextlib import redirect_stdout
from typing import Any

import click
import msgspec
from rich.console import Console

from forebay.cli.route_listing import listed, shown_as_json, shown_as_table, shown_as_text
from forebay.cli.route_verdicts import Asked, asked_as_json, asked_as_text, levels_of
from forebay.errors import ProtocolError
from forebay.http import App, HTTPServer
from forebay.runtime.targets import call_factory, import_target
from forebay.service import Service
from forebay.wire.http1 import RequestRules

__all__ = ["module_and_name", "routes_command"]

_URL = re.compile(r"(?:https?|wss?)://(?P<authority>[^/?#]+)(?P<path>/[^?#]*)?(?:[?#].*)?", re.IGNORECASE)
_METHOD = re.compile(r"[A-Z][A-Z_-]*")
_HOST = re.compile(r"[!-~]+")
_UNFIT = re.compile(r"[^!-~]")
_NOBODY_TAKES = 1


def module_and_name(_: click.Context, __: click.Parameter, target: str) -> str:
    """Check an argument ``MODULE:NAME``."""
    module, _colon, name = target.partition(":")
    if not module or not name:
        raise click.BadParameter(f"'{target}' is not MODULE:NAME, as in shop.users:app")
    return target


@click.command("routes", short_help="Show the routes of an App, and which one takes a request.")
@click.argument("target", metavar="MODULE:NAME", callback=module_and_name)
@click.argument("url", metavar="[URL]", required=False)
@click.option("--method", metavar="METHOD", help="Of the request for URL. [GET]")
@click.option("--host", metavar="HOST", help="That the request for URL names; else the one of URL, if it has one.")
@click.option("--all", "every", is_flag=True, help="Also say why the routes that do not come near do not take it.")
@click.option("--middleware", is_flag=True, help="Also show the middleware of each route, the outermost first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--openapi", is_flag=True, help="Print the OpenAPI document instead, as JSON.")
@click.option("--factory", is_flag=True, help="NAME is a function that returns the App.")
def routes_command(
    target: str,
    url: str | None,
    method: str | None,
    host: str | None,
    every: bool,
    middleware: bool,
    as_json: bool,
    openapi: bool,
    factory: bool,
) -> int:
    """Show the routes of an App: its own, and those of what is mounted in it.

    With a URL, or a path: which route takes a request for it, with which parameters, and why the others do not.
    Exits with 0 if there is one, with 1 if there is none. The module is imported, but nothing is started.

    \b
    Example:
      forebay routes shop.users:app --middleware
      forebay routes shop.users:app /users/42 --method DELETE
    """
    if url is None and (method is not None or host is not None or every):
        option = "--method" if method is not None else "--host" if host is not None else "--all"
        raise click.UsageError(f"{option} is about a request: give its URL as well")
    if openapi and (url is not None or middleware):
        other = "URL" if url is not None else "--middleware"
        raise click.UsageError(f"--openapi is about the whole application: leave out {other}")
    asked = _asked(url, method, host) if url is not None else None
    app = _app(target, factory)
    if openapi:
        return _print_openapi(app)
    if asked is not None:
        return _answer(app, asked, every=every, middleware=middleware, as_json=as_json)
    found = list(listed(app))
    if as_json:
        _print_json({"app": app.name, "routes": shown_as_json(found)})
    elif sys.stdout.isatty() and not middleware:  # for which a column of a table is too narrow
        Console(highlight=False).print(shown_as_table(app, found))
    else:
        click.echo(shown_as_text(app, found, middleware=middleware))
    return 0


def _answer(app: App[Any], asked: Asked, *, every: bool, middleware: bool, as_json: bool) -> int:
    try:
        levels = levels_of(app, asked)
    except ProtocolError as error:
        raise click.UsageError(f"no server would take {asked.path.decode(errors='replace')}: {error}") from None
    if as_json:
        _print_json(asked_as_json(levels, asked))
    else:
        click.echo(asked_as_text(levels, asked, every=every, middleware=middleware))
    return _NOBODY_TAKES if levels[-1].explanation.taken is None else 0


def _print_openapi(app: App[Any]) -> int:
    if app.openapi is None:
        raise click.UsageError(f"App {app.name} has no OpenAPI settings: App(openapi=OpenAPI(title=..., version=...))")
    with redirect_stdout(sys.stderr):
        document = app.openapi_document()
    _print_json(document)
    return 0


def _print_json(what: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(what, enc_hook=str), indent=2).decode())


# -- what is asked


def _asked(url: str, method: str | None, host: str | None) -> Asked:
    """:raises click.UsageError: no request could be for that."""
    whole = _URL.fullmatch(url)
    if whole is not None:
        path, named = whole["path"] or "/", whole["authority"].rpartition("@")[2]
    elif url.startswith("/"):
        path, named = re.split("[?#]", url, maxsplit=1)[0], ""
    else:
        raise click.UsageError(
            f"'{url}' is neither a path, as in /users/42, nor a URL, as in http://a.example/users/42"
        )
    if _UNFIT.search(path):
        raise click.UsageError(f"{path!r} has a character that is percent-encoded in requests, as in %20 for a blank")
    asked = (method or "GET").upper()
    if not _METHOD.fullmatch(asked):
        raise click.UsageError(f"--method: '{method}' is none, as GET is one")
    host = named if host is None else host
    if host and not _HOST.fullmatch(host):
        raise click.UsageError(
            f"--host: '{host}' is none, as in api.example.com; names beyond ASCII in their xn-- form"
        )
    try:
        RequestRules().read(f"{asked} {path} HTTP/1.1".encode(), f"host: {host or 'a.example'}\r\n\r\n".encode())
    except ProtocolError as error:
        raise click.UsageError(f"no server would take {path}{f' of {host}' if host else ''}: {error}") from None
    return Asked(asked, path.encode(), host.encode())


# -- where it is asked


def _app(target: str, factory: bool) -> App[Any]:
    """The application that ``target`` names. What its module prints goes to standard error.

    :raises StartError: it cannot be imported, or made.
    :raises click.UsageError: it is none; says what it is.
    """
    with redirect_stdout(sys.stderr):
        found: Any = import_target(target)
        if factory:
            found = call_factory(target, found)
    if isinstance(found, HTTPServer):
        found = found.application
    if isinstance(found, App):
        return found
    if inspect.isclass(found):
        hint = f": name an instance of it, as in app = {found.__name__}(...)" if issubclass(found, App) else ""
        raise click.UsageError(f"{target} is a class, and no App{hint}")
    kind = type(found).__name__
    if isinstance(found, Service):
        raise click.UsageError(f"{target} is a Service of type {kind}, and no App: it has no routes")
    if inspect.iscoroutinefunction(found) or (callable(found) and not inspect.isroutine(found)):
        what = "a coroutine function" if inspect.isroutine(found) else f"of type {kind}"
        raise click.UsageError(f"{target} is {what}, and no App: an ASGI application's routes are known to itself only")
    if callable(found):
        raise click.UsageError(f"{target} is a function, and no App: with --factory, what it returns is shown")
    raise click.UsageError(f"{target} is of type {kind}, and no App")
