"""Public fakes for the tests of services that are built with Forebay. Nothing in Forebay imports them."""

from forebay.http.client.cookie_jar import CookieJar
from forebay.http.client.event_reader import ServerSentEvent
from forebay.testing.app_transport import AppTransport
from forebay.testing.client import TestClient
from forebay.testing.client_response import ClientResponse
from forebay.testing.client_websocket import ClientWebSocket, WebSocketDenied
from forebay.testing.fault_pipe import Passed
from forebay.testing.fault_proxy import FaultProxy
from forebay.testing.fault_script import Script, read_script
from forebay.testing.fault_transport import FaultTransport, RequestFault
from forebay.testing.faults import Faults
from forebay.testing.function_transport import FunctionTransport
from forebay.testing.memory_transport import MemoryTransport, memory_pair
from forebay.testing.recorder import CassetteError, Recorder
from forebay.testing.virtual_clock import VirtualClock

__all__ = [
    "AppTransport",
    "CassetteError",
    "ClientResponse",
    "ClientWebSocket",
    "CookieJar",
    "FaultProxy",
    "FaultTransport",
    "Faults",
    "FunctionTransport",
    "MemoryTransport",
    "Passed",
    "Recorder",
    "RequestFault",
    "Script",
    "ServerSentEvent",
    "TestClient",
    "VirtualClock",
    "WebSocketDenied",
    "memory_pair",
    "read_script",
]
