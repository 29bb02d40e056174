"""``MODULE:NAME`` and what it stands for."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence
from typing import Any

from forebay.engine import TCPServer
from forebay.engine.address import BIND_SCHEMES, LISTEN_SCHEMES, parse_address
from forebay.engine.datagram import UDPServer
from forebay.errors import StartError
from forebay.http import App, HTTPServer
from forebay.service import Service

__all__ = ["DEFAULT_BIND", "import_target", "to_service"]

DEFAULT_BIND = "http://127.0.0.1:8000"


def import_target(target: str) -> object:
    """The object that ``MODULE:NAME`` names; the current directory comes first.

    :raises StartError: one line that says what is missing, and what there is.
    """
    module_name, colon, path = target.partition(":")
    if not module_name or not colon or not path:
        raise StartError(f"cannot import '{target}': write MODULE:NAME, as in shop.users:app")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise StartError(f"cannot import '{module_name}': {error}{_raised_at(error, module_name)}") from error
    except Exception as error:  # whatever the user's module raises: its place is what helps
        what = f"{type(error).__name__}: {error}"
        raise StartError(f"cannot import '{module_name}': {what}{_raised_at(error, module_name)}") from error
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise StartError(f"module {module_name} has no attribute '{path}'; {_offers(module)}") from None
    return found


def to_service(target: str, found: object, bind: Sequence[str] | None, *, name: str) -> Service:
    """Make a Service of what ``target`` names: an App gets an HTTP server, a Service is taken as it is.

    :param bind: where to listen; None: where the Service says, or for an App on ``DEFAULT_BIND``.
    :param name: what the server is called in metrics and logs.
    :raises StartError: it is neither, with a hint at what to write instead.
    """
    if isinstance(found, App):
        try:
            return HTTPServer(found, bind=bind or [DEFAULT_BIND], name=name)
        except ValueError as error:
            raise StartError(f"{target} is an App: {error}") from None
    if inspect.isclass(found):
        hint = "an App" if issubclass(found, App) else "a Service"
        raise StartError(f"{target} is a class, not {hint}: name an instance of it, as in app = {found.__name__}(...)")
    if isinstance(found, Service):
        if bind is not None:
            _rebind(target, found, bind, name)
        return found
    if _is_asgi(found):
        raise StartError(f"{target} is an ASGI application: ASGI applications are not hosted yet")
    if callable(found):
        called = getattr(found, "__name__", type(found).__name__)
        raise StartError(f"{target} is a function: name what it returns instead, as in app = {called}()")
    raise StartError(f"{target} is of type {type(found).__name__}: expected an App or a Service")


def _rebind(target: str, service: Service, bind: Sequence[str], name: str) -> None:
    """Let a Service that has not started listen elsewhere."""
    if not hasattr(service, "bind"):
        raise StartError(f"{target} cannot be given an address: {type(service).__name__} has no attribute 'bind'")
    if isinstance(service, TCPServer):
        schemes: Sequence[str] = LISTEN_SCHEMES
    else:
        schemes = ("udp", "fd") if isinstance(service, UDPServer) else BIND_SCHEMES
    try:
        addresses = [parse_address(url, schemes=schemes) for url in bind]
    except ValueError as error:
        raise StartError(f"{target} is a {type(service).__name__}: {error}") from None
    if isinstance(service, TCPServer | UDPServer) and service.name == str(service.bind[0]):
        service.name = name  # it was called after the address that it does not have now
    service.bind = addresses


def _raised_at(error: BaseException, module_name: str) -> str:
    """Where in the user's code an import failed; nothing when the module itself was not found."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
        return ""
    if isinstance(error, SyntaxError) and error.filename:
        return ""  # its text has the place
    trace = error.__traceback__
    place = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<frozen") and "importlib" not in file and file != __file__:
            place = f" ({file}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place


def _offers(module: object) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.isclass(value) and isinstance(value, App | Service)
    ]
    return f"it has: {', '.join(sorted(names))}" if names else "it has no App and no Service"


def _is_asgi(found: object) -> bool:
    call = found if inspect.isroutine(found) else getattr(found, "__call__", None)  # noqa: B004  # inspected, not called
    if call is None:
        return False
    try:
        parameters = [
            parameter
            for parameter in inspect.signature(call).parameters.values()
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        ]
    except (TypeError, ValueError):
        return False
    return inspect.iscoroutinefunction(call) and len(parameters) == 3
