"""Which route takes a request: by host, then by path, one segment after the other, then by method.

A pattern is made of segments: ``/users`` is matched literally, ``{name}`` takes one segment, ``{name:int}`` takes it
when it is one, and ``{name:path}``, only at the end, takes all that is left. A segment is a literal or a parameter,
never both: ``/files/{name}.txt`` is an error. At each segment a literal is tried before typed parameters (``int``,
``float``, ``uuid``, then an application's own converters in their order), those before ``str``, and the rest of the
path last; a choice that leads nowhere is taken back.

Hosts: ``api.example.com`` comes before ``{tenant}.example.com``, that before ``*.example.com``, the longest first, and
all before routes for every host (:mod:`forebay.http.hosts`). What the routes of one do not take goes on to the next.

Methods: at one pattern the route for the very method comes first, then for HEAD the one for GET (RFC 9110 section
9.3.2), then the one for every method, ``*``. A pattern without a route for the method leads nowhere.

Slashes count: ``/users`` and ``/users/`` are two paths, and parameters are never empty. Paths are split at their
slashes first and percent-decoded then, segment by segment, as UTF-8: ``%2F`` never becomes a separator, ``+`` stays,
and ``/%75sers`` is ``/users``. Literals of patterns are compared with the decoded text: they are written decoded.

A look-up visits each node of the tree at most once, however choices are taken back, since a node has only one way that
leads to it. Its depth is bounded by ``MAX_SEGMENTS`` and its work by the segments of all patterns that share a
beginning with the path: a path can be long, but it cannot make choices multiply.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from forebay.http.converters import CONVERTERS, Converter, converters_with
from forebay.http.hosts import Hosts, host_name, parse_host_pattern
from forebay.http.route_table import (
    Entry,
    Explanation,
    Parameter,
    build_path,
    explain,
    parameters,
    parse_pattern,
    split_path,
)

__all__ = ["CONVERTERS", "Converter", "Router", "build_path", "parameters"]

T = TypeVar("T")

_REDIRECTABLE = re.compile(rb"/(?![/\\])[^\x00-\x20\x7f\\]+")


class _Node(Generic[T]):
    """The routes that share a beginning, and those that end here."""

    __slots__ = ("choices", "every", "literals", "methods", "rest", "takes", "typed")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[T]] = {}
        self.typed: dict[str, _Node[T]] = {}  # by converter
        self.choices: list[tuple[Callable[[str], Any], _Node[T]]] = []  # the same in the order they are tried ...
        self.rest: _Node[T] | None = None  # ... and this one last, with all that is left of the path
        self.methods: dict[str, T] = {}  # as registered
        self.takes: dict[str, _Taken[T]] = {}  # by the method of the request ...
        self.every: _Taken[T] | None = None  # ... and for all others


_Taken = tuple[tuple[str, ...], T]  # the names the parameters have in that route, and its value


class _Site(Generic[T]):
    """The routes of one host pattern."""

    __slots__ = ("root", "static")

    def __init__(self) -> None:
        self.root: _Node[T] = _Node()
        # Paths without parameters as they stand in requests. No other route is more specific.
        self.static: dict[bytes, dict[str, tuple[T, dict[str, Any] | None]]] = {}


class Router(Generic[T]):
    """Maps host, path and method to whatever was registered for them.

    :param converters: an application's own, by the name they have in patterns, in the order in which they are tried.
    :raises ValueError: the name of a converter is not ``[a-z][a-z0-9_]*``, or is built in already.
    """

    __slots__ = ("_entries", "_hosts", "_quick", "_site", "by_host", "converters")

    def __init__(self, converters: Mapping[str, Converter] | None = None) -> None:
        self.converters = converters_with(converters)
        self._entries: list[Entry[T]] = []
        self._site: _Site[T] = _Site()  # of routes for every host
        self._hosts: Hosts[_Site[T]] | None = None  # of the others, if there are any
        self.by_host = False
        """Whether some routes are for certain hosts only."""
        self._quick = self._site.static  # what needs no look at the host: nothing, once there are host patterns

    def __repr__(self) -> str:
        return f"<Router routes={len(self._entries)} hosts={len(self._hosts) if self._hosts is not None else 0}>"

    def add(self, method: str, pattern: str, value: T, host: str | None = None) -> T | None:
        """Register ``value``.

        :param method: as requests have it, or ``*`` for every one; not listed by :meth:`allowed`.
        :param pattern: at most 64 segments.
        :param host: only for this host; None for every one.
        :returns: what was registered for this method, pattern and host before, which then stays; None when it was free.
            The names of parameters make no difference.
        :raises ValueError: the pattern or the host is not well-formed, or they bind the same name.
        """
        names = tuple(parameters(pattern, self.converters, host))
        site = self._site if host is None else self._site_of(host)
        node = site.root
        for part in parse_pattern(pattern, self.converters):
            if not isinstance(part, Parameter):
                node = node.literals.setdefault(part, _Node())
                continue
            if part.converter not in node.typed:
                node.typed[part.converter] = _Node()
                order = [name for name in self.converters if name in node.typed and name != "path"]
                node.choices = [(self.converters[name].parse, node.typed[name]) for name in order]
                node.rest = node.typed.get("path")
            node = node.typed[part.converter]
        if method in node.methods:
            return node.methods[method]
        node.methods[method] = value
        if method == "*":
            node.every = (names, value)
        else:
            node.takes[method] = (names, value)
            if method == "GET":
                node.takes.setdefault("HEAD", (names, value))
        if not names and "%" not in pattern:
            site.static[pattern.encode()] = {name: (taken[1], None) for name, taken in node.takes.items()}
        self._entries.append(Entry(method, host, pattern, value))
        return None

    def _site_of(self, host: str) -> _Site[T]:
        if self._hosts is None:
            self._hosts = Hosts()
            self.by_host = True
            self._quick = {}
        return self._hosts.setdefault(parse_host_pattern(host), _Site)

    def find(self, method: str, raw_path: bytes, host: bytes = b"") -> tuple[T, dict[str, Any] | None] | None:
        """The value for a request and its parameters, of host and path (None: it has none).

        GET routes answer HEAD requests, unless their pattern has a route for HEAD.

        :param raw_path: as it was received, without a query.
        :param host: as it was received, maybe with a port.
        :raises ProtocolError: the path is not UTF-8.
        """
        quick = self._quick.get(raw_path)
        if quick is not None:
            found = quick.get(method)
            if found is not None:
                return found
        if self._hosts is not None:
            return self._find_by_host(method, raw_path, host)
        return _find(self._site.root, split_path(raw_path), 1, method, ())

    def _find_by_host(self, method: str, raw_path: bytes, host: bytes) -> tuple[T, dict[str, Any] | None] | None:
        segments: list[str] | None = None
        for site, bound in self._sites(host):
            quick = site.static.get(raw_path)
            found = quick.get(method) if quick is not None else None
            if found is None:
                if segments is None:
                    segments = split_path(raw_path)
                found = _find(site.root, segments, 1, method, bound)
            if found is not None:
                return found
        return None

    def _sites(self, host: bytes) -> Iterator[tuple[_Site[T], tuple[str, ...]]]:
        """Those for a host, the most specific first, each with what it binds of it."""
        if self._hosts is not None:
            yield from self._hosts.matching(host_name(host))
        yield self._site, ()

    def allowed(self, raw_path: bytes, host: bytes = b"") -> list[str]:
        """The methods some route would take for this path; empty when there is none (RFC 9110 section 10.2.1).

        :raises ProtocolError: the path is not UTF-8.
        """
        segments = split_path(raw_path)
        methods: set[str] = set()
        for site, _ in self._sites(host):
            _collect(site.root, segments, 1, methods)
        if methods:
            methods.add("OPTIONS")
        return sorted(methods)

    def other_slash(self, method: str, raw_path: bytes, host: bytes = b"") -> bytes | None:
        """The path with a slash added to its end, or taken from it, if some route takes that; else None.

        What it gives may be sent as a ``location``: never what a browser could take for another host (``//a.example``).

        :raises ProtocolError: the path is not UTF-8.
        """
        other = raw_path[:-1] if raw_path.endswith(b"/") else raw_path + b"/"
        if not _REDIRECTABLE.fullmatch(other) or self.find(method, other, host) is None:
            return None
        return other

    def explain(self, method: str, raw_path: bytes, host: bytes = b"") -> Explanation[T]:
        """Which route takes a request, as :meth:`find` says, and why not the others. Looks at every route there is.

        :raises ProtocolError: the path is not UTF-8.
        """
        return explain(self._entries, self.converters, method, raw_path, host)

    def entries(self) -> Iterator[Entry[T]]:
        """What is registered, in that order: method, host, pattern and value."""
        return iter(self._entries)


def _find(
    node: _Node[T], segments: list[str], at: int, method: str, values: tuple[Any, ...]
) -> tuple[T, dict[str, Any] | None] | None:
    """The best route that takes the path and the method. The depth is bounded by the longest pattern."""
    count = len(segments)
    while at < count:
        segment = segments[at]
        following = node.literals.get(segment)
        if following is not None:
            if not node.choices and node.rest is None:  # no other choice to come back to
                node = following
                at += 1
                continue
            found = _find(following, segments, at + 1, method, values)
            if found is not None:
                return found
        if not segment:
            return None  # a parameter is never empty
        for parse, following in node.choices:
            try:
                value = parse(segment)
            except ValueError:
                continue
            if at + 1 < count:
                found = _find(following, segments, at + 1, method, (*values, value))
                if found is not None:
                    return found
            elif (taken := following.takes.get(method) or following.every) is not None:
                return _bound(taken, (*values, value))
        if node.rest is None:
            return None
        node = node.rest
        taken = node.takes.get(method) or node.every
        if taken is None:
            return None  # before a long path is joined for nothing
        return _bound(taken, (*values, "/".join(segments[at:])))
    taken = node.takes.get(method) or node.every
    return None if taken is None else _bound(taken, values)


def _bound(taken: _Taken[T], values: tuple[Any, ...]) -> tuple[T, dict[str, Any] | None]:
    names, value = taken
    if len(names) == 1:
        return value, {names[0]: values[0]}
    return value, dict(zip(names, values, strict=True)) if names else None


def _collect(node: _Node[T], segments: list[str], at: int, methods: set[str]) -> None:
    """Add the methods of every route that takes the path."""
    if at == len(segments):
        methods.update(node.takes)
        return
    segment = segments[at]
    following = node.literals.get(segment)
    if following is not None:
        _collect(following, segments, at + 1, methods)
    if not segment:
        return
    for parse, following in node.choices:
        try:
            parse(segment)
        except ValueError:
            continue
        _collect(following, segments, at + 1, methods)
    if node.rest is not None:
        methods.update(node.rest.takes)
