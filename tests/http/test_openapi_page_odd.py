"""The docs page with words of any length, values that no request can have, and documents full of markup."""

from __future__ import annotations

import asyncio
import enum
from typing import Annotated, Any

import msgspec
import pytest

from forebay.http import App
from forebay.http.binding import Cookie, Header, Query
from forebay.http.middleware import BasicAuth, SecurityHeaders
from forebay.http.openapi import OpenAPI, install
from tests.browser import DESKTOP, PHONE
from tests.http.openapi_app import HOSTILE
from tests.http.test_openapi_page import body_of, fill, opened, sent, showing

LONG = "averyveryverylongwordwithoutanyplacetobreakit" * 4


class Odd(enum.Enum):
    """Values that are markup, long, and quotes."""

    MARKUP = HOSTILE
    LONG = LONG
    QUOTES = "\"'`"


Wide = msgspec.defstruct(
    LONG[:90],
    [
        (LONG, Annotated[str, msgspec.Meta(pattern=f"(x|{LONG})", description=LONG, examples=[LONG])]),
        ("odd", Odd),
        ("tree", dict[str, dict[str, list[Odd]]], {}),
    ],
)


def odd() -> App[Any]:
    """An application whose every word is long, or markup, inside of a strict policy."""
    app: App[Any] = App(middleware=[SecurityHeaders(csp="default-src 'self'")])
    words = f"`{LONG}` **{LONG}** [{LONG}](https://x/{LONG})\n\n# {LONG}\n\n- {LONG}\n\n    {LONG}\n\n```\n{LONG}\n```"
    basic = BasicAuth(lambda user, password: user, name=LONG)

    def handler(
        record: Any,
        part: str,
        one: Annotated[str, Query(LONG + '"</script> &', description=LONG, examples=[LONG, HOSTILE])],
        other: Annotated[Odd, Query(HOSTILE)] = Odd.MARKUP,
        header: Annotated[str, Header(LONG)] = LONG,
    ) -> None: ...

    handler.__annotations__["record"] = Wide
    options: Any = {"responses": {409: LONG, 410: (HOSTILE, Wide)}, "middleware": [basic], "tags": [LONG]}
    app.post(f"/{LONG}/{{part}}", name="wide", summary=LONG, description=words, **options)(handler)

    @app.get("/part/{part}/{rest:path}")
    def parts(part: str, rest: str, crumb: Annotated[str, Cookie()] = "") -> list[str]:
        return [part, rest, crumb]

    server = f"https://{'a.' * 60}example.com/{LONG}"
    install(app, OpenAPI(LONG + HOSTILE, LONG, description=HOSTILE + LONG, tags={LONG: LONG}, servers=["/", server]))
    return app


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
async def test_long_words_are_broken(size: tuple[int, int]) -> None:
    """Nothing has to be scrolled sideways but code; nothing is markup; the console is silent."""
    async with showing(odd()) as (tab, _):
        await tab.resize(size)
        await opened(tab, "wide")
        for _ in range(4):  # what is folded has more inside
            await tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
            await tab.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        assert not await tab.overflows()
        assert await tab.evaluate("document.documentElement.scrollWidth") == size[0]
        beyond = "[...document.querySelectorAll('main *')].filter((one) => !one.closest('pre') &&"
        assert await tab.evaluate(f"{beyond} one.getBoundingClientRect().right > innerWidth).length") == 0
        assert await tab.evaluate("window.hacked === undefined")
        assert tab.errors == []


async def test_words_are_not_broken_without_need() -> None:
    """On a phone, what is said of a parameter has the whole line."""
    app: App[Any] = App()

    @app.get("/")
    def old(debug: Annotated[bool, Query(deprecated=True)] = False) -> None: ...

    install(app, OpenAPI("A", "1"))
    async with showing(app) as (tab, _):
        await tab.resize(PHONE)
        card = await opened(tab, "old")
        word = f"document.querySelector('{card} .parameters .deprecated')"
        assert await tab.evaluate(f"{word}.getClientRects().length") == 1


async def test_values_that_no_request_can_have_are_said_in_words() -> None:
    """Dot segments stand for other paths, which a browser goes to by itself; a semicolon ends a cookie."""
    async with showing(odd()) as (tab, _):
        card = await opened(tab, "parts")
        for values, words in (
            ({"part": "..", "rest": "a"}, "part is a part of the path: it cannot be . or .., which stand"),
            ({"part": "a", "rest": "b/./c"}, "rest is a part of the path: it cannot be . or .."),
            ({"rest": "b", "crumb": "c; path=/docs"}, "crumb is a cookie: it cannot hold a semicolon."),
        ):
            await fill(tab, card, **values)
            await tab.evaluate(f"document.querySelector('{card} .send').click()")
            assert words in await tab.until(f"document.querySelector('{card} .wrong[role=alert]').textContent")
        await fill(tab, card, part="..a", rest=".b/c...", crumb="d")
        await sent(tab, card)
        assert await body_of(tab, card) == ["..a", ".b/c...", "d"]
        assert await tab.evaluate("document.cookie") == ""


async def test_a_link_that_is_none_of_ours_leads_nowhere() -> None:
    """Also one that is not percent-encoded as it should be."""
    async with showing(odd()) as (tab, _):
        followed = "addEventListener('hashchange', () => setTimeout(done)); location.hash = '#%E0'"
        await asyncio.wait_for(tab.evaluate(f"new Promise((done) => {{ {followed} }})"), 5)
        assert tab.errors == []
        await opened(tab, "parts")
