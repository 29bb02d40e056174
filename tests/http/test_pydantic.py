"""Models of pydantic as content, and that nothing imports pydantic for those who do not."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated, Any

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.errors import HTTPError, ValidationError
from forebay.http.encoding import MSGPACK, content_decoder, decode_content, encode_json, encode_msgpack, is_record
from forebay.http.pydantic_models import encode_model, holds_pydantic, is_pydantic, model_schema

JSON, PACKED = b"application/json", MSGPACK.encode()


class Line(pydantic.BaseModel):
    """A line of an order."""

    name: str
    count: Annotated[int, pydantic.Field(ge=1)] = 1


class Order(pydantic.BaseModel):
    """An order."""

    buyer: str
    lines: list[Line]
    by_key: dict[str, Line] = {}

    @pydantic.field_validator("buyer")
    @classmethod
    def _check(cls, value: str) -> str:
        if not value:
            raise ValueError("must not be empty")
        return value


@pydantic.dataclasses.dataclass
class Point:
    """One of its dataclasses."""

    x: int


class Plain(msgspec.Struct):
    """A Struct that holds a model."""

    order: Any


WRONG = {"buyer": "", "lines": [{"name": "a", "count": 0}, {"count": "x"}], "by_key": {"k": {}}}
PLACES = ["buyer", "lines[0].count", "lines[1].name", "lines[1].count", "by_key.k.name"]


@pytest.mark.parametrize("content_type", [JSON, PACKED])
def test_models_are_read(content_type: bytes) -> None:
    """In both formats, alone and in lists and options."""
    encode = msgspec.json.encode if content_type == JSON else msgspec.msgpack.encode
    line = {"name": "a", "count": 2}
    assert decode_content(encode(line), content_type, Line) == Line(name="a", count=2)
    assert decode_content(encode([line]), content_type, list[Line]) == [Line(name="a", count=2)]
    assert decode_content(encode(None), content_type, Line | None) is None
    assert decode_content(encode({"x": 1}), content_type, Point) == Point(1)


@pytest.mark.parametrize("content_type", [JSON, PACKED])
def test_every_field_that_does_not_fit(content_type: bytes) -> None:
    """All of them, with the paths of other records."""
    encode = msgspec.json.encode if content_type == JSON else msgspec.msgpack.encode
    with pytest.raises(ValidationError) as caught:
        decode_content(encode(WRONG), content_type, Order)
    assert [error.name for error in caught.value.errors] == PLACES
    assert {error.place for error in caught.value.errors} == {"body"}
    assert "must not be empty" in caught.value.errors[0].message
    with pytest.raises(ValidationError) as caught:
        decode_content(encode([]), content_type, Order)
    assert [error.name for error in caught.value.errors] == ["$"]
    with pytest.raises(ValidationError) as caught:
        decode_content(encode([{}] * 500), content_type, list[Line])
    assert len(caught.value.errors) == 100


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"", JSON, 400),
        (b"", PACKED, 400),
        (b"{", JSON, 400),
        (b'{"name":"\xff"}', JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (b"\xc1", PACKED, 400),
        (b"\xa1\xff", PACKED, 400),
        (b"{}", b"text/plain", 415),
        (b"{}", None, 415),
    ],
)
def test_content_that_is_not_what_it_says(content: bytes, content_type: bytes | None, status: int) -> None:
    """As of other records."""
    with pytest.raises(HTTPError) as caught:
        decode_content(content, content_type, Order)
    assert caught.value.status == status


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=40) | st.text('{}[]":,buyerlins019 ', max_size=30).map(str.encode),
    st.sampled_from([JSON, PACKED]),
)
def test_any_bytes_are_a_value_or_a_4xx(content: bytes, content_type: bytes) -> None:
    """And nothing else."""
    try:
        decode_content(content, content_type, Order)
    except HTTPError as error:
        if error.status not in (400, 422):
            raise


def test_models_are_written() -> None:
    """By pydantic, alone and inside of other values, and in both formats."""
    order = Order(buyer="b", lines=[Line(name="a")])
    plain = {"buyer": "b", "lines": [{"name": "a", "count": 1}], "by_key": {}}
    assert msgspec.json.decode(encode_model(order)) == plain
    assert msgspec.json.decode(encode_json([Plain(order)])) == [{"order": plain}]
    assert msgspec.msgpack.decode(encode_msgpack({"a": order})) == {"a": plain}
    assert encode_json(Point(1)) == b'{"x":1}'


def test_the_schema_of_a_model() -> None:
    """Refers to where OpenAPI has its schemas."""
    schema = model_schema(Order, mode="validation")
    assert schema["properties"]["lines"]["items"] == {"$ref": "#/components/schemas/Line"}
    assert set(schema["$defs"]) == {"Line"}
    assert schema["required"] == ["buyer", "lines"]


def test_what_is_a_model() -> None:
    """And what holds one."""
    assert is_pydantic(Order)
    assert is_pydantic(Point)
    assert is_record(Order)
    assert not any(map(is_pydantic, (Plain, dict, None, list[Order], Order(buyer="a", lines=[]))))
    assert all(map(holds_pydantic, (Order, list[Order], Order | None, dict[str, list[Order]], Annotated[Order, 1])))
    assert not any(map(holds_pydantic, (Plain, list[int], int)))


def test_what_pydantic_cannot_read() -> None:
    """Is refused before there is any content."""

    class Foreign:
        pass

    with pytest.raises(TypeError, match="pydantic cannot read"):
        content_decoder(dict[str, Order | Foreign])


def test_pydantic_is_not_imported_for_others() -> None:
    """Reading, writing and asking what is a model leave it alone."""
    program = (
        "import sys; from forebay.http.encoding import *; from forebay.http.pydantic_models import *\n"
        "decode_content(b'[1]', b'application/json', list[int]); encode_json({'a': 1})\n"
        "is_record(int); holds_pydantic(int)\n"
        "print('pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "False\n"
