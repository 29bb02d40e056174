"""Headers: those of a message as they were received, and those of one that is being made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from forebay.wire.http1 import HeaderPairs, encode_headers

__all__ = ["SERVERS", "Headers", "MutableHeaders"]

SERVERS = frozenset(("content-length", "transfer-encoding", "connection", "date", "server"))
"""Headers the server sets: what frames a message needs one owner, or two could disagree (RFC 9112 section 6.3)."""


class Headers(Mapping[str, str]):
    """Headers as they were received: names in any case, values as latin-1 text. They are looked up in what the parser
    left, on demand."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: HeaderPairs) -> None:
        self._pairs = pairs

    def __getitem__(self, name: str) -> str:
        """The first value of ``name``."""
        key = name.lower().encode("latin-1", "replace")
        for other, value in self._pairs:
            if len(other) == len(key) and other.lower() == key:
                return value.strip(b" \t").decode("latin-1")
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.decode("latin-1").lower() for name, _ in self._pairs))

    def __len__(self) -> int:
        return len({name.lower() for name, _ in self._pairs})

    def __repr__(self) -> str:
        return f"<Headers {', '.join(self)}>"  # values may be secrets

    def get_all(self, name: str) -> list[str]:
        """Every value of ``name``, in order; empty without one."""
        key = name.lower().encode("latin-1", "replace")
        return [value.strip(b" \t").decode("latin-1") for other, value in self._pairs if other.lower() == key]

    def pairs(self) -> list[tuple[str, str]]:
        """All names, as they were written, and values, in order."""
        return [(name.decode("latin-1"), value.strip(b" \t").decode("latin-1")) for name, value in self._pairs]


class MutableHeaders(MutableMapping[str, str]):
    """Headers that are being made. Assigning replaces every value of a name; :meth:`add` adds one."""

    __slots__ = ("_lines", "_pairs")

    def __init__(self, pairs: Mapping[str, str] | None = None) -> None:
        self._pairs = list(pairs.items()) if pairs else []
        self._lines = b""  # encoded already; split when somebody wants to look at them

    @classmethod
    def encoded(cls, lines: bytes) -> MutableHeaders:
        """Headers from their lines as they are sent, each ended by CRLF, names in lower case."""
        headers = cls.__new__(cls)
        headers._pairs = []
        headers._lines = lines
        return headers

    def copy(self) -> MutableHeaders:
        """The same, to be changed without changing these."""
        made = MutableHeaders.encoded(self._lines)
        made._pairs = self._pairs.copy()
        return made

    def _split(self) -> list[tuple[str, str]]:
        if self._lines:
            lines = [line.partition(": ") for line in self._lines.decode("latin-1").split("\r\n") if line]
            self._pairs = [(name, value) for name, _, value in lines] + self._pairs
            self._lines = b""
        return self._pairs

    def __getitem__(self, name: str) -> str:
        """The first value of ``name``, in any case."""
        value: str | None = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return self.get(str(name)) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """The first value of ``name``, in any case."""
        key = name.lower()
        pairs = self._split() if self._may_have(key) else self._pairs
        for other, value in pairs:
            if other == key or other.lower() == key:
                return value
        return default

    def _may_have(self, key: str) -> bool:
        """Whether ``key`` is in the lines that are encoded: as a name, or within a value, which costs time only."""
        return bool(self._lines) and self._lines.find(key.encode("latin-1", "replace")) >= 0

    def __setitem__(self, name: str, value: str) -> None:
        self._remove(name)
        self._pairs.append((name, value))

    def __delitem__(self, name: str) -> None:
        if not self._remove(name):
            raise KeyError(name)

    def _remove(self, name: str) -> bool:
        key = name.lower()
        if self._may_have(key):
            self._split()
        for other, _ in self._pairs:
            if other.lower() == key:
                self._pairs = [pair for pair in self._pairs if pair[0].lower() != key]
                return True
        return False

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.lower() for name, _ in self._split()))

    def __bool__(self) -> bool:
        return bool(self._pairs or self._lines)  # without counting their names

    def __len__(self) -> int:
        return len({name.lower() for name, _ in self._split()})

    def __repr__(self) -> str:
        return f"<MutableHeaders {', '.join(self)}>"

    def add(self, name: str, value: str) -> None:
        """Add a value beside those there are, as ``set-cookie`` needs it."""
        self._pairs.append((name, value))

    def get_all(self, name: str) -> list[str]:
        """Every value of ``name``, in order; empty without one."""
        key = name.lower()
        return [value for other, value in self._split() if other.lower() == key]

    def add_to_list(self, name: str, element: str) -> None:
        """Add ``element`` to a header that is a list, such as ``vary``, unless it, in any case, or ``*`` is there."""
        if self.get(name) is None:
            self._pairs.append((name, element))
            return
        value = ", ".join(filter(None, self.get_all(name)))
        if not {"*", element.lower()} & {one.strip().lower() for one in value.split(",")}:
            self[name] = f"{value}, {element}" if value else element

    def set_line(self, name: str, line: bytes) -> None:
        """Assign a header by its whole line, encoded and checked before: for what is the same in very many responses.

        :param line: with CRLF at its end, the name in lower case.
        """
        self._remove(name)
        self._lines += line

    def add_lines(self, lines: bytes, unless: tuple[bytes, ...]) -> bool:
        """Add lines like that, unless one of some words is in what there is: False then, and nothing is added.

        :param unless: the names of the lines, or what they begin with, in lower case.
        """
        if self._pairs or any(self._lines.find(word) >= 0 for word in unless):
            return False
        self._lines += lines
        return True

    def pairs(self) -> list[tuple[str, str]]:
        """All names and values, in the order in which they are sent."""
        return self._split().copy()

    @property
    def has_pairs(self) -> bool:
        """Whether there are others than those in lines that were encoded before."""
        return bool(self._pairs)

    def encode(self, without: frozenset[str] = frozenset(), owned: frozenset[str] = SERVERS) -> bytes:
        """The lines as they are sent, without those the server sets.

        :param without: others that are left out; names in lower case.
        :param owned: those that are set elsewhere, and never among lines encoded before.
        :raises ValueError: a name or value could split the message, or is not latin-1.
        """
        if without:
            self._split()
        left_out = owned | without if without else owned
        lines = self._lines
        if not self._pairs:
            return lines
        return lines + encode_headers([pair for pair in self._pairs if pair[0].lower() not in left_out])
