"""Which host a route is for: one name, the subdomains of one, or any.

``api.example.com`` is that host, ``{tenant}.example.com`` binds one label before the rest, and ``*.example.com`` is for
one or more labels before it; it is not for ``example.com`` itself. Hosts are compared in lower case, without the port
and without the dot that may end them (RFC 9110 section 4.2.3, RFC 1034 section 3.1). What is bound is in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

__all__ = ["ANY_HOST", "HostPattern", "Hosts", "host_name", "parse_host_pattern"]

S = TypeVar("S")

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]{{2,45}}\]")
_SUFFIX = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_BOUND = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LONGEST = 253  # characters of a name in DNS (RFC 1035 section 2.3.4)

ANY_HOST = (3, 0)
"""The rank of a route without a host: behind all others."""


class HostPattern(NamedTuple):
    """A host pattern, read. ``suffix`` is the whole name where nothing stands before it, ``name`` the parameter's."""

    kind: str  # "exact", "bound" or "wildcard"
    suffix: str
    name: str | None = None

    @property
    def rank(self) -> tuple[int, int]:
        """Which is tried first, the least one: exact, bound, then wildcards, those with the longest suffix first."""
        if self.kind == "wildcard":
            return 2, -len(self.suffix)
        return (0, 0) if self.kind == "exact" else (1, 0)

    def match(self, host: str) -> tuple[str, ...] | None:
        """The bound label, if there is one, of a host this is for; None where it is not.

        :param host: as :func:`host_name` gives it.
        """
        if self.kind == "exact":
            return () if host == self.suffix else None
        before = host.removesuffix("." + self.suffix)
        labels = before.split(".")
        if before == host or "" in labels:
            return None
        if self.kind == "bound":
            return (before,) if len(labels) == 1 else None
        return ()


def parse_host_pattern(host: str) -> HostPattern:
    """Read a host pattern.

    :raises ValueError: it is not well-formed; says what would be.
    """
    first, dot, suffix = host.partition(".")
    bound = _BOUND.fullmatch(first)
    if not host.isascii():
        pass
    elif dot and (bound is not None or first == "*"):
        suffix = suffix.lower()
        if _SUFFIX.fullmatch(suffix) and len(suffix) < _LONGEST:
            return HostPattern("wildcard", suffix) if bound is None else HostPattern("bound", suffix, bound[1])
    elif _NAME.fullmatch(host.lower()) and len(host) <= _LONGEST:
        return HostPattern("exact", host.lower())
    raise ValueError(
        f"host {host!r} must be a name like api.example.com, *.example.com or {{tenant}}.example.com, without a port; "
        "names beyond ASCII in their xn-- form"
    )


def host_name(host: bytes) -> str:
    """What a request calls its host, for comparison: lower case, no port, no dot at the end.

    Empty without one, and for what is longer than a name can be.
    """
    text = host.lower().decode("latin-1")
    colon = text.rfind(":")
    if colon > text.rfind("]"):  # those of an IPv6 address stand in brackets
        text = text[:colon]
    text = text.removesuffix(".")
    return text if len(text) <= _LONGEST else ""


class Hosts(Generic[S]):
    """What is kept per host pattern. A look-up takes as many steps as the host has labels, however many patterns."""

    __slots__ = ("_bound", "_exact", "_wildcards")

    def __init__(self) -> None:
        self._exact: dict[str, S] = {}
        self._bound: dict[str, S] = {}  # by suffix, as are ...
        self._wildcards: dict[str, S] = {}  # ... these

    def __len__(self) -> int:
        return len(self._exact) + len(self._bound) + len(self._wildcards)

    def setdefault(self, pattern: HostPattern, make: Callable[[], S]) -> S:
        """What is kept for ``pattern``, made when there is nothing yet. The name of its parameter does not count."""
        kept = {"exact": self._exact, "bound": self._bound, "wildcard": self._wildcards}[pattern.kind]
        if pattern.suffix not in kept:
            kept[pattern.suffix] = make()
        return kept[pattern.suffix]

    def matching(self, host: str) -> Iterator[tuple[S, tuple[str, ...]]]:
        """What is kept for patterns that are for ``host``, the most specific first, each with what it binds.

        :param host: as :func:`host_name` gives it.
        """
        exact = self._exact.get(host)
        if exact is not None:
            yield exact, ()
        if not host or host[0] == "." or ".." in host:
            return  # an empty label is none
        label, dot, suffix = host.partition(".")
        bound = self._bound.get(suffix) if dot else None
        if bound is not None:
            yield bound, (label,)
        while dot and self._wildcards:
            wildcard = self._wildcards.get(suffix)
            if wildcard is not None:
                yield wildcard, ()
            _, dot, suffix = suffix.partition(".")
