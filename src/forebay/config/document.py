"""A configuration file as data, and the line on which each key of it stands.

No parser of Python's keeps lines together with values, so they are found in a second pass over the text, which is
known to be well-formed by then.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from forebay.config.positions import toml_lines
from forebay.errors import ConfigError, Problem

__all__ = ["Document", "Key", "key_text", "read_document"]

Key = tuple[str | int, ...]
"""Where a value stands: table keys, and positions in lists."""

MAXIMUM_SIZE = 4 * 1024 * 1024
_MAXIMUM_NODES = 100_000  # YAML aliases make a short text stand for a long document
_MAXIMUM_DEPTH = 32

_TOML_WHERE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")
_TOML_REMEDIES = (
    ("Invalid value", 'text needs quotes, as in bind = ["http://127.0.0.1:8080"]'),
    ("Cannot declare", "join the two tables"),
    ("Cannot overwrite", "remove one of the two"),
    ("Expected '=' after a key", "write KEY = VALUE"),
    ("Expected ']' at the end of a table", "write [NAME]"),
    ("Unclosed array", 'close the list with "]"'),
    ("Unterminated string", "close the quotes"),
    ("Illegal character", "close the quotes on the same line"),
    ("Unclosed inline table", 'close it with "}"'),
    ("Invalid initial character", "an inline table { ... } stands on one line; a key is of letters, digits, _ and -"),
    ("Invalid statement", "write KEY = VALUE, or [NAME]"),
    ("Expected newline", "one KEY = VALUE per line, and no zeros before a number"),
    ("Unescaped '\\'", "write it twice, or use single quotes"),
)


@dataclass(slots=True)
class Document:
    """What a file says. ``lines`` holds every key that was found; :meth:`line` falls back on what is around one."""

    file: str
    data: dict[str, Any]
    lines: dict[Key, int] = field(default_factory=dict)
    origins: dict[Key, str] = field(default_factory=dict)  # what did not come from the file: the variable or the flag

    def line(self, key: Key) -> int:
        """The line of ``key``, else of the nearest table or list around it; 0 when there is none."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.lines:
                return self.lines[key[:end]]
        return 0

    def problem(self, key: Key, message: str, remedy: str = "") -> Problem:
        """A problem with the value at ``key``, with where it comes from."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.origins:
                return Problem(_printable(message), self.origins[key[:end]], 0, _printable(remedy))
        return Problem(_printable(message), key_text(key), self.line(key), _printable(remedy))


def key_text(key: Key) -> str:
    """As people write it: ``upstreams.users.targets[1].weight``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")
    return _printable(text)


def _printable(text: str) -> str:
    """Control characters as escapes: a problem is one line, and must not write anywhere on a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read_document(path: str | Path) -> Document:
    """Read a TOML, YAML or JSON file, by its suffix.

    :raises ConfigError: it cannot be read, is longer than 4 MiB, or is not well-formed; with the line.
    """
    file = str(path)
    readers = {".toml": _read_toml, ".yaml": _read_yaml, ".yml": _read_yaml, ".json": _read_json}
    suffix = Path(path).suffix.lower()
    read = readers.get(suffix)
    if read is None:
        raise ConfigError(file, [Problem("unknown kind of file", remedy="name it .toml, .yaml, .yml or .json")])
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):  # to open one would wait for somebody who writes
            raise ConfigError(file, [Problem("not a file", remedy="give the path of a configuration file")])
        with open(path, "rb") as opened:
            raw = opened.read(MAXIMUM_SIZE + 1)
        if len(raw) > MAXIMUM_SIZE:
            raise ConfigError(file, [Problem("longer than 4 MiB")])
        data, lines = read(file, raw.decode("utf-8-sig"))  # some editors begin a file with a byte order mark
    except FileNotFoundError:
        raise ConfigError(file, [Problem("no such file", remedy="give the path of a configuration file")]) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(file, [Problem(f"cannot be read: {reason}")]) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(file, [Problem("not UTF-8 text", line=line, remedy="save it as UTF-8")]) from None
    except ValueError as error:  # of the parsers: an integer of thousands of digits, a date that does not exist
        form = "YAML" if suffix == ".yml" else suffix[1:].upper()
        raise ConfigError(file, [Problem(f"not {form}: {_sentence(str(error))}", remedy="put it in quotes")]) from None
    except RecursionError:
        raise ConfigError(file, [Problem("nested too deeply")]) from None
    if not isinstance(data, dict):
        raise ConfigError(file, [Problem("not a table of sections", line=1, remedy="begin with a section: system")])
    return Document(file, data, lines)


def _read_toml(file: str, text: str) -> tuple[Any, dict[Key, int]]:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        where = _TOML_WHERE.search(message)
        line = int(where[1]) if where and where[1] else text.count("\n") + 1
        message = _TOML_WHERE.sub("", message)
        remedy = next((remedy for start, remedy in _TOML_REMEDIES if message.startswith(start)), "")
        raise ConfigError(file, [Problem(f"not TOML: {_sentence(message)}", line=line, remedy=remedy)]) from None
    return data, toml_lines(text)


def _read_json(file: str, text: str) -> tuple[Any, dict[Key, int]]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(file, [Problem(f"not JSON: {_sentence(error.msg)}", line=error.lineno)]) from None
    try:  # JSON is nearly a subset of YAML: where it is not, lines are missing, nothing else
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return data, {}
    return data, dict(_yaml_lines(file, node))


def _read_yaml(file: str, text: str) -> tuple[Any, dict[Key, int]]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(_yaml_lines(file, node))
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        message = error.problem or "cannot be parsed"
        remedy = "indent with spaces" if "'\\t'" in message else ""
        raise ConfigError(file, [Problem(f"not YAML: {_sentence(message)}", line=line, remedy=remedy)]) from None
    except yaml.YAMLError as error:
        raise ConfigError(file, [Problem(f"not YAML: {_sentence(str(error))}")]) from None
    return ({} if data is None else data), lines


def _yaml_lines(file: str, root: yaml.Node | None) -> Iterator[tuple[Key, int]]:
    stack: list[tuple[Key, yaml.Node | None]] = [((), root)]
    budget = _MAXIMUM_NODES
    while stack:
        key, node = stack.pop()
        budget -= 1
        if budget < 0 or len(key) > _MAXIMUM_DEPTH:
            raise ConfigError(file, [Problem("too large once its aliases are expanded")])
        if isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for name, value in node.value:
                line = name.start_mark.line + 1
                part = str(name.value)
                if part in seen:
                    first = f"the first one is on line {seen[part]}: remove one of the two"
                    raise ConfigError(file, [Problem("given twice", key_text((*key, part)), line, first)])
                seen[part] = line
                yield (*key, part), line
                stack.append(((*key, part), value))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                yield (*key, index), value.start_mark.line + 1
                stack.append(((*key, index), value))


def _sentence(text: str) -> str:
    """One line, without the capital and the full stop that do not fit inside another sentence."""
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
