"""The fault proxy as a program: until SIGINT or SIGTERM, with a summary in the end."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from forebay.engine.address import Address
from forebay.engine.loop import run
from forebay.errors import StartError
from forebay.testing.fault_pipe import Passed
from forebay.testing.fault_proxy import FaultProxy
from forebay.testing.fault_script import Change, Script

__all__ = ["run_fault_proxy"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_fault_proxy(
    target: Address, listen: Address, change: Change, script: Script | None, *, seed: int, verbose: bool
) -> None:
    """Forward until a signal ends it, and say on standard output where it listens and what it did.

    :param change: its faults at first.
    :param script: played from when it listens; its last faults stay.
    :param verbose: a line for each connection that has ended.
    :raises StartError: it cannot listen there.
    """
    run(_run(target, listen, change, script, seed, verbose))
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # we are exiting already


async def _run(
    target: Address, listen: Address, change: Change, script: Script | None, seed: int, verbose: bool
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)

    def report(passed: Passed) -> None:
        try:
            print(passed, flush=True)
        except OSError:  # nobody reads it
            stop.set()

    proxy = FaultProxy(target, listen=listen, seed=seed, on_passed=report if verbose else None)
    try:
        await proxy.__aenter__()
    except OSError as error:
        raise StartError(f"cannot listen on {listen}: {error.strerror or error}") from None
    try:
        await proxy.apply(change)
        print(f"listening on {proxy.address}, forwarding to {target}", flush=True)
        await _play(proxy, script, stop)
    finally:
        await proxy.__aexit__()
    print(summary(proxy.statistics()), flush=True)


async def _play(proxy: FaultProxy, script: Script | None, stop: asyncio.Event) -> None:
    """Return when it is to stop; what breaks the script is raised."""
    stopped = asyncio.ensure_future(stop.wait())
    playing = asyncio.ensure_future(proxy.play(script or ()))
    try:
        await asyncio.wait({stopped, playing}, return_when=asyncio.FIRST_COMPLETED)
        if playing.done():
            playing.result()
            if script is not None:
                print("the script has ended; its last faults stay", flush=True)
            await stopped
    finally:
        for task in (stopped, playing):
            task.cancel()
        await asyncio.wait({stopped, playing})


def summary(statistics: dict[str, Any]) -> str:
    """Readable lines of a proxy's statistics."""
    counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in statistics.items() if name not in _WAYS)
    lines = [counts.replace("connections", "open")]
    for way in _WAYS:
        did = ", ".join(f"{name} {count}" for name, count in statistics[way].items() if count)
        lines.append(f"{way}: {did or 'no faults'}")
    return "\n".join(lines)


_WAYS = ("up", "down")
