"""What in a document does not fit its type: every field, and not only the first one.

msgspec stops at the first. What is here looks again, part by part, and only when a document was refused; how long it
looks is bounded.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec

from forebay.errors import FieldError

__all__ = [
    "convert_text",
    "field_errors",
    "forbids_unknown",
    "is_struct_like",
    "record_fields",
    "unfit",
    "without_wrappers",
]

_DEEPEST = 32  # levels that are looked into; below, the whole level is named
_LOOKED_AT = 20_000  # parts, of one document

_LISTS = (list, set, frozenset)
_LOOSE = {list: list[Any], set: set[Any], frozenset: frozenset[Any], dict: dict[Any, Any], tuple: tuple[Any, ...]}


def unfit(place: str, name: str, error: Exception | str) -> FieldError:
    """``error``, about one field, in the words a client is shown."""
    return FieldError(place, name, _words(error))


def convert_text(value: Any, kind: Any) -> Any:
    """A text, or a list of texts, as ``kind``. What others cannot hold is refused: integers have at most 64 bits, and
    fractions are finite.

    :raises ValueError: it is not like that.
    """
    made = msgspec.convert(value, kind, strict=False)
    for one in made if isinstance(made, list | tuple | set | frozenset) else (made,):
        if type(one) is int and not -(1 << 63) <= one < 1 << 63:
            raise msgspec.ValidationError("Integer value out of range")
        if (type(one) is float and not math.isfinite(one)) or (type(one) is Decimal and not one.is_finite()):
            raise msgspec.ValidationError("Expected a finite number")
    return made


def field_errors(
    value: Any, kind: Any, path: str = "", *, place: str = "body", text_keys: bool = True
) -> Iterator[FieldError]:
    """Every part of ``value`` that does not fit ``kind``: each wrong leaf, missing field, unknown field where those
    are forbidden, key, tag, and container whose own constraint is not met. Nothing when all of it fits.

    :param value: as :func:`msgspec.json.decode` or :func:`msgspec.msgpack.decode` give it without a type.
    :param path: where ``value`` stands; parts are named as in ``lines[1].name``, and the whole is ``$``.
    :param place: of the errors.
    :param text_keys: keys of mappings are text, whatever they stand for, as in JSON.

    Of a union, the member is looked into that the value was meant to be: by its tag, or since it is the only one of
    its shape. Parts more than 32 levels deep are named as one, and after 20,000 parts it ends.
    """
    yield from _Look(place, text_keys).into(value, kind, path, 0)


def is_struct_like(kind: Any) -> bool:
    """Is ``kind`` a type with named fields that msgspec knows: Struct, dataclass or TypedDict?"""
    bare = typing.get_origin(kind) or kind  # of a generic one
    return isinstance(bare, type) and (
        issubclass(bare, msgspec.Struct) or dataclasses.is_dataclass(bare) or typing.is_typeddict(bare)
    )


def without_wrappers(kind: Any) -> Any:
    """``kind`` without ``Annotated``, ``NewType``, ``type`` statements and what is said of a field of a TypedDict."""
    while True:
        origin = typing.get_origin(kind)
        if origin in (Annotated, typing.Required, typing.NotRequired, typing.Final):
            kind = typing.get_args(kind)[0]
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        elif type(kind).__name__ == "TypeAliasType":
            kind = kind.__value__
        else:
            return kind


def record_fields(kind: Any) -> Iterator[tuple[str, str, Any, bool]]:
    """Of each field of a record: its attribute, its name in documents, its type, and whether it must be there."""
    bare = typing.get_origin(kind) or kind
    if issubclass(bare, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            yield field.name, field.encode_name, field.type, field.required
        return
    hints = typing.get_type_hints(bare, include_extras=True)
    if typing.get_args(kind):  # of a generic one: msgspec has put the types in
        hints = _generic_hints(kind, bare, hints)
    if typing.is_typeddict(bare):
        for name, hint in hints.items():
            said = typing.get_origin(hint)  # __required_keys__ does not know of it where annotations are postponed
            if said in (typing.Required, typing.NotRequired):
                yield name, name, typing.get_args(hint)[0], said is typing.Required
            else:
                yield name, name, hint, name in bare.__required_keys__
        return
    for member in dataclasses.fields(bare):
        if member.init:
            no_default = member.default is dataclasses.MISSING and member.default_factory is dataclasses.MISSING
            yield member.name, member.name, hints[member.name], no_default


def _generic_hints(kind: Any, bare: Any, hints: dict[str, Any]) -> dict[str, Any]:
    given = dict(zip(bare.__parameters__, typing.get_args(kind), strict=False))
    filled = {}
    for name, hint in hints.items():
        parameters = getattr(hint, "__parameters__", ())
        if hint in given:
            filled[name] = given[hint]
        else:
            filled[name] = hint[tuple(given.get(each, Any) for each in parameters)] if parameters else hint
    return filled


def forbids_unknown(kind: Any) -> bool:
    """Must a record have no other fields than its own?"""
    return _config(kind, "forbid_unknown_fields")


def _words(error: Exception | str) -> str:
    if isinstance(error, TypeError):  # of hash()
        return "holds a list or an object where a set or a key cannot"
    return str(error).partition(" - at `")[0]


def _is_union(kind: Any) -> bool:
    origin = typing.get_origin(kind)
    return origin is typing.Union or getattr(origin, "__name__", "") == "UnionType"


def _below(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)


class _Look:
    """One look through one document."""

    __slots__ = ("_left", "_place", "_text_keys")

    def __init__(self, place: str, text_keys: bool) -> None:
        self._place = place
        self._text_keys = text_keys
        self._left = _LOOKED_AT

    def into(self, value: Any, kind: Any, path: str, depth: int) -> Iterator[FieldError]:
        """Everything that is wrong with ``value``."""
        self._left -= 1
        if self._left < 0:
            return
        whole = self._misfit(value, kind)
        if whole is None:
            return
        found = False
        if depth < _DEEPEST:
            for error in self._parts(value, kind, path, depth + 1):
                found = True
                yield error
        if found:
            whole = self._constraint(value, kind)
        elif self._left < 0:
            return  # it may be one of the parts that were not looked at
        if whole is not None:
            yield FieldError(self._place, path or "$", whole)

    def _misfit(self, value: Any, kind: Any) -> str | None:
        """Why ``value`` is not of ``kind``, at first sight; None when it is."""
        try:
            msgspec.convert(value, kind, str_keys=self._text_keys)
        except (ValueError, TypeError) as error:
            return _words(error)
        except RecursionError:
            return "is nested too deeply"
        return None

    def _constraint(self, value: Any, kind: Any) -> str | None:
        """Why a container is wrong, apart from its parts."""
        if typing.get_origin(kind) is not Annotated:
            return None
        inner, *said = typing.get_args(kind)
        loose = _LOOSE.get(typing.get_origin(inner) or inner)
        metas = [each for each in said if isinstance(each, msgspec.Meta)]
        if loose is None or not metas:
            return None
        if isinstance(value, list):
            value, loose = [None] * len(value), list[Any]  # what it holds does not matter, and may not be hashable
        return self._misfit(value, Annotated[(loose, *metas)])

    def _parts(self, value: Any, kind: Any, path: str, depth: int) -> Iterator[FieldError]:
        kind = without_wrappers(kind)
        if _is_union(kind):
            yield from self._member(value, kind, path, depth)
        elif is_struct_like(kind):
            if isinstance(value, dict):
                yield from self._record(value, kind, path, depth)
            elif isinstance(value, list) and _config(kind, "array_like"):
                yield from self._items(value, _array_kinds(kind), path, depth)
        elif isinstance(value, list):
            yield from self._items(value, _item_kinds(kind, len(value)), path, depth)
        elif isinstance(value, dict):
            args, origin = typing.get_args(kind), typing.get_origin(kind)
            if len(args) == 2 and isinstance(origin, type) and issubclass(origin, Mapping):
                yield from self._mapping(value, args[0], args[1], path, depth)

    def _record(self, value: dict[Any, Any], kind: Any, path: str, depth: int) -> Iterator[FieldError]:
        known = set()
        tag = _tag(kind)
        if tag is not None:
            known.add(tag[0])
            if tag[0] in value:
                yield from self.into(value[tag[0]], Literal[tag[1]], _below(path, tag[0]), depth)
        for _, name, field_kind, required in record_fields(kind):
            known.add(name)
            if name in value:
                yield from self.into(value[name], field_kind, _below(path, name), depth)
            elif required:
                yield FieldError(self._place, _below(path, name), "is required")
        if forbids_unknown(kind):
            for name in value:
                if name not in known:
                    yield FieldError(self._place, _below(path, name), "is not a field of this object")

    def _items(self, value: list[Any], kinds: Iterator[Any], path: str, depth: int) -> Iterator[FieldError]:
        for index, (item, item_kind) in enumerate(zip(value, kinds, strict=False)):
            if self._left < 0:
                return
            yield from self.into(item, item_kind, f"{path}[{index}]", depth)

    def _mapping(
        self, value: dict[Any, Any], key_kind: Any, item_kind: Any, path: str, depth: int
    ) -> Iterator[FieldError]:
        for key, item in value.items():
            if self._left < 0:
                return
            at = _below(path, key)
            wrong_key = self._misfit({key: None}, dict[key_kind, Any])
            if wrong_key is not None:
                yield FieldError(self._place, at, f"its name: {wrong_key}")
            yield from self.into(item, item_kind, at, depth)

    def _member(self, value: Any, kind: Any, path: str, depth: int) -> Iterator[FieldError]:
        """Look into the member of a union that ``value`` was meant to be."""
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        tagged = {tag: member for member in members if (tag := _tag(without_wrappers(member))) is not None}
        if isinstance(value, dict) and len(tagged) > 1:
            field = next(iter(tagged))[0]
            if field not in value:
                yield FieldError(self._place, _below(path, field), "is required")
                return
            chosen = [member for tag, member in tagged.items() if tag == (field, value[field])]
            if not chosen:
                known = ", ".join(repr(tag[1]) for tag in tagged)
                yield FieldError(self._place, _below(path, field), f"must be one of {known}")
                return
        else:
            chosen = [member for member in members if _has_shape(value, member)]
        if len(chosen) == 1:
            yield from self._inside(value, chosen[0], path, depth)

    def _inside(self, value: Any, kind: Any, path: str, depth: int) -> Iterator[FieldError]:
        found = False
        for error in self._parts(value, kind, path, depth):
            found = True
            yield error
        whole = self._constraint(value, kind) if found else None
        if whole is not None:
            yield FieldError(self._place, path or "$", whole)


def _config(kind: Any, name: str) -> bool:
    bare = typing.get_origin(kind) or kind
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        return bool(getattr(bare.__struct_config__, name))
    return name == "forbid_unknown_fields" and bool(getattr(bare, "__forbid_unknown_fields__", False))


def _tag(kind: Any) -> tuple[str, Any] | None:
    """The field and the value by which a Struct is told from others; None without."""
    bare = typing.get_origin(kind) or kind
    if not isinstance(bare, type) or not issubclass(bare, msgspec.Struct):
        return None
    config = bare.__struct_config__
    return None if config.tag is None or config.tag_field is None else (config.tag_field, config.tag)


def _array_kinds(kind: Any) -> Iterator[Any]:
    """The types of a Struct's fields where it is written as a list."""
    tag = _tag(kind)
    if tag is not None:
        yield Literal[tag[1]]
    for _, _, field_kind, _ in record_fields(kind):
        yield field_kind


def _item_kinds(kind: Any, count: int) -> Iterator[Any]:
    """The type of each of ``count`` items; none where ``kind`` is no list, or one of another length."""
    args = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin is tuple and args and args[-1] is not Ellipsis:
        if len(args) == count:
            yield from args
    elif len(args) == 1 or origin is tuple:
        for _ in range(count):
            yield args[0]
    elif hasattr(kind, "_fields"):  # a NamedTuple is written as a list
        hints = typing.get_type_hints(kind, include_extras=True)
        for name in kind._fields:
            yield hints.get(name, Any)


def _has_shape(value: Any, kind: Any) -> bool:
    """Could ``value`` have been meant to be of ``kind``, from outside?"""
    kind = without_wrappers(kind)
    if is_struct_like(kind):
        return isinstance(value, list if _config(kind, "array_like") else dict)
    origin = typing.get_origin(kind) or kind
    if not isinstance(origin, type):
        return False
    if isinstance(value, dict):
        return issubclass(origin, dict)
    return isinstance(value, list) and (issubclass(origin, (*_LISTS, tuple)) or origin.__module__ == "collections.abc")
