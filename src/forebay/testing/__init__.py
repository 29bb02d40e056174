"""Public fakes for the tests of services that are built with Forebay. Nothing in Forebay imports them."""

from forebay.testing.client import TestClient
from forebay.testing.client_response import ClientResponse
from forebay.testing.client_websocket import ClientWebSocket, WebSocketDenied
from forebay.testing.cookie_jar import CookieJar
from forebay.testing.event_stream import ServerSentEvent
from forebay.testing.fault_pipe import Passed
from forebay.testing.fault_proxy import FaultProxy
from forebay.testing.fault_script import Script, read_script
from forebay.testing.faults import Faults
from forebay.testing.memory_transport import MemoryTransport, memory_pair
from forebay.testing.virtual_clock import VirtualClock

__all__ = [
    "ClientResponse",
    "ClientWebSocket",
    "CookieJar",
    "FaultProxy",
    "Faults",
    "MemoryTransport",
    "Passed",
    "Script",
    "ServerSentEvent",
    "TestClient",
    "VirtualClock",
    "WebSocketDenied",
    "memory_pair",
    "read_script",
]
