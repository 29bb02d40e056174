"""Everything that touches the event loop, sockets, signals, the clock and processes."""

from forebay.engine.address import Address, parse_address
from forebay.engine.connection import Connection
from forebay.engine.dial import dial
from forebay.engine.handler import CloseReason, ConnectionHandler
from forebay.engine.lifecycle import serve_until_signalled
from forebay.engine.listener import listen, open_socket, set_socket_source
from forebay.engine.loop import Cancelled, now, run, sleep, timeout, tune_allocator
from forebay.engine.server import TCPServer
from forebay.engine.supervisor import Supervisor, WorkerInfo, WorkerSpec, WorkerState
from forebay.engine.tasks import Event, Future, Gate, Queue, QueueEmpty, QueueFull, Task, Tasks, gather, start_task

__all__ = [
    "Address",
    "Cancelled",
    "CloseReason",
    "Connection",
    "ConnectionHandler",
    "Event",
    "Future",
    "Gate",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "Supervisor",
    "TCPServer",
    "Task",
    "Tasks",
    "WorkerInfo",
    "WorkerSpec",
    "WorkerState",
    "dial",
    "gather",
    "listen",
    "now",
    "open_socket",
    "parse_address",
    "run",
    "serve_until_signalled",
    "set_socket_source",
    "sleep",
    "start_task",
    "timeout",
    "tune_allocator",
]
