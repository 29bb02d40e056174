"""The client with the servers there are: nginx, HAProxy, Caddy, uvicorn and our own.

Large files have 64 MiB; with ``FOREBAY_SOAK_ROUNDS`` set, 1 GiB.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from forebay.http.client.client import Client
from forebay.http.client.settings import Limits
from forebay.http.client.trace import Step
from tests.http.client.kit import SOAK, at_rest, pool_of
from tests.http.client.origins import ORIGINS, ROOT, TEXT, origin, write_files

MIB = 1024 * 1024
LARGE = (1024 if SOAK else 64) * MIB
GROWTH = 20 * MIB

pytestmark = [pytest.mark.timeout(600 if SOAK else 60), pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder, and the SHA-256 of the large file."""
    folder = tmp_path_factory.mktemp("origin")
    return folder, write_files(folder, LARGE)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ORIGINS)
async def url(request: pytest.FixtureRequest, files: tuple[Path, str]) -> AsyncIterator[str]:
    """Each of the servers, at work."""
    async with origin(request.param, files[0]) as found:
        yield found


async def test_a_connection_is_kept(url: str) -> None:
    """As the server sees it: all requests come from one port."""
    async with Client(url) as client:
        ports = {await (await client.get("/port")).text() for _ in range(20)}
        assert len(ports) == 1
        assert int(ports.pop()) > 0
        assert pool_of(client)["dials"] == 1
        await (await client.get("/none-of-that-name")).read()
        async with client.head("/files/large.bin") as response:
            assert (response.status, int(response.headers["content-length"])) == (200, LARGE)
            assert await response.read() == b""
        await (await client.get("/chunks")).read()
        assert pool_of(client)["dials"] == 1


async def test_chunks_both_ways(url: str) -> None:
    """Content of unknown length is what it was, piece by piece."""

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(200):
            yield b"%05d" % number * (1 + number * 5)
            await asyncio.sleep(0)

    whole = b"".join([piece async for piece in pieces()])
    async with Client(url) as client:
        for _ in range(3):
            response = await client.post("/echo", content=pieces())
            assert response.headers.get("transfer-encoding", "").lower() == "chunked"
            assert await response.read() == whole
        response = await client.get("/chunks")
        assert await response.read() == b"".join(b"%05d" % number * 200 for number in range(100))
        assert pool_of(client)["dials"] == 1, "its connection is kept"


async def test_ranges(url: str, files: tuple[Path, str]) -> None:
    """Parts of a file; conditions; and one that is not there."""
    with (files[0] / "files" / "large.bin").open("rb") as file:
        head = file.read(2 * MIB)
    async with Client(url) as client:
        response = await client.get("/files/large.bin", headers={"range": "bytes=1000-1999"})
        assert (response.status, response.headers["content-range"]) == (206, f"bytes 1000-1999/{LARGE}")
        assert await response.read() == head[1000:2000]
        etag = response.headers["etag"]
        for tag, status in ((etag, 206), ('"other"', 200)):
            async with client.get("/files/large.bin", headers={"range": "bytes=0-9", "if-range": tag}) as response:
                assert response.status == status
        async with client.get("/files/large.bin", headers={"range": f"bytes={LARGE}-"}) as response:
            assert response.status == 416
        response = await client.get("/files/large.bin", headers={"if-none-match": etag})
        assert (response.status, await response.read()) == (304, b"")
        parts = [
            await (
                await client.get("/files/large.bin", headers={"range": f"bytes={start}-{start + MIB // 4 - 1}"})
            ).read()
            for start in range(0, 2 * MIB, MIB // 4)
        ]
        assert b"".join(parts) == head


async def test_continue(url: str) -> None:
    """The content is sent once the server has said that it wants it."""
    content = b"c" * 300_000
    async with Client(url, trace=True) as client:
        for number in range(3):
            response = await client.put("/sha", content=content, expect_continue=True)
            assert await response.json() == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            assert response.trace is not None
            steps = [event.step for event in response.trace.events]
            assert steps.index(Step.CONTINUE) < steps.index(Step.WROTE_BODY), f"request {number}: {steps}"
        assert pool_of(client)["dials"] == 1


async def test_compressed_content(url: str) -> None:
    """Is what it was before, whatever coding the server likes best."""
    async with Client(url) as client:
        response = await client.get("/files/text.txt")
        assert await response.read() == TEXT
        if "content-encoding" in response.headers:
            assert response.headers["content-encoding"] in ("gzip", "zstd", "br")


async def test_many_at_once(url: str) -> None:
    """Over a few connections: each answer is the right one."""
    async with Client(url, limits=Limits(connections=20, per_target=20)) as client:

        async def ask(number: int) -> None:
            content = b"%d " % number * (number * 7 % 500)
            response = await client.put("/sha", content=content)
            assert await response.json() == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

        async with asyncio.TaskGroup() as group:
            for number in range(300):
                group.create_task(ask(number))
        await at_rest(client)
        assert pool_of(client)["dials"] <= 20


@pytest.mark.parametrize("what", ["download", "upload"])
async def test_large_content(url: str, files: tuple[Path, str], what: str) -> None:
    """Comes and goes whole, and takes no memory to speak of."""
    folder, digest = files
    target = f"{url}/files/large.bin" if what == "download" else f"{url}/sha"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.http.client.transfer", what, target, str(folder / "files" / "large.bin")),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    found = json.loads(out)
    print(f"\n{what} of {LARGE / MIB:.0f} MiB: {found['seconds']:.1f} s, memory grew by {found['grown'] / MIB:.1f} MiB")
    assert (found["status"], found["size"], found["sha256"]) == (200, LARGE, digest)
    assert found["grown"] < GROWTH
