"""``MODULE:NAME`` and what it stands for."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from forebay.engine import TCPServer
from forebay.engine.address import BIND_SCHEMES, HTTP_SCHEMES, LISTEN_SCHEMES, parse_address
from forebay.engine.datagram import UDPServer
from forebay.errors import StartError
from forebay.http import App, HTTPServer
from forebay.http.asgi import ASGIApplication
from forebay.service import Service

__all__ = ["DEFAULT_BIND", "call_factory", "import_target", "to_service"]

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


def call_factory(target: str, found: object) -> object:
    """What the function that ``target`` names returns.

    :raises StartError: it cannot be called without arguments, or fails; says where.
    """
    if not callable(found):
        raise StartError(f"{target} is of type {type(found).__name__}: with --factory it must be a function")
    if inspect.iscoroutinefunction(found):
        raise StartError(f"{target} is a coroutine function: with --factory it must be a plain one")
    if (required := _required(found)) is not None and required:
        raise StartError(f"{target} has parameters ({', '.join(required)}): with --factory it must have none")
    try:
        return found()
    except Exception as error:  # whatever the user's function raises: its place is what helps
        raise StartError(f"{target}() failed: {type(error).__name__}: {error}{_raised_at(error, '')}") from error


def to_service(
    target: str,
    found: object,
    bind: Sequence[str] | None,
    *,
    name: str,
    root_path: str = "",
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Service:
    """Make a Service of what ``target`` names: an App and any ASGI 3 application get an HTTP server, a Service is taken
    as it is.

    :param bind: where to listen; None: where the Service says, or for an application on ``DEFAULT_BIND``.
    :param name: what the server is called in metrics and logs.
    :param root_path: where a proxy in front has mounted an ASGI application.
    :param options: what else the HTTP server of an application is given.
    :raises StartError: it is none of them, with a hint at what to write instead.
    """
    application = _application(target, found, name, root_path)
    if application is not None:
        what = "an App" if isinstance(application, App) else "an ASGI application"
        _check_certificate(target, bind or (), options)
        try:
            return HTTPServer(application, bind=bind or [DEFAULT_BIND], name=name, **options)
        except ValueError as error:
            raise StartError(f"{target} is {what}: {error}") from None
    if inspect.isclass(found):
        hint = "an App" if issubclass(found, App) else "a Service"
        raise StartError(f"{target} is a class, not {hint}: name an instance of it, as in app = {found.__name__}(...)")
    if isinstance(found, Service):
        if root_path:
            raise StartError(f"{target} is a Service: --root-path is for ASGI applications")
        if options:
            given = " and ".join(option.replace("_", " ") for option in options)
            raise StartError(f"{target} is a Service: give it its {given} in the code, not here")
        if bind is not None:
            _rebind(target, found, bind, name)
        return found
    if callable(found):
        called = getattr(found, "__name__", type(found).__name__)
        if _required(found):
            raise StartError(
                f"{target} is a function of ({', '.join(_required(found) or ())}), and no ASGI application: "
                "that is async, and takes scope, receive, send"
            )
        raise StartError(
            f"{target} is a function: run it with --factory, or name what it returns, as in app = {called}()"
        )
    raise StartError(f"{target} is of type {type(found).__name__}: expected an App, a Service or an ASGI application")


def _application(target: str, found: object, name: str, root_path: str) -> App | ASGIApplication | None:
    """What an HTTP server can serve; None: it is no such thing."""
    if isinstance(found, App | ASGIApplication):
        if root_path:
            what = "an App" if isinstance(found, App) else "an ASGIApplication, which has its own"
            raise StartError(f"{target} is {what}: --root-path is for ASGI applications")
        return found
    if not callable(found) or isinstance(found, Service):
        return None
    interface = _interface(found)
    if interface == "asgi2":
        remedy = "wrap it, as in app = asgiref.compatibility.guarantee_single_callable(...)"
        raise StartError(f"{target} is an ASGI 2 application, which is called twice; ASGI 3 is hosted here: {remedy}")
    if interface == "wsgi":
        remedy = "wrap it, as in app = a2wsgi.WSGIMiddleware(...)"
        raise StartError(f"{target} is a WSGI application; ASGI 3 is hosted here: {remedy}")
    if interface != "asgi3":
        return None
    try:
        return ASGIApplication(found, name=name, root_path=root_path)
    except ValueError as error:
        raise StartError(f"{target} is an ASGI application: {error}") from None


def _check_certificate(target: str, bind: Sequence[str], options: Mapping[str, Any]) -> None:
    for url in bind:
        if url.lower().startswith("https://") and "tls" not in options:
            remedy = (
                "give it one with --certificate and --key, or with tls = { certificate = ..., key = ... } in a file"
            )
            raise StartError(f"{target} cannot be served on {url} without a certificate: {remedy}")


def _rebind(target: str, service: Service, bind: Sequence[str], name: str) -> None:
    """Let a Service that has not started listen elsewhere."""
    if not hasattr(service, "bind"):
        raise StartError(f"{target} cannot be given an address: {type(service).__name__} has no attribute 'bind'")
    if isinstance(service, TCPServer):
        schemes: Sequence[str] = LISTEN_SCHEMES
    elif isinstance(service, HTTPServer):
        schemes = HTTP_SCHEMES
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
    names = [name for name, value in vars(module).items() if not name.startswith("_") and _runs(value)]
    return f"it has: {', '.join(sorted(names))}" if names else "it has no App, no Service and no ASGI application"


def _runs(value: object) -> bool:
    if inspect.isclass(value):
        return False
    return isinstance(value, App | ASGIApplication | Service) or (callable(value) and _interface(value) == "asgi3")


def _interface(found: Any) -> Literal["asgi3", "asgi2", "wsgi", ""]:
    """Which interface a callable seems to have, by its parameters."""
    required = _required(found)
    if required is None:
        return ""
    if inspect.isclass(found):
        if hasattr(found, "__await__"):  # an instance of it is one call
            return "asgi3" if len(required) == 3 else ""
        return "asgi2" if required == ["scope"] else ""
    call = found if inspect.isroutine(found) else getattr(found, "__call__", found)  # noqa: B004  # not called
    if len(required) == 3 and (inspect.iscoroutinefunction(call) or required[0] == "scope"):
        return "asgi3"
    if required == ["scope"]:
        return "asgi2"
    if len(required) == 2 and required[1] == "start_response":
        return "wsgi"
    return ""


def _required(found: Any) -> list[str] | None:
    """The names of the parameters a callable must be given, by position; None: nobody knows."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return None
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [one.name for one in parameters if one.kind in by_position and one.default is one.empty]
