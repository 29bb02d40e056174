"""Forebay: the network-service stack for Python.

What most programs need is here; the rest is one package further: ``forebay.http``, ``forebay.engine`` (servers and
clients over TCP, TLS, UNIX sockets and UDP, tasks, workers; its guide is ``docs/engine.md``), ``forebay.policy``,
``forebay.errors``, and ``forebay.testing`` for tests. A name is imported when it is first used, so ``import forebay``
costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forebay.engine import Connection, ConnectionHandler, TCPServer, UDPServer, stack
    from forebay.http import App
    from forebay.wire import framing

__all__ = ["App", "Connection", "ConnectionHandler", "TCPServer", "UDPServer", "framing", "stack"]

_HOMES = {"App": "forebay.http", "framing": "forebay.wire"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'forebay' has no attribute {name!r}")
    home = _HOMES.get(name, "forebay.engine")
    found = import_module(f"{home}.{name}") if name == "framing" else getattr(import_module(home), name)
    globals()[name] = found  # from now on without this call
    return found
