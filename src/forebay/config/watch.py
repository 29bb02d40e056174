"""Noticing that a file was changed.

Its directory is watched, not the file: editors replace files, and mounted configuration is swapped by a symbolic link.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import Change, awatch

__all__ = ["watch"]

_DEBOUNCE = 200  # milliseconds without another change until one is reported


async def watch(path: str | Path) -> AsyncIterator[None]:
    """Yield after each change of the file at ``path``, until cancelled. Changes close together are one.

    A file that is away for a moment, while an editor replaces it, is waited for.
    """
    file = _absolute(path)
    seen = _identity(file)
    while True:
        directories = _directories(file)

        def relevant(_: Change, __: str) -> bool:
            return _identity(file) != seen  # noqa: B023  # the filter is used within this round only

        async for _changes in awatch(*directories, watch_filter=relevant, recursive=False, step=_DEBOUNCE):
            found = _identity(file)
            if found is None or found == seen:
                continue
            seen = found
            yield
            break  # a link may lead to another directory now
        else:
            return


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))  # without following links: it is the link that is swapped


def _directories(file: Path) -> set[Path]:
    return {file.parent, file.resolve().parent}


def _identity(file: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
