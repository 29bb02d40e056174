"""Fixtures of every test: the event loop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Mapping

import pytest
import uvloop
from hypothesis import HealthCheck, settings

# How fast inputs are generated and tried depends on the machine, which is not what these tests are about: making the
# table of Unicode alone takes seconds on a slow one.
settings.register_profile("forebay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("forebay")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

LOOPS: dict[str, LoopFactory] = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.SelectorEventLoop}


def pytest_configure(config: pytest.Config) -> None:
    """Declare the project's markers."""
    config.addinivalue_line("markers", "both_loops: the test runs under uvloop and under the standard library's loop")
    config.addinivalue_line("markers", "alone: the test measures times, and runs after the others, with nothing beside")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Run tests marked ``both_loops`` under each loop, all others under uvloop."""
    return LOOPS if item.get_closest_marker("both_loops") else {"uvloop": LOOPS["uvloop"]}


def pytest_collection_finish(session: pytest.Session) -> None:
    """What the tests consist of is kept till the end, so the garbage collector need not look through it: with all of
    them collected that held the loop for 0.2 to 0.3 s at a time, which is the whole of some timeouts."""
    gc.collect()
    gc.freeze()
