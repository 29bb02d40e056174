"""Forms as Structs, dataclasses, TypedDicts and models of pydantic."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.http.forms import FormData, convert_form, form_decoder
from forebay.http.uploads import UploadFile


class Color(Enum):
    """An enumeration."""

    RED = "red"


class Signup(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A form."""

    first_name: str
    age: Annotated[int, msgspec.Meta(ge=0)]
    born: date | None = None
    color: Color = Color.RED
    tags: list[str] = []
    scores: tuple[int, ...] = ()
    price: Decimal | None = None
    agreed: bool = False
    plan: Literal["free", "paid"] = "free"
    photo: UploadFile | None = None
    papers: list[UploadFile] = []


@dataclass
class Sized:
    """One as a dataclass."""

    size: int
    names: set[str]
    note: str | None
    many: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.size == 13:
            raise ValueError("is not lucky")


class Options(TypedDict):
    """One as a TypedDict."""

    size: int
    file: NotRequired[UploadFile]


class Model(pydantic.BaseModel):
    """One of pydantic."""

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    size: int
    tags: list[str] = []
    born: date | None = None
    file: UploadFile | None = None


def form(*items: tuple[str, str | UploadFile]) -> FormData:
    return FormData(list(items))


def test_a_form_as_a_struct() -> None:
    """Texts become what the fields are, repeated ones lists; files stay files; what was left empty was not sent."""
    photo, paper = UploadFile("a.png"), UploadFile("b.pdf")
    made, errors = convert_form(
        form(
            ("firstName", ""), ("age", "5"), ("born", "2020-01-02"), ("color", "red"), ("tags", "a"), ("tags", "b"),
            ("scores", "1"), ("scores", ""), ("scores", "2"), ("price", "1.50"), ("agreed", "on"), ("plan", "paid"),
            ("photo", photo), ("papers", paper), ("papers", UploadFile("")),
        ),
        Signup,
    )  # fmt: skip
    assert errors == []
    assert made == Signup(
        "", 5, date(2020, 1, 2), Color.RED, ["a", "b"], (1, 2), Decimal("1.50"), True, "paid", photo, [paper]
    )
    made, errors = convert_form(form(("firstName", "a"), ("age", "5"), ("born", ""), ("photo", UploadFile(""))), Signup)
    assert (made, errors) == (Signup("a", 5), [])


def test_every_field_of_a_form_that_does_not_fit() -> None:
    """All at once, in their places."""
    made, errors = convert_form(
        form(
            ("age", "-1"), ("born", "x"), ("color", "x"), ("tags", UploadFile("a")), ("scores", "x"), ("price", "nan"),
            ("agreed", "x"), ("plan", "x"), ("photo", "text"), ("more", ""), ("first_name", "a"),
        ),
        Signup,
    )  # fmt: skip
    assert made is None
    assert {error.place for error in errors} == {"form"}
    assert [error.name for error in errors] == [
        "firstName", "age", "born", "color", "tags", "scores", "price", "agreed", "plan", "photo", "more", "first_name",
    ]  # fmt: skip
    assert (errors[0].message, errors[9].message) == ("is required", "a file is expected, text was sent")


def test_forms_as_other_records() -> None:
    """Dataclasses, TypedDicts, models; defaults, None and empty lists; and rules of their own."""
    assert convert_form(form(("size", "1")), Sized) == (Sized(1, set(), None), [])
    sized = form(("size", "1"), ("names", "a"), ("note", ""), ("many", "0.5"), ("other", "x"))
    assert convert_form(sized, Sized) == (Sized(1, {"a"}, "", [0.5]), [])
    made, (error,) = convert_form(form(("size", "13")), Sized)
    assert (made, error.name, error.message) == (None, "$", "is not lucky")
    file = UploadFile("a")
    assert convert_form(form(("size", "1"), ("file", file)), Options) == ({"size": 1, "file": file}, [])
    assert convert_form(form(("size", "1")), Options) == ({"size": 1}, [])
    made, errors = convert_form(form(("size", "1"), ("tags", "a"), ("tags", ""), ("born", ""), ("file", file)), Model)
    assert (made, errors) == (Model(size=1, tags=["a", ""], file=file), [])
    made, errors = convert_form(form(("size", "x"), ("born", "y")), Model)
    assert made is None
    assert [(error.place, error.name) for error in errors] == [("form", "size"), ("form", "born")]


@pytest.mark.parametrize("text", ["9223372036854775808", "9" * 5000, "1.5", "x", "1_0", "٣"])
def test_numbers_in_forms(text: str) -> None:
    """As in queries: decimal, 64 bits."""
    _, errors = convert_form(form(("size", text)), Options)
    assert [error.name for error in errors] == ["size"]


class Nested(msgspec.Struct):
    """No form holds it."""

    inner: Signup


class Mapped(msgspec.Struct):
    """Nor this."""

    by_key: dict[str, int]


class Mixed(msgspec.Struct):
    """Nor this."""

    either: UploadFile | str


class NestedModel(pydantic.BaseModel):
    """Nor this."""

    inner: list[Sized]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Nested, "field inner of Nested"),
        (Mapped, "field by_key of Mapped"),
        (Mixed, "field either of Mixed"),
        (NestedModel, "field inner of NestedModel"),
        (int, "a Struct, dataclass, TypedDict or pydantic model is needed"),
    ],
)
def test_a_record_that_no_form_holds(kind: Any, message: str) -> None:
    """It is refused before there is a form, and names the field."""
    with pytest.raises(TypeError, match=message):
        form_decoder(kind)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["size", "names", "note", "many", "firstName", "age", "tags", "scores", "x"]), st.text(max_size=6) | st.sampled_from(["1", "-1", "on", "1e999", "nan"]))))  # fmt: skip  # noqa: E501
def test_any_fields_are_a_record_or_errors(fields: list[tuple[str, str]]) -> None:
    """And never anything else."""
    items: list[tuple[str, str | UploadFile]] = list(fields)
    for kind in (Sized, Signup, Options, Model):
        made, errors = convert_form(FormData(items), kind)
        assert (made is None) is bool(errors)
