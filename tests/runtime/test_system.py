"""A small real system: two instances of a service, a TCP service and a gateway, in processes, over real sockets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from forebay.config import System
from forebay.engine import Event, Tasks, gather, open_socket, parse_address, timeout
from forebay.errors import CrashLoop, StartError
from forebay.runtime.plan import FileSource, Plan, app_plan
from forebay.runtime.system import RunningSystem
from forebay.service import State
from tests.support import eventually, free_port, raw_client

MODULE = """
import asyncio, os
from forebay import App, ConnectionHandler, TCPServer
app = App()
@app.get("/who")
def who() -> dict:
    return {"pid": os.getpid()}
@app.get("/slow")
async def slow() -> dict:
    await asyncio.sleep(1.0)
    return {"slow": True}
class Echo(ConnectionHandler):
    def on_message(self, conn, data):
        conn.write(data)
server = TCPServer(Echo, bind="tcp://127.0.0.1:0")
"""

FILE = """
[system]
name = "little"
admin = "127.0.0.1:{admin}"
drain_timeout = "5s"
[services.who]
app = "little:app"
bind = ["http://127.0.0.1:{one}", "http://127.0.0.1:{two}"]
[services.echo]
app = "little:server"
bind = ["tcp://127.0.0.1:{echo}"]
[gateway]
bind = ["http://127.0.0.1:{gateway}"]
workers = 2
[upstreams.who]
targets = [{{ url = "http://127.0.0.1:{one}" }}, {{ url = "http://127.0.0.1:{two}" }}]
[[routes]]
name = "who"
upstream = "who"
match = {{ path = "/api/*" }}
strip_prefix = "/api"
retry = {{ attempts = 3 }}
"""


class Little:
    """The system's folder, ports and file."""

    def __init__(self, folder: Path) -> None:
        self.ports = {name: free_port() for name in ("admin", "one", "two", "echo", "gateway")}
        self.file = folder / "forebay.toml"
        self.file.write_text(FILE.format(**self.ports))
        (folder / "little.py").write_text(MODULE)

    def edit(self, old: str, new: str) -> None:
        """Change the file."""
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    async def get(self, port: str, path: str) -> tuple[int, dict[str, Any]]:
        """GET on a new connection; status and JSON."""
        async with raw_client(self.ports[port]) as client:
            await client.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            status, _, body = await client.response()
        return status, json.loads(body)

    @asynccontextmanager
    async def running(self, *, watching: bool = False) -> AsyncIterator[RunningSystem]:
        """The system, from ready to stopped."""
        source = FileSource(self.file)
        system = RunningSystem(source.first(), source=source, watching=watching)
        await system.start()
        try:
            yield system
        finally:
            await system.stop()


@pytest.fixture
def little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Little:
    """Workers run in the current directory."""
    monkeypatch.chdir(tmp_path)
    return Little(tmp_path)


def pids(system: RunningSystem, name: str) -> set[int]:
    """The processes of what is called ``name...`` that do their work."""
    return {worker.pid for worker in system.workers if worker.name.startswith(name) and worker.state == "ready"}


@asynccontextmanager
async def load(little: Little) -> AsyncIterator[Counter[int]]:
    """Requests through the gateway, one after the other on two connections; answers by status."""
    answers: Counter[int] = Counter()
    enough = Event()

    async def client() -> None:
        while not enough.is_set():
            answers[(await little.get("gateway", "/api/who"))[0]] += 1

    tasks = Tasks()
    for _ in range(2):
        tasks.spawn(client(), name="client")
    try:
        yield answers
        seen = answers.total()
        await eventually(lambda: answers.total() > seen + 20)
        enough.set()
        async with timeout(5):
            await tasks.join()
    finally:
        await tasks.cancel()


async def test_it_serves_through_the_gateway(little: Little) -> None:
    """Over both instances; the TCP service beside it; ready; and everything is counted once."""
    async with little.running() as system:
        assert await little.get("admin", "/readyz") == (200, {"status": "ready", "state": "running", "reasons": []})
        answered = [await little.get("gateway", "/api/who") for _ in range(20)]
        assert {status for status, _ in answered} == {200}
        assert {body["pid"] for _, body in answered} == pids(system, "who")
        async with raw_client(little.ports["echo"]) as client:
            await client.send(b"hello\n")
            assert await client.line() == b"hello\n"
        async with raw_client(little.ports["admin"]) as client:
            await client.send(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            _, _, metrics = await client.response()
        checked = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, timeout=30)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
        assert total(metrics, "forebay_http_requests_total", server="gateway", status="200") == 20
        assert total(metrics, "forebay_http_requests_total", server=f"who@{little.ports['one']}") >= 1


def total(metrics: bytes, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    found = 0.0
    for line in metrics.decode().splitlines():
        if line.startswith(f"{name}{{") and all(f'{label}="{value}"' in line for label, value in labels.items()):
            found += float(line.rsplit(" ", 1)[1])
    return found


async def test_it_drains_in_order(little: Little) -> None:
    """Not ready first; what is in flight is answered; new connections are refused; then it is over."""
    async with little.running() as system:
        async with raw_client(little.ports["gateway"]) as client:
            await client.send(b"GET /api/slow HTTP/1.1\r\nHost: x\r\n\r\n")
            await eventually(lambda: True)
            tasks = Tasks()
            draining = tasks.spawn(system.drain(), name="drain")
            await eventually(lambda: system.state is State.DRAINING)
            status, body = await little.get("admin", "/readyz")
            assert (status, body["reasons"]) == (503, ["the system is draining"])
            with pytest.raises(ConnectionRefusedError):
                await _refused(little.ports["gateway"])
            status, _, answer = await client.response()
            assert (status, json.loads(answer)) == (200, {"slow": True})
            async with timeout(10):
                await draining
        assert not [worker for worker in system.workers if worker.pid]
        with pytest.raises(ConnectionRefusedError):
            await _refused(little.ports["admin"])


async def _refused(port: int) -> None:
    """Connect again and again, until it is refused. Who still waits to be accepted when the socket closes is reset."""
    async with timeout(5):
        while True:
            with suppress(ConnectionResetError):
                async with raw_client(port):
                    pass


async def test_a_killed_worker_comes_back_and_nobody_notices(little: Little) -> None:
    """Requests go on without a failure; the restart is counted, and so is what the dead one had counted."""
    async with little.running() as system:
        before = pids(system, "who")
        async with load(little) as answers:
            await eventually(lambda: answers.total() > 50)
            victim = min(before)
            os.kill(victim, signal.SIGKILL)
            await eventually(lambda: victim not in pids(system, "who"))
            assert any("is not ready" in reason for reason in system.unready())
            await eventually(lambda: len(pids(system, "who")) == 2)
            assert system.unready() == []
        assert set(answers) == {200}
        families = {family.name: family for family in await system.collect()}
        assert sum(sample.value for sample in families["forebay_worker_restarts"].samples) == 1
        served = [s.value for s in families["forebay_http_requests"].samples if ("server", "gateway") in s.labels]
        assert sum(served) == answers.total()


async def test_sighup_rolls_services_and_nobody_notices(little: Little) -> None:
    """New processes with new code; the gateway's stay and take the new tables."""
    async with little.running() as system:
        services, gateway = pids(system, "who"), pids(system, "gateway")
        async with load(little) as answers:
            little.edit("attempts = 3", "attempts = 4")
            system.request_reload("SIGHUP", everything=True)
            await eventually(lambda: system.last_reload == "last reload: applied (SIGHUP)", 15)
        assert set(answers) == {200}
        assert pids(system, "gateway") == gateway
        assert not pids(system, "who") & services
        assert len(pids(system, "who")) == 2


async def test_a_change_of_the_file_is_applied_or_refused_whole(
    little: Little, caplog: pytest.LogCaptureFixture
) -> None:
    """Watched, with nobody asking; only what differs is touched, and what is wrong changes nothing."""
    async with little.running(watching=True) as system:
        before = pids(system, "")
        await _edit_until(little, system, "/api", "/v2", "applied")
        assert (await little.get("gateway", "/v2/who"))[0] == 200
        assert (await little.get("gateway", "/api/who"))[0] == 404
        assert pids(system, "") == before
        await _edit_until(little, system, "upstream =", "upstraem =", "refused")
        assert (await little.get("gateway", "/v2/who"))[0] == 200
        await _edit_until(little, system, "upstraem =", "upstream =", "unchanged")
        await _edit_until(little, system, 'name = "little"', 'name = "large"', "refused")
        assert pids(system, "") == before


async def _edit_until(little: Little, system: RunningSystem, old: str, new: str, outcome: str) -> None:
    """Edit, and write again until the watcher, which may only be starting, has seen it."""
    little.edit(old, new)
    system.last_reload = ""
    wanted = f"last reload: {outcome} (forebay.toml changed)"
    for number in range(20):
        try:
            await eventually(lambda: system.last_reload, 1.0)
            break
        except AssertionError:
            little.file.write_text(little.file.read_text() + "#" * number + "\n")
    assert system.last_reload == wanted


async def test_services_and_gateway_come_and_go(little: Little) -> None:
    """What is new is started, what is missing is drained; the rest stays."""
    async with little.running() as system:
        echo, who, port = pids(system, "echo"), pids(system, "who"), free_port()
        little.edit("[services.echo]", "[services.noise]")
        little.edit(f":{little.ports['echo']}", f":{port}")
        little.edit("workers = 2", "workers = 1")
        assert await system.reload("a test", everything=False) == "applied"
        assert not pids(system, "echo")
        assert pids(system, "noise")
        assert not pids(system, "noise") & echo
        assert pids(system, "who") == who
        await eventually(lambda: len(pids(system, "gateway")) == 1)
        async with raw_client(port) as client:
            await client.send(b"x")
            assert await client.exactly(1) == b"x"
        with pytest.raises(ConnectionRefusedError):
            await _refused(little.ports["echo"])
        assert system.unready() == []


async def test_a_reload_that_cannot_start_changes_nothing(little: Little) -> None:
    """The old services and tables stay."""
    async with little.running() as system:
        before = pids(system, "")
        little.edit("little:server", "little:nosuch")
        little.edit("/api", "/v2")
        assert await system.reload("a test", everything=False) == "refused"
        assert pids(system, "") == before
        assert (await little.get("gateway", "/api/who"))[0] == 200
        assert system.unready() == []


async def test_a_start_that_fails_leaves_nothing_behind(little: Little) -> None:
    """One readable line, and every address is free again."""
    little.edit("little:server", "nosuch:server")
    system = RunningSystem(FileSource(little.file).first())
    with pytest.raises(StartError, match="cannot import 'nosuch'"):
        await system.start()
    assert system.state is State.STOPPED
    for port in little.ports.values():
        open_socket(parse_address(f"tcp://127.0.0.1:{port}")).close()


async def test_admin_is_needed_unless_it_is_optional(little: Little) -> None:
    """A taken address ends a start, or, where nobody asked for admin, is only warned of."""
    with open_socket(parse_address(f"tcp://127.0.0.1:{little.ports['admin']}")):
        settings = System(name="app", admin=f"127.0.0.1:{little.ports['admin']}")
        bind = [f"http://127.0.0.1:{little.ports['one']}"]
        with pytest.raises(StartError, match="address already in use"):
            await RunningSystem(app_plan("little:app", bind, 1, settings)).start()
        system = RunningSystem(app_plan("little:app", bind, 1, settings, admin_optional=True))
        await system.start()
        try:
            assert system.admin is None
            assert (await little.get("one", "/who"))[0] == 200
        finally:
            await system.stop()


async def test_reloads_are_one_at_a_time(little: Little, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for while one runs is one more, whatever it is asked how often."""
    async with little.running() as system:
        begun: list[tuple[str, bool]] = []
        go_on = Event()

        async def reload(reason: str, *, everything: bool) -> str:
            begun.append((reason, everything))
            await go_on.wait()
            return "unchanged"

        monkeypatch.setattr(system, "reload", reload)
        system.request_reload("SIGHUP", everything=True)
        await eventually(lambda: begun)
        for _ in range(3):
            system.request_reload("forebay.toml changed", everything=False)
            system.request_reload("SIGHUP", everything=True)
        assert begun == [("SIGHUP", True)]
        go_on.set()
        await eventually(lambda: len(begun) == 2)
        assert begun[1] == ("forebay.toml changed, SIGHUP", True)


async def test_a_crash_loop_of_either_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services or gateway: who waits hears of it."""
    system = RunningSystem(Plan(System(admin="off"), ()))
    await system.start()

    async def crash() -> None:
        raise CrashLoop("worker gateway#0 died 5 times")

    monkeypatch.setattr(system.gateway, "wait", crash)
    with pytest.raises(CrashLoop):
        await system.wait()
    await gather(system.stop())
