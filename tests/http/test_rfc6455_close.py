"""RFC 6455 sections 5.5.1 and 7 over real sockets: how WebSockets end, by either side, in order and not. A case's name
begins with its section."""

from __future__ import annotations

import asyncio
import time

import pytest

from forebay.errors import ConnectionClosed
from forebay.http.websocket import WebSocket, WebSocketSettings
from forebay.http.websocket_client import connect
from tests.http.raw_websocket import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    accepting,
    client,
    closing,
    frame,
    read_frames,
    serve,
    server,
    server_that_sends,
)
from tests.http.websockets_kit import Recorder, serving
from tests.support import eventually

PLAIN = WebSocketSettings(compression=None, close_timeout=1)

# 7.4.1, 7.4.2 and the registry of 11.7
MAY = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
MUST_NOT = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 9999, 65535)


# -- 5.5.1 and 7.4: what a close frame may hold


@pytest.mark.parametrize("code", [*MAY, None])
async def test_7_4_codes_that_may_be_sent(code: int | None) -> None:
    """5.5.1: a close frame is answered with one of the same code; one without a code by one without. 7.1.5, 7.1.6: code
    and reason are the handler's to know; 1005 stands for none (7.4.1)."""
    reason = "" if code is None else "gute Nacht, Ödipus"
    served = await serve([closing(code, reason.encode())])
    assert served.frames == [Frame(CLOSE, b"" if code is None else code.to_bytes(2, "big"))]
    assert served.closes == [(code or 1005, reason)]


@pytest.mark.parametrize("code", MUST_NOT)
async def test_7_4_codes_that_must_not_be_sent(code: int) -> None:
    """7.4.1: 1004, 1005, 1006 and 1015 are never sent; 7.4.2: nor are those nobody has defined. 1002 is the answer."""
    served = await serve([closing(code)])
    (last,) = served.frames
    assert last.code == 1002
    assert str(code).encode() in last.payload
    assert served.closes[0][0] == 1002


@pytest.mark.parametrize("code", [1000, 1014, 3000, 4999, None])
async def test_7_4_a_client_answers_alike(code: int | None) -> None:
    """5.5.1: masked (5.3)."""
    got: list[Frame] = []
    recorder = Recorder()
    async with server_that_sends(closing(code, b"" if code is None else b"bye", mask=None), got=got) as url:
        await connect(url, handler=recorder, settings=PLAIN)
        await eventually(lambda: recorder.closes)
    assert got == [Frame(CLOSE, b"" if code is None else code.to_bytes(2, "big"), masked=True)]
    assert recorder.closes == [(code or 1005, "" if code is None else "bye")]


@pytest.mark.parametrize("code", MUST_NOT)
async def test_7_4_a_client_refuses_alike(code: int) -> None:
    """7.4: what a server must not send either."""
    got: list[Frame] = []
    async with server_that_sends(closing(code, mask=None), got=got) as url:
        ws = await connect(url, settings=PLAIN)
        with pytest.raises(ConnectionClosed, match="1002"):
            await ws.receive(timeout=5)
        await ws.close()
    assert [f.code for f in got] == [1002]


@pytest.mark.parametrize("code", MUST_NOT)
async def test_7_4_codes_that_we_do_not_send(code: int) -> None:
    """7.4.1: neither side can be made to; what was to be closed is as it was."""
    async with serving(Recorder()) as (_, site, port), client(port) as peer:
        (ws,) = site.sockets
        for close in (ws.close_nowait, ws.begin_close):
            with pytest.raises(ValueError, match=f"close code {code}"):
                close(code, "")
        with pytest.raises(ValueError, match=f"close code {code}"):
            await ws.close(code)
        assert ws.open
        assert not ws.told
        await peer.send(frame(TEXT, b"still here"))
        assert await peer.next() == Frame(TEXT, b"still here")


PAYLOADS: dict[str, tuple[bytes, int]] = {
    "5.5.1 half a code": (b"\x03", 1002),
    "5.5.1 a reason that is no UTF-8": (b"\x03\xe8\xff", 1007),
    "5.5.1 a reason that ends within a character": (b"\x03\xe8caf\xc3", 1007),
    "5.5.1 a reason with a surrogate": (b"\x03\xe8\xed\xa0\x80", 1007),
    "5.5.1 a wrong code and a wrong reason": (b"\x00\x00\xff", 1002),
    "5.5 a reason of 124 bytes": (b"\x03\xe8" + b"x" * 124, 1002),
}


@pytest.mark.parametrize("case", PAYLOADS)
async def test_5_5_1_close_frames_that_are_refused(case: str) -> None:
    """5.5.1, 8.1: by a server and by a client."""
    payload, code = PAYLOADS[case]
    served = await serve([frame(CLOSE, payload)])
    assert [f.code for f in served.frames] == [code]
    got: list[Frame] = []
    recorder = Recorder()
    async with server_that_sends(frame(CLOSE, payload, mask=None), got=got) as url:
        await connect(url, handler=recorder, settings=PLAIN)
        await eventually(lambda: recorder.closes)
    assert [f.code for f in got] == [code]


@pytest.mark.parametrize("reason", ["", "x" * 123, "ü" * 61, "€" * 41, "\0\n"])
async def test_5_5_1_reasons(reason: str) -> None:
    """5.5.1, 5.5: up to 123 bytes, of any characters."""
    served = await serve([closing(1000, reason.encode())])
    assert served.closes == [(1000, reason)]


@pytest.mark.parametrize(("reason", "sent"), [("x" * 124, "x" * 123), ("ü" * 62, "ü" * 61), ("€" * 42, "€" * 41)])
async def test_5_5_1_a_reason_of_ours_fits(reason: str, sent: str) -> None:
    """5.5: one that is too long is cut, between characters."""
    async with serving(Recorder(lambda ws, message: ws.close_nowait(4000, reason))) as (_, _, port):  # noqa: SIM117
        async with client(port) as peer:
            await peer.send(frame(TEXT, b"go"))
            assert await peer.next() == Frame(CLOSE, (4000).to_bytes(2, "big") + sent.encode())


# -- 5.5.1: nothing after it


@pytest.mark.parametrize(
    "behind",
    [frame(TEXT, b"late"), frame(PING, b"late"), closing(4000), b"\xff" * 50, frame(TEXT, b"\xff"), frame(3)],
    ids=["text", "ping", "close", "garbage", "no UTF-8", "no opcode"],
)
async def test_5_5_1_nothing_is_read_behind_a_close_frame(behind: bytes) -> None:
    """5.5.1, 7.1.3: it is the last frame; what follows is neither read nor answered, right or wrong."""
    served = await serve([frame(TEXT, b"in time") + closing(1000) + behind])
    assert served.frames == [Frame(TEXT, b"in time"), Frame(CLOSE, b"\x03\xe8")]
    assert served.closes == [(1000, "")]
    assert served.messages == ["in time"]


async def test_5_5_1_nothing_is_sent_behind_a_close_frame() -> None:
    """5.5.1: no message, no ping, no pong, no second close frame."""

    def leave(ws: WebSocket, message: str | bytes) -> None:
        ws.write("last")
        ws.close_nowait(1001, "off")
        ws.write("too late")
        ws.ping(b"too late")
        ws.close_nowait(1000)

    async with serving(Recorder(leave)) as (_, _, port), client(port) as peer:
        await peer.send(frame(TEXT, b"go") + frame(PING, b"anybody?") + frame(TEXT, b"hello?"))
        assert await peer.next() == Frame(TEXT, b"last")
        assert await peer.next() == Frame(CLOSE, b"\x03\xe9off")
        await peer.send(frame(PING, b"still?") + closing(1001))
        assert await peer.rest() == []


async def test_5_5_1_close_within_a_fragmented_message() -> None:
    """5.4, 5.5.1: a control frame may come between fragments; the message is never complete."""
    served = await serve([frame(TEXT, b"never", fin=False) + closing(1000) + frame(CONT, b"complete")])
    assert served.frames == [Frame(CLOSE, b"\x03\xe8")]
    assert served.messages == []


async def test_5_5_1_both_close_at_once() -> None:
    """5.5.1, 7.1.3: who has sent a close frame does not answer the other's. Code and reason are the peer's (7.1.5)."""
    recorder = Recorder(lambda ws, message: ws.close_nowait(4001, "ours"))
    async with serving(recorder) as (_, _, port), client(port) as peer:
        await peer.send(frame(TEXT, b"go") + closing(4002, b"theirs"))
        assert await peer.rest() == [Frame(CLOSE, b"\x0f\xa1ours")]
        await eventually(lambda: recorder.closes == [(4002, "theirs")])


# -- 7.1.1: the end of the TCP connection


async def test_7_1_1_the_server_ends_tcp_first() -> None:
    """7.1.1: at once when both close frames are there, so that it is the server that keeps TIME_WAIT; all was sent."""
    served = await serve([frame(BINARY, b"x" * 500_000) + closing()], compression=None)
    assert [f.opcode for f in served.frames] == [BINARY, CLOSE]
    assert len(served.frames[0].payload) == 500_000


@pytest.mark.parametrize("first", ["client", "server"])
async def test_7_1_1_a_client_waits_for_the_server_to_end_tcp(first: str) -> None:
    """7.1.1: after the closing handshake it does not end the connection itself, for some time."""
    waited: list[float] = []

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(accepting(head))
        if first == "server":
            await peer.send(closing(mask=None))
            assert (await peer.next()).code == 1000
        else:
            assert (await peer.next()).code == 1000
            await peer.send(closing(mask=None))
        begun = time.monotonic()
        assert await peer.raw.rest() == b""
        waited.append(time.monotonic() - begun)

    async with server(script) as url:
        ws = await connect(url, settings=WebSocketSettings(compression=None, close_timeout=0.3))
        if first == "server":
            assert [message async for message in ws] == []
        await ws.close()
        assert ws.close_code == 1000
        await eventually(lambda: waited)
    assert 0.25 < waited[0] < 3


async def test_7_1_1_a_server_that_is_not_answered_ends_tcp() -> None:
    """7.1.1: after a while; the peer that does not answer sees a reset, our handler 1006 (7.1.5)."""
    recorder = Recorder(lambda ws, message: ws.close_nowait(1000))
    async with serving(recorder, close_timeout=0.2) as (_, _, port), client(port) as peer:
        await peer.send(frame(TEXT, b"go"))
        assert (await peer.next()).code == 1000
        assert await peer.rest() == []
        await eventually(lambda: recorder.closes == [(1006, "timeout")])


# -- 7.1.5: the code that the handler is told


ENDS: dict[str, tuple[bytes, bool, tuple[int, str]]] = {
    "7.1.4 cleanly": (closing(1000, b"bye"), False, (1000, "bye")),
    "7.1.5 a close frame without a code": (closing(None), False, (1005, "")),
    "7.1.5 no close frame": (b"", False, (1006, "peer")),
    "7.1.5 a reset": (b"", True, (1006, "reset")),
    "7.1.5 the end within a header": (b"\x81", False, (1006, "peer")),
    "7.1.5 the end within a frame": (frame(TEXT, b"half", length=10), False, (1006, "peer")),
    "7.1.5 the end within a message": (frame(TEXT, b"half", fin=False), False, (1006, "peer")),
    "7.1.5 a reset within a message": (frame(TEXT, b"half", fin=False), True, (1006, "reset")),
    "7.1.5 the end within a close frame": (closing(1000)[:-1], False, (1006, "peer")),
}


@pytest.mark.parametrize("style", ["event", "coroutine"])
@pytest.mark.parametrize("case", ENDS)
async def test_7_1_5_codes_a_server_tells_its_handler(case: str, style: str) -> None:
    """7.1.5, 7.2.1, 7.2.2: what the peer said, 1005 where it said none, 1006 where there was no close frame."""
    data, reset, expected = ENDS[case]
    recorder = Recorder()
    ended: list[tuple[int | None, str]] = []
    told: list[str] = []

    async def listen(ws: WebSocket) -> None:
        try:
            while True:
                await ws.receive()
        except ConnectionClosed as error:
            await eventually(lambda: ws.close_code)
            ended.append((ws.close_code, ws.close_reason))
            told.append(str(error))

    async with serving(recorder if style == "event" else listen) as (site, _, port), client(port) as peer:
        await peer.send(data)
        if reset:
            await asyncio.sleep(0.05)  # what was sent would be lost with the reset
            peer.raw.abort()
        elif not data.startswith(b"\x88") or case.endswith("within a close frame"):
            peer.raw.send_eof()
        await eventually(lambda: (recorder.closes or ended) == [expected])
        await eventually(lambda: site.connections == 0)
    assert all(f"({expected[0]}" in text for text in told)


@pytest.mark.parametrize("how", ["end", "reset", "half a frame"])
async def test_7_1_5_codes_a_client_is_told(how: str) -> None:
    """7.2.2: a server that ends without a close frame; whoever waits hears of it."""

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(accepting(head) + (b"\x81\x7e\x10" if how == "half a frame" else b""))
        if how == "reset":
            await asyncio.sleep(0.05)
            peer.raw.abort()
        else:
            peer.raw.send_eof()
            await peer.rest()

    async with server(script) as url:
        ws = await connect(url, settings=PLAIN)
        with pytest.raises(ConnectionClosed, match="1006"):
            await ws.receive(timeout=5)
        assert (ws.close_code, ws.close_reason) == (1006, "reset" if how == "reset" else "peer")


# -- 7.1.7, 7.2 and 7.3


async def test_7_1_7_a_connection_that_was_failed_reads_nothing_more() -> None:
    """7.1.7: neither data nor control frames, and the peer can read why, though it goes on sending."""
    async with serving(Recorder()) as (_, _, port), client(port) as peer:
        sending = asyncio.create_task(peer.send(*([frame(CONT) + frame(BINARY, bytes(65536))] * 50)))
        assert (await peer.next()).code == 1002
        assert await peer.rest() == []
        await sending


async def test_7_2_1_a_close_that_was_failed_tells_no_more_than_once() -> None:
    """7.1.7: who has sent its close frame, and then gets what is wrong, just ends."""
    recorder = Recorder(lambda ws, message: ws.close_nowait(1001))
    async with serving(recorder) as (_, _, port), client(port) as peer:
        await peer.send(frame(TEXT, b"go") + frame(3, b"wrong"))
        assert [f.code for f in await peer.rest()] == [1001]
        peer.raw.writer.transport.abort()
        await eventually(lambda: recorder.closes)
        assert recorder.closes[0][0] == 1002


async def test_7_3_either_side_may_close_at_any_time() -> None:
    """7.3: also while messages of both sides are under way; who closes is told the peer's code."""
    async with serving(Recorder()) as (_, site, port):
        async with connect(f"ws://127.0.0.1:{port}/") as ws:
            for _ in range(100):
                ws.write("x" * 1000)
            await ws.close(4444, "enough")
            assert ws.close_code == 4444  # the server's answer
        theirs = site.sockets[0]
        await eventually(lambda: (theirs.close_code, theirs.close_reason) == (4444, "enough"))


async def test_5_5_2_no_pong_once_the_close_has_begun() -> None:
    """5.5.2: a ping is answered unless a close frame was received; here both come in one segment."""
    served = await serve([frame(PING, b"before") + closing() + frame(PING, b"behind")])
    assert served.frames == [Frame(PONG, b"before"), Frame(CLOSE, b"\x03\xe8")]


async def test_7_1_2_the_close_frame_is_sent_behind_all_that_was_written() -> None:
    """5.5.1: as a rule when what is under way is sent; none of it is lost, however slowly it is taken."""

    def pour(ws: WebSocket, message: str | bytes) -> None:
        for _ in range(10):
            ws.write(b"x" * 300_000)
        ws.close_nowait(1000)

    async with serving(Recorder(pour), compression=None) as (_, _, port), client(port) as peer:
        await peer.send(frame(TEXT, b"go"))
        await asyncio.sleep(0.1)
        data = b""
        while not data.endswith(b"\x88\x02\x03\xe8"):
            data += await asyncio.wait_for(peer.raw.reader.read(65536), 5)
        frames = read_frames(data)
        assert [len(f.payload) for f in frames] == [300_000] * 10 + [2]
