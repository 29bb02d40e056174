"""``forebay fetch``, as a real process."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
from pathlib import Path

import pytest

from tests.engine.connecting import tls_files
from tests.http.client.kit import Peer, playing, server_context
from tests.support import free_port


async def fetch(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run it; exit code, standard output and standard error."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "forebay", "fetch", *arguments, stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def _on_terminal(arguments: tuple[str, ...]) -> tuple[int, str]:
    leader, follower = pty.openpty()
    fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    redirected = [(os.POSIX_SPAWN_DUP2, follower, number) for number in (0, 1, 2)]
    command = [sys.executable, "-m", "forebay", "fetch", *arguments]
    process = os.posix_spawn(sys.executable, command, environment, file_actions=redirected)
    os.close(follower)
    seen = b""
    try:
        while data := os.read(leader, 65536):
            seen += data
    except OSError:  # how Linux says that nobody has it open any more
        pass
    os.close(leader)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), seen.decode().replace("\r\n", "\n")


async def on_terminal(*arguments: str) -> tuple[int, str]:
    """Run it on a terminal of 80 columns; exit code, and what is on it."""
    return await asyncio.wait_for(asyncio.to_thread(_on_terminal, arguments), 20)


async def play(peer: Peer) -> None:
    """A redirect to some JSON; what is no text; what is no good."""
    while (asked := await peer.asked()) is not None:
        match asked.target:
            case "/old":
                await peer.answer(b"", 302, "Location: /users\r\nSet-Cookie: sid=hunter2\r\n")
            case "/binary":
                await peer.answer(b"\0\1\2", 200, "Content-Type: image/png\r\n")
            case "/latin":
                await peer.answer("Zürich".encode("latin-1"), 200, "Content-Type: text/plain; charset=ISO-8859-1\r\n")
            case "/cut":
                await peer.say(b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\npart")
                return
            case "/missing":
                await peer.answer(b"no \x1b[31m such", 404)
            case "/echo":
                kind = asked.headers.get("content-type", "none")
                await peer.answer(b"%b %b %b" % (asked.method.encode(), kind.encode(), asked.body))
            case _:
                await peer.answer(b'{"name": "Ada"}', 200, "Content-Type: application/json\r\n")


async def test_a_redirect_over_tls() -> None:
    """Content goes to standard output, the head and the picture to standard error."""
    async with playing(play, secure=True) as server:
        code, out, err = await fetch(f"{server.url}/old", "--ca", str(tls_files()[1]))
    assert (code, out) == (0, '{"name": "Ada"}')
    lines = err.splitlines()
    assert lines[:2] == ["HTTP/1.1 200 X", "content-type: application/json"]
    assert max(map(len, lines)) <= 80
    labels = [line[:17].strip() for line in lines if line.startswith("  ") and line[:17].strip()]
    assert [label for label in labels if label not in ("pool wait", "get ready", "pause")] == [  # if they take time
        *("connect", "TLS handshake", "send request", "wait for answer", "receive answer"),
        *("connection", "send request", "wait for answer", "receive answer"),
    ]
    assert re.search(rf"^GET {server.url}/old +302 Found +\d+\.\d+ ms$", err, re.MULTILINE)
    assert re.search(rf"^↪ redirected: GET {server.url}/users +200 OK +\d+\.\d+ ms$", err, re.MULTILINE)
    assert re.search(r"^total +\d+\.\d+ ms$", lines[-1])


async def test_on_a_terminal() -> None:
    """In colours, 80 columns wide, and without what would move the cursor."""
    async with playing(play, secure=True) as server:
        code, seen = await on_terminal(f"{server.url}/old", "--insecure")
        assert code == 0
        assert "\x1b[" in seen
        plain = re.sub(r"\x1b\[[0-9;]*m", "", seen)
        assert '\n{"name": "Ada"}\n\n' in plain
        assert max(map(len, plain.splitlines())) <= 80
        code, seen = await on_terminal(f"{server.url}/missing", "--insecure", "-q")
        assert (code, seen) == (1, "no \\x1b[31m such\n")
        assert (await on_terminal(f"{server.url}/latin", "--insecure", "-q")) == (0, "Zürich\n")
        code, seen = await on_terminal(f"{server.url}/cut", "--insecure", "-q")
        assert code == 1
        assert seen.startswith("part\nforebay: GET https://127.0.0.1")
        code, seen = await on_terminal(f"{server.url}/binary", "--insecure", "-q")
        assert (code, seen) == (1, "forebay: content is not text (image/png): give -o FILE to save it\n")


async def test_verbose() -> None:
    """Every head as it went over the wire, without secrets."""
    async with playing(play) as server:
        code, out, err = await fetch(f"{server.url}/old", "-v", "-H", "Authorization: Bearer hunter2")
    assert (code, out) == (0, '{"name": "Ada"}')
    assert "> GET /old HTTP/1.1\n" in err
    assert "> authorization: Bearer ***\n" in err.lower().replace("bearer", "Bearer")
    assert "< HTTP/1.1 302 X\n" in err
    assert "< Set-Cookie: sid=***\n" in err
    assert "> GET /users HTTP/1.1\n" in err
    assert "hunter2" not in err


async def test_files(tmp_path: Path) -> None:
    """The content and what happened go to files."""
    output, har = tmp_path / "out", tmp_path / "fetch.har"
    async with playing(play) as server:
        code, out, err = await fetch(f"{server.url}/binary", "-q", "-o", str(output), "--har", str(har))
        assert (code, out, err) == (0, "", "")
        assert output.read_bytes() == b"\0\1\2"
        (entry,) = json.loads(har.read_text())["log"]["entries"]
        assert entry["response"]["content"]["mimeType"] == "image/png"
        assert entry["response"]["content"]["text"] == "AAEC"
        code, _, err = await fetch(f"{server.url}/binary", "-q", "-o", "/dev/full")
        assert (code, err) == (1, "forebay: cannot write to /dev/full: No space left on device\n")


async def test_content_is_shown_as_it_comes(tmp_path: Path) -> None:
    """Each piece at once, though it is put into a HAR as well, which has the first mebibyte of any."""
    seen = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.asked()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 70000003\r\n\r\none")
        await seen.wait()
        await peer.say(b"x" * 70_000_000)

    har = tmp_path / "fetch.har"
    async with playing(slow) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "forebay", "fetch", "-q", server.url, "--har", str(har)),
            stdout=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.read(3), 20) == b"one"
        seen.set()
        assert len(await asyncio.wait_for(process.stdout.read(), 20)) == 70_000_000
        assert await process.wait() == 0
    (entry,) = json.loads(har.read_text())["log"]["entries"]
    content = entry["response"]["content"]
    assert (content["size"], len(content["text"])) == (70_000_003, 1024 * 1024)


async def test_ctrl_c(tmp_path: Path) -> None:
    """Shows what it was at, writes the HAR, and exits with 130 as shells expect."""
    asked = asyncio.Event()

    async def silent(peer: Peer) -> None:
        await peer.asked()
        asked.set()
        await peer.rest(10)

    har = tmp_path / "fetch.har"
    async with playing(silent) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "forebay", "fetch", server.url, "--har", str(har)),
            stderr=asyncio.subprocess.PIPE,
        )
        await asyncio.wait_for(asked.wait(), 20)
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130
    assert "wait for answer" in err.decode()
    assert "Traceback" not in err.decode()
    assert json.loads(har.read_text())["log"]["entries"][0]["response"]["status"] == 0


async def test_content(tmp_path: Path) -> None:
    """Of each kind, POST unless it is said otherwise."""
    (tmp_path / "file.txt").write_text("from a file")
    async with playing(play) as server:
        url = f"{server.url}/echo"
        assert (await fetch(url, "-q"))[1] == "GET none "
        assert (await fetch(url, "-q", "-X", "options"))[1] == "OPTIONS none "
        assert (await fetch(url, "-q", "--json", "[1]"))[1] == "POST application/json [1]"
        (tmp_path / "x.json").write_text("[2]")
        assert (await fetch(url, "-q", "--json", f"@{tmp_path}/x.json"))[1] == "POST application/json [2]"
        assert (await fetch(url, "-q", "-X", "PUT", "-d", "x", "-H", "Content-Type: a/b"))[1] == "PUT a/b x"
        assert (await fetch(url, "-q", "-d", f"@{tmp_path}/file.txt"))[
            1
        ] == "POST text/plain; charset=utf-8 from a file"
        assert (await fetch(url, "-q", "-d", "@-", "-H", "content-type: a/b", stdin=b"in"))[1] == "POST a/b in"
        form = (await fetch(url, "-q", "--form", "a=1", "--form", "b=ü"))[1]
        assert form == "POST application/x-www-form-urlencoded a=1&b=%C3%BC"
        parts = (await fetch(url, "-q", "--form", "a=1", "--form", f"f=@{tmp_path}/file.txt"))[1]
        assert parts.startswith("POST multipart/form-data; boundary=")
        assert 'filename="file.txt"' in parts


async def test_no_follow_and_no_scheme() -> None:
    """A redirect is an answer like any other; http:// need not be written."""
    async with playing(play) as server:
        code, out, err = await fetch(f"127.0.0.1:{server.port}/old", "--no-follow")
    assert (code, out) == (0, "")
    assert err.startswith("HTTP/1.1 302 X\ncontent-length: 0\nlocation: /users\n")


async def test_failures() -> None:
    """One line that says what it was, after the picture; exit code 1."""
    port = free_port()
    code, out, err = await fetch(f"http://127.0.0.1:{port}/")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == f"forebay: cannot connect to tcp://127.0.0.1:{port}: connection refused"
    assert "✗" in err
    async with playing(play, secure=True) as server:
        code, _, err = await fetch(server.url)
        assert code == 1
        assert "is not signed by a CA we trust\nforebay: --ca FILE trusts the CA in FILE, --insecure takes any" in err

    other = await asyncio.start_server(lambda reader, writer: None, "127.0.0.2", 0, ssl=server_context())
    async with other:
        port = other.sockets[0].getsockname()[1]
        code, _, err = await fetch(f"https://127.0.0.2:{port}", "--ca", str(tls_files()[1]), "-q")
    assert code == 1
    assert err.splitlines()[1:] == ["forebay: --insecure takes any certificate"]

    async def silent(peer: Peer) -> None:
        await peer.asked()
        await peer.rest(10)

    async with playing(silent) as server:
        code, _, err = await fetch(f"{server.url}/?token=hunter2", "--timeout", "200ms")
    assert code == 1
    assert re.fullmatch(rf"forebay: GET {server.url}/\?token=\*\*\*:? not done within 0.2 s", err.splitlines()[-1])
    assert "hunter2" not in err


async def test_a_reader_that_has_seen_enough() -> None:
    """``forebay fetch ... | head -1`` ends without a word about it."""

    async def large(peer: Peer) -> None:
        await peer.asked()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\n")
        await peer.say_for_ever(b"line\n" * 1000)

    async with playing(large) as server:
        command = f"'{sys.executable}' -m forebay fetch -q {server.url} | head -1"
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_shell(command, stdout=pipe, stderr=pipe)
        out, err = await asyncio.wait_for(process.communicate(), 20)
    assert (out, err) == (b"line\n", b"")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "Missing argument 'URL'"),
        (["ftp://a.example/"], "URL 'ftp://a.example/': must be like http://example.org/path, or https://"),
        (["/users"], "'/users' names no host: it must be like example.org/path, or https://example.org/"),
        (["http://"], "'http://' names no host"),
        (["a.example", "-o", "/no/where"], "there is no directory '/no'"),
        (["a.example", "--har", "/"], "'/' is a directory"),
        (["a.example", "--json", "@/no/where"], "--json: there is no file '/no/where'"),
        (["a.example", "-X", "A B"], "request method 'A B': must be a token"),
        (["a.example", "-H", "x"], "'x' must be like 'name: value'"),
        (["a.example", "-H", "x: \r\ny: z"], "the value of x must be visible ASCII"),
        (["a.example", "-H", "content-length: 1"], "content-length is made from the content"),
        (["a.example", "--form", "x"], "'x' must be like name=value, or name=@file"),
        (["a.example", "--form", "x=@/no/where"], "--form: there is no file '/no/where'"),
        (["a.example", "--json", "{"], "not JSON: "),
        (["a.example", "--json", "1", "-d", "1"], "give one of --data, --json and --form"),
        (["a.example", "--timeout", "soon"], 'a duration is a number with a unit (ms, s, m, h), as in "5s"'),
        (["a.example", "--timeout", "0"], "must be more than 0"),
        (["a.example", "--ca", "/no/where"], "'/no/where' does not exist"),
        (["a.example", "-v", "-q"], "give one of --verbose and --quiet"),
        (["a.example", "--proxy", "ftp://x"], "Invalid value for '--proxy': "),
    ],
)
async def test_usage(arguments: list[str], error: str) -> None:
    """What cannot be asked for is said in one line; exit code 2."""
    code, out, err = await fetch(*arguments)
    assert (code, out) == (2, "")
    assert error in err
    assert err.count("\n") == 1
