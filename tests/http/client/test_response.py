"""What is made of an answer: its content whole, in pieces, in lines; and what becomes of one that is forgotten."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.errors import ContentTooLarge, ContentUndecodable, UpstreamClosed
from forebay.http import Client, ClientResponse, Limits
from tests.http.client.kit import Peer, answering, at_rest, in_time, nothing_left, playing, pool_of


def answer(content: bytes, headers: str = "") -> bytes:
    """One with its length."""
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n{headers}\r\n".encode() + content


async def beginning(peer: Peer) -> None:
    """Answer with a beginning."""
    await peer.asked()
    await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nsome")
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    "charset", ["punycode", "idna", "undefined", "unicode_escape", "hex", "no-such", "utf-16", "\xff"]
)
async def test_a_charset_that_is_none(charset: str) -> None:
    """Servers say anything: it is told, and costs no time, which punycode does by the square of the content."""
    said = answer(b"a" * 1_000_000 + b"-" + b"bcde" * 100_001, f"Content-Type: text/plain; charset={charset}\r\n")
    said = said.replace("\xff".encode(), b"\xff")
    async with playing(answering(said)) as server, Client(server.url, proxy="") as client:
        response = await client.get("/")
        await response.read()
        with in_time(0.5), pytest.raises(ContentUndecodable, match="the content is not"):
            await response.text()


@pytest.mark.parametrize(("kind", "content"), [("json", b"[" * 100_000), ("msgpack", b"\x91" * 100_000)])
async def test_content_that_is_nested_too_deep(kind: str, content: bytes) -> None:
    """Is content that cannot be decoded, and not a failure of ours."""
    async with playing(answering(answer(content))) as server, Client(server.url, proxy="") as client:
        with pytest.raises(ContentUndecodable, match="recursion"):
            await getattr(await client.get("/"), kind)()


async def test_lines() -> None:
    """However the network cuts them; the last one need not end."""
    content = b"one\r\ntwo\n\n\xc3\xa4" + b"x" * 5000 + b"\nend"

    async def dribbles(peer: Peer) -> None:
        while await peer.asked() is not None:
            for at in range(0, len(answer(content)), 7):
                await peer.say(answer(content)[at : at + 7])
                await asyncio.sleep(0)

    async with playing(dribbles) as server, Client(server.url, proxy="") as client:
        found = [line async for line in (await client.get("/")).lines()]
        assert found == ["one", "two", "", "\xe4" + "x" * 5000, "end"]
        with capture_logs() as logs:
            found = []
            with pytest.raises(ContentTooLarge, match="a line is longer than 100 bytes"):
                async for line in (await client.get("/")).lines(100):
                    found.append(line)
        assert found == ["one", "two", ""]
        assert logs == []
    async with playing(answering(answer(b"x" * 200 + b"\n"))) as server, Client(server.url, proxy="") as client:
        with pytest.raises(ContentTooLarge):  # whole in one piece
            async for _ in (await client.get("/")).lines(100):
                pass


@pytest.mark.parametrize("size", [99_999, 100_000, 100_001])
@pytest.mark.parametrize("chunked", [False, True])
async def test_read_takes_as_much_as_is_allowed(size: int, chunked: bool) -> None:
    """And not a byte more, whether the server says how much there is or not; the connection of what fits is kept."""
    content = bytes(size)

    async def says(peer: Peer) -> None:
        while await peer.asked() is not None:
            if chunked:
                await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for at in range(0, size, 9000):
                    piece = content[at : at + 9000]
                    await peer.say(b"%x\r\n%b\r\n" % (len(piece), piece))
                    await asyncio.sleep(0)
                await peer.say(b"0\r\n\r\n")
            else:
                await peer.answer(content)

    limits = Limits(body=100_000, buffer=4096)
    async with nothing_left(), playing(says) as server, Client(server.url, limits=limits, proxy="") as client:
        for number in (1, 2):
            response = await client.get("/")
            if size > 100_000:
                with pytest.raises(ContentTooLarge, match=r"at most 100000 bytes are taken \(Limits\.body\)"):
                    await response.read()
                with pytest.raises((ContentTooLarge, RuntimeError)):
                    await response.read()
            else:
                assert await response.read() == content
                assert pool_of(client)["dials"] == 1, number
            await at_rest(client)


async def test_read_of_what_breaks_off() -> None:
    """Is an error, and not what came."""

    async def breaks(peer: Peer) -> None:
        await peer.asked()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        await asyncio.sleep(0.01)
        await peer.say(bytes(999))

    async with nothing_left(), playing(breaks) as server, Client(server.url, proxy="") as client:
        response = await client.get("/")
        with pytest.raises(UpstreamClosed, match="after 999 bytes"):
            await response.read()
        await at_rest(client)


# Forgotten


@pytest.mark.both_loops
async def test_what_another_thread_collects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector runs where it happens to: the connection comes back all the same, on its own loop."""
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    async with nothing_left(), playing(beginning) as server, Client(server.url, proxy="") as client:
        with capture_logs() as logs:
            gc.disable()
            try:
                for _ in range(5):
                    kept: dict[str, Any] = {"response": await client.get("/")}
                    kept["itself"] = kept
                del kept
                thread = threading.Thread(target=gc.collect)
                thread.start()
                thread.join()
            finally:
                gc.enable()
            await at_rest(client)
        assert [log["event"] for log in logs] == ["response forgotten"] * 5
        assert not unraisable


async def test_what_is_collected_in_the_middle_of_anything() -> None:
    """A response that is found to be garbage while the pool is at work does not come back within that."""
    async with nothing_left(), playing(beginning) as server, Client(server.url, proxy="") as client:
        response: ClientResponse | None = await client.get("/")
        with capture_logs() as logs:
            response = None  # as the collector does, at any moment
            assert pool_of(client)["in_use"] == 1
            assert response is logs or logs == []
            await at_rest(client)
        assert [log["event"] for log in logs] == ["response forgotten"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_what_outlives_its_loop(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses and clients that a program still has when its loop is closed, or when it ends, do not make a noise."""
    monkeypatch.setenv("FOREBAY_LOOP", loop)
    program = """
import asyncio, gc
from forebay.engine import run
from forebay.http import Client
kept, others = [], []
async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 9000000\\r\\n\\r\\nsome")
async def main(stops):
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", proxy="")
    await client.start()
    for _ in range(3):
        kept.append(await client.get("/"))
    pieces = kept[1].stream()
    await anext(pieces)
    if stops:
        await client.stop()
    kept.extend([pieces, client])
    server.close()
for stops in (True, False):
    run(main(stops))
    others.append(kept.pop())
    others.append(kept.pop())
    kept.pop().discard()
    kept.pop(0)
    gc.collect()
    others.append(kept.pop())
print("end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout.endswith("end\n")
    noise = [line for line in done.stderr.splitlines() if "ResourceWarning" not in line]
    assert noise == []
    assert done.returncode == 0
