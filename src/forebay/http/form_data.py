"""What a form holds."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TypeVar

from forebay.engine.tasks import unfinished
from forebay.http.uploads import UploadFile

__all__ = ["FormData"]

D = TypeVar("D")

_CLOSING = 5.0  # seconds that are waited for files to be closed


class FormData:
    """The fields of a form in the order they came, any number of one name; a text or an :class:`UploadFile` each.

    It owns its files: ``async with await read_form(request) as form`` closes them.
    """

    __slots__ = ("_by_name", "_items")

    def __init__(self, items: list[tuple[str, str | UploadFile]] | None = None) -> None:
        self._items = items if items is not None else []
        self._by_name: dict[str, list[str | UploadFile]] = {}
        for name, value in self._items:
            self._by_name.setdefault(name, []).append(value)

    def __repr__(self) -> str:
        return f"<FormData {', '.join(self._by_name)}>"  # values may be secrets

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> str | UploadFile:
        """The first value of ``name``."""
        return self._by_name[name][0]

    def get(self, name: str, default: D | None = None) -> str | UploadFile | D | None:
        """The first value of ``name``, or ``default``."""
        found = self._by_name.get(name)
        return found[0] if found else default

    def get_all(self, name: str) -> list[str | UploadFile]:
        """Every value of ``name``, in order; empty without one."""
        return list(self._by_name.get(name, ()))

    def items(self) -> list[tuple[str, str | UploadFile]]:
        """Every field, in order."""
        return list(self._items)

    @property
    def files(self) -> list[UploadFile]:
        """The files, in order."""
        return [value for _, value in self._items if isinstance(value, UploadFile)]

    def close(self) -> None:
        """Close its files, without waiting for what is on the disk to be gone. May be called again."""
        for file in self.files:
            file.close()

    async def aclose(self) -> None:
        """Close its files, and wait until that is done, at most 5 seconds."""
        tasks = [task for file in self.files if (task := file.close()) is not None]
        await unfinished(tasks, _CLOSING)

    async def __aenter__(self) -> FormData:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
