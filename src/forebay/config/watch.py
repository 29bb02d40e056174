"""Noticing that a file was changed.

Its directory is watched, not the file: editors replace files, and mounted configuration is swapped by a symbolic link.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import Change, awatch

from forebay.engine import sleep

__all__ = ["watch"]

_DEBOUNCE = 200  # milliseconds without another change until one is reported
_PATROL = 2000  # milliseconds until we look ourselves: a directory that was replaced reports nothing any more


async def watch(path: str | Path) -> AsyncIterator[None]:
    """Yield after each change of the file at ``path``, until cancelled. Changes close together are one.

    A file that is away for a moment, while an editor replaces it, is waited for; so is its directory.
    """
    file = _absolute(path)
    seen = _identity(file)
    while True:
        try:
            await _changed(file, seen)
        except OSError:  # its directory is away
            await sleep(_PATROL / 1000)
        found = _identity(file)
        if found is not None and found != seen:
            seen = found
            yield


async def _changed(file: Path, seen: _Identity | None) -> None:
    """Return when the file may differ from what was ``seen``, or its directories have become others."""

    def relevant(_: Change, __: str) -> bool:
        return _identity(file) != seen

    directories = _directories(file)
    places = {directory: _place(directory) for directory in directories}
    watching = awatch(
        *directories,
        watch_filter=relevant,
        recursive=False,
        step=_DEBOUNCE,
        rust_timeout=_PATROL,
        yield_on_timeout=True,
    )
    async for _changes in watching:
        if _identity(file) not in (seen, None) or places != {one: _place(one) for one in _directories(file)}:
            return


_Identity = tuple[int, int, int]


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))  # without following links: it is the link that is swapped


def _directories(file: Path) -> set[Path]:
    return {file.parent, Path(os.path.realpath(file)).parent}


def _place(directory: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(directory)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _identity(file: Path) -> _Identity | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
