"""Does a document have the shape of the schema? Finds everything that is wrong, with its place and its remedy.

msgspec stops at the first mistake and knows no lines, so the schema's types are walked here; what comes out of the walk
is what ``msgspec.convert`` then takes without a complaint.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from msgspec import inspect

from forebay.config.document import Document, Key, key_text
from forebay.config.units import parse_duration, parse_rate, parse_size
from forebay.errors import Problem

__all__ = ["Shape", "leaves", "nearest", "value_from_text"]

_UNITS: dict[str, Callable[[str], float | int]] = {
    "duration": parse_duration,
    "size": parse_size,
    "rate": parse_rate,
}
_KINDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", dict: "a table", list: "a list"}


def nearest(name: str, valid: Iterable[str]) -> str:
    """A remedy for a ``name`` that does not exist: the nearest one that does, else all that do."""
    names = sorted(valid)
    if close := _close(name, names):
        return f'did you mean "{close[0]}"?'
    return f"there is: {', '.join(names)}" if names else "there is none"


def _close(name: str, valid: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, sorted(valid), n=1, cutoff=0.6)


class Shape:
    """One walk over a document. ``problems`` fills up on the way."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def fit(self, schema: type[msgspec.Struct]) -> Any:
        """The document's data with units converted; complete only when there are no ``problems``."""
        return self._fit((), self.document.data, inspect.type_info(schema), {})

    def _report(self, key: Key, message: str, remedy: str = "") -> None:
        self.problems.append(self.document.problem(key, message, remedy))

    def _fit(self, key: Key, value: Any, kind: inspect.Type, extra: dict[str, Any]) -> Any:
        match kind:
            case inspect.Metadata():
                return self._fit(key, value, kind.type, kind.extra or {})
            case inspect.UnionType():  # the schema has two: X | None, and a word | a number
                if value is None and any(isinstance(t, inspect.NoneType) for t in kind.types):
                    return None
                words = [word for t in kind.types if isinstance(t, inspect.LiteralType) for word in t.values]
                if value in words:
                    return value
                meant = next(t for t in kind.types if not isinstance(t, inspect.NoneType | inspect.LiteralType))
                return self._fit(key, value, meant, {"remedy": f'or "{words[0]}"'} if words else extra)
            case inspect.StructType():
                return self._table(key, value, kind)
            case inspect.DictType():
                return self._named(key, value, kind)
            case inspect.ListType():
                return self._list(key, value, kind)
            case inspect.LiteralType():
                return self._choice(key, value, [str(choice) for choice in kind.values])
            case inspect.StrType():
                return self._text(key, value, kind, extra)
            case inspect.BoolType():
                return value if self._is(key, value, bool) else None
            case inspect.IntType() | inspect.FloatType():
                return self._number(key, value, kind, extra)
        raise TypeError(f"the schema has a type the walk does not know: {kind}")  # pragma: no cover

    def _is(self, key: Key, value: Any, kind: type, remedy: str = "") -> bool:
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return True
        self._report(key, f"must be {_KINDS[kind]}, is {_shown(value)}", remedy)
        return False

    def _table(self, key: Key, value: Any, kind: inspect.StructType) -> Any:
        if not self._is(key, value, dict, self._as_table(key, value)):
            return None
        fields = {field.encode_name: field for field in kind.fields}
        fitted = {}
        misspelt: set[str] = set()
        for name in value:
            if name in fields:
                fitted[name] = self._fit((*key, name), value[name], fields[name].type, {})
                continue
            meant = fields.keys() - value.keys() or fields.keys()  # one that is given already was not meant
            misspelt.update(_close(str(name), meant))
            self._report((*key, str(name)), "unknown key", nearest(str(name), meant))
        for name, field in fields.items():
            if field.required and name not in value and name not in misspelt:
                self._report((*key, name), "missing", f"add {name} = {_example(field.type)}")
        return fitted

    def _named(self, key: Key, value: Any, kind: inspect.DictType) -> Any:
        if not self._is(key, value, dict, self._as_table(key, value)):
            return None
        fitted = {}
        for name, item in value.items():
            self._fit((*key, str(name)), str(name), kind.key_type, {})
            fitted[str(name)] = self._fit((*key, str(name)), item, kind.value_type, {})
        return fitted

    def _list(self, key: Key, value: Any, kind: inspect.ListType) -> Any:
        if not self._is(key, value, list, self._as_list(key, value)):
            return None
        if kind.min_length and len(value) < kind.min_length:
            self._report(key, "is empty", "list at least one")
        return [self._fit((*key, index), item, kind.item_type, {}) for index, item in enumerate(value)]

    def _as_table(self, key: Key, value: Any) -> str:
        """How to write a table instead."""
        if value is None:
            return "give it keys, or remove it"
        return f"write [{key_text(key)}]" if isinstance(value, list) and self._in_toml else ""

    def _as_list(self, key: Key, value: Any) -> str:
        """How to write a list instead."""
        if isinstance(value, dict):
            return f"write [[{key_text(key)}]]" if self._in_toml else "make it a list of tables"
        return f"write [{_shown(value)}]" if isinstance(value, str) else ""

    @property
    def _in_toml(self) -> bool:
        return self.document.file.lower().endswith(".toml")

    def _choice(self, key: Key, value: Any, choices: list[str]) -> Any:
        if value not in choices:
            self._report(key, f"cannot be {_shown(value)}", nearest(str(value), choices))
        return value

    def _text(self, key: Key, value: Any, kind: inspect.StrType, extra: dict[str, Any]) -> Any:
        if not self._is(key, value, str, "put it in quotes"):
            return None
        if kind.min_length and len(value) < kind.min_length:
            self._report(key, "is empty")
        elif kind.pattern and not re.search(kind.pattern, value):
            self._report(key, f"cannot be {_shown(value)}", extra.get("remedy", ""))
        return value

    def _number(
        self, key: Key, value: Any, kind: inspect.IntType | inspect.FloatType, extra: dict[str, Any]
    ) -> float | int | None:
        if unit := extra.get("unit"):
            parse = _UNITS[unit]
            try:
                number = parse(value if isinstance(value, str) else "")
            except ValueError as error:
                self._report(key, f"is not a {unit}: {_shown(value)}", str(error))
                return None
        elif self._is(key, value, int, extra.get("remedy", "")):
            number = value
        else:
            return None
        if kind.gt is not None and number <= kind.gt:
            self._report(key, f"cannot be {_shown(value)}", f"more than {_limit(kind.gt, unit)}")
        elif (kind.ge is not None and number < kind.ge) or (kind.le is not None and number > kind.le):
            limits = [f"at least {_limit(kind.ge, unit)}"] if kind.ge is not None else []
            limits += [f"at most {_limit(kind.le, unit)}"] if kind.le is not None else []
            self._report(key, f"cannot be {_shown(value)}", ", ".join(limits))
        return number


def _limit(number: float, unit: str | None) -> str:
    """A bound as it stands in a file."""
    suffix = {"duration": "s", "size": "B", "rate": "/s"}.get(unit or "")
    return f'"{number:.15g}{suffix}"' if suffix and number else f"{number:.15g}"


def _shown(value: Any) -> str:
    """As it stands in a file, shortened."""
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}..."'
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    for kind in (dict, list):
        if isinstance(value, kind):
            return _KINDS[kind]
    return str(value)[:60]


def _example(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata():
            return {"duration": '"5s"', "size": '"64KiB"', "rate": '"100/s"'}.get(
                str((kind.extra or {}).get("unit")), _example(kind.type)
            )
        case inspect.ListType():
            return "[...]"
        case inspect.IntType():
            return "1"
        case _:
            return '"..."'


def leaves(kind: inspect.Type, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], inspect.Type]]:
    """Every value below a section that one variable can give: text, numbers, and lists of text."""
    match kind:
        case inspect.StructType():
            for field in kind.fields:
                yield from leaves(field.type, (*key, field.encode_name))
        case inspect.UnionType():
            for member in kind.types:
                yield from leaves(member, key)
        case inspect.Metadata():
            yield from ((name, kind) for name, _ in leaves(kind.type, key))
        case inspect.NoneType() | inspect.DictType():
            return
        case _:
            yield key, kind


def value_from_text(text: str, kind: inspect.Type) -> Any:
    """What a file would say instead of ``text``; left as it is where it does not fit, so that the walk reports it."""
    match kind:
        case inspect.Metadata():
            return text if (kind.extra or {}).get("unit") else value_from_text(text, kind.type)
        case inspect.ListType():
            return [item.strip() for item in text.split(",") if item.strip()]
        case inspect.BoolType():
            return {"true": True, "false": False}.get(text.lower(), text)
        case inspect.IntType():
            return int(text) if re.fullmatch(r"-?\d{1,18}", text) else text
    return text
