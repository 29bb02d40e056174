"""A target with something to find, and one without."""

from __future__ import annotations

from hypothesis import strategies as st

from fuzz.command import command
from fuzz.target import Disagreement, Target

NEEDLE = b"ab"


def check(data: bytes) -> list[str]:
    """Fails where the needle is."""
    if NEEDLE in data:
        raise Disagreement("the needle")
    return ["no-needle"]


TARGET = Target(
    "tests.fuzz.planted",
    check,
    st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1).map(b"".join),
    lambda: [b"xyz", b"cb"],
    [NEEDLE, b"\x00\xff"],
)

if __name__ == "__main__":
    command(TARGET)
