"""A client's transport that records what servers answered, and answers without them from then on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from forebay.errors import ContentTooLarge
from forebay.http.client.content import Content
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.secret_fields import SECRETS, Secrets
from forebay.http.client.transport import Transport
from forebay.testing.cassette import (
    Answered,
    Cassette,
    CassetteError,
    Entry,
    Masking,
    Wanted,
    answered,
    as_text,
    wanted,
)

__all__ = ["CassetteError", "Recorder", "RecorderMode"]

RecorderMode: TypeAlias = Literal["record", "replay", "auto"]

_MODES = ("record", "replay", "auto")
_OF_TRANSFER = frozenset(("connection", "content-encoding", "content-length", "keep-alive", "transfer-encoding"))


class Recorder:
    """Passes requests on to ``transport`` and writes them down with their answers, or answers from what was written.

    ::

        transport = Recorder(HTTPTransport(), "tests/cassettes/users.jsonl", mode="auto")
        async with Client("https://api.example.org", transport=transport) as client:
            ...

    A cassette is a file with one JSON object per line. A request is known by its method, its URL and the SHA-256 of its
    content; what was recorded several times is given in that order, and once each. Secrets are masked before they are
    written, and looked for as masked: ``Authorization``, cookies, and fields whose names say so (``token``,
    ``password``, ...) in headers, queries, forms and JSON. Answers are recorded whole, decompressed, without interim
    answers and trailers; so those that never end, and upgrades, cannot be.

    :param path: of the cassette.
    :param mode: ``replay``: no request is passed on. ``record``: all are, and the file begins anew. ``auto``: those
        that are not on the cassette are, and are added to it.
    :param transport: of ``record`` and ``auto``; may be None for ``replay``.
    :param secrets: text that is masked wherever it is, in content too, however URLs, forms and JSON write it.
    :param mask: which fields are masked, by name.
    :param max_content: bytes of the content of a request or of an answer.
    :raises ValueError: there is no such mode, or no transport where one is needed.

    :meth:`start` and :meth:`send` raise :class:`CassetteError`, an ``AssertionError``, where the cassette cannot be
    read, and for a request that is not on it, with the nearest one that is.
    """

    __slots__ = ("_cassette", "_masking", "_max_content", "_mode", "_transport")

    def __init__(
        self,
        transport: Transport | None,
        path: str | os.PathLike[str],
        mode: RecorderMode = "replay",
        *,
        secrets: Sequence[str] = (),
        mask: Secrets = SECRETS,
        max_content: int = 16 * 1024 * 1024,
    ) -> None:
        if mode not in _MODES:
            raise ValueError(f"Recorder mode {mode!r}: must be {', '.join(_MODES)}")
        if transport is None and mode != "replay":
            raise ValueError(f"Recorder mode {mode!r}: needs a transport to record from")
        if max_content < 1:
            raise ValueError(f"Recorder max_content {max_content}: must be at least 1 byte")
        self._transport = transport if mode != "replay" else None
        self._cassette = Cassette(Path(path))
        self._mode = mode
        self._masking = Masking(mask, secrets)
        self._max_content = max_content

    def __repr__(self) -> str:
        return f"<Recorder {self._mode} {self._cassette.path} requests={len(self._cassette.entries)}>"

    @property
    def left(self) -> list[str]:
        """What is on the cassette and was not asked for: for tests that say that all of it was."""
        return [str(one) for one in self._cassette.left]

    async def start(self) -> None:
        """Read the cassette, or begin it anew; start the transport.

        :raises CassetteError: it cannot be read.
        """
        if self._mode == "record":
            self._cassette.clear()
        elif self._mode == "replay" or self._cassette.path.exists():
            self._cassette.load()
        else:
            self._cassette.clear()
        if self._transport is not None:
            await self._transport.start()

    async def drain(self) -> None:
        """Drain the transport."""
        if self._transport is not None:
            await self._transport.drain()

    async def stop(self) -> None:
        """Stop the transport."""
        if self._transport is not None:
            await self._transport.stop()

    async def send(self, request: ClientRequest) -> ClientResponse:
        """The recorded answer, or that of the transport, which is recorded.

        :raises CassetteError: it is not on the cassette, and no transport may be asked.
        :raises ContentTooLarge: content is longer than ``max_content``.
        :raises Exception: whatever the transport raised; that is not recorded.
        """
        request, content = await self._with_content(request)
        kind = request.content.kind or request.headers.get("content-type", "")
        name = wanted(self._masking, request.method, str(request.url), content, kind)
        if self._mode != "record":
            found = self._cassette.next(name)
            if found is not None:
                return ClientResponse.made(request, found.status, found.headers, found.content)
        if self._transport is None:
            raise self._cassette.missing(name)
        return await self._record(self._transport, request, name, content, kind)

    def statistics(self) -> dict[str, Any]:
        """Those of the transport, where it has some, and what became of the cassette."""
        statistics = getattr(self._transport, "statistics", None)
        found: dict[str, Any] = {} if statistics is None else statistics()
        return found | {"recorded": len(self._cassette.entries), "left": len(self._cassette.left)}

    async def _with_content(self, request: ClientRequest) -> tuple[ClientRequest, bytes]:
        """The request with content that is in memory, and that content."""
        content = request.content
        data = content.data
        if data is None:
            pieces: list[bytes] = []
            size = 0
            source = content.pieces()
            try:
                async for piece in source:
                    size += len(piece)
                    if size > self._max_content:
                        break
                    pieces.append(piece)
            finally:
                await source.aclose()
            data = b"".join(pieces)
            if size <= self._max_content:
                request = request.copy(content=Content(data, content.kind))
        else:
            size = len(data)
        if size > self._max_content:
            raise ContentTooLarge(f"{request}: more than {self._max_content} bytes to record (Recorder max_content)")
        return request, data

    async def _record(
        self, transport: Transport, request: ClientRequest, name: Wanted, sent: bytes, kind: str
    ) -> ClientResponse:
        async with await transport.send(request) as response:
            if response.status == 101:
                raise CassetteError(f"{request} was answered with 101: an upgraded connection cannot be recorded")
            content = await self._content(response)
        headers = [
            (field, value)
            for field in response.headers
            if field not in _OF_TRANSFER
            for value in response.headers.get_all(field)
        ]
        masking = self._masking
        kept = masking.content(content, response.headers.get("content-type", ""))
        masked: Answered = answered(response.status, _sized(masking.headers(headers), response, len(kept)), kept)
        text = as_text(masking.content(sent, kind)) or ""
        self._cassette.add(Entry(name, masked, text, masking.headers(request.headers.pairs())))
        return ClientResponse.made(request, response.status, _sized(headers, response, len(content)), content)

    async def _content(self, response: ClientResponse) -> bytes:
        pieces = []
        size = 0
        async for piece in response.stream():
            size += len(piece)
            if size > self._max_content:
                raise ContentTooLarge(
                    f"{response.request}: more than {self._max_content} bytes to record (Recorder max_content)"
                )
            pieces.append(piece)
        return b"".join(pieces)


def _sized(headers: list[tuple[str, str]], response: ClientResponse, size: int) -> list[tuple[str, str]]:
    """With the length of the content: where there is none, that which the server says it would have."""
    length: str | None = str(size)
    if response.request.method == "HEAD" or response.status in (204, 304):
        length = response.headers.get("content-length")
    return headers if length is None else [*headers, ("content-length", length)]
