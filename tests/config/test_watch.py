from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from forebay.config import watch as watch_module
from forebay.config.watch import watch
from forebay.engine import Event, Tasks, sleep, timeout


class Changes:
    """What a watcher has reported."""

    def __init__(self) -> None:
        self.count = 0
        self.event = Event()

    async def follow(self, path: Path) -> None:
        """Count until cancelled."""
        async for _ in watch(path):
            self.count += 1
            self.event.set()

    async def after(self, change: list[tuple[Path, str]]) -> None:
        """Write ``change`` until it is noticed: the watcher may not be watching yet at the first attempt."""
        self.event.clear()
        async with timeout(10):
            number = 0
            while not self.event.is_set():
                number += 1
                for path, text in change:
                    path.write_text(text + "#" * number)
                await sleep(0.3)


@asynccontextmanager
async def watching(path: Path) -> AsyncIterator[Changes]:
    """Watch ``path`` for the length of the block."""
    changes = Changes()
    tasks = Tasks()
    tasks.spawn(changes.follow(path), name="watch")
    try:
        yield changes
    finally:
        await tasks.cancel()


async def test_a_change_of_the_file_is_noticed(tmp_path: Path) -> None:
    """Every time anew."""
    path = tmp_path / "forebay.toml"
    path.write_text("a")
    async with watching(path) as changes:
        await changes.after([(path, "b")])
        await changes.after([(path, "c")])


async def test_a_file_that_is_replaced_is_noticed(tmp_path: Path) -> None:
    """As editors and package managers write: a new file, moved over the old one."""
    path = tmp_path / "forebay.toml"
    path.write_text("a")
    async with watching(path) as changes:
        await changes.after([(path, "b")])
        changes.event.clear()
        (tmp_path / "new").write_text("a file of another length")
        (tmp_path / "new").replace(path)
        async with timeout(5):
            await changes.event.wait()


async def test_a_link_that_is_swapped_is_noticed(tmp_path: Path) -> None:
    """As mounted configuration is: the file is a link through a directory that is a link."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "forebay.toml").write_text(name)
    (tmp_path / "current").symlink_to("one")
    path = tmp_path / "forebay.toml"
    path.symlink_to("current/forebay.toml")
    async with watching(path) as changes:
        await changes.after([(tmp_path / "one" / "forebay.toml", "edited in place")])
        changes.event.clear()
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").replace(tmp_path / "current")
        async with timeout(5):
            await changes.event.wait()


async def test_other_files_of_the_directory_do_not_matter(tmp_path: Path) -> None:
    """A database beside the configuration is written all the time."""
    path = tmp_path / "forebay.toml"
    path.write_text("a")
    async with watching(path) as changes:
        await changes.after([(path, "b")])  # it watches now
        seen = changes.count
        for number in range(20):
            (tmp_path / "data.db").write_text(str(number))
        await changes.after([(path, "c")])
        assert changes.count == seen + 1


@pytest.mark.parametrize("relative", [True, False])
async def test_paths_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    """To the current directory."""
    monkeypatch.chdir(tmp_path)
    path = Path("forebay.toml") if relative else tmp_path / "forebay.toml"
    path.write_text("a")
    async with watching(path) as changes:
        await changes.after([(path, "b")])


async def test_a_directory_that_is_replaced_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some tools deploy: away with it, then the next one in its place; edits in that are noticed as well."""
    monkeypatch.setattr(watch_module, "_PATROL", 100)
    path = tmp_path / "deployed" / "forebay.toml"
    path.parent.mkdir()
    path.write_text("a")
    async with watching(path) as changes:
        await changes.after([(path, "b")])
        changes.event.clear()
        path.unlink()
        path.parent.rmdir()
        await sleep(0.3)  # it notices, and waits for it to come back
        path.parent.mkdir()
        path.write_text("a file of another length")
        async with timeout(5):
            await changes.event.wait()
        await changes.after([(path, "c")])
