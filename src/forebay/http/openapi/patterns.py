"""Regular expressions of Python as those of ECMA-262, which JSON Schemas have (2020-12, section 6.4).

What is written the same in both is left as it is. What comes out also reads the same with the flag ``u`` and without
it, and in Python, in which many validators are written: groups have numbers, not names. Where the same letters mean a
little less in ECMA-262 (``\\d`` is of ASCII, ``$`` is not before a last line break) they stay: what fits there fits
here.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["ecma_pattern"]

_SYNTAX = frozenset("^$\\.*+?()[]{}|/")  # what may stand behind a backslash with the flag u
_SAME = frozenset("bBdDsSwWfnrtv")
_HEX = {"x": 2, "u": 4, "U": 8}
_TIMES = re.compile(r"\{(\d*)(,?)(\d*)\}")
_NAMED = re.compile(r"\(\?P?<(\w+)>")  # without P in Rust, which pydantic has
_FLAGS = re.compile(r"\(\?([aimsxLu]+)\)")
_OCTAL = re.compile(r"0[0-7]{0,2}|[0-3][0-7]{2}")
_UNLIKE = ("[:", "&&", "||", "~~", "--")  # in a set: operators, which differ between dialects


def ecma_pattern(pattern: str) -> str | None:
    """The same regular expression for ECMA-262; None where it has no words for it: flags other than ``a``, ``s`` and
    ``u``, atomic groups, possessive quantifiers, conditions, and what is no regular expression."""
    try:
        return _Translation(pattern).made
    except (_Unsayable, IndexError, KeyError, ValueError):  # it ends too early; there is no such name
        return None


class _Unsayable(Exception):
    """There are no words for it."""


class _Translation:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._groups: dict[str, int] = {}  # the numbers of those that have names
        self._count = 0
        self._open: list[bool] = []  # of each group that is open: is it an assertion?
        self._every = False  # a dot is a line break as well
        if flags := _FLAGS.match(pattern):
            if set(flags[1]) - set("asu"):
                raise _Unsayable
            self._every = "s" in flags[1]
            self._at = flags.end()
        parts = []
        while self._at < len(pattern):
            parts.append(self._part())
        if self._open:
            raise _Unsayable
        self.made = "".join(parts)

    def _part(self) -> str:
        """What the next part of it is."""
        char = self._text[self._at]
        if char == "\\":
            return self._escape(_SYNTAX)
        if char == "[":
            return self._set()
        if char == "(":
            return self._group()
        self._at += 1
        if char == ")":
            return ")" + self._times(not self._open.pop())
        if char == "{":  # no quantifier: those are read with what they are about
            return "\\{" + self._times()
        if char in "*+?":
            raise _Unsayable  # there is nothing to repeat
        if char in "^$|":
            return char
        if char == "." and self._every:
            char = "[\\s\\S]"
        return (f"\\{char}" if char in "]}" else char) + self._times()

    def _times(self, possible: bool = True) -> str:
        """The quantifier that follows, if there is one."""
        rest = self._text[self._at : self._at + 1]
        made = rest
        if rest == "{":
            found = _TIMES.match(self._text, self._at)
            if found is None or not any(found.groups()):
                return ""
            self._at = found.end()
            least, comma, most = found.groups()
            made = f"{{{least or 0}{comma}{most}}}"
        elif rest and rest in "*+?":
            self._at += 1
        else:
            return ""
        after = self._text[self._at : self._at + 1]
        if not possible or after == "+":
            raise _Unsayable
        if after == "?":
            self._at += 1
            made += "?"
        return made

    def _group(self) -> str:
        rest = self._text[self._at : self._at + 4]
        if not rest.startswith("(?"):
            self._count += 1
            return self._begin("(")
        for start in ("(?:", "(?=", "(?!", "(?<=", "(?<!"):
            if rest.startswith(start):
                return self._begin(start, assertion=start != "(?:")
        if rest.startswith("(?#"):
            self._at = self._text.index(")", self._at) + 1
            # a quantifier behind it is about what was before it
            return self._times()
        if rest == "(?P=":
            end = self._text.index(")", self._at)
            number = self._groups[self._text[self._at + 4 : end]]
            self._at = end + 1
            return f"(?:\\{number})" + self._times()  # digits may follow
        if found := _NAMED.match(self._text, self._at):
            self._count += 1
            self._groups[found[1]] = self._count
            self._at = found.end()
            self._open.append(False)
            return "("
        raise _Unsayable

    def _begin(self, start: str, assertion: bool = False) -> str:
        self._open.append(assertion)
        self._at += len(start)
        return start

    def _escape(self, syntax: frozenset[str], inside: bool = False) -> str:
        """What begins with a backslash, and its quantifier unless it is ``inside`` of a set."""
        char = self._text[self._at + 1]
        self._at += 2
        if char in "AZz" and not inside:
            return "^" if char == "A" else "$"
        if char in "bB" and not inside:
            return f"\\{char}"
        if (char in _SAME and char != "B") or char in syntax:
            made = f"\\{char}"
        elif found := _OCTAL.match(self._text, self._at - 1):
            self._at = found.end()
            made = f"\\x{int(found[0], 8):02x}"
        elif char.isdigit() and not inside:
            if self._text[self._at : self._at + 1].isdigit():
                char += self._text[self._at]
                self._at += 1
            if int(char) > self._count:
                raise _Unsayable
            made = f"\\{char}"
        else:
            made = self._character(char, syntax)
        return made if inside else made + self._times()

    def _character(self, char: str, syntax: frozenset[str]) -> str:
        """One that is written in another way there."""
        if char in _HEX:
            digits = self._text[self._at : self._at + _HEX[char]]
            if not re.fullmatch(f"[0-9A-Fa-f]{{{_HEX[char]}}}", digits):
                raise _Unsayable
            self._at += _HEX[char]
            if char != "U":
                return f"\\{char}{digits}"
            char = chr(int(digits, 16))
        elif char == "N":
            end = self._text.index("}", self._at)
            char = unicodedata.lookup(self._text[self._at + 1 : end])
            self._at = end + 1
        elif char == "a":
            return "\\x07"
        elif char.isascii() and char.isalnum():
            raise _Unsayable
        return f"\\{char}" if char in syntax else char

    def _set(self) -> str:
        """What is in brackets."""
        begin = self._at
        self._at += 1
        parts = ["["]
        if self._text[self._at] == "^":
            self._at += 1
            parts.append("^")
        first = self._at
        while (char := self._text[self._at]) != "]" or self._at == first:
            if char == "\\":
                parts.append(self._escape(_SYNTAX | {"-"}, inside=True))
                continue
            self._at += 1
            parts.append(f"\\{char}" if char in "[]" else char)
        self._at += 1
        if any(one in self._text[begin : self._at] for one in _UNLIKE):
            raise _Unsayable
        return "".join(parts) + "]" + self._times()
