"""Any signature against any request: what a handler is given, or what is said to be wrong, is what a plain reading of
both gives; and nothing is ever a 500.

More of it: ``.venv/bin/pytest -p tests.soak --hypothesis-profile=soak tests/http/test_binding_property.py``.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.http import App, ServerLimits
from forebay.http.binding import Body, Cookie, Depends, Form, Header, Query
from forebay.testing import TestClient

pytestmark = pytest.mark.timeout(1800)  # a soak takes its time

WRONG = object()  # what a text stands for that is no value of its kind


class Color(Enum):
    """Words."""

    RED = "red"
    DARK = "dark blue"


class Level(IntEnum):
    """Numbers."""

    LOW = 1
    HIGH = 2


class Window(msgspec.Struct):
    """The fields of a query, together."""

    low: int
    color: Color = Color.RED
    days: list[date] = []
    key: UUID | None = None


class Line(msgspec.Struct):
    """A record in a record."""

    name: str
    count: Annotated[int, msgspec.Meta(ge=0)] = 1


class Order(msgspec.Struct):
    """What may be the content."""

    buyer: str
    lines: list[Line] = []
    paid: bool | None = None


Text = tuple[str, Any]
"""What is written, and what it stands for."""

words = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=';="\\,'), min_size=1, max_size=8)
small = st.integers(-(1 << 63), (1 << 63) - 1)
KINDS: dict[str, tuple[Any, st.SearchStrategy[Text], list[str]]] = {
    "str": (str, words.map(lambda text: (text, text)), []),
    "int": (
        int,
        small.map(lambda n: (str(n), n)),
        ["x", "1.5", "1e400", str(1 << 63), "0x1", "1_0", "9" * 5000],
    ),
    "float": (
        float,
        st.floats(allow_nan=False, allow_infinity=False).map(lambda x: (repr(x), x)),
        ["nan", "inf", "-Infinity", "1e999", "x", "1,5"],
    ),
    "bool": (
        bool,
        st.sampled_from([("true", True), ("false", False), ("1", True), ("0", False)]),
        ["yes", "2", "off", "truee"],  # "on" is a box of a form that was ticked
    ),
    "UUID": (UUID, st.uuids().map(lambda key: (str(key), key)), ["5", "x" * 36]),
    "date": (date, st.dates().map(lambda day: (day.isoformat(), day)), ["2026-02-30", "today", "20260101x"]),
    "datetime": (
        datetime,
        st.datetimes(timezones=st.just(UTC)).map(lambda moment: (moment.isoformat(), moment)),
        ["2026-13-01T00:00:00", "now", "2026-01-01T25:00:00Z", "253402300800", "9" * 400],
    ),
    "time": (time, st.times().map(lambda at: (at.isoformat(), at)), ["25:00:00", "noon", "12:00:60"]),
    "timedelta": (
        timedelta,
        st.integers(0, 10**6).map(lambda seconds: (f"PT{seconds}S", timedelta(seconds=seconds))),
        ["P1", "PT", "P99999999999D", "PT1e5S"],
    ),
    "Literal['a', 'dark blue', 7]": (
        Literal,
        st.sampled_from([("a", "a"), ("dark blue", "dark blue"), ("7", 7)]),
        ["b", "8", "A"],
    ),
    "Decimal": (
        Decimal,
        st.decimals(allow_nan=False, allow_infinity=False).map(lambda number: (str(number), number)),
        ["NaN", "Infinity", "sNaN", "1,5", "x"],
    ),
    "Color": (Color, st.sampled_from(Color).map(lambda color: (color.value, color)), ["RED", "green"]),
    "Level": (Level, st.sampled_from(Level).map(lambda level: (str(level.value), level)), ["0", "3", "LOW"]),
    "Annotated[int, Meta(ge=0, lt=100)]": (
        int,
        st.integers(0, 99).map(lambda n: (str(n), n)),
        ["-1", "100", "x"],
    ),
    "Annotated[str, Meta(min_length=2, pattern='^[a-z]+$')]": (
        str,
        st.from_regex("[a-z]{2,5}", fullmatch=True).map(lambda text: (text, text)),
        ["a", "A!", "ab1"],
    ),
}
MARKERS = {"query": "", "header": "Header()", "cookie": "Cookie()", "form": "Form()", "path": ""}


@dataclass(frozen=True)
class Wanted:
    """One parameter: ``shape`` is ``one``, ``optional``, ``default`` or ``list``."""

    name: str
    place: str
    kind: str
    shape: str
    depended: bool = False

    @property
    def written(self) -> str:
        """As it stands in the signature."""
        kind = {"list": f"list[{self.kind}]", "optional": f"{self.kind} | None"}.get(self.shape, self.kind)
        marker = MARKERS[self.place]
        annotation = f"Annotated[{kind}, {marker}]" if marker else kind
        return f"{self.name}: {annotation}" + (f" = {self.name!r}" if self.shape == "default" else "")

    @property
    def alias(self) -> str:
        """Its name in the request."""
        return self.name.replace("_", "-") if self.place == "header" else self.name

    def reading(self, sent: list[Text]) -> Any:
        """What the handler is given for these texts: the plain reference."""
        if not sent:
            return {"optional": None, "default": self.name}.get(self.shape, WRONG)
        if self.shape == "list":
            values = [value for _, value in sent]
            return WRONG if any(value is WRONG for value in values) else values
        return sent[0][1]


def texts(kind: str) -> st.SearchStrategy[Text]:
    """A text for a value of that kind, or one that is none."""
    _, right, wrong = KINDS[kind]
    if not wrong:
        return right
    return st.one_of(right, right, right, st.sampled_from(wrong).map(lambda text: (text, WRONG)))


@st.composite
def signatures(draw: st.DrawFn) -> tuple[list[Wanted], bool, bool]:
    """Parameters of every place; whether there is a record in the query, and a record for the content."""
    has_content = draw(st.booleans())
    places = ["query", "query", "header", "cookie", "path"] + ([] if has_content else ["form"])
    found = []
    for number in range(draw(st.integers(0, 7))):
        place = draw(st.sampled_from(places))
        shapes = {"path": ["one"], "cookie": ["one", "optional", "default"]}.get(
            place, ["one", "optional", "default", "list"]
        )
        kind = draw(st.sampled_from(sorted(KINDS)))
        depended = place != "path" and draw(st.integers(0, 3)) == 0
        found.append(Wanted(f"some_{number}", place, kind, draw(st.sampled_from(shapes)), depended))
    return found, draw(st.booleans()), has_content


def application(wanted: list[Wanted], windowed: bool, has_content: bool, seen: list[dict[str, Any]]) -> App:
    """One route with that signature, some of it in a dependency; ``seen`` has what the handler was given."""
    own = [one.written for one in wanted if not one.depended and one.shape != "default"]
    own += ["window: Annotated[Window, Query()]"] * windowed + ["order: Annotated[Order, Body()]"] * has_content
    own += ["more: Annotated[dict, Depends(dependency)]"]
    own += [one.written for one in wanted if not one.depended and one.shape == "default"]
    depended = sorted((one for one in wanted if one.depended), key=lambda one: one.shape == "default")
    source = (
        f"def dependency({', '.join(one.written for one in depended)}): return dict(locals())\n"
        f"async def handler({', '.join(own)}):\n seen.append(dict(locals()))\n"
    )
    names: dict[str, Any] = {"seen": seen, "Meta": msgspec.Meta, "Window": Window, "Order": Order}
    names |= {getattr(kind, "__name__", "Literal"): kind for kind, _, _ in KINDS.values()}
    names |= {"Annotated": Annotated, "Body": Body, "Cookie": Cookie, "Depends": Depends, "Form": Form}
    names |= {"Header": Header, "Query": Query}
    exec(source, names)
    app = App()
    pattern = "".join(f"/{{{one.name}}}" for one in wanted if one.place == "path") or "/"
    app.post(pattern)(names["handler"])
    return app


def window_errors(sent: dict[str, list[Text]]) -> set[str]:
    """The fields of :class:`Window` that do not fit."""
    wrong = {name for name, values in sent.items() if values and values[0][1] is WRONG}
    if any(value is WRONG for _, value in sent.get("days", [])):
        wrong.add("days")
    return wrong | ({"low"} if not sent.get("low") else set())


def order_errors(document: Any) -> set[str]:
    """The places in a document that is no :class:`Order`."""
    if not isinstance(document, dict):
        return {"$"}
    wrong = set()
    if not isinstance(document.get("buyer"), str):
        wrong.add("buyer")
    if not isinstance(document.get("paid"), bool | None):
        wrong.add("paid")
    lines = document.get("lines", [])
    if not isinstance(lines, list):
        return wrong | {"lines"}
    for index, line in enumerate(lines):
        if not isinstance(line, dict):
            wrong.add(f"lines[{index}]")
            continue
        if not isinstance(line.get("name"), str):
            wrong.add(f"lines[{index}].name")
        count = line.get("count", 1)
        whole = isinstance(count, int) and not isinstance(count, bool)
        if not whole or count < 0:
            wrong.add(f"lines[{index}].count")
    return wrong


leaves = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=3), st.just([]), st.just({}))
documents = st.one_of(
    leaves,
    st.fixed_dictionaries(
        {},
        optional={
            "buyer": st.one_of(st.text(max_size=3), st.text(max_size=3), leaves),
            "paid": leaves,
            "other": leaves,
            "lines": st.one_of(
                leaves,
                st.lists(
                    st.one_of(
                        leaves,
                        st.fixed_dictionaries(
                            {"name": st.one_of(st.text(max_size=3), leaves)},
                            optional={"count": st.one_of(st.integers(-2, 9), leaves)},
                        ),
                    ),
                    max_size=3,
                ),
            ),
        },
    ),
)


@dataclass
class Sent:
    """One request."""

    fields: dict[str, list[Text]]
    window: dict[str, list[Text]]
    document: Any


@st.composite
def requests(draw: st.DrawFn, wanted: list[Wanted]) -> Sent:
    """Texts for every parameter, too few or too many as it comes, right and wrong ones."""
    fields = {}
    for one in wanted:
        most = {"path": 1, "cookie": 1}.get(one.place, 3)
        least = 1 if one.place == "path" else 0
        fields[one.name] = draw(st.lists(texts(one.kind), min_size=least, max_size=most))
    kinds = {"low": "int", "color": "Color", "days": "date", "key": "UUID"}
    window = {name: draw(st.lists(texts(kind), max_size=2)) for name, kind in kinds.items()}
    return Sent(fields, window, draw(documents))


async def send(client: TestClient, wanted: list[Wanted], windowed: bool, has_content: bool, sent: Sent) -> Any:
    """The request as its bytes."""
    every = [(one, text) for one in wanted for text, _ in sent.fields[one.name]]
    path = "".join(f"/{quote(text, safe='')}" for one, text in every if one.place == "path") or "/"
    query = [(one.alias, text) for one, text in every if one.place == "query"]
    if windowed:
        query += [(name, text) for name, values in sent.window.items() for text, _ in values]
    headers = [(one.alias, text) for one, text in every if one.place == "header"]
    cookies = "; ".join(f"{one.alias}={text}" for one, text in every if one.place == "cookie")
    content: bytes | None = None
    if has_content:
        headers.append(("content-type", "application/json"))
        content = msgspec.json.encode(sent.document)
    elif any(one.place == "form" for one in wanted):
        headers.append(("content-type", "application/x-www-form-urlencoded"))
        content = urlencode([(one.alias, text) for one, text in every if one.place == "form"]).encode()
    headers += [("cookie", cookies)] * bool(cookies)
    return await client.post(f"{path}?{urlencode(query)}", headers=headers, content=content)


def expected_errors(wanted: list[Wanted], windowed: bool, has_content: bool, sent: Sent) -> list[tuple[str, str]]:
    """Places and names of all that does not fit."""
    wrong = [(one.place, one.alias) for one in wanted if one.reading(sent.fields[one.name]) is WRONG]
    if windowed:
        wrong += [("query", name) for name in window_errors(sent.window)]
    if has_content:
        wrong += [("body", name) for name in order_errors(sent.document)]
    return sorted(wrong)


def same(one: Any, other: Any) -> bool:
    """Equal, and of one type; 0.0 is not -0.0."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


async def check(wanted: list[Wanted], windowed: bool, has_content: bool, asked: list[Sent]) -> None:
    """Ask, and compare with what the reference says."""
    seen: list[dict[str, Any]] = []
    limits = ServerLimits(line=32768)  # several numbers of very many digits
    async with TestClient(
        application(wanted, windowed, has_content, seen), raise_errors=False, limits=limits
    ) as client:
        for sent in asked:
            seen.clear()
            response = await send(client, wanted, windowed, has_content, sent)
            errors = expected_errors(wanted, windowed, has_content, sent)
            if errors:
                assert response.status == 422, (response.body, errors)
                said = [(error["place"], error["name"]) for error in response.json()["errors"]]
                assert sorted(said) == errors
                assert not seen
                continue
            assert response.status == 204, response.body
            (given_now,) = seen
            given_now |= given_now.pop("more")
            for one in wanted:
                assert same(given_now[one.name], one.reading(sent.fields[one.name])), one
            if windowed:
                first = {name: values[0][1] for name, values in sent.window.items() if values}
                if "days" in first:
                    first["days"] = [value for _, value in sent.window["days"]]
                assert given_now["window"] == Window(**first)
            if has_content:
                assert given_now["order"] == msgspec.convert(sent.document, Order)


@given(st.data())
def test_any_signature_and_any_request(data: st.DataObject) -> None:
    """Everything fits and is what was meant, or everything that does not is listed, at once."""
    wanted, windowed, has_content = data.draw(signatures())
    asked = data.draw(st.lists(requests(wanted), min_size=1, max_size=5))
    asyncio.run(check(wanted, windowed, has_content, asked))


@given(
    signatures(),
    st.lists(st.tuples(st.sampled_from(["query", "header", "cookie", "body"]), st.binary(max_size=30)), max_size=6),
)
def test_any_octets_are_no_500(signature: tuple[list[Wanted], bool, bool], noise: list[tuple[str, bytes]]) -> None:
    """Whatever stands where values are expected."""
    wanted, windowed, has_content = signature

    async def ask() -> None:
        seen: list[dict[str, Any]] = []
        async with TestClient(application(wanted, windowed, has_content, seen), raise_errors=False) as client:
            names = {place: [one.alias for one in wanted if one.place == place] + ["low"] for place, _ in noise}
            query = "&".join(
                f"{name}={quote(raw)}" for place, raw in noise for name in names[place] if place == "query"
            )
            shown = [(place, "".join(chr(o) for o in raw if 32 < o < 127 or o > 160)) for place, raw in noise]
            headers = [(name, text) for place, text in shown for name in names[place] if place == "header"]
            headers += [
                ("cookie", f"{name}={text}") for place, text in shown for name in names[place] if place == "cookie"
            ]
            kind = "application/json" if has_content else "application/x-www-form-urlencoded"
            body = b"".join(raw for place, raw in noise if place == "body")
            path = "/1" * sum(one.place == "path" for one in wanted) or "/"
            response = await client.post(f"{path}?{query}", headers=[*headers, ("content-type", kind)], content=body)
            assert response.status in (204, 400, 422)

    asyncio.run(ask())
