"""RFC 7692 sections 7.1.1, 7.1.2 and 7.2 over real sockets: contexts and windows, kept or not, beside zlib streams that
keep them or not. A case's name begins with its section."""

from __future__ import annotations

import gc
import random
import tracemalloc
import zlib
from contextlib import AsyncExitStack
from typing import Any

import pytest

from forebay.http.websocket import WebSocket, WebSocketSettings
from forebay.http.websocket_client import connect
from forebay.wire.deflate import DeflateSettings
from tests.http.raw_websocket import BINARY, CLOSE, CONT, TEXT, Frame, Peer, accepting, client, frame, server
from tests.http.websockets_kit import Recorder, serving
from tests.support import eventually

PMD = "permessage-deflate"
TAIL = b"\x00\x00\xff\xff"
RSV1 = 4
KEEPING = DeflateSettings(False, False, min_size=0)
TEXTS = [b"what was said before is said again, and again", b"what was said before is said once more"] * 3


class Stream:
    """One direction as zlib does it: a context that is kept, or a new one for each message."""

    def __init__(self, *, keeps: bool, bits: int = 15) -> None:
        self.keeps = keeps
        self.bits = bits
        self.compressor = zlib.compressobj(wbits=-max(bits, 9))
        self.decompressor = zlib.decompressobj(-bits)

    def compress(self, message: bytes) -> bytes:
        data = self.compressor.compress(message) + self.compressor.flush(zlib.Z_SYNC_FLUSH)
        if not self.keeps:
            self.compressor = zlib.compressobj(wbits=-max(self.bits, 9))
        return data[:-4]

    def inflate(self, payload: bytes) -> bytes:
        data = self.decompressor.decompress(payload + TAIL)
        if not self.keeps:
            self.decompressor = zlib.decompressobj(-self.bits)
        return data


def offer(*, server_keeps: bool, client_keeps: bool, server_bits: int = 15, client_bits: int = 15) -> str:
    """Of a client that wants exactly this; a server with no wishes of its own answers with the same."""
    text = PMD
    if not server_keeps:
        text += "; server_no_context_takeover"
    if not client_keeps:
        text += "; client_no_context_takeover"
    if server_bits < 15:
        text += f"; server_max_window_bits={server_bits}"
    if client_bits < 15:
        text += f"; client_max_window_bits={client_bits}"
    return text


COMBINATIONS = [(s, c) for s in (False, True) for c in (False, True)]


@pytest.mark.parametrize(("server_keeps", "client_keeps"), COMBINATIONS)
async def test_7_1_1_contexts_of_a_server(server_keeps: bool, client_keeps: bool) -> None:
    """7.1.1.1, 7.1.1.2, 7.2.1: it keeps the one it compresses by, and the one it inflates by, as agreed: with one, a
    message that was sent before takes a few bytes; without one, all take the same and stand for themselves."""
    agreed = offer(server_keeps=server_keeps, client_keeps=client_keeps)
    up, down = Stream(keeps=client_keeps), Stream(keeps=server_keeps)
    recorder = Recorder()
    async with serving(recorder, compression=KEEPING) as (_, _, port):  # noqa: SIM117
        async with client(port, sec_websocket_extensions=agreed) as peer:
            sizes = []
            for text in TEXTS:
                await peer.send(frame(TEXT, up.compress(text), rsv=RSV1))
                got = await peer.next()
                assert (got.opcode, got.rsv) == (TEXT, RSV1)
                sizes.append(len(got.payload))
                assert down.inflate(got.payload) == text
    assert (len(set(sizes[::2])) == 1) is not server_keeps
    assert (sizes[2] < sizes[0] / 2) is server_keeps


@pytest.mark.parametrize(("server_keeps", "client_keeps"), COMBINATIONS)
async def test_7_1_1_contexts_of_a_client(server_keeps: bool, client_keeps: bool) -> None:
    """The same of a client."""
    agreed = offer(server_keeps=server_keeps, client_keeps=client_keeps)
    up, down = Stream(keeps=client_keeps), Stream(keeps=server_keeps)
    sizes: list[int] = []

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(accepting(head, f"sec-websocket-extensions: {agreed}"))
        for text in TEXTS:
            await peer.send(frame(TEXT, down.compress(text), rsv=RSV1, mask=None))
            got = await peer.next()
            sizes.append(len(got.payload))
            assert up.inflate(got.payload) == text
        await peer.send(frame(CLOSE, mask=None))
        assert (await peer.next()).code == 1005

    recorder = Recorder()
    async with server(script) as url:
        await connect(url, handler=recorder, settings=WebSocketSettings(compression=KEEPING))
        await eventually(lambda: recorder.closes == [(1005, "")])
    assert (sizes[2] < sizes[0] / 2) is client_keeps


async def test_7_1_1_2_a_client_that_keeps_a_context_it_gave_up() -> None:
    """7.1.1.2: its second message refers to what the server has not kept."""
    up = Stream(keeps=True)
    async with serving(Recorder()) as (_, _, port), client(port, sec_websocket_extensions=PMD) as peer:
        await peer.send(frame(TEXT, up.compress(TEXTS[0]), rsv=RSV1))
        assert (await peer.next()).payload == TEXTS[0]
        await peer.send(frame(TEXT, up.compress(TEXTS[0]), rsv=RSV1))
        assert (await peer.next()).code == 1007


async def test_7_1_1_1_a_server_that_keeps_a_context_it_gave_up() -> None:
    """7.1.1.1: the same of a server."""
    down = Stream(keeps=True)
    codes: list[int] = []

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(accepting(head, f"sec-websocket-extensions: {PMD}; server_no_context_takeover"))
        for _ in range(2):
            await peer.send(frame(TEXT, down.compress(TEXTS[0]), rsv=RSV1, mask=None))
        codes.append((await peer.next()).code)

    async with server(script) as url, connect(url) as ws:
        assert await ws.receive(timeout=5) == TEXTS[0].decode()
        await eventually(lambda: codes == [1007])


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("bits", range(8, 16))
async def test_7_1_2_1_a_server_keeps_to_its_window(bits: int, keeps: bool) -> None:
    """7.1.2.1: nothing it sends refers back further than was agreed, however far back the same was said."""
    noise = random.Random(bits).randbytes(40_000)
    messages = [noise[:size] * 2 for size in (100, 200, 300, 600, 1200, 5000, 20_000)]
    down = Stream(keeps=keeps, bits=bits)
    agreed = offer(server_keeps=keeps, client_keeps=True, server_bits=bits)

    def pour(ws: WebSocket, message: str | bytes) -> None:
        for each in messages:
            ws.write(each)

    async with serving(Recorder(pour), compression=KEEPING) as (_, _, port):  # noqa: SIM117
        async with client(port, sec_websocket_extensions=agreed) as peer:
            await peer.send(frame(TEXT, b"go"))
            for message in messages:
                got = await peer.next()
                # In small pieces, as zlib looks no further than its window only behind what it has given out
                data = b"".join(_in_pieces(down, got.payload)) if got.rsv else got.payload
                assert data == message


def _in_pieces(stream: Stream, payload: bytes) -> list[bytes]:
    found = []
    one, data = stream.decompressor, payload + TAIL
    while data:
        found.append(one.decompress(data, 64))
        data = one.unconsumed_tail
    if not stream.keeps:
        stream.decompressor = zlib.decompressobj(-stream.bits)
    return found


@pytest.mark.parametrize("bits", range(8, 16))
async def test_7_1_2_2_a_client_keeps_to_its_window(bits: int) -> None:
    """7.1.2.2: what a client of ours sends, when the server limits it."""
    noise = random.Random(bits).randbytes(40_000)
    messages = [noise[:size] * 2 for size in (100, 200, 300, 600, 1200, 5000, 20_000)]
    up = Stream(keeps=True, bits=bits)
    got: list[Frame] = []

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(accepting(head, f"sec-websocket-extensions: {PMD}; client_max_window_bits={bits}"))
        got.extend([await peer.next() for _ in messages])
        await peer.rest()

    async with server(script) as url:
        ws = await connect(url, settings=WebSocketSettings(compression=KEEPING))
        for message in messages:
            ws.write(message)
        await eventually(lambda: got)
        ws.conn.abort()
    for each, message in zip(got, messages, strict=True):
        assert b"".join(_in_pieces(up, each.payload)) == message


async def test_7_1_2_2_a_client_that_does_not_keep_to_its_window() -> None:
    """7.1.2.2, 7.2.2: what it refers to is not there any more."""
    noise = random.Random(1).randbytes(2000)
    up = Stream(keeps=True)
    agreed = offer(server_keeps=True, client_keeps=True, client_bits=9)
    async with serving(Recorder(), compression=KEEPING) as (_, _, port):  # noqa: SIM117
        async with client(port, sec_websocket_extensions=agreed) as peer:
            await peer.send(frame(BINARY, up.compress(noise), rsv=RSV1))
            await peer.next()
            await peer.send(frame(BINARY, up.compress(noise[:300]), rsv=RSV1))
            assert (await peer.next()).code == 1007


@pytest.mark.parametrize(("server_keeps", "client_keeps"), COMBINATIONS)
@pytest.mark.parametrize("min_size", [0, 200])
async def test_7_2_a_long_conversation(server_keeps: bool, client_keeps: bool, min_size: int) -> None:
    """6, 7.2: hundreds of messages, long and short, compressed by the peer or not, in fragments or not; each is what it
    was, and ours below ``min_size`` are sent as they are."""
    dice = random.Random(min_size)
    words = [b"alpha ", b"beta ", b"gamma ", b"\x00\xff", b"delta " * 9]
    server_bits, client_bits = dice.randrange(9, 16), dice.randrange(9, 16)
    up = Stream(keeps=client_keeps, bits=client_bits)
    down = Stream(keeps=server_keeps, bits=server_bits)
    agreed = offer(
        server_keeps=server_keeps, client_keeps=client_keeps, server_bits=server_bits, client_bits=client_bits
    )
    compression = DeflateSettings(False, False, min_size=min_size)
    async with serving(Recorder(), compression=compression) as (_, _, port):  # noqa: SIM117
        async with client(port, sec_websocket_extensions=agreed) as peer:
            for _ in range(300):
                message = b"".join(dice.choices(words, k=dice.choice((0, 1, 5, 200))))
                rsv = RSV1 if dice.random() < 0.7 else 0
                payload = up.compress(message) if rsv else message
                cut = dice.randrange(len(payload) + 1)
                if dice.random() < 0.5:
                    await peer.send(frame(BINARY, payload[:cut], fin=False, rsv=rsv) + frame(CONT, payload[cut:]))
                else:
                    await peer.send(frame(BINARY, payload, rsv=rsv))
                got = await peer.next()
                assert got.opcode == BINARY
                assert got.rsv == 0 or len(message) >= min_size
                assert (down.inflate(got.payload) if got.rsv else got.payload) == message


@pytest.mark.parametrize("keeps", [False, True])
async def test_7_1_1_what_silent_connections_hold(keeps: bool) -> None:
    """7.1.1: why contexts are given up by default: of a connection that is silent after a message each way, some
    hundred bytes of WebSocket are left and nothing of zlib's; with contexts it is their windows as well."""
    count = 40
    message = b"some words to compress, some words to inflate " * 10
    handler = Recorder()
    options: dict[str, Any] = {"compression": KEEPING} if keeps else {}
    async with serving(handler, **options) as (_, _, port), AsyncExitStack() as stack:

        async def open_one() -> None:
            peer = await stack.enter_async_context(client(port, sec_websocket_extensions=PMD))
            await peer.send(frame(TEXT, Stream(keeps=keeps).compress(message), rsv=RSV1))
            assert (await peer.next()).rsv == RSV1

        await open_one()
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.take_snapshot()
            for _ in range(count):
                await open_one()
            handler.messages.clear()
            gc.collect()
            after = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
    ours = [tracemalloc.Filter(True, f"*/src/forebay/{package}/*") for package in ("http", "wire")]
    changes = after.filter_traces(ours).compare_to(before.filter_traces(ours), "filename")
    grown = sum(change.size_diff for change in changes)
    assert grown / count > 100_000 if keeps else grown / count < 600
