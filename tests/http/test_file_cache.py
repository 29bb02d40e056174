"""The cache of open files."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.http.files import FileCache
from tests.support import open_descriptors


async def test_a_cache_is_bounded(tmp_path: Path) -> None:
    """The file that was looked at the longest ago makes room, and is closed."""
    before = open_descriptors()
    cache = FileCache(max_open=3)
    for number in range(5):
        (tmp_path / str(number)).write_bytes(b"x")
        kept = cache.get(str(tmp_path / "0"), number * 2.0)
        cache.get(str(tmp_path / str(number)), number * 2.0)
    assert len(cache) == 3
    assert open_descriptors() == before + 3
    assert cache.get(str(tmp_path / "0"), 8.0) is kept
    cache.close()
    assert open_descriptors() == before
    for options in ({"max_open": 0}, {"valid_for": -1.0}):
        with pytest.raises(ValueError, match="must be"):
            FileCache(**options)
