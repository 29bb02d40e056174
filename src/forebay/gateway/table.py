"""Which route a request takes. Pure look-up: no I/O, nothing of HTTP but host, path and method.

Routes are tried from the most specific to the least, and the first that takes the method wins:

1. host: the exact one, then ``*.`` patterns from the longest, then routes without a host;
2. path: the exact one, then ``/*`` patterns from the longest;
3. methods: a route that lists the method, then one that takes all. ``GET`` brings ``HEAD`` with it, unless another
   route lists that.

So ``GET``-only ``/api/users/*`` leaves ``POST /api/users/1`` to ``/api/*`` where there is one. A pattern ends at a
segment: ``/api/*`` takes ``/api``, ``/api/`` and ``/api/x``, but not ``/apix``. ``*.example.com`` takes any number of
labels before the dot, and not ``example.com`` itself. Hosts are compared without case, port and trailing dot. Paths are
compared percent-decoded, as the backend will read them, so no spelling gets around a pattern.

A look-up costs a few dictionary accesses per segment of the path (no more segments than the longest pattern has) and
per label of the host, however many routes there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Pattern", "Table", "host_name"]

T = TypeVar("T")


class Pattern(NamedTuple):
    """What a route takes.

    :param path: exact, or with ``/*`` at its end everything below as well.
    :param host: exact, or ``*.`` and a domain; None: any.
    :param methods: none means all.
    """

    path: str
    host: str | None = None
    methods: tuple[str, ...] = ()


class _Methods(Generic[T]):
    """What stands at one path of one host: a value per method, and one for all others."""

    __slots__ = ("by_method", "otherwise")

    def __init__(self) -> None:
        self.by_method: dict[str, T] = {}
        self.otherwise: T | None = None


class _Paths(Generic[T]):
    """The paths of one host."""

    __slots__ = ("depth", "exact", "prefixes")

    def __init__(self) -> None:
        self.exact: dict[str, _Methods[T]] = {}
        self.prefixes: dict[str, _Methods[T]] = {}  # without the slash at the end: "" is everything
        self.depth = 0  # slashes up to the end of the longest prefix, the one after it included

    def find(self, path: str, method: str) -> T | None:
        """The value for ``method`` at ``path``, or above."""
        entry = self.exact.get(path)
        if entry is not None:
            value = entry.by_method.get(method, entry.otherwise)
            if value is not None:
                return value
        best = None
        end = -1
        for _ in range(self.depth):  # from the shortest prefix to the longest, which wins
            end = path.find("/", end + 1)
            entry = self.prefixes.get(path[:end] if end >= 0 else path)
            if entry is not None:
                value = entry.by_method.get(method, entry.otherwise)
                if value is not None:
                    best = value
            if end < 0:
                break
        return best

    def complete(self) -> None:
        """All routes are there: let ``GET`` stand for ``HEAD`` where nothing else does."""
        for found in (*self.exact.values(), *self.prefixes.values()):
            if "GET" in found.by_method:
                found.by_method.setdefault("HEAD", found.by_method["GET"])

    def methods(self, path: str) -> set[str]:
        """The methods that routes at ``path`` and above list."""
        ends = [at for at, character in enumerate(path) if character == "/"][: self.depth]
        entries = [self.exact.get(path), *(self.prefixes.get(path[:end]) for end in (*ends, len(path)))]
        return {method for entry in entries if entry is not None for method in entry.by_method}


class Table(Generic[T]):
    """Values by what they take.

    :raises ValueError: two values take exactly the same, so one would never be found.
    """

    __slots__ = ("_any_host", "_hosts", "_suffixes")

    def __init__(self, entries: Iterable[tuple[Pattern, T]]) -> None:
        self._any_host: _Paths[T] = _Paths()
        self._hosts: dict[str, _Paths[T]] = {}
        self._suffixes: dict[str, _Paths[T]] = {}  # ".example.com"
        for pattern, value in entries:
            self._add(pattern, value)
        for paths in (self._any_host, *self._hosts.values(), *self._suffixes.values()):
            paths.complete()

    def find(self, host: bytes, path: str, method: str) -> T | None:
        """The value whose pattern fits best; None when none takes this request.

        :param host: as the client sent it, with a port or without.
        :param path: percent-decoded, beginning with a slash, without dot segments.
        """
        if self._hosts or self._suffixes:
            for paths in self._for_host(host):
                found = paths.find(path, method)
                if found is not None:
                    return found
        return self._any_host.find(path, method)

    def allowed(self, host: bytes, path: str) -> list[str]:
        """The methods something at this path takes, sorted: for the ``Allow`` of a 405. Empty: nothing is there."""
        methods: set[str] = set()
        for paths in (*self._for_host(host), self._any_host):
            methods |= paths.methods(path)
        return sorted(methods)

    def _add(self, pattern: Pattern, value: T) -> None:
        paths = self._paths_of(pattern.host)
        if pattern.path.endswith("/*"):
            key = pattern.path[:-2]
            paths.depth = max(paths.depth, key.count("/") + 1)
            entry = paths.prefixes.setdefault(key, _Methods())
        else:
            entry = paths.exact.setdefault(pattern.path, _Methods())
        for method in pattern.methods:
            if entry.by_method.setdefault(method, value) is not value:
                raise ValueError(f"two routes take {method} {pattern.host or ''}{pattern.path}")
        if not pattern.methods:
            if entry.otherwise is not None:
                raise ValueError(f"two routes take {pattern.host or ''}{pattern.path}")
            entry.otherwise = value

    def _paths_of(self, host: str | None) -> _Paths[T]:
        if host is None or host == "*":
            return self._any_host
        name = host.lower().rstrip(".")
        if name.startswith("*."):
            return self._suffixes.setdefault(name[1:], _Paths())
        return self._hosts.setdefault(name, _Paths())

    def _for_host(self, host: bytes) -> Iterator[_Paths[T]]:
        name = host_name(host)
        paths = self._hosts.get(name)
        if paths is not None:
            yield paths
        if self._suffixes:
            dot = name.find(".")
            while dot >= 0:
                paths = self._suffixes.get(name[dot:])
                if paths is not None:
                    yield paths
                dot = name.find(".", dot + 1)


def host_name(host: bytes) -> str:
    """A ``Host`` field without port and trailing dot, in lower case."""
    name, colon, port = host.rpartition(b":")
    if not colon or not (port.isdigit() or not port):
        name = host  # no port; or the last group of an IPv6 address, which a bracket closes
    return name.decode("latin-1").lower().removesuffix(".")
