"""Forebay: the network-service stack for Python.

What most programs need is here; the rest is one package further: ``forebay.http``, ``forebay.engine``,
``forebay.policy``, ``forebay.errors``.
"""

from forebay.engine import Connection, ConnectionHandler, TCPServer
from forebay.http import App
from forebay.wire import framing

__all__ = ["App", "Connection", "ConnectionHandler", "TCPServer", "framing"]
