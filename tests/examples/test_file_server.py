"""The file server: what it sends, and what it never does."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from examples.file_server import LONGEST_LINE, MOST_LISTED, make_server
from forebay import Connection, TCPServer
from forebay.engine import ClientTLS, dial
from tests.examples.processes import forebay_run
from tests.support import RawClient, eventually, free_port, open_descriptors, raw_client, running

SECRET = b"nobody may read this"
LARGE = os.urandom(1 << 20) * 12


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with files, and next to it something secret, to which several ways lead."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    folder = tmp_path / "root"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "hello.txt").write_bytes(b"hello world\n")
    (folder / "a b%.txt").write_bytes(b"spaces")
    (folder / "sub" / "deep" / "empty").write_bytes(b"")
    (folder / "link").symlink_to("../secret")
    (folder / "inner").symlink_to("hello.txt")
    (folder / "out").symlink_to("../outside")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture
async def client(root: Path) -> AsyncIterator[RawClient]:
    """Somebody who asks for files."""
    async with running(make_server(root, "tcp://127.0.0.1:0")) as server, raw_client(server.addresses[0].port) as made:
        yield made


async def ask(client: RawClient, line: str) -> str:
    """Send a command, and read the first line of its answer."""
    await client.send(line.encode() + b"\n")
    return (await client.line()).decode().rstrip("\n")


async def get(client: RawClient, line: str) -> bytes:
    """The part of a file that ``line`` asks for."""
    status, _, size = (await ask(client, line)).partition(" ")
    assert status == "OK"
    return await client.exactly(int(size), timeout=30)


@pytest.mark.both_loops
async def test_files_and_parts_of_them_are_sent(client: RawClient) -> None:
    """A whole file, from an offset, a part, past its end, an empty one, and one whose name is encoded."""
    assert await get(client, "GET hello.txt") == b"hello world\n"
    assert await get(client, "get hello.txt 6") == b"world\n"
    assert await get(client, "GET hello.txt 6 5") == b"world"
    assert await get(client, "GET hello.txt 6 500") == b"world\n"
    assert await get(client, "GET hello.txt 12") == b""
    assert await get(client, "GET sub/deep/empty") == b""
    assert await get(client, "GET a%20b%25.txt") == b"spaces"
    assert await get(client, "GET //hello.txt") == b"hello world\n"


async def test_folders_are_listed(client: RawClient) -> None:
    """Files with their sizes, and folders; neither symlinks nor pipes."""
    assert await ask(client, "LIST") == "OK 3"
    assert [await client.line() for _ in range(3)] == [b"6 a%20b%25.txt\n", b"12 hello.txt\n", b"- sub/\n"]
    assert await ask(client, "LIST sub/deep/") == "OK 1"
    assert await client.line() == b"0 empty\n"
    assert await ask(client, "LIST hello.txt") == "ERR a part of the name is no folder"


async def test_a_folder_that_is_too_large_is_listed_in_part(client: RawClient, root: Path) -> None:
    """At most so many entries are named."""
    for number in range(MOST_LISTED + 5):
        (root / "sub" / f"{number}").touch()
    assert await ask(client, "LIST sub") == f"OK {MOST_LISTED}"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("GET ../secret", "ERR that is no name of a file here"),
        ("GET sub/../../secret", "ERR that is no name of a file here"),
        ("GET %2e%2e/secret", "ERR that is no name of a file here"),
        ("GET %2e%2e%2fsecret", "ERR that is no name of a file here"),
        ("GET ./hello.txt", "ERR that is no name of a file here"),
        ("GET hello.txt%00", "ERR that is no name of a file here"),
        ("GET " + "sub/" * 33 + "x", "ERR that is no name of a file here"),
        ("GET /etc/passwd", "ERR there is no such file"),
        ("GET %2fetc%2fpasswd", "ERR there is no such file"),
        ("GET link", "ERR symlinks are not followed"),
        ("GET inner", "ERR symlinks are not followed"),
        ("GET out/secret", "ERR a part of the name is no folder"),
        ("GET link/x", "ERR a part of the name is no folder"),
        ("LIST out", "ERR a part of the name is no folder"),
        ("LIST ..", "ERR that is no name of a file here"),
        ("GET pipe", "ERR that is no file; LIST shows what is in a folder"),
        ("GET sub", "ERR that is no file; LIST shows what is in a folder"),
        ("GET %ff%fe", "ERR there is no such file"),
        ("GET " + "x" * 300, "ERR the name is too long"),
        ("GET hello.txt 13", "ERR it has 12 bytes only"),
        ("GET hello.txt -1", "ERR offset and count are numbers from 0 on"),
        ("GET hello.txt 1 2 3", "ERR expected LIST [FOLDER], GET NAME [OFFSET [COUNT]] or QUIT"),
        ("GET hello.txt " + "9" * 19, "ERR offset and count are numbers from 0 on"),
        ("GET", "ERR expected LIST [FOLDER], GET NAME [OFFSET [COUNT]] or QUIT"),
        ("", "ERR expected LIST [FOLDER], GET NAME [OFFSET [COUNT]] or QUIT"),
    ],
)
async def test_what_cannot_be_done_is_refused(client: RawClient, line: str, answer: str) -> None:
    """Nothing outside of the root is read, by whichever way; and the connection goes on."""
    assert await ask(client, line) == answer
    assert await get(client, "GET hello.txt") == b"hello world\n"


async def test_a_line_that_is_too_long_ends_the_connection(client: RawClient) -> None:
    """It is answered, and that is the last answer."""
    await client.send(b"GET " + b"x" * LONGEST_LINE)
    assert await client.rest() == b"ERR a line is longer than 4096 bytes\n"


@asynccontextmanager
async def serving_large(root: Path, *, tls: bool) -> AsyncIterator[tuple[TCPServer, Connection]]:
    """A server with a large file, with and without TLS, and a connection to it."""
    (root / "large").write_bytes(LARGE)
    certificate, trust = None, None
    if tls:
        authority = trustme.CA()
        certificate = root.parent / "server.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        authority.cert_pem.write_to_path(str(root.parent / "ca.pem"))
        trust = ClientTLS(ca=root.parent / "ca.pem")
    scheme = "tls" if tls else "tcp"
    async with running(make_server(root, f"{scheme}://127.0.0.1:0", certificate=certificate)) as server:
        conn = await dial(server.addresses[0], tls=trust)
        try:
            yield server, conn
        finally:
            conn.abort()


@pytest.mark.both_loops
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_large_files_arrive_whole(root: Path, tls: bool) -> None:
    """Several files that were asked for at once come one after the other, every byte of them."""
    async with serving_large(root, tls=tls) as (_, conn):
        await conn.send(b"GET large\nGET hello.txt\nGET large 1 5\nQUIT\n")
        received = b"".join([chunk async for chunk in conn])
        size = len(LARGE)
        assert received == b"OK %d\n%bOK 12\nhello world\nOK 5\n%b" % (size, LARGE, LARGE[1:6])


@pytest.mark.both_loops
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_who_leaves_in_the_middle_leaves_nothing_behind(root: Path, tls: bool) -> None:
    """Peers that cut their connection while a file is sent to them leave no descriptor open."""
    async with serving_large(root, tls=tls) as (server, _):
        before = open_descriptors()
        for _ in range(20):
            trust = ClientTLS(ca=root.parent / "ca.pem") if tls else None
            conn = await dial(server.addresses[0], tls=trust)
            await conn.send(b"GET large\n")
            await conn.receive(timeout=5)
            conn.abort()
        await eventually(lambda: server.connections == 1)
        await eventually(lambda: open_descriptors() <= before)


async def test_a_file_that_shrinks_ends_the_connection(root: Path) -> None:
    """Whoever was promised more bytes than there are sees the end of the connection instead of waiting for them."""
    loop = asyncio.get_running_loop()
    async with serving_large(root, tls=False) as (server, _):
        with socket.socket() as slow:
            slow.setblocking(False)
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(slow, ("127.0.0.1", server.addresses[0].port))
            await loop.sock_sendall(slow, b"GET large\n")
            received = len(await loop.sock_recv(slow, 1024))
            os.truncate(root / "large", 1 << 20)
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(10):
                    while True:
                        received += len(await loop.sock_recv(slow, 1 << 20))
        assert received < len(LARGE)
        await eventually(lambda: server.connections == 1)


async def test_it_runs_as_its_docstring_says(root: Path, tmp_path: Path) -> None:
    """``forebay run`` serves FILES_ROOT."""
    port = free_port()
    where = ("--bind", f"tcp://127.0.0.1:{port}")
    async with (
        forebay_run("examples.file_server:server", tmp_path / "log", *where, FILES_ROOT=str(root)),
        raw_client(port) as client,
    ):
        assert await get(client, "GET hello.txt") == b"hello world\n"
        assert await ask(client, "QUIT") == ""
