"""What the tests of connections share: a handler that notes what it is told, certificates, and clients of all kinds."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import trustme

from forebay.engine import TLS, Certificate, CloseReason, Connection, ConnectionHandler, TCPServer
from tests.support import RawClient

ANY = "tcp://127.0.0.1:0"
ANY_TLS = "tls://127.0.0.1:0"

Style = Callable[["Recorder"], Any]


class Recorder(ConnectionHandler):
    """Notes all calls; what it does on a message can be given. By default it sends it back."""

    def __init__(self, on_message: Callable[[Connection, Any], None] | None = None) -> None:
        self.conn: Connection | None = None
        self.messages: list[Any] = []
        self.reasons: list[CloseReason] = []
        self.writable = 0
        self.timeouts = 0
        self.message = on_message or (lambda conn, data: conn.write(data))

    def on_open(self, conn: Connection) -> None:
        self.conn = conn

    def on_message(self, conn: Connection, data: Any) -> None:
        self.messages.append(data)
        self.message(conn, data)

    def on_writable(self, conn: Connection) -> None:
        self.writable += 1

    def on_timeout(self, conn: Connection) -> None:
        self.timeouts += 1
        super().on_timeout(conn)

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self.reasons.append(reason)
        assert len(self.reasons) == 1, "it is told once"

    @property
    def opened(self) -> Connection:
        """Its connection, which is there by now."""
        assert self.conn is not None
        return self.conn

    @property
    def reason(self) -> CloseReason | None:
        """Why it was closed, if it was."""
        return self.reasons[0] if self.reasons else None


def event_style(recorder: Recorder) -> Any:
    """What a server is given to have the recorder called."""
    return lambda: recorder


def coroutine_style(recorder: Recorder) -> Any:
    """The same, by a coroutine handler."""

    async def handle(conn: Connection) -> None:
        recorder.conn = conn
        async for message in conn:
            recorder.messages.append(message)
            await conn.send(message)

    return handle


def serving(recorder: Recorder, style: Style = event_style, **options: Any) -> TCPServer:
    """A server of one connection, or of several that the recorder does not tell apart."""
    return TCPServer(style(recorder), **{"bind": ANY, **options})


def port_of(server: TCPServer, index: int = 0) -> int:
    return server.addresses[index].port


def closed(server: TCPServer) -> dict[str, int]:
    """How many were closed, by reason."""
    counts: dict[str, int] = server.statistics()["closed"]
    return counts


@cache
def authority() -> trustme.CA:
    """Who signs the certificates of these tests."""
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@cache
def tls_files() -> tuple[Certificate, str]:
    """A server's certificate, and the file of the CA's."""
    directory = Path(mkdtemp(prefix="forebay-tests-"))
    ca = directory / "ca.pem"
    authority().cert_pem.write_to_path(ca)
    return issue(directory, "localhost", "127.0.0.1"), str(ca)


def issue(directory: Path, *names: str, **options: Any) -> Certificate:
    """A certificate for ``names``, and its key, as files."""
    leaf = authority().issue_cert(*names, key_type=trustme.KeyType.ECDSA, **options)
    chain, key = directory / f"{names[0]}.pem", directory / f"{names[0]}.key"
    leaf.private_key_pem.write_to_path(key)
    chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    return Certificate(str(chain), str(key))


def server_tls(**options: Any) -> TLS:
    """Settings of a server with :func:`tls_files`."""
    return TLS(tls_files()[0], **options)


def client_context(certificate: Certificate | None = None) -> ssl.SSLContext:
    """The standard library's client, which trusts :func:`authority`."""
    context = ssl.create_default_context(cafile=tls_files()[1])
    if certificate is not None:
        context.load_cert_chain(*certificate.files)
    return context


@asynccontextmanager
async def client_of(port: int, *, tls: bool = False, host: str = "127.0.0.1") -> AsyncIterator[RawClient]:
    """A client that is reset at the end, when it is not closed by then: what it did not read does not matter."""
    options: dict[str, Any] = {"ssl": client_context(), "server_hostname": "localhost"} if tls else {}
    client = RawClient(*await asyncio.wait_for(asyncio.open_connection(host, port, limit=1 << 20, **options), 5))
    try:
        yield client
    finally:
        client.writer.transport.abort()
        with suppress(OSError, ssl.SSLError):
            await asyncio.wait_for(client.writer.wait_closed(), 5)


@asynccontextmanager
async def deaf_client(port: int, *, host: str = "127.0.0.1") -> AsyncIterator[socket.socket]:
    """A client that reads nothing, with small buffers in the kernel, so that it is slow early."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with asyncio.timeout(5):  # Python 3.11's wait_for may lose a cancellation
            await loop.sock_connect(sock, (host, port))
        yield sock


async def read_all(sock: socket.socket, timeout: float = 10.0) -> bytes:
    """Everything up to the end of the connection, a reset included."""
    loop = asyncio.get_running_loop()
    parts = []
    async with asyncio.timeout(timeout):
        while True:
            try:
                part = await loop.sock_recv(sock, 1 << 18)
            except ConnectionError:
                break
            if not part:
                break
            parts.append(part)
    return b"".join(parts)
