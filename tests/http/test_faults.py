"""Clients that are slow, silent, half gone or break off: each connection ends for its named reason, within its timeout,
over TCP, TLS and UNIX sockets; nothing is left of it; and a client that behaves does not notice.

How often: see :mod:`tests.http.fault_clients`.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from pathlib import Path

import pytest

from forebay.http import ServerTimeouts
from tests.http import fault_clients
from tests.http.fault_clients import (
    AT_ONCE,
    BODY,
    HANDSHAKE,
    HEAD,
    IDLE,
    LARGE,
    LINGER,
    PIECE,
    PING,
    PLAIN,
    PONG,
    SHORT,
    WRITE,
    Client,
    Fault,
    a_moment,
    check_cut,
    cut_after,
    dribbling,
    gone,
    in_rounds,
    reset,
    rest,
    staged,
    timed_out,
)
from tests.http.websockets_kit import Opcode, closing, frame, request
from tests.support import RawClient

pytestmark = [pytest.mark.both_loops, pytest.mark.alone, pytest.mark.timeout(120 + fault_clients.ROUNDS // 20)]

GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /%b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST /%b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


async def shake_hands(client: RawClient) -> None:
    """Become a WebSocket."""
    await client.send(request(path="/ws"))
    assert (await client.response())[0] == 101


# -- connect and wait


async def say_nothing(client: Client) -> None:
    async with cut_after(HEAD, client.began):
        assert await rest(client) == b""


async def say_nothing_of_a_handshake(client: Client) -> None:
    async with cut_after(HANDSHAKE, client.began):
        assert await rest(client) == b""


async def say_nothing_more(client: RawClient) -> None:
    async with cut_after(IDLE):
        assert (await client.get("/hello"))[0] == 200
        assert await rest(client) == b""


async def answer_no_ping(client: RawClient) -> None:
    async with cut_after(PING + PONG):
        await shake_hands(client)
        assert await rest(client) == frame_of_server(Opcode.PING)


def frame_of_server(opcode: int, payload: bytes = b"") -> bytes:
    """A short frame as a server sends it."""
    return bytes((0x80 | opcode, len(payload))) + payload


async def test_connect_and_wait(tmp_path: Path) -> None:
    """Before the first byte, in place of a handshake, after an answer, and as a WebSocket that answers no ping."""
    faults = [
        Fault(say_nothing, "first-byte"),
        Fault(say_nothing_of_a_handshake, "handshake-timeout", over=["bare"]),
        Fault(say_nothing_more, "idle"),
        Fault(answer_no_ping, "heartbeat"),
    ]
    async with staged(tmp_path) as stage:
        await in_rounds(stage, faults)


# -- slow headers


async def stop_in_the_head(client: RawClient) -> None:
    async with cut_after(HEAD):
        await client.send(b"GET /hello HTTP/1.1\r\nHost: a\r\nX-")
        await timed_out(client)


async def stop_after_a_letter(client: RawClient) -> None:
    async with cut_after(HEAD):
        await client.send(b"G")
        await timed_out(client)


async def send_a_head_byte_by_byte(client: RawClient) -> None:
    async with cut_after(HEAD):
        await client.send(b"GET /hello HTTP/1.1\r\nHost: a\r\nX: ")
        async with dribbling(client, b"x"):
            await timed_out(client)


async def send_fields_without_end(client: RawClient) -> None:
    async with cut_after(HEAD):
        await client.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n")
        async with dribbling(client, b"X-a: b\r\n"):
            await timed_out(client)


async def stop_in_the_second_head(client: RawClient) -> None:
    assert (await client.get("/later"))[0] == 200
    async with cut_after(HEAD):
        await client.send(b"GET /hello HT")
        await timed_out(client)


async def stop_in_a_pipelined_head(client: RawClient) -> None:
    async with cut_after(HEAD):
        await client.send(GET % b"hello" + GET % b"later" + b"GET /hello HTTP/1.1\r\nHost")
        assert (await client.response())[2] == b"hello"
        assert (await client.response())[2] == b"later"
        await timed_out(client)


async def test_slow_headers(tmp_path: Path) -> None:
    """408, however the bytes are spread, on a new connection and on one that was used."""
    heads = (
        stop_in_the_head,
        stop_after_a_letter,
        send_a_head_byte_by_byte,
        send_fields_without_end,
        stop_in_the_second_head,
        stop_in_a_pipelined_head,
    )
    async with staged(tmp_path) as stage:
        await in_rounds(stage, [Fault(head, "app", "head-timeout") for head in heads])


# -- slow bodies


async def send_no_body(client: RawClient) -> None:
    async with cut_after(BODY):
        await client.send(POST % (b"upload", 1000))
        await timed_out(client)


async def stop_in_a_body_that_is_wanted_whole(client: RawClient) -> None:
    async with cut_after(BODY):
        await client.send(POST % (b"whole", 1000) + b"x" * 500)
        await timed_out(client)


async def stop_in_a_chunk(client: RawClient) -> None:
    async with cut_after(BODY):
        await client.send(CHUNKED % b"upload" + b"5\r\nabcde\r\n10\r\nab")
        await timed_out(client)


async def stop_in_the_trailers(client: RawClient) -> None:
    async with cut_after(BODY):
        await client.send(CHUNKED % b"upload" + b"5\r\nabcde\r\n0\r\nX-Sum: 1")
        await timed_out(client)


async def be_asked_for_a_body(client: RawClient) -> None:
    async with cut_after(BODY):
        await client.send((POST % (b"upload", 1000)).replace(b"Host", b"Expect: 100-continue\r\nHost"))
        assert (await client.response())[0] == 100
        await timed_out(client)


async def send_a_body_byte_by_byte(client: RawClient) -> None:
    async with cut_after(BODY):
        await client.send(POST % (b"upload", 1000))
        async with dribbling(client, b"x"):
            await timed_out(client)


async def send_chunks_byte_by_byte(client: RawClient) -> None:
    async with cut_after(BODY):
        await client.send(CHUNKED % b"whole")
        async with dribbling(client, b"1\r\nx\r\n"):
            await timed_out(client)


async def stop_when_answered(client: RawClient) -> None:
    """What is missing is little, so the connection was to go on."""
    async with cut_after(BODY):
        await client.send(POST % (b"early", 1000) + b"x")
        _, headers, body = await client.response()
        assert (headers.get("connection"), body) == (None, b"early")
        assert await rest(client) == b""


async def linger_when_answered(client: RawClient) -> None:
    """What is missing is much, so it ends with the answer, which no reset is to overtake."""
    async with cut_after(LINGER):
        await client.send(POST % (b"early", 10_000_000) + b"x" * 1000)
        _, headers, body = await client.response()
        assert (headers.get("connection"), body) == ("close", b"early")
        assert await rest(client) == b""
        async with dribbling(client, b"y"):
            await gone(client)


async def stop_while_being_answered(client: RawClient) -> None:
    """Nothing but the end can tell this client."""
    async with cut_after(BODY):
        await client.send(CHUNKED % b"echo" + b"5\r\nabcde\r\n")
        said = await rest(client)
        assert said.startswith(b"HTTP/1.1 200 ")
        assert said.endswith(b"abcde\r\n")


async def test_slow_bodies(tmp_path: Path) -> None:
    """408, whoever waits for them, and however they are framed; after the answer a plain end."""
    stalled = (
        send_no_body,
        stop_in_a_body_that_is_wanted_whole,
        stop_in_a_chunk,
        stop_in_the_trailers,
        be_asked_for_a_body,
    )
    faults = [
        *(Fault(body, "app", "body-timeout") for body in stalled),
        Fault(send_a_body_byte_by_byte, "app", "body-rate"),
        Fault(send_chunks_byte_by_byte, "app", "body-rate"),
        Fault(stop_when_answered, "timeout"),
        Fault(linger_when_answered, "app", over=PLAIN),
        Fault(stop_while_being_answered, "error"),
    ]
    async with staged(tmp_path) as stage:
        await in_rounds(stage, faults)


# -- slow readers


async def _read_nothing_of(client: RawClient, sent: bytes) -> None:
    begin = time.monotonic()
    client.writer.write(sent)
    check_cut(WRITE, begin, await gone(client))


async def read_no_stream(client: RawClient) -> None:
    await _read_nothing_of(client, GET % b"endless")


async def read_no_large_answer(client: RawClient) -> None:
    await _read_nothing_of(client, GET % b"large")


async def read_no_last_answer(client: RawClient) -> None:
    await _read_nothing_of(client, (GET % b"large").replace(b"Host", b"Connection: close\r\nHost"))


async def read_no_file(client: RawClient) -> None:
    await _read_nothing_of(client, GET % b"file")


async def read_no_pipelined_answers(client: RawClient) -> None:
    await _read_nothing_of(client, GET % b"short" * 10)


async def read_no_messages(client: RawClient) -> None:
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    await shake_hands(client)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await _read_nothing_of(client, frame(Opcode.BINARY, b"m" * 60000) * 10)


async def test_slow_readers(tmp_path: Path) -> None:
    """Who takes nothing of an answer is cut, wherever it comes from."""
    readers = (
        read_no_stream,
        read_no_large_answer,
        read_no_last_answer,
        read_no_file,
        read_no_pipelined_answers,
        read_no_messages,
    )
    async with staged(tmp_path) as stage:
        faults = [Fault(reader, "write-stall", deaf=True) for reader in readers]
        await in_rounds(stage, faults, at_once=min(AT_ONCE, 60))  # each is sent megabytes, by the loop it is in itself


async def test_a_reader_that_is_only_slow_gets_all(tmp_path: Path) -> None:
    """It takes far longer than the write timeout, which is for those that take nothing at all."""
    async with staged(tmp_path) as stage, stage.client("tcp", deaf=True) as client:
        client.writer.write((GET % b"large").replace(b"Host", b"Connection: close\r\nHost"))
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        size = 0
        async with cut_after(3 * WRITE):
            while piece := await client.reader.read(LARGE_PIECE):
                size += len(piece)
                await asyncio.sleep(WRITE / 10)
        assert size > len(LARGE)
        assert stage.server.disconnects == 0


LARGE_PIECE = len(LARGE) // 40


# -- half-closes


async def end_before_the_first_byte(client: RawClient) -> None:
    async with cut_after(0):
        client.send_eof()
        assert await rest(client) == b""


async def end_in_the_head(client: RawClient) -> None:
    async with cut_after(0):
        await client.send(b"GET /hello HTTP/1.1\r\nHo")
        client.send_eof()
        assert await rest(client) == b""


async def end_in_the_body(client: RawClient) -> None:
    async with cut_after(0):
        await client.send(POST % (b"upload", 1000) + b"x")
        client.send_eof()
        assert await rest(client) == b""


async def end_after_the_answer(client: RawClient) -> None:
    assert (await client.get("/hello"))[2] == b"hello"
    client.send_eof()
    assert await rest(client) == b""


async def _final(client: RawClient) -> bytes:
    """The content of the answer that counts; what looks whether we are still there is no answer."""
    while (answer := await client.response(timeout=10))[0] < 200:
        pass
    return answer[2]


async def end_and_wait_for_answers(client: RawClient) -> None:
    await client.send(GET % b"later" + GET % b"later" + POST % (b"upload", 3) + b"abc")
    client.send_eof()
    assert [await _final(client) for _ in range(3)] == [b"later", b"later", b"3"]
    assert await rest(client) == b""


async def end_and_read_a_stream(client: RawClient) -> None:
    await client.send(GET % b"short")
    client.send_eof()
    assert await _final(client) == PIECE * SHORT
    assert await rest(client) == b""


async def end_and_read_nothing(client: RawClient) -> None:
    client.writer.write(GET % b"endless")
    client.send_eof()
    async with cut_after(WRITE):
        await gone(client)


async def end_and_leave(client: RawClient) -> None:
    await client.send(GET % b"wait")
    client.send_eof()
    client.writer.transport.close()


async def end_and_break_off(client: RawClient) -> None:
    await client.send(GET % b"wait")
    client.send_eof()
    await asyncio.sleep(a_moment())
    reset(client)


async def end_a_websocket(client: RawClient) -> None:
    await shake_hands(client)
    client.send_eof()
    assert await rest(client) == b""


async def test_half_closes(tmp_path: Path) -> None:
    """Who has asked is answered, and then closed; who has not is closed at once; who has gone is noticed."""
    faults = [
        Fault(end_before_the_first_byte, "peer", over=PLAIN),
        Fault(end_in_the_head, "peer", over=PLAIN),
        Fault(end_in_the_body, "peer", over=PLAIN),
        Fault(end_after_the_answer, "peer", over=PLAIN),
        Fault(end_and_wait_for_answers, "app", over=PLAIN),
        Fault(end_and_read_a_stream, "app", over=PLAIN),
        Fault(end_and_read_nothing, "write-stall", over=PLAIN, deaf=True),
        Fault(end_and_leave, "reset", over=PLAIN),
        Fault(end_and_break_off, "reset", over=PLAIN),
        Fault(end_a_websocket, "peer", over=PLAIN),
    ]
    async with staged(tmp_path) as stage:
        await in_rounds(stage, faults)


# -- resets

WS = request(path="/ws")
CHUNKS = b"5;x=y\r\nabcde\r\n3\r\nfgh\r\n0\r\nX-Sum: 1\r\n\r\n"
EXCHANGES = {
    "pipelined": GET % b"hello" + GET % b"later" + POST % (b"upload", 5) + b"abcde" + GET % b"short" + GET % b"wait",
    "chunked": CHUNKED % b"echo" + CHUNKS + CHUNKED % b"whole" + b"1\r\na\r\n",
    "upgraded": WS + frame(Opcode.TEXT, b"hello") + frame(Opcode.BINARY, b"b" * 300) + frame(Opcode.PING),
    "closed": WS + frame(Opcode.TEXT, b"hello") + frame(Opcode.CLOSE, closing(1000, "bye")),
    "last": POST % (b"early", 10) + b"0123456789" + (GET % b"large").replace(b"Host", b"Connection: close\r\nHost"),
}
CUTS = [(name, position) for name, data in EXCHANGES.items() for position in range(len(data) + 1)]


async def test_resets_at_every_byte(tmp_path: Path) -> None:
    """Of requests in a row, of chunks, of handshakes and of frames; at once, or when the server had time to answer.

    The reason is ``reset`` wherever the server has not closed before."""
    chosen = itertools.cycle(random.sample(CUTS, len(CUTS)))
    rounds = max(fault_clients.ROUNDS, len(CUTS))

    async def cut_an_exchange(client: RawClient) -> None:
        name, position = next(chosen)
        if position:
            await client.send(EXCHANGES[name][:position])
        await asyncio.sleep(a_moment())
        reset(client)

    async with staged(tmp_path, ServerTimeouts()) as stage:
        reasons = ("reset", "app", "peer")
        await in_rounds(stage, [Fault(cut_an_exchange, reasons, over=["tcp", "tls", "unix", "tcp"])], rounds)
        assert stage.closed["reset"] >= rounds // 3


async def leave_a_stream(client: RawClient) -> None:
    await client.send(GET % b"endless")
    await client.exactly(random.randrange(1, 300_000), timeout=20)
    reset(client)


async def leave_a_stream_at_any_time(client: RawClient) -> None:
    await client.send(GET % b"short")
    await asyncio.sleep(random.random() * 0.04)
    reset(client)


async def leave_a_handler(client: RawClient) -> None:
    await client.send(GET % b"wait")
    await asyncio.sleep(a_moment())
    reset(client)


async def leave_a_file(client: RawClient) -> None:
    await client.send(GET % b"file")
    await client.exactly(random.randrange(1, 100_000), timeout=20)
    reset(client)


async def leave_an_upload(client: RawClient) -> None:
    await client.send(POST % (b"echo", 500_000) + b"u" * random.randrange(100_000))
    await asyncio.sleep(a_moment())
    reset(client)


async def test_resets_in_the_middle_of_answers(tmp_path: Path) -> None:
    """Handlers and streams are cancelled, and whatever they hold is released."""
    leaving = (leave_a_stream, leave_a_stream_at_any_time, leave_a_handler, leave_a_file, leave_an_upload)
    faults = [
        *(Fault(leave, "reset", over=["tcp", "tls"]) for leave in leaving),
        *(Fault(leave, ("reset", "peer"), over=["unix"]) for leave in leaving),
    ]
    async with staged(tmp_path, ServerTimeouts()) as stage:
        await in_rounds(stage, faults)
