"""``forebay faultproxy``, as a real process."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from forebay.engine import Connection, TCPServer
from tests.support import RawClient, running


async def repeat(conn: Connection) -> None:
    """Send back what comes."""
    async for data in conn:
        await conn.send(data)


class Program:
    """The command, while it runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.port = 0

    async def line(self) -> str:
        """The next one of its standard output."""
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), 20)).decode().rstrip("\n")

    async def connect(self) -> RawClient:
        """A client of it."""
        return await RawClient.connect(self.port)

    async def end(self, number: signal.Signals = signal.SIGINT) -> str:
        """Send a signal; return what it still says. It has ended well."""
        self.process.send_signal(number)
        out, err = await asyncio.wait_for(self.process.communicate(), 20)
        assert (self.process.returncode, err.decode()) == (0, "")
        return out.decode()


async def start(*arguments: str) -> asyncio.subprocess.Process:
    """The process."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "forebay", "faultproxy", *arguments, stdout=pipe, stderr=pipe
    )


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[Program]:
    """The command before an echo server, as soon as it listens."""
    async with running(TCPServer(repeat, bind="tcp://127.0.0.1:0")) as server:
        target = str(server.addresses[0]).removeprefix("tcp://")
        process = await start(target, *arguments)
        try:
            found = Program(process)
            listening = await found.line()
            match = re.fullmatch(rf"listening on tcp://127\.0\.0\.1:(\d+), forwarding to tcp://{target}", listening)
            assert match is not None, listening
            found.port = int(match[1])
            yield found
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()


async def failed(*arguments: str) -> tuple[int | None, str]:
    """Exit code and standard error of a command that does not run."""
    process = await start(*arguments)
    try:
        _, err = await asyncio.wait_for(process.communicate(), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    return process.returncode, err.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_forwards_and_sums_up(number: signal.Signals) -> None:
    """Without faults nothing is changed; a connection is one line, and in the end there is a summary."""
    async with program("--verbose") as found:
        client = await found.connect()
        await client.send(b"hello")
        assert await client.exactly(5) == b"hello"
        await client.close()
        passed = await found.line()
        assert re.fullmatch(r"#1 from 127\.0\.0\.1:\d+: 5 B up, 5 B down, \d+\.\d{3} s, closed", passed), passed
        left = await found.connect()
        await left.send(b"x")
        await left.exactly(1)
        out = (await found.end(number)).splitlines()
        assert out[0].endswith("s, reset")
        assert out[1].startswith("accepted 2, open 0, bytes up 6, bytes down 6, held 0, resets 1,")
        assert out[2:] == ["up: no faults", "down: no faults"]
        await left.close()


async def test_signals_while_it_ends() -> None:
    """It ends well for the first one, whatever comes while it does."""
    async with program() as found:
        found.process.send_signal(signal.SIGINT)
        assert (await found.line()).startswith("accepted 0")
        await asyncio.sleep(0.01)
        found.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(found.process.wait(), 20)
        assert found.process.returncode == 0


async def test_faults_of_both_directions_and_of_one() -> None:
    """Those given alone hold for both, those of --up and --down for one."""
    async with program("--latency", "100ms", "--down", "latency=300ms,bandwidth=1MB/s", "--down", "limit=3B") as found:
        client = await found.connect()
        began = time.monotonic()
        await client.send(b"hello")
        assert await asyncio.wait_for(client.reader.read(), 5) == b"hel"
        assert 0.4 <= time.monotonic() - began < 2
        await client.close()
        out = await found.end()
        assert "\nup: latency 1" in out
        assert re.search(r"\ndown: latency \d.* limit 1\n", out)


async def test_each_fault_has_its_option() -> None:
    """All can be given, and do what they say."""
    options = ["--jitter=1ms", "--bandwidth=1MB/s", "--slice=2B", "--slice-pause=1ms", "--share=100%", "--seed=7"]
    async with program(*options, "--reset-after", "8B") as found:
        client = await found.connect()
        await client.send(b"0123456789")
        assert await client.rest() in (b"", b"01", b"0123", b"012345", b"01234567")
        assert "up: jitter" in (out := await found.end())
        assert "slice 3" in out or "slice 4" in out
        assert "reset_after_bytes 1" in out
        await client.close()
    for option, count in (("--reset-after=0s", "reset_after 1"), ("--timeout=10ms", "timeout 1")):
        async with program(option) as found:
            # not by the loop, to which a reset that is there at once is one while it connects
            with socket.create_connection(("127.0.0.1", found.port)) as sock:
                sock.settimeout(10)
                try:
                    assert await asyncio.to_thread(sock.recv, 1) == b""
                except ConnectionResetError:
                    assert option == "--reset-after=0s"
            assert count in await found.end()
    async with program("--black-hole") as found:
        client = await found.connect()
        await client.send(b"hello")
        with pytest.raises(TimeoutError):
            await client.exactly(1, timeout=0.2)
        await found.end()
        await client.close()


async def test_flap() -> None:
    """It is gone by turns."""
    async with program("--flap", "50ms,50ms") as found:
        deadline = time.monotonic() + 10
        refused = 0
        while refused < 3:
            assert time.monotonic() < deadline
            try:
                socket.create_connection(("127.0.0.1", found.port)).close()
            except ConnectionRefusedError:
                refused += 1
            await asyncio.sleep(0.03)
        assert not re.search(r"flaps 0\n", await found.end())


async def test_script(tmp_path: Path) -> None:
    """It is played, and says when it has ended."""
    script = tmp_path / "bad.toml"
    script.write_text("[[step]]\nat = '0s'\ndown = {black_hole = true}\n[[step]]\nat = '300ms'\nclear = true\n")
    async with program("--script", str(script)) as found:
        client = await found.connect()
        await client.send(b"hello")
        assert await client.exactly(5) == b"hello"
        assert await found.line() == "the script has ended; its last faults stay"
        await found.end()
        await client.close()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "Missing argument 'TARGET'"),
        (["127.0.0.1:80000"], "Invalid value for 'TARGET': address 'tcp://127.0.0.1:80000' has port '80000'"),
        (["*:80"], "Invalid value for 'TARGET': nobody can connect to '*:80'; give one host and its port"),
        (["127.0.0.1:0"], "Invalid value for 'TARGET': nobody can connect to '127.0.0.1:0'"),
        (
            ["127.0.0.1:80", "--listen", "127.0.0.1:80"],
            "Invalid value for 'TARGET': tcp://127.0.0.1:80 is where it listens itself",
        ),
        (["http://127.0.0.1:80"], "has scheme 'http'; expected tcp"),
        (["127.0.0.1:80", "--latency", "5"], "Invalid value for '--latency': latency '5': a duration is a number"),
        (
            ["127.0.0.1:80", "--down", "latncy=5s"],
            "Invalid value for '--down': unknown fault 'latncy': valid are latency",
        ),
        (["127.0.0.1:80", "--flap", "5s"], "Invalid value for '--flap': '5s' is not two durations"),
        (["127.0.0.1:80", "--script", "/nonexistent"], "Invalid value for '--script': /nonexistent: "),
        (["127.0.0.1:80", "--listen", "nowhere"], "Invalid value for '--listen'"),
    ],
)
async def test_what_it_cannot_do(arguments: list[str], error: str) -> None:
    """One line that says what would be right, and 2."""
    code, said = await failed(*arguments)
    assert code == 2
    assert said.startswith(f"forebay faultproxy: {error}") or error in said
    assert len(said.splitlines()) == 1


async def test_a_port_that_is_taken() -> None:
    """One line, and 3."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        code, said = await failed("127.0.0.1:80", "--listen", where)
    assert (code, said) == (3, f"forebay: cannot listen on tcp://{where}: Address already in use\n")


def test_other_commands_do_not_load_it() -> None:
    """The fakes for tests cost nobody anything who does not ask for them."""
    code = "import sys, forebay.cli.program; sys.exit(any(name.startswith('forebay.testing') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
