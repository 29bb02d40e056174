"""Routes as people write and read them: patterns, the paths made from them, and why a route takes a request or not.

What is here reads the rules of :mod:`forebay.http.router` one route after the other, without its tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

from forebay.http.converters import CONVERTERS, Converter
from forebay.http.hosts import ANY_HOST, host_name, parse_host_pattern
from forebay.wire.http1 import decode_path

__all__ = [
    "MAX_SEGMENTS",
    "Entry",
    "Explanation",
    "Parameter",
    "Verdict",
    "build_path",
    "explain",
    "parameters",
    "parse_pattern",
    "split_path",
]

T = TypeVar("T")

MAX_SEGMENTS = 64
"""The most segments of a pattern. It bounds the depth of the search for a route, whatever the path."""

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z][a-z0-9_]*))?\}")
_UNSENDABLE = re.compile(r"[\0\ud800-\udfff]")
_PLAIN = "!$&'()*+,;=:@~"  # beside letters, digits and -._ what a segment holds as it is (RFC 3986 section 3.3)


class Parameter(NamedTuple):
    """A segment of a pattern that binds what stands there in the path."""

    name: str
    converter: str


class Entry(NamedTuple, Generic[T]):
    """A registered route. ``host`` is None for every host, ``method`` is ``*`` for every method."""

    method: str
    host: str | None
    pattern: str
    value: T


class Verdict(NamedTuple, Generic[T]):
    """What became of one route: ``reason`` says in a sentence why it does not take the request; empty when it does.

    ``near``: at most one thing stands in its way: the host, the method, one segment, or a route that is more specific.
    """

    entry: Entry[T]
    reason: str
    near: bool


@dataclass(frozen=True, slots=True)
class Explanation(Generic[T]):
    """Which route takes a request, and why not the others.

    ``taken`` is None, and ``params`` empty, where none does. ``verdicts`` has every route, in order of registration.
    """

    taken: Entry[T] | None
    params: dict[str, Any]
    verdicts: list[Verdict[T]]

    @property
    def near(self) -> list[Verdict[T]]:
        """The routes that come near, without the one that takes the request."""
        return [verdict for verdict in self.verdicts if verdict.near and verdict.reason]


def parse_pattern(pattern: str, converters: Mapping[str, Converter] | None = None) -> list[str | Parameter]:
    """The segments of a pattern: literals, percent-decoded as they are, and parameters.

    :param converters: those that may be named besides the built-in ones.
    :raises ValueError: it is not well-formed; says where, and what would be.
    """
    if not pattern.startswith("/"):
        raise ValueError(f"route {pattern!r} must begin with a slash")
    parts: list[str | Parameter] = []
    segments = pattern[1:].split("/")
    if len(segments) > MAX_SEGMENTS:
        raise ValueError(f"route {pattern[:60]!r}... has {len(segments)} segments; the most is {MAX_SEGMENTS}")
    for index, segment in enumerate(segments):
        match = _PARAMETER.fullmatch(segment)
        if match is None:
            if "{" in segment or "}" in segment:
                raise ValueError(
                    f"route {pattern!r}: segment {segment!r} must be a literal, {{name}} or {{name:converter}}; "
                    "text beside a parameter in one segment is not supported"
                )
            if segment in (".", "..") or _UNSENDABLE.search(segment):
                raise ValueError(f"route {pattern!r}: no request has the segment {segment!r}")
            parts.append(segment)
            continue
        name, converter = match[1], match[2] or "str"
        if converter not in CONVERTERS and converter not in (converters or {}):
            known = ", ".join(dict.fromkeys([*CONVERTERS, *(converters or {})]))
            raise ValueError(f"route {pattern!r}: there is no converter {converter!r}; there are {known}")
        if converter == "path" and index != len(segments) - 1:
            raise ValueError(f"route {pattern!r}: {{{name}:path}} takes all that is left, so it must be last")
        if any(isinstance(part, Parameter) and part.name == name for part in parts):
            raise ValueError(f"route {pattern!r} has two parameters called {name}")
        parts.append(Parameter(name, converter))
    return parts


def parameters(
    pattern: str, converters: Mapping[str, Converter] | None = None, host: str | None = None
) -> dict[str, str]:
    """Names and converters of the parameters of a route: that of the host first, then those of the pattern.

    :param converters: those that may be named besides the built-in ones.
    :raises ValueError: pattern or host is not well-formed, or both bind the same name; says where.
    """
    found = {part.name: part.converter for part in parse_pattern(pattern, converters) if isinstance(part, Parameter)}
    bound = parse_host_pattern(host).name if host is not None else None
    if bound is None:
        return found
    if bound in found:
        raise ValueError(f"route {pattern!r} of host {host!r} has two parameters called {bound}")
    return {bound: "str", **found}


def build_path(pattern: str, params: Mapping[str, Any], converters: Mapping[str, Converter] | None = None) -> str:
    """The path that ``pattern`` matches with just these parameters, percent-encoded (RFC 3986 section 3.3).

    :param params: every parameter of the pattern and no other, as the converters give them.
    :param converters: those that may be named besides the built-in ones.
    :raises ValueError: a parameter is missing, unknown, or would not be read back; names all that are missing or
        unknown, or the first that does not fit. ``.`` and ``..`` never fit: clients and servers resolve them away.
    """
    parts = parse_pattern(pattern, converters)
    names = [part.name for part in parts if isinstance(part, Parameter)]
    if missing := [name for name in names if name not in params]:
        raise ValueError(f"route {pattern!r} needs the parameter {', '.join(missing)}")
    if unknown := [name for name in params if name not in names]:
        raise ValueError(
            f"route {pattern!r} has no parameter {', '.join(unknown)}; it has {', '.join(names) or 'none'}"
        )
    built = ""
    for part in parts:
        if isinstance(part, Parameter):
            converter = CONVERTERS.get(part.converter) or (converters or {})[part.converter]
            try:
                built += "/" + _written(converter, params[part.name], "/" if part.converter == "path" else "")
            except (ValueError, TypeError, AttributeError) as error:  # an own format may ask the value for anything
                raise ValueError(f"route {pattern!r}: parameter {part.name} does not fit: {error}") from error
        else:
            built += "/" + quote(part, _PLAIN)
    return built


def _written(converter: Converter, value: Any, kept: str) -> str:
    """One parameter, percent-encoded but for what is ``kept``."""
    text = converter.format(value)
    if not isinstance(text, str):
        raise TypeError(f"its converter wrote {type(text).__name__}, not str")
    if not text or "\0" in text or not {".", ".."}.isdisjoint(text.split("/")):
        raise ValueError(f"{text[:60]!r} must have a character, no NUL, and no segment . or ..")
    converter.parse(text)
    return quote(text, _PLAIN + kept)


def split_path(raw_path: bytes) -> list[str]:
    """The segments of a path, decoded as if one by one, after an empty one for what stands before the first slash.

    :raises ProtocolError: the path is not UTF-8.
    """
    if 37 not in raw_path:  # a percent sign; Python looks for a number much faster than for bytes
        return (raw_path.decode() if raw_path.isascii() else decode_path(raw_path)).split("/")
    if b"%2F" not in raw_path and b"%2f" not in raw_path:  # then it makes no difference, and is quicker
        return decode_path(raw_path).split("/")
    return [decode_path(segment) for segment in raw_path.split(b"/")]


# -- why


class _Reading(Generic[T]):
    """One route held against one request: what stands in its way, and what it would bind."""

    __slots__ = ("entry", "names", "obstacles", "rank", "values")

    def __init__(self, entry: Entry[T]) -> None:
        self.entry = entry
        self.obstacles: list[str] = []
        self.names: list[str] = []
        self.values: list[Any] = []
        self.rank: tuple[Any, ...] = ()


def explain(
    entries: Iterable[Entry[T]], converters: Mapping[str, Converter], method: str, raw_path: bytes, host: bytes
) -> Explanation[T]:
    """Hold every route against a request. Takes time for each: for people, not for requests.

    :param converters: all of them, in the order in which they are tried.
    :raises ProtocolError: the path is not UTF-8.
    """
    segments = split_path(raw_path)[1:]
    called = host_name(host)
    order = list(converters)
    readings = []
    for entry in entries:
        reading = _Reading(entry)
        readings.append(reading)
        host_rank = _read_host(reading, called)
        parts = parse_pattern(entry.pattern, converters)
        _read_path(reading, parts, segments, converters)
        method_rank = _read_method(reading, method)
        ranks = tuple(1 + order.index(part.converter) if isinstance(part, Parameter) else 0 for part in parts)
        reading.rank = (host_rank, ranks, method_rank)
    takers = [reading for reading in readings if not reading.obstacles]
    taken = min(takers, key=lambda reading: reading.rank, default=None)
    verdicts = []
    for reading in readings:
        if reading is taken:
            verdicts.append(Verdict(reading.entry, "", near=True))
        else:
            reason = reading.obstacles[0] if reading.obstacles or taken is None else _after(reading, taken)
            verdicts.append(Verdict(reading.entry, reason, len(reading.obstacles) <= 1))
    if taken is None:
        return Explanation(None, {}, verdicts)
    return Explanation(taken.entry, dict(zip(taken.names, taken.values, strict=True)), verdicts)


def _read_host(reading: _Reading[T], called: str) -> tuple[int, int]:
    wanted = reading.entry.host
    if wanted is None:
        return ANY_HOST
    pattern = parse_host_pattern(wanted)
    bound = pattern.match(called)
    if bound is None:
        reading.obstacles.append(f"host {called!r:.60} is not {wanted}" if called else f"no host, it wants {wanted}")
    elif pattern.name is not None:
        reading.names.append(pattern.name)
        reading.values += bound
    return pattern.rank


def _read_path(
    reading: _Reading[T],
    parts: Sequence[str | Parameter],
    segments: Sequence[str],
    converters: Mapping[str, Converter],
) -> None:
    obstacles = reading.obstacles
    last = parts[-1]
    rest = isinstance(last, Parameter) and last.converter == "path"
    for number, (part, segment) in enumerate(zip(parts, segments, strict=False), 1):
        if isinstance(part, str):
            if part != segment:
                obstacles.append(f"segment {number} {segment!r:.60} is not {part!r}")
        elif not segment:
            obstacles.append(f"segment {number} is empty, which {{{part.name}}} never is")
        else:
            text = "/".join(segments[number - 1 :]) if part.converter == "path" else segment
            try:
                value = converters[part.converter].parse(text)
            except ValueError:
                article = "an" if part.converter[0] in "aeio" else "a"
                obstacles.append(f"segment {number} {segment!r:.60} is not {article} {part.converter}")
                continue
            except Exception as error:  # a defect, which fails the request where no other route is found before
                where = f"segment {number} {segment!r:.60}"
                obstacles.append(f"converter {part.converter} fails at {where} with {error!r:.90}")
                continue
            reading.names.append(part.name)
            reading.values.append(value)
    more = len(parts) - len(segments)
    if more == 1 and parts[-1] == "":
        obstacles.append("it ends in a slash, which the path does not")
    elif more > 0:
        missing = parts[len(segments)]
        shown = repr(missing) if isinstance(missing, str) else f"{{{missing.name}}}"
        obstacles += [f"longer than the path, which has no segment {len(segments) + 1} for {shown}"] * more
    elif more == -1 and segments[-1] == "" and not rest:
        obstacles.append("the path ends in a slash, which it does not")
    elif more < 0 and not rest:
        left = f"segment {len(parts) + 1} {segments[len(parts)]!r:.60}"
        obstacles += [f"shorter than the path, whose {left} it does not take"] * -more


def _read_method(reading: _Reading[T], method: str) -> int:
    own = reading.entry.method
    if own == method:
        return 0
    if own == "GET" and method == "HEAD":
        return 1
    if own != "*":
        reading.obstacles.append(f"method {method} is not {own}")
    return 2


def _after(reading: _Reading[T], taken: _Reading[T]) -> str:
    """Why a route that would take the request does not: another one is more specific."""
    winner = taken.entry
    if reading.rank[0] != taken.rank[0]:
        return f"comes after {winner.pattern} of host {winner.host}, whose host is more specific"
    if reading.rank[1] != taken.rank[1]:
        return f"comes after {winner.pattern}, which is more specific"
    return f"comes after the {winner.method} route of the same pattern, which is more specific"
