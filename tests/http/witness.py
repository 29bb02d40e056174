"""An application that says how it understood each request, and a client that reads its answers strictly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from forebay.engine.connection import CloseReason
from forebay.http import Exchange, HTTPServer, Receiver, ServerTimeouts
from tests.support import RawClient

TEXT = b"content-type: text/plain\r\n"

Pairs = list[tuple[str, str]]


@dataclass
class Record:
    """One request as the application got it."""

    serial: int
    method: str
    target: str
    scheme: str
    host: str
    http11: bool
    length: int | None
    chunked: bool
    headers: Pairs
    body: bytes = b""
    trailers: Pairs = field(default_factory=list)
    complete: bool = False
    """Its content has been read to the end, or it was answered without that."""
    gone: CloseReason | None = None

    def values(self, name: str) -> list[str]:
        """The values of one header, in order."""
        return [value for key, value in self.headers if key.lower() == name]

    def trailer(self, name: str) -> list[str]:
        """The values of one trailer, in order."""
        return [value for key, value in self.trailers if key.lower() == name]

    @property
    def reading(self) -> tuple[str, str, bytes]:
        """What of it matters for framing."""
        return self.method, self.target, self.body


class _Reader(Receiver):
    """Reads the content, then answers with what was understood."""

    def __init__(self, exchange: Exchange, record: Record) -> None:
        self.exchange = exchange
        self.record = record

    def on_body(self, data: bytes) -> None:
        self.record.body += data

    def on_body_end(self) -> None:
        self.record.complete = True
        self.record.trailers = _text(getattr(self.exchange, "trailers", ()))
        answer(self.exchange, self.record)

    def on_disconnect(self, reason: CloseReason) -> None:
        self.record.gone = reason


class _Watch(_Reader):
    """Reads the content, and leaves the answer to the test."""

    def on_body_end(self) -> None:
        self.record.complete = True


def _text(pairs: Any) -> Pairs:
    return [(name.decode("latin-1"), value.decode("latin-1").strip(" \t")) for name, value in pairs]


def answer(exchange: Exchange, record: Record, status: int = 200) -> None:
    """Answer with the record; its number and method are headers too, for answers that have no content."""
    document = {
        "serial": record.serial,
        "method": record.method,
        "target": record.target,
        "host": record.host,
        "headers": record.headers,
        "body": record.body.decode("latin-1"),
    }
    lines = b"content-type: application/json\r\nx-serial: %d\r\nx-method: %b\r\n" % (
        record.serial,
        record.method.encode(),
    )
    exchange.respond(status, lines, json.dumps(document).encode())


class Witness:
    """The application under test. Paths other than the ones below are answered with what was understood, once the
    content has been read: ``/early...`` at once, ``/hold...`` by the test, ``/stream``, ``/sized`` and ``/status/N``
    with something of the kind.
    """

    name = "witness"

    def __init__(self) -> None:
        self.body_limit: int | None = 1_000_000
        self.records: list[Record] = []
        self.held: list[Exchange] = []

    @property
    def completed(self) -> list[Record]:
        """Requests that were understood to their end."""
        return [record for record in self.records if record.complete]

    def on_request(self, exchange: Exchange) -> None:
        """Write down what came, then do what the path says."""
        record = Record(
            len(self.records),
            exchange.method,
            exchange.target.decode("latin-1"),
            exchange.scheme,
            exchange.host.decode("latin-1"),
            exchange.http11,
            exchange.content_length,
            exchange.chunked,
            _text(exchange.headers),
        )
        self.records.append(record)
        path = exchange.raw_path.decode("latin-1")
        if path.startswith("/early"):
            record.complete = True
            answer(exchange, record)
        elif path.startswith("/hold"):
            self.held.append(exchange)
            exchange.attach(_Watch(exchange, record))
        elif path == "/stream":
            exchange.start(200, TEXT, None)
            exchange.write(b"one")
            exchange.write(b"two")
            exchange.finish()
        elif path == "/sized":
            exchange.start(200, TEXT, 6)
            exchange.write(b"onetwo")
            exchange.finish()
        elif path.startswith("/status/"):
            exchange.respond(int(path[8:]), TEXT, b"content")
        elif path.startswith("/empty/"):
            exchange.respond(int(path[7:]), b"", b"")
        elif path == "/interim":
            exchange.interim(103, b"link: </style.css>; rel=preload\r\n")
            exchange.respond(200, TEXT, b"final")
        else:
            exchange.attach(_Reader(exchange, record))


def timeouts(**seconds: Any) -> ServerTimeouts:
    """Short ones, so that what waits for a client ends within the test."""
    return ServerTimeouts(**({"head": 0.4, "idle": 0.6, "body": 0.4, "write": 5.0, "linger": 0.5} | seconds))


@asynccontextmanager
async def witnessing(**options: Any) -> AsyncIterator[tuple[HTTPServer, Witness, int]]:
    """A server with the witness; the witness; its port."""
    witness = Witness()
    server = HTTPServer(witness, bind="http://127.0.0.1:0", **options)
    await server.start()
    try:
        yield server, witness, server.addresses[0].port
    finally:
        await server.stop()


@dataclass
class Answer:
    """One response as a client reads it."""

    status: int
    version: str
    phrase: str
    headers: Pairs
    body: bytes
    line: bytes

    def values(self, name: str) -> list[str]:
        """The values of one header, in order."""
        return [value for key, value in self.headers if key.lower() == name]

    def value(self, name: str) -> str | None:
        """The value of a header that is there at most once."""
        values = self.values(name)
        assert len(values) < 2, f"{name} is there {len(values)} times"
        return values[0] if values else None

    @property
    def serial(self) -> int | None:
        """The number of the request the application answered; None: the answer is not the application's."""
        value = self.value("x-serial")
        return None if value is None else int(value)

    @property
    def closes(self) -> bool:
        """Whether it says that the connection ends with it."""
        return "close" in [option.strip().lower() for value in self.values("connection") for option in value.split(",")]


CLOSE = b"Connection: close\r\n"


class Broken(AssertionError):
    """The bytes are no sequence of whole responses."""


def read_answers(data: bytes, heads: tuple[bool, ...] = (), *, cut: bool = False) -> list[Answer]:
    """All responses in what a server sent on one connection, by RFC 9112 section 6.3.

    :param heads: for each final answer in turn, whether its request was a HEAD; where not given, ``x-method`` says it.
    :param cut: what is missing at the end is left out; otherwise it is :class:`Broken`.
    """
    answers: list[Answer] = []
    finals = 0
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        if not end or not head.startswith(b"HTTP/1.") or head.count(b"\n") != head.count(b"\r\n"):
            if cut and not end:
                return answers
            raise Broken(f"not a response: {(head + end + data)[:120]!r}")
        first, *lines = head.split(b"\r\n")
        version, status, phrase = (first.decode("latin-1") + " ").split(" ", 2)
        headers = [tuple(line.decode("latin-1").split(":", 1)) for line in lines]
        pairs = [(name, value.strip(" \t")) for name, value in headers]
        new = Answer(int(status), version, phrase.rstrip(), pairs, b"", first)
        is_head = heads[finals] if finals < len(heads) else new.value("x-method") == "HEAD"
        finals += new.status >= 200
        codings = new.values("transfer-encoding")
        length = new.value("content-length")
        if is_head or new.status in (204, 304) or new.status < 200:
            pass
        elif codings:
            if codings != ["chunked"] or length is not None:
                raise Broken(f"framing of a response: {pairs}")
            new.body, data = _read_chunks(data)
        elif length is not None:
            if len(data) < int(length):
                if cut:
                    return answers
                raise Broken(f"{length} bytes announced, {len(data)} there: {data[:80]!r}")
            new.body, data = data[: int(length)], data[int(length) :]
        else:
            new.body, data = data, b""
        answers.append(new)
    return answers


def _read_chunks(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, end, data = data.partition(b"\r\n")
        size = int(line, 16) if end and line else -1
        if size < 0 or (size and data[size : size + 2] != b"\r\n"):
            raise Broken(f"not a chunk: {(line + end + data)[:120]!r}")
        if size == 0:
            break
        body += data[:size]
        data = data[size + 2 :]
    if data.startswith(b"\r\n"):
        return body, data[2:]
    _, end, data = data.partition(b"\r\n\r\n")
    if not end:
        raise Broken("trailers without an end")
    return body, data


async def deliver(client: RawClient, pieces: list[bytes]) -> None:
    """Send each piece on its own; a server that has had enough is fine."""
    try:
        for piece in pieces:
            await client.send(piece)
            if len(pieces) > 1:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
    except OSError:
        return


async def ask(port: int, data: bytes, *, half_close: bool = False, timeout: float = 5.0) -> bytes:
    """Everything a server says to ``data`` until it closes the connection."""
    client = await RawClient.connect(port)
    try:
        await deliver(client, [data])
        if half_close:
            client.send_eof()
        return await client.rest(timeout)
    finally:
        await client.close()


def closing(method: bytes, path: bytes, fields: bytes = b"", content: bytes = b"") -> bytes:
    """A request that is the last of its connection."""
    return method + b" " + path + b" HTTP/1.1\r\nHost: a\r\n" + CLOSE + fields + b"\r\n" + content


async def understood(data: bytes, **options: Any) -> Record:
    """The only request in ``data``, as the application got it."""
    async with witnessing(**options) as (_, witness, port):
        answers = read_answers(await ask(port, data))
        assert [answer.status for answer in answers] == [200]
        (record,) = witness.records
        return record


async def only_answer(data: bytes, *, head: bool = False, **options: Any) -> Answer:
    """The only answer to ``data``."""
    async with witnessing(timeouts=timeouts(), **options) as (_, _, port):
        (answer,) = read_answers(await ask(port, data), heads=(head,))
        return answer


async def check_refused(data: bytes, *statuses: int) -> None:
    """``data`` is answered with one of ``statuses`` and a close; the application gets nothing."""
    async with witnessing(timeouts=timeouts()) as (_, witness, port):
        (answer,) = read_answers(await ask(port, data))
        assert answer.status in statuses
        assert answer.closes
        assert witness.completed == []
