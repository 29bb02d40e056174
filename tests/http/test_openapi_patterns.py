"""Regular expressions in the document: those of ECMA-262, or words."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import msgspec
import pydantic
import pytest

from forebay.http import App
from forebay.http.binding import Query
from forebay.http.openapi.patterns import ecma_pattern
from tests.browser import chromium
from tests.http.openapi_app import checked, schema_of

SAME = (
    "",
    "^[a-z]{2,8}$",
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$",
    r"(a|b)\1{2}(?:c|)(?=d)(?<!e)f*?g+?h??i{1,}?",
    r"[^\]\-\\^a-z.\d]+\/\.\[",
    r"\bx\B\s\S\w\W\f\n\r\t\v\x41\u00e9",
)
TRANSLATED = {
    r"\A(?P<year>\d{4})-(?P=year)0\Z": r"^(\d{4})-(?:\1)0$",
    r"(?P<a>x)(y)(?P<b>z)(?P=b){2}": r"(x)(y)(z)(?:\3){2}",
    "(?s)a.b": r"a[\s\S]b",
    r"(?a)\d": r"\d",
    "a{,3}b{,}": "a{0,3}b{0,}",
    "a{x}{": r"a\{x\}\{",
    "]}": r"\]\}",
    "[]a]": r"[\]a]",
    "[^]a[]": r"[^\]a\[]",
    re.escape("a-b #&~@'\"_é/!%,:;<=>`"): "a-b #&~@'\"_é/!%,:;<=>`",
    r"[\#\@\-\&]": r"[#@\-&]",
    "a(?#words)b": "ab",
    "a(?#words)+b": "a+b",
    r"\0\012\377\a[\07]": r"\x00\x0a\xff\x07[\x07]",
    r"\U0001f333\N{BULLET}\N{DOLLAR SIGN}[\U0001f333]": r"🌳•\$[🌳]",
}
UNSAYABLE = (
    "(?i)a", "(?m)^a", "(?x)a b", "a(?i:b)", "(?>a)b", "a*+b", "a{2}+", "(a)?(?(1)b|c)", "(?=a)*b", "[[:alpha:]]",
    "[a&&b]",
    # nothing that Python takes: another library may
    "(", ")", "[a", "*", "\\", r"\8", r"\y", r"\p{Lu}", r"\x4", r"\N{NO SUCH THING}", "(?P=x)", "(?#",
)  # fmt: skip
TEXTS = (
    "", "a", "ab", "aab", "abab", "a\nb", "a{x}{", "]}", "]", "a[", "b", "1999-19990", "1999-20000", "xyzzz", "xyzz",
    "x", "7", "a-b #&~@'\"_é/!%,:;<=>`", "#", "\x00\n\xff\x07\x07", "🌳•$🌳", "fg", "abbbb", "aaab", "é", "x A",
    "-1.5", "1.2.3", "abcdefgh", "abcdefghi", "aaadfgi", "bbbcdfghi", "]/.[", "-/.[",
)  # fmt: skip


@pytest.mark.parametrize("pattern", SAME)
def test_what_is_the_same_is_left(pattern: str) -> None:
    """Letter by letter."""
    assert ecma_pattern(pattern) == pattern


@pytest.mark.parametrize("pattern", TRANSLATED)
def test_what_is_written_in_another_way(pattern: str) -> None:
    """Groups have numbers, ends of the text and characters are as ECMA-262 has them."""
    assert ecma_pattern(pattern) == TRANSLATED[pattern]


@pytest.mark.parametrize("pattern", UNSAYABLE)
def test_what_cannot_be_said(pattern: str) -> None:
    """None, and no exception."""
    assert ecma_pattern(pattern) is None


async def test_a_browser_reads_them_as_python_does() -> None:
    """With the flag ``u`` and without it, they find in the same texts as Python's do."""
    wanted, made = {}, {}
    for pattern in (*SAME, *TRANSLATED):
        wanted[pattern] = [bool(re.search(pattern, text)) for text in TEXTS]
        made[pattern] = ecma_pattern(pattern)
    script = f"""(() => {{
      const made = {json.dumps(made)}, texts = {json.dumps(TEXTS)};
      return ["u", ""].map((flag) => Object.fromEntries(Object.entries(made).map(([from, to]) =>
        [from, texts.map((text) => new RegExp(to, flag).test(text))])));
    }})()"""
    async with chromium() as browser:
        tab = await browser.page()
        with_flag, without = await tab.evaluate(script)
    assert with_flag == wanted
    trees = {pattern for pattern in wanted if "U0001f333" in pattern}  # two units in a set: only the flag has them one
    assert {key: one for key, one in without.items() if key not in trees} == {
        key: one for key, one in wanted.items() if key not in trees
    }


class Named(msgspec.Struct):
    """With fields that are called as the words of schemas are."""

    mapping: dict[str, Named | None]
    discriminator: Annotated[str, msgspec.Meta(pattern="(?P<a>x)")]
    default: Annotated[str, msgspec.Meta(pattern="(?i)x", description="Words.")]
    pattern: str = r"(?P<a>\Z)"
    limit: float = float("inf")


class Model(pydantic.BaseModel):
    """Of pydantic, whose regular expressions are those of Rust."""

    mapping: dict[str, int]
    code: Annotated[str, pydantic.Field(pattern=r"\A(?<first>a|b)+\z")]
    by_code: dict[Annotated[str, pydantic.Field(pattern=r"\Aa\z")], int] = {}


def test_patterns_of_all_places_are_translated() -> None:
    """In records, parameters, models and keys; what cannot be said is in the description. A field may have any name,
    and a default that is infinite is none."""
    app: App[Any] = App()

    @app.post("/")
    def handler(
        named: Named,
        code: Annotated[str, msgspec.Meta(pattern=r"\A\d\Z"), Query()],
        word: Annotated[str, msgspec.Meta(pattern="(?i)a")],
    ) -> Model:
        return Model(mapping={}, code="a")

    document = checked(app)
    operation = document["paths"]["/"]["post"]
    schemas = [one["schema"] for one in operation["parameters"]]
    assert schemas == [{"type": "string", "pattern": r"^\d$"}, {"type": "string"}]
    assert operation["parameters"][1]["description"] == "Matches the regular expression `(?i)a`."
    fields = schema_of(document, operation["requestBody"]["content"]["application/json"]["schema"])["properties"]
    assert fields["mapping"]["additionalProperties"]["anyOf"][0] == {"$ref": "#/components/schemas/Named"}
    assert fields["discriminator"]["pattern"] == "(x)"
    assert "pattern" not in fields["default"]
    assert fields["default"]["description"] == "Words.\n\nMatches the regular expression `(?i)x`."
    assert fields["pattern"] == {"type": "string", "default": r"(?P<a>\Z)"}
    assert fields["limit"] == {"type": "number"}
    model = document["components"]["schemas"]["Model"]["properties"]
    assert model["code"]["pattern"] == r"^(a|b)+$"
    assert model["by_code"]["patternProperties"] == {"^a$": {"type": "integer"}}
