from __future__ import annotations

import string
import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from forebay.config.positions import toml_lines

TRICKY = '''\
# [not.a.table]
title = "a # no comment ] }"   # comment

[a."b.c".'d']
x.y = 1
text = """
[still.text]
key = 1 \\""" ""\
"""
other = \'\'\'
z = 2\'\'\'
dates = [ 1979-05-27 07:32:00,
  2, # two ]
  [ 3, { p = "}", q = [4] } ],
]
[[list]]
n = 1
[[list]]
n = 2
[list.sub]
k = true
[[list.inner]]
[[list.inner]]
v = 1
["\\u00e9"]
w = 1
'''


def test_every_key_has_its_line() -> None:
    """Comments, quoted keys, strings over lines, nested values and arrays of tables do not lead it astray."""
    lines = toml_lines(TRICKY)
    text = TRICKY.splitlines()

    def at(fragment: str, nth: int = 0) -> int:
        return [number for number, line in enumerate(text, 1) if fragment in line][nth]

    assert lines["title",] == 2
    assert lines["a", "b.c", "d"] == 4
    assert lines["a", "b.c", "d", "x", "y"] == 5
    assert lines["a", "b.c", "d", "other"] == at("other")
    assert lines["a", "b.c", "d", "dates", 1] == at("2, # two")
    assert lines["a", "b.c", "d", "dates", 2, 1, "q", 0] == at("[ 3, {")
    assert lines["list", 0, "n"] == at("n = 1")
    assert lines["list", 1] == at("[[list]]", 1)
    assert lines["list", 1, "sub", "k"] == at("k = true")
    assert lines["list", 1, "inner", 1, "v"] == at("v = 1")
    assert lines["é", "w"] == at("w = 1")
    assert ("still", "text") not in lines
    assert ("z",) not in lines


def _keys(value: Any, key: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    found = {key} if key else set()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, item in items:
        found |= _keys(item, (*key, part))
    return found


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case dict():
            return "{" + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + "}"
        case list():
            return "[\n" + ",\n # ] comment\n".join(map(_toml, value)) + "]"
        case str():
            escaped = "".join(c if c.isalnum() or c in " []{}#=.,'" else f"\\U{ord(c):08x}" for c in value)
            return f'"{escaped}"'
        case _:
            return str(value)


_texts = st.text(string.ascii_letters + "\"'\\[]{}#=. é\n", max_size=6)
_values = st.recursive(
    st.integers() | st.booleans() | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_texts, _values, max_size=4))
def test_whatever_tomllib_reads_has_lines(data: dict[str, Any]) -> None:
    """The scanner finds exactly the keys that the parser finds, for any document."""
    text = "".join(f"{_toml(key)} = {_toml(value)}\n" for key, value in data.items())
    assert tomllib.loads(text) == data
    lines = toml_lines(text)
    assert set(lines) == _keys(data)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())
