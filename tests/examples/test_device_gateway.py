"""The gateway for devices: logins, heartbeats, commands, and two hundred devices at once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from examples import device_gateway
from examples import device_protocol as wire
from examples.device_gateway import DeviceService
from examples.device_simulator import Simulation, simulate
from forebay import Connection
from forebay.engine import dial
from forebay.errors import ConnectionClosed
from tests.examples.processes import ROOT, forebay_run
from tests.support import RawClient, eventually, free_port, open_descriptors, raw_client, running

ANYWHERE = "tcp://127.0.0.1:0"

LogIn = Callable[..., Awaitable[Connection]]


@asynccontextmanager
async def devices_of(service: DeviceService) -> AsyncIterator[LogIn]:
    """Connects devices, and logs them in unless they are to do that themselves."""
    connections: list[Connection] = []

    async def connect(name: str = "") -> Connection:
        conn = await dial(service.devices.addresses[0], framing=wire.FRAMING)
        connections.append(conn)
        if name:
            await conn.send(wire.encode(wire.Login(name, wire.token_of(name))))
            assert await heard(conn) == wire.Welcome()
        return conn

    try:
        yield connect
    finally:
        for conn in connections:
            conn.abort()


@pytest.fixture
async def service() -> AsyncIterator[DeviceService]:
    """A gateway on free ports, that does not wait for long."""
    async with running(DeviceService(ANYWHERE, ANYWHERE, login_timeout=0.3, command_timeout=0.3)) as fresh:
        yield fresh


@pytest.fixture
async def connect(service: DeviceService) -> AsyncIterator[LogIn]:
    """Connects devices."""
    async with devices_of(service) as made:
        yield made


@pytest.fixture
async def operator(service: DeviceService) -> AsyncIterator[RawClient]:
    """Somebody at the console."""
    async with raw_client(service.operators.addresses[0].port) as client:
        assert (await client.line()).startswith(b"* COUNT")
        yield client


async def heard(conn: Connection) -> wire.Welcome | wire.Refused | wire.Command:
    """The next message of the gateway."""
    message: wire.Welcome | wire.Refused | wire.Command = wire.from_gateway.decode(await conn.receive(timeout=5))
    return message


async def ask(operator: RawClient, line: str) -> str:
    """A line at the console, and its answer."""
    await operator.send(line.encode() + b"\n")
    return (await operator.line()).decode().rstrip("\n")


async def refused(conn: Connection) -> str:
    """Why the gateway refuses; it closes after that."""
    message = await heard(conn)
    assert isinstance(message, wire.Refused)
    with pytest.raises(ConnectionClosed):
        await conn.receive(timeout=5)
    return message.reason


@pytest.mark.both_loops
async def test_a_device_logs_in_and_reports(connect: LogIn, operator: RawClient) -> None:
    """Its readings are seen at the console, and when it was last heard, also when it is gone."""
    device = await connect("pump-1")
    assert await ask(operator, "seen pump-2") == "never"
    await device.send(wire.encode(wire.Reading({"pressure": 2.5})))
    await eventually(lambda: device.messages_out == 2)
    while "2.5" not in (answer := await ask(operator, "SEEN pump-1")):
        assert answer.endswith("s ago, connected, {}")
    device.close()
    while not (answer := await ask(operator, "SEEN pump-1")).endswith("s ago, gone"):
        assert "connected" in answer
    assert await ask(operator, "COUNT") == "0 connected, 1 gone, 0 refused"


@pytest.mark.parametrize(
    "first",
    [
        wire.encode(wire.Login("pump-1", "")),
        wire.encode(wire.Login("pump-1", wire.token_of("pump-2"))),
        wire.encode(wire.Login("pump-1", "\u00e4" * 64)),
        wire.encode(wire.Login("../pump", wire.token_of("../pump"))),
        wire.encode(wire.Login("", wire.token_of(""))),
        wire.encode(wire.Reading({})),
        wire.encode({"type": "login", "device": 1, "token": None}),
        b"\xc1",
        b"",
        b"GET / HTTP/1.1",
    ],
)
async def test_who_does_not_log_in_is_refused(
    connect: LogIn, operator: RawClient, service: DeviceService, first: bytes
) -> None:
    """A wrong token, a name that is none, another message first, and bytes that are none."""
    device = await connect()
    await device.send(first)
    assert await refused(device) in ("that is not the device's token", "a login must come first, within 0.3 s")
    assert await ask(operator, "COUNT") == "0 connected, 0 gone, 1 refused"


@pytest.mark.both_loops
async def test_who_says_nothing_is_refused_in_time(connect: LogIn, service: DeviceService) -> None:
    """A connection that does not log in, or sends half a login, is closed."""
    silent, half = await connect(), await connect()
    half.transport.write(b"\x00\x50half")
    for conn in (silent, half):
        with pytest.raises(ConnectionClosed):
            while True:
                await conn.receive(timeout=5)
    await eventually(lambda: service.devices.connections == 0)


async def test_a_second_connection_replaces_the_first(connect: LogIn, operator: RawClient) -> None:
    """The old connection is told and closed; commands go to the new one; the device counts once all along."""
    old = await connect("pump-1")
    new = await connect("pump-1")
    assert await refused(old) == "another connection has taken your place"
    assert await ask(operator, "COUNT") == "1 connected, 0 gone, 0 refused"
    asking = asyncio.create_task(ask(operator, "SEND pump-1 start"))
    assert await heard(new) == wire.Command(1, "start")
    await new.send(wire.encode(wire.Acknowledge(1)))
    assert await asking == "done"


async def test_commands_are_acknowledged_or_fail(connect: LogIn, operator: RawClient, service: DeviceService) -> None:
    """Done, failed on the device, too late, and gone before it answered."""
    device = await connect("pump-1")
    asking = asyncio.create_task(ask(operator, "SEND pump-1 fail"))
    command = await heard(device)
    assert isinstance(command, wire.Command)
    await device.send(wire.encode(wire.Acknowledge(command.number, "the valve is stuck")))
    assert await asking == "failed: the valve is stuck"
    assert await ask(operator, "SEND pump-1 sleep") == "failed: pump-1 did not acknowledge sleep within 0.3 s"
    await device.send(wire.encode(wire.Acknowledge(2)))  # nobody waits for it any more
    await device.send(wire.encode(wire.Acknowledge(99)))
    assert (await heard(device)) == wire.Command(2, "sleep")
    asking = asyncio.create_task(ask(operator, "SEND pump-1 die"))
    await heard(device)
    device.abort()
    assert await asking == "failed: pump-1 is gone"
    assert await ask(operator, "SEND pump-1 rise") == "it is not connected"
    assert not any(one.commands for one in service.gateway.devices.values())


async def test_commands_of_a_device_are_bounded(connect: LogIn, service: DeviceService) -> None:
    """Past so many that are not acknowledged, the next is refused at once."""
    await connect("pump-1")
    device = service.gateway.devices["pump-1"]
    many = [asyncio.create_task(device.command("start", 0.3)) for _ in range(device_gateway.MOST_COMMANDS + 1)]
    results = [str(one) for one in await asyncio.gather(*many, return_exceptions=True)]
    assert sum("did not acknowledge" in text for text in results) == device_gateway.MOST_COMMANDS
    assert results[-1] == "pump-1 has 8 commands to acknowledge already"


async def test_nonsense_from_a_device_ends_its_connection(connect: LogIn) -> None:
    """Once logged in, a message that is none of its own, another login included, is told and closed."""
    for number, nonsense in enumerate((b"\xc1", wire.PING, wire.encode(wire.Login("x", "y")))):
        device = await connect(f"pump-{number}")
        await device.send(nonsense)
        assert (await refused(device)).startswith("not understood: ")


@pytest.mark.both_loops
async def test_a_device_that_does_not_answer_pings_is_given_up() -> None:
    """A silent device is pinged and closed; one that only answers pings stays, and counts as seen."""
    service = DeviceService(ANYWHERE, ANYWHERE, heartbeat_interval=0.3)
    async with running(service), devices_of(service) as connect:
        silent, alive = await connect("silent"), await connect("alive")
        pings = 0
        while "silent" in service.gateway.devices:
            assert await alive.receive(timeout=5) == wire.PING
            await alive.send(wire.PONG)
            pings += 1
        assert pings >= 3
        assert service.devices.statistics()["closed"] == {"heartbeat": 1}
        assert (seen := service.gateway.last_seen("alive")) is not None
        assert seen < 1
        silent.abort()


@pytest.mark.both_loops
async def test_two_hundred_devices(service: DeviceService, operator: RawClient) -> None:
    """All log in and report; one is told something; when they leave, nothing is left but when they were seen."""
    before = open_descriptors()
    simulation = Simulation(str(service.devices.addresses[0]), 200, 0.5)
    async with simulation.running() as counts:
        await eventually(lambda: counts["logged in"] == 200, timeout=20)
        await eventually(lambda: counts["readings"] >= 200, timeout=20)
        assert await ask(operator, "SEND device-7 start") == "done"
        assert await ask(operator, "SEND device-8 fail") == "failed: told to fail"
        assert await ask(operator, "COUNT") == "200 connected, 0 gone, 0 refused"
    await eventually(lambda: service.devices.connections == 0)
    assert await ask(operator, "COUNT") == "0 connected, 200 gone, 0 refused"
    assert service.gateway.last_seen("device-199") is not None
    await eventually(lambda: open_descriptors() <= before)
    assert counts["lost"] == counts["refused"] == counts["not connected"] == 0


async def test_where_nobody_listens_the_simulator_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """It shows how many could not connect."""
    counts = await simulate(f"tcp://127.0.0.1:{free_port()}", 5, 1.0, 0.5)
    assert counts["not connected"] == 5
    assert "0 connected, 0 logged in, 0 readings, 5 not connected" in capsys.readouterr().out


async def test_they_run_as_their_docstrings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``forebay run`` serves the gateway, the simulator's command its devices; a SIGTERM sends them home."""
    log = tmp_path / "log"
    async with forebay_run("tests.examples.entries:devices", log):
        port = int(log.read_text().partition("tcp://127.0.0.1:")[2].partition("'")[0].partition('"')[0])
        command = ["-m", "examples.device_simulator", "--devices", "50", "--seconds", "2.5", "--interval", "1"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, "--address", f"tcp://127.0.0.1:{port}", cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0
        assert "50 connected, 50 logged in" in output.decode()
