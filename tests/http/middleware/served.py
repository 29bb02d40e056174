"""What the tests of middleware share: a server for an application, and a client that asks exactly what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec

from forebay.http import App, HTTPServer
from tests.support import RawClient, raw_client, running

UPGRADE = (
    ("connection", "upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
)


class Answer(NamedTuple):
    """A response as it was received."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def detail(self) -> str:
        """What the problem document says."""
        assert self.headers["content-type"] == "application/problem+json", self
        detail: str = msgspec.json.decode(self.body).get("detail", "")
        return detail


class Asker:
    """One connection to the server under test."""

    def __init__(self, client: RawClient) -> None:
        self.client = client

    async def ask(
        self, path: str, *headers: tuple[str, str], method: str = "GET", body: bytes | None = None, host: str = "test"
    ) -> Answer:
        """Send one request, read its answer."""
        lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in headers)]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        await self.client.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))
        return Answer(*await self.client.response(head_only=method == "HEAD"))

    async def chunked(self, path: str, pieces: Sequence[bytes], *headers: tuple[str, str]) -> Answer:
        """POST content whose length is not announced."""
        lines = [f"POST {path} HTTP/1.1", "host: test", "transfer-encoding: chunked"]
        lines += [f"{name}: {value}" for name, value in headers]
        await self.client.send("\r\n".join([*lines, "", ""]).encode())
        for piece in pieces:
            await self.client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await self.client.send(b"0\r\n\r\n")
        return Answer(*await self.client.response())


@asynccontextmanager
async def serving(app: App[Any], **options: Any) -> AsyncIterator[Asker]:
    """A connection to a server that serves ``app``."""
    async with (
        running(HTTPServer(app, bind="http://127.0.0.1:0", **options)) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        yield Asker(client)
