"""The lines on which the keys of a TOML text stand.

A scanner, not a parser: it relies on ``tomllib`` having accepted the text, and only follows its structure.
"""

from __future__ import annotations

import re

__all__ = ["toml_lines"]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_STRINGS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r'"""(?:\\.|[^\\])*?"""+',  # up to two more quotes may stand directly before the closing ones
        r"'''.*?'''+",
        r'"(?:\\.|[^"\\])*"',
        r"'[^']*'",
    )
)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")


def toml_lines(text: str) -> dict[tuple[str | int, ...], int]:
    """The 1-based line of every table, key and list item of a well-formed TOML ``text``."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    __slots__ = ("_counted_line", "_counted_to", "at", "lines", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[tuple[str | int, ...], int] = {}
        self._counted_to = 0
        self._counted_line = 1

    def document(self) -> None:
        table: tuple[str | int, ...] = ()
        lengths: dict[tuple[str | int, ...], int] = {}  # of the arrays of tables so far
        while self.skip(_BLANK) and self.at < len(self.text):
            line = self.line()
            if self.text[self.at] != "[":
                self.pair(table)
                continue
            is_array = self.text.startswith("[[", self.at)
            self.at += 2 if is_array else 1
            names = self.key()
            self.at += 2 if is_array else 1
            table = ()
            for position, name in enumerate(names):
                table = (*table, name)
                self.lines.setdefault(table, line)
                if is_array and position == len(names) - 1:
                    lengths[table] = lengths.get(table, 0) + 1
                if table in lengths:
                    table = (*table, lengths[table] - 1)
                    self.lines.setdefault(table, line)

    def pair(self, table: tuple[str | int, ...]) -> None:
        """``KEY = VALUE``."""
        line = self.line()
        for name in self.key():
            table = (*table, name)
            self.lines.setdefault(table, line)
        self.at += 1  # the equals sign
        self.skip(_SPACE)
        self.value(table)

    def value(self, key: tuple[str | int, ...]) -> None:
        opening = self.text[self.at]
        if opening == "[":
            self.at += 1
            index = 0
            while self.skip(_BLANK) and self.text[self.at] != "]":
                self.lines[*key, index] = self.line()
                self.value((*key, index))
                index += 1
                self.comma()
            self.at += 1
        elif opening == "{":
            self.at += 1
            while self.skip(_BLANK) and self.text[self.at] != "}":
                self.pair(key)
                self.comma()
            self.at += 1
        elif opening in "\"'":
            self.string()
        else:
            self.skip(_SCALAR)

    def comma(self) -> None:
        self.skip(_BLANK)
        if self.text[self.at] == ",":
            self.at += 1

    def key(self) -> list[str]:
        """The names of a dotted key, each bare or in quotes; stops at what follows it."""
        names = []
        while True:
            self.skip(_SPACE)
            if self.text[self.at] in "\"'":
                names.append(self.string())
            else:
                start = self.at
                self.skip(_BARE)
                names.append(self.text[start : self.at])
            self.skip(_SPACE)
            if self.text[self.at] != ".":
                return names
            self.at += 1

    def string(self) -> str:
        """The content of the string here; escapes are undone as far as keys need it."""
        for pattern in _STRINGS:
            if found := pattern.match(self.text, self.at):
                self.at = found.end()
                raw = found[0][1:-1]
                return _ESCAPE.sub(_unescape, raw) if found[0][0] == '"' else raw
        raise ValueError("not well-formed TOML")

    def skip(self, pattern: re.Pattern[str]) -> bool:
        """Go past what ``pattern`` matches here; true, so that it can stand in conditions."""
        if found := pattern.match(self.text, self.at):
            self.at = found.end()
        return True

    def line(self) -> int:
        self._counted_line += self.text.count("\n", self._counted_to, self.at)
        self._counted_to = self.at
        return self._counted_line


def _unescape(found: re.Match[str]) -> str:
    code = found[1] or found[2]
    return chr(int(code, 16)) if code else found[3]
