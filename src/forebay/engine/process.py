"""One worker process, seen from its supervisor: from the fork to the last word it said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import structlog

from forebay.engine.address import Address
from forebay.engine.control import Assignment, Beat, ControlChannel, Failure, Message
from forebay.engine.loop import now
from forebay.engine.spec import WorkerSpec
from forebay.engine.tasks import Event, Task, start_task
from forebay.engine.watchdog import StackFile
from forebay.errors import ConfigError, ConnectionClosed, FramingError, Overloaded, StartError
from forebay.observe.metrics import Family

__all__ = ["ListenSource", "Process", "SocketKey"]

log = structlog.get_logger("forebay.engine")

DRAIN_GRACE = 2.5
"""Seconds a worker has, past its drain timeout, to cut what is left and exit, before it is killed."""

STOP_GRACE = 1.0
"""Seconds a worker has to exit when it is stopped without a drain, before it is killed."""

LONGEST_BEAT = 1.0
"""Seconds between two beats of a worker, at most."""

_LAST_WORDS = 1.0
_KILL_TIMEOUT = 5.0
_COLLECT_TIMEOUT = 2.0

_NOT_FOR_WORKERS = (  # systemd's words are for the process it started
    *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"),
    *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
)

ListenSource = Callable[["Process", Address], socket.socket]


class SocketKey(NamedTuple):
    """What a listening socket is for."""

    kind: str
    host: str
    port: int
    spec: str  # for port 0: whose it is
    nth: int  # for port 0: which one of theirs
    worker: str  # for datagrams: whose alone it is


class Process:
    """A worker process.

    ``lost`` is set when it no longer does its work, or soon will not: it exited, leaves on its own, hangs, or cannot be
    talked to; ``why`` says which, and ``cause`` in a word. ``gone`` is set when it has exited and all it said was read;
    ``exit`` then says how.

    :param listen: called for each socket the worker wants to listen on; raises :class:`StartError`.
    :param core: the processor core it is kept on.
    """

    def __init__(
        self, name: str, spec: WorkerSpec, *, drain_timeout: float, listen: ListenSource, core: int | None = None
    ) -> None:
        self.name = name
        self.spec = spec
        self.drain_timeout = drain_timeout
        self.started_at = time.time()
        self.ready_since: float | None = None
        self.listens: dict[SocketKey, Address] = {}  # where it listens; kept by `listen`
        self.lost = Event()
        self.gone = Event()
        self.why = ""
        self.cause: Literal["crash", "watchdog"] = "crash"
        self.exit = ""
        self.beat = Beat()  # the last one
        self.heard_at = 0.0  # when that came
        self.beat_interval = LONGEST_BEAT if spec.watchdog is None else min(LONGEST_BEAT, spec.watchdog / 4)
        self._core = core
        self._stacks: StackFile | None = None
        self._listen = listen
        self._snapshot = msgspec.Raw(msgspec.msgpack.encode([]))
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.told = False  # by us, to drain or to stop
        self._process: asyncio.subprocess.Process | None = None
        self._channel: ControlChannel | None = None
        self._reaper: Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Process {self.name} pid={self.pid} {self.exit or self.why or 'running'}>"

    @property
    def pid(self) -> int:
        """0 before it was forked."""
        return self._process.pid if self._process else 0

    @property
    def uptime(self) -> float:
        """Seconds since it was ready; 0 when it never was."""
        return now() - self.ready_since if self.ready_since is not None else 0.0

    @property
    def lag(self) -> float:
        """The longest lag of its event loop in the last second; while it is blocked, since when. In seconds."""
        if self.ready_since is None or self.gone.is_set():
            return 0.0
        return max(self.beat.lag, now() - self.heard_at - self.beat_interval)

    @property
    def memory(self) -> int:
        """Bytes of it that are resident; 0 where that cannot be told."""
        if self.pid == 0 or self.gone.is_set():
            return 0
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    # Start

    async def start(self, timeout: float) -> None:
        """Fork it and return when it is ready.

        :raises StartError: with its own reason, or ours; in one line that begins with its name. Somebody has to
            :meth:`stop` it then.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._spawn()
                await self._ready
        except TimeoutError:
            self.kill()
            raise StartError(f"worker {self.name}: not ready within {timeout:g} s, killed") from None
        except asyncio.CancelledError:
            self.kill()
            raise
        self.ready_since = self.heard_at = now()

    async def _spawn(self) -> None:
        spec = self.spec
        try:
            assignment = msgspec.Raw(
                msgspec.msgpack.encode(
                    Assignment(
                        self.name, spec.entry, dict(spec.args), self.drain_timeout, self.beat_interval, self._core
                    )
                )
            )
        except (TypeError, ValueError, OverflowError) as error:
            self._over("not started")
            raise StartError(f"worker {self.name}: its args cannot be sent: {error}") from error
        ours, theirs = socket.socketpair()
        try:
            self._stacks = StackFile()
            inherited = (theirs.fileno(), self._stacks.fd)
            # -P: nothing of the working directory gets in before the worker itself lets it, not even by being called
            # like a module of the standard library.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-P", "-m", "forebay.engine.worker", str(inherited[0]), self.name, str(inherited[1])),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=inherited,
                env={**_environment(), "FOREBAY_WORKER": self.name},
            )
        except OSError as error:
            ours.close()
            self._over("not started")
            raise StartError(f"worker {self.name}: cannot start {sys.executable}: {error.strerror}") from error
        except BaseException:
            ours.close()
            self._over("not started")
            raise
        finally:
            theirs.close()
        self._channel = channel = ControlChannel(ours, self._on_message, who=f"worker {self.name}")
        self._reaper = start_task(self._reap(self._process, channel), f"reap {self.name}")
        channel.send("assign", assignment)
        if self.told:  # meanwhile
            channel.send("stop")

    def _on_message(self, message: Message) -> None:
        match message.kind:
            case "metrics":
                self._snapshot = message.body
            case "beat":
                self.beat = message.decode(Beat)
                self.heard_at = now()
            case "ready":
                if not self._ready.done():
                    self._ready.set_result(None)
            case "failed":
                self._fail(message.decode(Failure).message)
            case "leaving":
                self.lose(f"left on its own after {message.decode(str)}")
            case "listen":
                self._on_listen(message)
            case unknown:
                raise FramingError(f"unknown message {unknown!r}")

    def _on_listen(self, request: Message) -> None:
        channel = self._channel
        assert channel is not None
        scheme, host, port = request.decode(tuple[str, str, int])
        try:
            sock = self._listen(self, Address(scheme, host, port))
        except StartError as error:
            channel.reply(request, failure=Failure.of(error))
        else:
            channel.reply(request, sock=sock)

    def _fail(self, reason: str) -> None:
        if not self._ready.done():
            self._ready.set_exception(StartError(f"worker {self.name}: {reason}"))

    # End

    async def drain(self) -> None:
        """Let it finish what is in flight; return when it is gone. Past its drain timeout it is killed."""
        self._tell("drain")
        # One that never got ready has nothing in flight.
        await self._end(self.drain_timeout + DRAIN_GRACE if self.ready_since is not None else STOP_GRACE, "drain")

    async def stop(self) -> None:
        """Cut what is in flight; return when it is gone."""
        self._tell("stop")
        await self._end(STOP_GRACE, "stop")

    def kill(self) -> None:
        """Kill it now, unless it is gone."""
        self._signal(signal.SIGKILL)

    def lose(self, why: str, cause: Literal["crash", "watchdog"] = "crash") -> None:
        """It is of no use any more; ``lost`` is set, and whoever keeps it does the rest."""
        if not self.lost.is_set():
            self.why = why
            self.cause = cause
            self.lost.set()

    async def _end(self, seconds: float, told: str) -> None:
        if await self._gone_within(seconds):
            return
        log.warning("worker killed", worker=self.name, pid=self.pid, reason=f"still there {seconds:g} s after {told}")
        self.kill()
        if not await self._gone_within(_KILL_TIMEOUT):
            log.error("worker does not die", worker=self.name, pid=self.pid)

    async def _gone_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.gone.wait()
        except TimeoutError:
            return False
        return True

    def _tell(self, kind: str) -> None:
        told, self.told = self.told, True
        if self._channel is None or self.gone.is_set():
            return
        try:
            self._channel.send(kind)
        except (ConnectionClosed, Overloaded):
            if not told:  # else it has closed its channel because it is about to exit
                self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self._process is not None and not self.gone.is_set():
            with contextlib.suppress(ProcessLookupError):  # it exited, and the reaper is about to hear of it
                self._process.send_signal(number)

    async def _reap(self, process: asyncio.subprocess.Process, channel: ControlChannel) -> None:
        exiting = start_task(process.wait(), f"wait for {self.name}")
        ended = start_task(channel.ended.wait(), f"channel of {self.name}")
        await asyncio.wait({exiting, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not exiting.done():
            await asyncio.wait({exiting}, timeout=_LAST_WORDS)  # as a rule it closed its channel by exiting
            if not exiting.done():
                self.lose(f"its channel broke: {channel.reason}")
        code = await exiting
        # What it said last is still to be read. A child of its own may hold the channel open for longer.
        await asyncio.wait({ended}, timeout=_LAST_WORDS)
        ended.cancel()
        channel.close("the process is gone")
        self._over(_exit_text(code))

    def _over(self, how: str) -> None:
        self.exit = how
        if self._stacks is not None:
            self._stacks.close()
        self._fail(f"died before it was ready: {how}")
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()  # seen, whether or not somebody still waits
        self.gone.set()
        self.lose(how)

    # Talk

    async def request(self, kind: str, body: object = None, *, timeout: float) -> None:
        """Have it do something.

        :raises ConfigError: it said so.
        :raises StartError: anything else it answered, or that it did not answer in time.
        :raises ConnectionClosed: it died.
        """
        if self._channel is None or self.gone.is_set():
            raise ConnectionClosed(f"worker {self.name} is not there")
        try:
            await self._channel.request(kind, body, timeout=timeout)
        except TimeoutError:
            raise StartError(f"worker {self.name}: no answer to {kind} within {timeout:g} s") from None
        except ConfigError:
            raise
        except StartError as error:
            raise StartError(f"worker {self.name}: {error}") from error

    async def refresh(self) -> None:
        """Have it send its metrics as they are now; when it does not, the last it sent stay."""
        try:
            await self.request("collect", timeout=_COLLECT_TIMEOUT)
        except ConnectionClosed:
            pass  # it ended: what it sent last is final
        except StartError as error:
            log.warning("metrics are not fresh", worker=self.name, reason=str(error))

    async def stacks(self) -> tuple[str, str]:
        """The stacks of all its threads, also when it is blocked; or if that cannot be had, why. Takes up to 1 s."""
        if self._stacks is None or self.gone.is_set():
            return "", "it is gone"
        return await self._stacks.take(self.pid, self._signal)

    def snapshot(self) -> list[Family]:
        """The metrics it sent last."""
        try:
            return msgspec.msgpack.decode(self._snapshot, type=list[Family])
        except msgspec.DecodeError as error:
            log.error("metrics malformed", worker=self.name, reason=str(error))
            return []


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS}


def _exit_text(code: int) -> str:
    """``exit code 1``, ``signal 9 (SIGKILL)``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"
