"""Bodies of JSON and MessagePack: what is read, and what is said of those that do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay.errors import HTTPError, ValidationError
from forebay.http.encoding import (
    MSGPACK,
    content_decoder,
    decode_content,
    encode_json,
    encode_msgpack,
    field_errors,
    is_record,
)

JSON = b"application/json"
PACKED = MSGPACK.encode()
T = TypeVar("T")
Small = Annotated[int, msgspec.Meta(ge=0, le=9)]
UserId = NewType("UserId", int)


class Cat(msgspec.Struct, tag="cat"):
    """One of a union."""

    lives: int


class Dog(msgspec.Struct, tag="dog", forbid_unknown_fields=True):
    """Another one."""

    name: str
    tricks: list[str] = []


class Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Unknown fields are wrong, names are others."""

    first_name: str
    pet: Cat | Dog | None = None
    by_key: dict[str, Small] = {}


class Row(msgspec.Struct, array_like=True):
    """Written as a list."""

    x: int
    y: str


class Box(msgspec.Struct, Generic[T]):
    """Of something."""

    item: T


class Even(msgspec.Struct):
    """Has a rule of its own."""

    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("must be even")


class Place(NamedTuple):
    """Written as a list too."""

    x: int
    y: int


@dataclass
class Inner:
    """In another one."""

    a: int
    b: list[Small] = field(default_factory=list)


@dataclass
class Outer:
    """Has another one."""

    inner: Inner
    many: dict[str, Inner] = field(default_factory=dict)


class Options(TypedDict):
    """A TypedDict."""

    size: int
    when: NotRequired[datetime]


def names(kind: Any, value: Any, content_type: bytes = JSON) -> list[str]:
    """The fields a 422 lists."""
    content = msgspec.json.encode(value) if content_type == JSON else msgspec.msgpack.encode(value)
    with pytest.raises(ValidationError) as caught:
        decode_content(content, content_type, kind)
    assert {error.place for error in caught.value.errors} == {"body"}
    assert all(error.message and "`$" not in error.message for error in caught.value.errors)
    return [error.name for error in caught.value.errors]


@pytest.mark.parametrize("content_type", [JSON, PACKED])
@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (Cat | Dog, {"type": "cat", "lives": "x"}, ["lives"]),
        (Cat | Dog, {"type": "dog", "tricks": [1, "a", 2], "more": 1}, ["name", "tricks[0]", "tricks[2]", "more"]),
        (Cat | Dog, {"type": "cow"}, ["type"]),
        (Cat | Dog, {"lives": 1}, ["type"]),
        (Cat | Dog, [], ["$"]),
        (Cat, {"type": "dog", "lives": "x"}, ["type", "lives"]),
        (Strict, {"first_name": "a", "pet": {"type": "cat"}, "byKey": {"a": 10, "b": 1, "c": ""}},
         ["firstName", "pet.lives", "byKey.a", "byKey.c", "first_name"]),
        (Strict, {"firstName": None, "x": 1, "y": 2}, ["firstName", "x", "y"]),
        (list[Cat | Dog], [{"type": "cat", "lives": 1}, {"type": "dog"}, 5], ["[1].name", "[2]"]),
        (tuple[int, str, Inner], ["x", "y", {"a": ""}], ["[0]", "[2].a"]),
        (tuple[int, str], [1], ["$"]),
        (tuple[int, ...], [1, "x", 2, None], ["[1]", "[3]"]),
        (set[int], ["a", 1, "b"], ["[0]", "[2]"]),
        (Sequence[int], ["a", 1], ["[0]"]),
        (Mapping[str, int], {"a": "b", "c": 1, "d": None}, ["a", "d"]),
        (Mapping[str, int], ["a"], ["$"]),
        (dict[str, dict[str, Small]], {"a": {"b": 10, "c": "x"}}, ["a.b", "a.c"]),
        (dict[str, list[int]], {"a b": ["x"]}, ["a b[0]"]),
        (dict[Literal["a", "b"], int], {"a": "x", "c": 1}, ["a", "c"]),
        (Outer, {"inner": {"b": [1, 10, "x"]}, "many": {"k": {"a": 1}, "l": {"a": []}}},
         ["inner.a", "inner.b[1]", "inner.b[2]", "many.l.a"]),
        (Options, {"when": "never"}, ["size", "when"]),
        (Annotated[list[Small], msgspec.Meta(max_length=2)], [1, 10, "x"], ["[1]", "[2]", "$"]),
        (Annotated[list[Small], msgspec.Meta(max_length=2)] | None, [1, 2, 3], ["$"]),
        (Annotated[dict[str, int], msgspec.Meta(max_length=1)], {"a": "", "b": 1}, ["a", "$"]),
        (Box[int], {"item": "x"}, ["item"]),
        (Box[list[Small]], {"item": [1, 11]}, ["item[1]"]),
        (Row, ["x", 1], ["[0]", "[1]"]),
        (Place, [1, "y"], ["[1]"]),
        (Even, {"number": 1}, ["$"]),
        (list[Even], [{"number": 1}, {"number": 2}, {"number": 3}], ["[0]", "[2]"]),
        (UserId, "x", ["$"]),
        (list[UserId], ["x"], ["[0]"]),
        (int | list[int], ["x"], ["[0]"]),
        (int | str, None, ["$"]),
        (Inner | None, {"a": "x"}, ["a"]),
    ],
)  # fmt: skip
def test_every_field_that_does_not_fit(kind: Any, value: Any, expected: list[str], content_type: bytes) -> None:
    """By the same names in both formats."""
    assert names(kind, value, content_type) == expected


def test_keys_of_mappings() -> None:
    """In JSON they are text, whatever they stand for; in MessagePack they are what they are."""
    assert names(dict[int, int], {"1": 1, "x": 2, "2": "y"}) == ["x", "2"]
    assert names(dict[int, int], {1: 1, "x": 2, 2: "y"}, PACKED) == ["x", "2"]


def test_values_that_only_messagepack_has() -> None:
    """Bytes and timestamps are read; extensions fit nothing."""
    assert decode_content(encode_msgpack({"a": b"\xff"}), PACKED, dict[str, bytes]) == {"a": b"\xff"}
    assert names(dict[str, int], {"a": msgspec.msgpack.Ext(5, b"x"), "b": b"\xff"}, PACKED) == ["a", "b"]


# -- a plain checker of random types to compare with

Kind = tuple[str, Any]  # what it is, and of what

leaves = st.sampled_from(["int", "str", "bool", "small"]).map(lambda name: (name, None))
kinds: st.SearchStrategy[Kind] = st.recursive(
    leaves,
    lambda inner: (
        st.tuples(st.sampled_from(["list", "dict", "optional"]), inner)
        | st.tuples(st.just("tuple"), st.lists(inner, min_size=1, max_size=3))
        | st.tuples(
            st.sampled_from(["struct", "strict"]),
            st.dictionaries(st.sampled_from("abcd"), st.tuples(inner, st.booleans()), min_size=1, max_size=3),
        )
    ),
    max_leaves=8,
)
LEAVES: dict[str, Any] = {"int": int, "str": str, "bool": bool, "small": Small}


def made(kind: Kind) -> Any:
    """The type."""
    name, inner = kind
    if name in LEAVES:
        return LEAVES[name]
    if name in ("struct", "strict"):
        required = [(key, made(each)) for key, (each, needed) in inner.items() if needed]
        optional = [(key, made(each), None) for key, (each, needed) in inner.items() if not needed]
        return msgspec.defstruct("Random", [*required, *optional], forbid_unknown_fields=name == "strict", kw_only=True)
    if name == "tuple":
        return tuple[tuple(map(made, inner))]  # type: ignore[misc]  # made at run time
    of: Any = made(inner)
    return {"list": list[of], "dict": dict[str, of], "optional": of | None}[name]


def wrong(value: Any, kind: Kind, path: str) -> list[str]:
    """Every wrong leaf, plainly."""
    name, inner = kind
    at = path or "$"
    if name == "optional":
        return [] if value is None else wrong(value, inner, path)
    if name in LEAVES:
        fits = {
            "int": type(value) is int,
            "str": type(value) is str,
            "bool": type(value) is bool,
            "small": type(value) is int and 0 <= value <= 9,
        }
        return [] if fits[name] else [at]
    if name in ("list", "tuple"):
        if not isinstance(value, list) or (name == "tuple" and len(value) != len(inner)):
            return [at]
        of = inner if name == "tuple" else [inner] * len(value)
        return [found for index, each in enumerate(value) for found in wrong(each, of[index], f"{path}[{index}]")]
    if not isinstance(value, dict):
        return [at]
    below = [(key, f"{path}.{key}" if path else key) for key in value]
    if name == "dict":
        return [found for key, where in below for found in wrong(value[key], inner, where)]
    found = [each for key, where in below if key in inner for each in wrong(value[key], inner[key][0], where)]
    found += [f"{path}.{key}" if path else key for key, (_, needed) in inner.items() if needed and key not in value]
    return found + [where for key, where in below if name == "strict" and key not in inner]


@st.composite
def documents(draw: st.DrawFn, kind: Kind) -> Any:
    """Nearly right for ``kind``."""
    if not draw(st.integers(0, 5)):
        return draw(st.sampled_from([None, True, -1, 5, 100, "x", [], {}, [1], {"a": 1}]))
    name, inner = kind
    if name == "optional":
        return draw(st.none() | documents(inner))
    if name == "list":
        return draw(st.lists(documents(inner), max_size=3))
    if name == "tuple":
        return [draw(documents(each)) for each in inner]
    if name == "dict":
        return draw(st.dictionaries(st.sampled_from("xyz"), documents(inner), max_size=3))
    if name in ("struct", "strict"):
        value = {key: draw(documents(each)) for key, (each, _) in inner.items() if draw(st.integers(0, 4))}
        return value | ({"unknown": 1} if not draw(st.integers(0, 4)) else {})
    return {"int": 7, "small": 3, "str": "text", "bool": False}[name]


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(kinds.flatmap(lambda kind: st.tuples(st.just(kind), documents(kind))), st.sampled_from([JSON, PACKED]))
def test_random_types_and_documents(case: tuple[Kind, Any], content_type: bytes) -> None:
    """Of a random type and a random document every wrong leaf is listed, and nothing else."""
    kind, value = case
    expected = wrong(value, kind, "")
    decode = content_decoder(made(kind))
    content = msgspec.json.encode(value) if content_type == JSON else msgspec.msgpack.encode(value)
    if not expected:
        decode(content, content_type)
        assert list(field_errors(value, made(kind))) == []
        return
    with pytest.raises(ValidationError) as caught:
        decode(content, content_type)
    assert sorted(error.name for error in caught.value.errors) == sorted(expected)


# -- formats


@pytest.mark.parametrize(
    ("content_type", "packed"),
    [
        (b"application/json", False),
        (b"Application/JSON; charset=utf-8", False),
        (b"application/problem+json", False),
        (b"application/msgpack", True),
        (b"Application/MsgPack", True),
        (b"application/vnd.msgpack", True),
        (b"application/x-msgpack;v=1", True),
    ],
)
def test_the_format_is_the_content_types(content_type: bytes, packed: bool) -> None:
    """Each by all its names."""
    content = msgspec.msgpack.encode({"a": 1}) if packed else b'{"a":1}'
    assert decode_content(content, content_type, dict[str, int]) == {"a": 1}
    with pytest.raises(HTTPError) as caught:
        decode_content(b"\x81" if packed else b"{", content_type, dict[str, int])
    assert caught.value.status == 400


@pytest.mark.parametrize("content_type", [None, b"", b"text/plain", b"application/xml", b"text/json", b"\xff;"])
def test_another_content_type_lists_both(content_type: bytes | None) -> None:
    """415, with what would be taken."""
    with pytest.raises(HTTPError) as caught:
        decode_content(b"{}", content_type, dict[str, int])
    assert caught.value.status == 415
    assert caught.value.headers == (("accept", "application/json, application/msgpack"),)
    assert "application/json or application/msgpack is expected" in caught.value.detail


@pytest.mark.parametrize(
    ("content", "content_type", "detail"),
    [
        (b"", JSON, "empty; JSON is expected"),
        (b"", PACKED, "empty; MessagePack is expected"),
        (b"{", JSON, "not valid JSON"),
        (b'"\xff"', JSON, "not UTF-8"),
        (b"[" * 100_000, JSON, "nested too deeply"),
        (b"\x91" * 100_000, PACKED, "nested too deeply"),
        (b"\xc1", PACKED, "not valid MessagePack"),
        (b"\x01\x01", PACKED, "not valid MessagePack"),
        (b"\xa1\xff", PACKED, "a text in the MessagePack is not UTF-8"),
        (b"\xdd\xff\xff\xff\xff", PACKED, "not valid MessagePack"),
    ],
)
def test_content_that_is_not_what_it_says(content: bytes, content_type: bytes, detail: str) -> None:
    """400, and why."""
    with pytest.raises(HTTPError, match=detail) as caught:
        decode_content(content, content_type, Any)
    assert caught.value.status == 400


FUZZED = [Strict, Outer, Options, Row, Place, Box[int], Cat | Dog, list[Strict], dict[int, Small], Any, set[int], bytes, datetime]  # fmt: skip  # noqa: E501


plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=4)
keys = st.sampled_from(["a", "b", "type", "inner", "size"]) | st.integers(-(2**63), 2**64 - 1)
values = st.recursive(
    plain | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=40) | values.map(msgspec.msgpack.encode), st.sampled_from(FUZZED))
def test_any_messagepack_is_a_value_or_a_4xx(content: bytes, kind: Any) -> None:
    """Random bytes and random documents never fail in another way."""
    _decodes_or_refuses(content, PACKED, kind)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.binary(max_size=40) | st.text('{}[]":,0123456789eE+-.truefalsnab\\u \x00é', max_size=40).map(str.encode),
    st.sampled_from(FUZZED),
)
def test_any_json_is_a_value_or_a_4xx(content: bytes, kind: Any) -> None:
    """The same."""
    _decodes_or_refuses(content, JSON, kind)


def _decodes_or_refuses(content: bytes, content_type: bytes, kind: Any) -> None:
    try:
        decode_content(content, content_type, kind)
    except ValidationError as error:
        if not 1 <= len(error.errors) <= 100:
            raise
    except HTTPError as error:
        if error.status != 400:
            raise


def test_what_is_looked_into_is_bounded() -> None:
    """Of a document with very many parts the first wrong field is named at least, in bounded time; of one past 1 MiB
    it is the only one."""
    assert names(list[int], [1] * 30_000 + ["x"]) == ["[30000]"]
    assert names(list[str], ["x" * 100] * 20_000 + [1, 2]) == ["[20000]"]
    assert len(names(list[str], [1] * 5_000)) == 100


def test_what_is_a_record() -> None:
    """Types with named fields."""
    assert all(map(is_record, (Strict, Inner, Options)))
    assert not any(map(is_record, (dict, list[Strict], int, Place, Strict("a"), None)))


def test_what_is_encoded_is_decoded() -> None:
    """In both formats; what cannot be written says so."""
    value = Outer(Inner(1, [2]), {"k": Inner(3)})
    assert decode_content(encode_json(value), JSON, Outer) == value
    assert decode_content(encode_msgpack(value), PACKED, Outer) == value
    with pytest.raises(NotImplementedError, match="object cannot be written"):
        encode_json([object()])


def test_a_type_that_cannot_be_read() -> None:
    """It is refused before there is any content."""
    with pytest.raises(TypeError):
        content_decoder(Cat | Strict)
