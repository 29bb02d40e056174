"""Which route takes a request: by path, one segment after the other, then by method.

A pattern is made of segments: ``/users`` is matched literally, ``{name}`` takes one segment, ``{name:int}`` takes it
when it is one, and ``{name:path}``, only at the end, takes all that is left. At each segment a literal is tried before
typed parameters, those before ``str``, and the rest of the path last; a choice that leads nowhere is taken back.

Slashes count: ``/users`` and ``/users/`` are two paths. Segments are percent-decoded one by one, so ``%2F`` never
becomes a separator.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID

from forebay.wire.http1 import decode_path

__all__ = ["CONVERTERS", "Router", "parameters"]

T = TypeVar("T")

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}")
_INT = re.compile(r"-?[0-9]{1,19}")
_FLOAT = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def _int(text: str) -> int:
    """At most 64 bits, signed: databases and JSON readers hold no more, and would fail behind the handler's back."""
    if len(text) < 19 and text.isdecimal() and text.isascii():
        return int(text)
    if not _INT.fullmatch(text) or not -(1 << 63) <= (value := int(text)) < 1 << 63:
        raise ValueError("not an integer of 64 bits")
    return value


def _float(text: str) -> float:
    if not _FLOAT.fullmatch(text) or not math.isfinite(value := float(text)):
        raise ValueError("not a number")
    return value


def _uuid(text: str) -> UUID:
    if not _UUID.fullmatch(text):
        raise ValueError("not a UUID")
    return UUID(text)


CONVERTERS: dict[str, Callable[[str], Any]] = {"int": _int, "float": _float, "uuid": _uuid, "str": str, "path": str}
"""The converters, in the order in which they are tried. A ``ValueError`` means that the pattern does not match."""


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    converter: str


def parameters(pattern: str) -> dict[str, str]:
    """Names and converters of the parameters of ``pattern``.

    :raises ValueError: it is not well-formed; says where, and what would be.
    """
    return {part.name: part.converter for part in _parse(pattern) if isinstance(part, _Parameter)}


def _parse(pattern: str) -> list[str | _Parameter]:
    if not pattern.startswith("/"):
        raise ValueError(f"route {pattern!r} must begin with a slash")
    parts: list[str | _Parameter] = []
    segments = pattern[1:].split("/")
    for index, segment in enumerate(segments):
        match = _PARAMETER.fullmatch(segment)
        if match is None:
            if "{" in segment or "}" in segment:
                raise ValueError(
                    f"route {pattern!r}: segment {segment!r} must be a literal, {{name}} or {{name:converter}}"
                )
            parts.append(segment)
            continue
        name, converter = match[1], match[2] or "str"
        if converter not in CONVERTERS:
            raise ValueError(
                f"route {pattern!r}: there is no converter {converter!r}; there are {', '.join(CONVERTERS)}"
            )
        if converter == "path" and index != len(segments) - 1:
            raise ValueError(f"route {pattern!r}: {{{name}:path}} takes all that is left, so it must be last")
        if any(isinstance(part, _Parameter) and part.name == name for part in parts):
            raise ValueError(f"route {pattern!r} has two parameters called {name}")
        parts.append(_Parameter(name, converter))
    return parts


class _Node(Generic[T]):
    """The routes that share a beginning."""

    __slots__ = ("choices", "leaf", "literals", "rest", "typed")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[T]] = {}
        self.typed: dict[str, _Node[T]] = {}  # by converter
        self.choices: list[tuple[Callable[[str], Any], _Node[T]]] = []  # the same in the order they are tried ...
        self.rest: _Node[T] | None = None  # ... and this one last, with all that is left of the path
        self.leaf: _Leaf[T] | None = None


class _Leaf(Generic[T]):
    """What is registered for a pattern: by method, with the names its parameters have there."""

    __slots__ = ("methods",)

    def __init__(self) -> None:
        self.methods: dict[str, tuple[tuple[str, ...], T]] = {}


class Router(Generic[T]):
    """Maps method and path to whatever was registered for them."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._static: dict[bytes, _Leaf[T]] = {}  # paths without parameters, as they stand in requests

    def add(self, method: str, pattern: str, value: T) -> T | None:
        """Register ``value``.

        :returns: what was registered for this method and pattern before, which then stays; None when it was free.
        :raises ValueError: the pattern is not well-formed.
        """
        parts = _parse(pattern)
        node = self._root
        for part in parts:
            if isinstance(part, str):
                node = node.literals.setdefault(part, _Node())
            else:
                if part.converter not in node.typed:
                    node.typed[part.converter] = _Node()
                    order = [name for name in CONVERTERS if name in node.typed and name != "path"]
                    node.choices = [(CONVERTERS[name], node.typed[name]) for name in order]
                    node.rest = node.typed.get("path")
                node = node.typed[part.converter]
        if node.leaf is None:
            node.leaf = _Leaf()
        leaf = node.leaf
        if method in leaf.methods:
            return leaf.methods[method][1]
        names = tuple(part.name for part in parts if isinstance(part, _Parameter))
        leaf.methods[method] = (names, value)
        if not names and "%" not in pattern:
            self._static[pattern.encode()] = leaf
        return None

    def find(self, method: str, raw_path: bytes) -> tuple[T, dict[str, Any] | None] | None:
        """The value for a request and its path parameters (None: it has none).

        GET routes answer HEAD requests, where nothing else does.

        :raises ProtocolError: the path is not UTF-8.
        """
        leaf = self._static.get(raw_path)
        if leaf is not None:
            taken = leaf.methods.get(method)
            if taken is not None:
                return taken[1], None
            if method == "HEAD" and "GET" in leaf.methods:
                return leaf.methods["GET"][1], None
        segments = _split(raw_path)
        found = _find(self._root, segments, 1, method, ())
        if found is None and method == "HEAD":
            found = _find(self._root, segments, 1, "GET", ())
        return found

    def allowed(self, raw_path: bytes) -> list[str]:
        """The methods some route would take for this path; empty when there is none (RFC 9110 section 10.2.1)."""
        methods = {method for leaf in _leaves(self._root, _split(raw_path), 1) for method in leaf.methods}
        if "GET" in methods:
            methods.add("HEAD")
        if methods:
            methods.add("OPTIONS")
        return sorted(methods)


def _split(raw_path: bytes) -> list[str]:
    """The decoded segments, after an empty one for what stands before the first slash."""
    if b"%" in raw_path:
        return [decode_path(segment) for segment in raw_path.split(b"/")]
    return (raw_path.decode() if raw_path.isascii() else decode_path(raw_path)).split("/")


def _find(
    node: _Node[T], segments: list[str], at: int, method: str, values: tuple[Any, ...]
) -> tuple[T, dict[str, Any] | None] | None:
    """The best leaf that takes the path and the method. The depth is bounded by the longest pattern."""
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
        for convert, following in node.choices:
            try:
                value = convert(segment)
            except ValueError:
                continue
            found = _find(following, segments, at + 1, method, (*values, value))
            if found is not None:
                return found
        if node.rest is None:
            return None
        node = node.rest
        values = (*values, "/".join(segments[at:]))
        break
    taken = node.leaf.methods.get(method) if node.leaf is not None else None
    return None if taken is None else _bound(taken, values)


def _bound(taken: tuple[tuple[str, ...], T], values: tuple[Any, ...]) -> tuple[T, dict[str, Any] | None]:
    names, value = taken
    if len(names) == 1:
        return value, {names[0]: values[0]}
    return value, dict(zip(names, values, strict=True)) if names else None


def _leaves(node: _Node[T], segments: list[str], at: int) -> Iterator[_Leaf[T]]:
    """Every leaf that takes the path, whatever the method."""
    if at == len(segments):
        if node.leaf is not None:
            yield node.leaf
        return
    segment = segments[at]
    following = node.literals.get(segment)
    if following is not None:
        yield from _leaves(following, segments, at + 1)
    if not segment:
        return
    for convert, following in node.choices:
        try:
            convert(segment)
        except ValueError:
            continue
        yield from _leaves(following, segments, at + 1)
    if node.rest is not None:
        yield from _leaves(node.rest, segments, len(segments))
