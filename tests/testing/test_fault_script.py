"""Faults as values, as text and as scripts: what is valid is done, and what is not says what would be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.testing import FaultProxy
from forebay.testing.fault_script import Script, check_change, parse_faults, parse_flapping, parse_setting, read_script
from forebay.testing.faults import SETTINGS, Faults
from forebay.testing.virtual_clock import VirtualClock

SCRIPT = """
loops = 2
[[step]]
at = "0s"
latency = "200ms"
down = {bandwidth = "100KB/s", slice = "64B", reset_after = "1MB"}
[[step]]
at = "5s"
clear = true
reset = true
flapping = "1s,500ms"
cut_after = "1KiB"
[[step]]
at = 7.5
flapping = "off"
up = {black_hole = true, share = "30%"}
"""


def test_a_script_is_read() -> None:
    """Units become numbers; a size of reset_after is in bytes."""
    script = read_script(SCRIPT)
    assert script.loops == 2
    assert script.steps == (
        (0.0, {"latency": 0.2, "down": {"bandwidth": 100_000.0, "slice": 64, "reset_after_bytes": 1_000_000}}),
        (5.0, {"clear": True, "reset": True, "flapping": (1.0, 0.5), "cut_after": 1024}),
        (7.5, {"flapping": None, "up": {"black_hole": True, "share": 0.3}}),
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("loops = ", "no TOML"),
        ("loops = 1", r"there are no steps; each one begins with \[\[step\]\]"),
        ("speed = 1\n[[step]]\nat = '0s'", "unknown key 'speed': valid are loops, step"),
        ("[[step]]\nlatency = '1s'", "step 1: it has no time"),
        ("[[step]]\nat = '5'", "step 1: at '5': a duration is a number with a unit"),
        ("[[step]]\nat = '2s'\n[[step]]\nat = '1s'", r"step 2: at 1.0: must not be before the step above"),
        (
            "[[step]]\nat = '2s'\nlatncy = '1s'",
            "step 1: unknown fault 'latncy': valid are latency, .*, up, down, clear",
        ),
        ("[[step]]\nat = '2s'\ndown = {refuse = true}", "step 1: down: unknown fault 'refuse': valid are latency"),
        ("[[step]]\nat = '2s'\ndown = {latncy = '1s'}", "step 1: down: unknown fault 'latncy'"),
        (
            "[[step]]\nat = '2s'\ndown = {latency = '1'}",
            "step 1: down: latency '1': a duration is a number with a unit",
        ),
        ("[[step]]\nat = '2s'\ncut_after = '5'", "step 1: cut_after '5': a size is a number with a unit"),
        ("[[step]]\nat = '2s'\nflapping = '5s'", "step 1: flapping '5s': .* is not two durations"),
        ("[[step]]\nat = '2s'\nflapping = ['5s', '5']", "step 1: flapping '5': a duration is a number with a unit"),
        (f"[[step]]\nat = '2s'\nlatency = 1{'0' * 400}", r"step 1: latency 10+: must be at least 0 \(seconds\)"),
        ("[[step]]\nat = '2s'\ndown = '1s'", "step 1: down '1s': must be faults of that direction"),
        ("[[step]]\nat = '2s'\nreset = 1", "step 1: reset 1: must be True or False"),
        ("[[step]]\nat = '2s'\nreset = 'yes'", "step 1: reset 'yes': must be True or False"),
        ("[[step]]\nat = '2s'\nflapping = [1]", "step 1: flapping .*: must be seconds up and seconds down"),
        ("[[step]]\nat = '2s'\nlatency = -1", r"step 1: latency -1: must be at least 0 \(seconds\)"),
        ("[[step]]\nat = -1", "step 1: at -1: must be at least 0"),
        ("loops = -1\n[[step]]\nat = '2s'", "loops -1: must be a whole number"),
        ("loops = 0\n[[step]]\nat = '0s'", "must have a last step later than 0 seconds"),
    ],
)
def test_a_script_that_is_none(text: str, error: str) -> None:
    """The error has the number of the step and what would be right."""
    with pytest.raises(ValueError, match=error):
        read_script(text)


@pytest.mark.parametrize("step", [5, (1,), (1, 2), {"at": 1}, None])
def test_a_step_that_is_none(step: Any) -> None:
    """The error has its number, and what it should be."""
    with pytest.raises(ValueError, match=r"step 2: .*: must be a time and what changes then, by name"):
        Script([(0, {}), step])


def test_faults_as_text() -> None:
    """As in the command's --up and --down."""
    assert parse_faults("latency=200ms, bandwidth=1MB/s,black-hole") == {
        "latency": 0.2,
        "bandwidth": 1_000_000.0,
        "black_hole": True,
    }
    assert parse_faults("bandwidth=1MB,share=0.5,limit=off") == {"bandwidth": 1_000_000.0, "share": 0.5, "limit": None}
    assert parse_faults("black_hole=off,reset-after=0s") == {"black_hole": False, "reset_after": 0.0}
    assert parse_setting("reset_after", "64KiB") == ("reset_after_bytes", 65536)
    assert parse_flapping("10s,500ms") == (10.0, 0.5)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("latncy=1s", "unknown fault 'latncy': valid are latency, jitter, bandwidth"),
        ("latency", "latency has no value; give one, as in latency=200ms"),
        ("latency=5", "latency '5': a duration is a number with a unit"),
        ("bandwidth=fast", "bandwidth 'fast': a bandwidth is a size per second"),
        ("bandwidth=0B/s", "bandwidth 0.0: must be greater than 0"),
        ("slice=0B", "slice 0: must be a whole number, at least 1"),
        ("share=120%", "share 1.2: must be from 0 to 1"),
        ("share=many", "share 'many': a share is a number from 0 to 1"),
        ("black_hole=perhaps", "black_hole 'perhaps': black_hole is 'on' or 'off'"),
        ("reset_after=soon", "reset_after 'soon': give a duration, as in \"5s\", or a size"),
    ],
)
def test_faults_that_are_none(text: str, error: str) -> None:
    """The error says what would be right."""
    with pytest.raises(ValueError, match=error):
        parse_faults(text)
    with pytest.raises(ValueError, match="is not two durations"):
        parse_flapping("5s")


@given(
    settings=st.lists(
        st.tuples(
            st.sampled_from([*SETTINGS, "latncy"]),
            st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.floats(), st.text(max_size=2)),
        )
    )
)
def test_faults_are_set_whole_or_not_at_all(settings: list[tuple[str, Any]]) -> None:
    """Whatever is given, a refusal changes nothing, and what is taken is there; a change is told once."""
    changes = 0

    def changed() -> None:
        nonlocal changes
        changes += 1

    faults = Faults(changed)
    given_settings = dict(settings)
    try:
        faults.set(**given_settings)
    except (ValueError, AttributeError):
        assert faults.settings() == {}
        assert changes == 0
    else:
        assert {name: getattr(faults, name) for name in given_settings} == given_settings
        assert changes == 1
        check_change(given_settings)
    faults.clear()
    assert faults.settings() == {}


def test_a_script_is_played_in_time() -> None:
    """Each step when it is its turn, each turn of the loop after the one before."""

    class Watched(FaultProxy):
        """Writes down what it is to do, and when."""

        __slots__ = ("done",)

        done: list[tuple[float, float]]

        async def apply(self, change: Any) -> None:
            """Take some time for it."""
            self.done.append((round(asyncio.get_running_loop().time() - began, 3), change["latency"]))
            await super().apply(change)
            await asyncio.sleep(0.5)

    began = 0.0

    async def main() -> list[tuple[float, float]]:
        nonlocal began
        proxy = Watched("tcp://127.0.0.1:9")
        proxy.done = []
        async with proxy:
            began = asyncio.get_running_loop().time()
            await proxy.play(Script([(1, {"latency": 1.0}), (10, {"latency": 2.0})], loops=2))
            done = list(proxy.done)
            proxy.done.clear()
            began = asyncio.get_running_loop().time()
            forever = asyncio.create_task(proxy.play([(3600, {"latency": 3.0})], loops=0))
            await asyncio.sleep(3600 * 1000 + 1)
            forever.cancel()
            assert len(proxy.done) == 1000
            assert proxy.latency == 3.0
            await proxy.play(())
            return done

    with VirtualClock() as clock:
        done = clock.run(main())
    assert done == [(1.0, 1.0), (10.0, 2.0), (11.0, 1.0), (20.0, 2.0)]


def test_what_is_unlike_at_first() -> None:
    """The repr says it, and nothing else."""
    assert repr(Faults(latency=0.2, limit=0)) == "Faults(latency=0.2, limit=0)"
    assert repr(Faults()) == "Faults()"
