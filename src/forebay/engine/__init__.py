"""Everything that touches the event loop, sockets, signals, the clock and processes."""

from forebay.engine.address import Address, parse_address
from forebay.engine.bulkheads import Slots
from forebay.engine.certificates import Certificate, PeerCertificate, TLSInfo
from forebay.engine.channel import Channel, ChannelPolicy
from forebay.engine.connection import Connection
from forebay.engine.datagram import UDPServer
from forebay.engine.datagram_dial import dial_datagram
from forebay.engine.datagram_handler import DatagramHandler
from forebay.engine.datagram_session import DatagramSession
from forebay.engine.datagram_stateless import Datagram
from forebay.engine.deadlines import fail_after
from forebay.engine.dial import dial
from forebay.engine.executor import Executor
from forebay.engine.handler import CloseReason, ConnectionHandler
from forebay.engine.health_checks import CheckTiming, HealthChecks, Unwell, tcp_check
from forebay.engine.hedging import hedged
from forebay.engine.jobs import Handle, JobState
from forebay.engine.lifecycle import serve_until_signalled
from forebay.engine.listener import listen, open_socket, set_socket_source
from forebay.engine.loop import Cancelled, now, run, sleep, timeout, tune_allocator
from forebay.engine.object_pool import ObjectPool
from forebay.engine.once import Once
from forebay.engine.pool import Pool
from forebay.engine.proxy_protocol import ProxyProtocol
from forebay.engine.read_write_lock import ReadWriteLock
from forebay.engine.reconnecting import Reconnecting
from forebay.engine.server import TCPServer
from forebay.engine.settings import Admission, Heartbeat, Keepalive, Outbound, SlowConsumer
from forebay.engine.single_flight import SingleFlight
from forebay.engine.stack import Stack, stack
from forebay.engine.supervisor import Supervisor, WorkerInfo, WorkerSpec, WorkerState
from forebay.engine.tasks import Event, Future, Gate, Queue, QueueEmpty, QueueFull, Task, Tasks, gather, start_task
from forebay.engine.throttle import Throttle
from forebay.engine.tls_settings import TLS, ClientTLS
from forebay.policy.priority import Priority
from forebay.policy.recycle import Recycle

__all__ = [
    "TLS",
    "Address",
    "Admission",
    "Cancelled",
    "Certificate",
    "Channel",
    "ChannelPolicy",
    "CheckTiming",
    "ClientTLS",
    "CloseReason",
    "Connection",
    "ConnectionHandler",
    "Datagram",
    "DatagramHandler",
    "DatagramSession",
    "Event",
    "Executor",
    "Future",
    "Gate",
    "Handle",
    "HealthChecks",
    "Heartbeat",
    "JobState",
    "Keepalive",
    "ObjectPool",
    "Once",
    "Outbound",
    "PeerCertificate",
    "Pool",
    "Priority",
    "ProxyProtocol",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "ReadWriteLock",
    "Reconnecting",
    "Recycle",
    "SingleFlight",
    "Slots",
    "SlowConsumer",
    "Stack",
    "Supervisor",
    "TCPServer",
    "TLSInfo",
    "Task",
    "Tasks",
    "Throttle",
    "UDPServer",
    "Unwell",
    "WorkerInfo",
    "WorkerSpec",
    "WorkerState",
    "dial",
    "dial_datagram",
    "fail_after",
    "gather",
    "hedged",
    "listen",
    "now",
    "open_socket",
    "parse_address",
    "run",
    "serve_until_signalled",
    "set_socket_source",
    "sleep",
    "stack",
    "start_task",
    "tcp_check",
    "timeout",
    "tune_allocator",
]
