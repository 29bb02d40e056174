"""Workers that are killed and replaced while very many connections are busy: who notices, and who does not."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from forebay.engine.loop import now
from forebay.engine.supervisor import Supervisor
from tests.engine.supervision import SLOW, answers, port_of, supervised
from tests.support import RawClient, eventually

pytestmark = pytest.mark.usefixtures("workers_environment")

CONNECTIONS = int(os.environ.get("FOREBAY_BUSY_CONNECTIONS", "120"))
_KILLING = 0.1  # seconds in which a process that was just killed may still accept


class Crowd:
    """Clients that ask all the time, each on one connection for as long as that lasts, and then on a new one."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked = 0
        self.slowest = 0.0
        self.now_with: list[int] = [0] * CONNECTIONS  # the pid of the worker that each is connected to
        self.clients: dict[int, RawClient] = {}
        self.ended: list[int] = []  # the pid of the worker, for each connection that ended
        self.failed: list[str] = []  # connections that ended before an answer
        self.killed_at = -SLOW
        self.running = True

    async def client(self, number: int) -> None:
        """One client."""
        while self.running:
            began = now()
            try:
                client = await RawClient.connect(self.port)
            except (OSError, TimeoutError) as error:
                self.failed.append(f"not connected: {error!r}")
                continue
            pid = 0
            self.clients[number] = client
            try:
                while self.running and (found := await self.ask(client)):
                    assert found == (pid or found), "one connection was answered by two workers"
                    pid = self.now_with[number] = found
            except (ConnectionError, TimeoutError) as error:
                if isinstance(error, TimeoutError):
                    self.failed.append(f"no answer from {pid}")
            finally:
                await client.close()
            if self.running and pid:
                self.ended.append(pid)
            elif self.running and not self.killed_at - SLOW < began < self.killed_at + _KILLING:
                self.failed.append(f"ended before an answer, {began - self.killed_at:.3f} s after the kill")

    async def ask(self, client: RawClient) -> int:
        """Ask once; the pid of who answered, 0 at the end of the connection."""
        began = now()
        await client.send(b"x\n")
        line = await client.line(SLOW)
        if not line:
            return 0
        self.asked += 1
        self.slowest = max(self.slowest, now() - began)
        return int(line.split()[1])

    @classmethod
    @asynccontextmanager
    async def around(cls, supervisor: Supervisor) -> AsyncIterator[Crowd]:
        """A crowd that keeps all workers busy while the block runs; checks that nothing failed that may not."""
        crowd = cls(port_of(supervisor))
        tasks = [asyncio.create_task(crowd.client(number)) for number in range(CONNECTIONS)]
        try:
            await eventually(lambda: all(crowd.now_with), timeout=SLOW)
            await crowd.spread({info.pid for info in supervisor.workers})
            yield crowd
        finally:
            crowd.running = False
            await asyncio.wait_for(asyncio.gather(*tasks), SLOW)
        assert crowd.failed == []

    async def spread(self, pids: set[int]) -> None:
        """See that each of ``pids`` has some of the connections: the worker that was up first may have taken all."""
        while not pids <= set(self.now_with):
            for client in list(self.clients.values())[::2]:
                client.writer.close()
            await self.some_more()
            self.ended.clear()
            self.failed.clear()

    async def some_more(self) -> None:
        """Let everybody ask on for a while."""
        asked = self.asked
        await eventually(lambda: self.asked > asked + 5 * CONNECTIONS, timeout=SLOW)


async def test_a_kill_is_noticed_by_the_killed_workers_connections_alone() -> None:
    """Those of the other worker go on; whoever connects anew is answered."""
    async with supervised(answers(count=2)) as supervisor, Crowd.around(supervisor) as crowd:
        killed, untouched = (info.pid for info in supervisor.workers)
        hit = crowd.now_with.count(killed)
        assert 0 < hit < CONNECTIONS
        crowd.killed_at = now()
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: len(crowd.ended) >= hit, timeout=SLOW)
        await eventually(lambda: supervisor.workers[0].pid not in (0, killed), timeout=SLOW)
        await crowd.some_more()
        assert set(crowd.ended) == {killed}
        assert supervisor.workers[1].pid == untouched
        assert supervisor.workers[1].restarts == 0


async def test_a_roll_fails_no_connection() -> None:
    """Each worker's connections are ended once they are answered, when its turn comes; those made anew are served."""
    async with supervised(answers(count=2)) as supervisor:
        async with Crowd.around(supervisor) as crowd:
            old = {info.pid for info in supervisor.workers}
            await supervisor.reload(reason="SIGHUP")
            await eventually(lambda: not old & set(crowd.now_with), timeout=SLOW)
            await crowd.some_more()
            assert set(crowd.ended) <= old
        await eventually(lambda: len(supervisor.workers) == 2, timeout=SLOW)
        assert not old & {info.pid for info in supervisor.workers}


async def test_a_recycled_worker_leaves_the_others_connections_alone() -> None:
    """One worker is told to leave; the other one's connections see nothing."""
    async with supervised(answers(count=2)) as supervisor, Crowd.around(supervisor) as crowd:
        leaving, untouched = (info.pid for info in supervisor.workers)
        os.kill(leaving, signal.SIGTERM)
        await eventually(lambda: leaving not in crowd.now_with, timeout=SLOW)
        await eventually(lambda: len(supervisor.workers) == 2, timeout=SLOW)
        await crowd.some_more()
        assert set(crowd.ended) == {leaving}
        assert supervisor.workers[1].pid == untouched
