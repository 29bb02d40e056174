"""The docs page in a browser: what it shows, that it tries requests, and that nothing in a document is markup."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import struct
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from forebay.http import App, HTTPServer, Request
from forebay.http.middleware import SecurityHeaders
from forebay.http.openapi import OpenAPI, install
from forebay.testing import TestClient
from tests.browser import PHONE, Page, chromium
from tests.http.openapi_app import HOSTILE, TOKEN, everything
from tests.support import running

READY = "document.documentElement.dataset.state === 'ready'"


@asynccontextmanager
async def showing(app: App[Any], path: str = "/docs") -> AsyncIterator[tuple[Page, str]]:
    """The docs page of an application in a browser, and where the application is."""
    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server, chromium() as made:
        home = f"http://127.0.0.1:{server.addresses[0].port}"
        tab = await made.page(home + path)
        await tab.until(READY)
        yield tab, home


def quoted(text: Any) -> str:
    """A value as JavaScript has it."""
    return json.dumps(text)


async def opened(tab: Page, name: str) -> str:
    """Open an operation, as a link to it does; gives the selector of its card."""
    await tab.evaluate(f"location.hash = {quoted('op-' + name)}")
    card = f"#op-{name}"
    await tab.until(f"document.querySelector('{card} .inside') !== null")
    return card


async def fill(tab: Page, card: str, **values: str) -> None:
    """Type values into the fields of a form."""
    for name, value in values.items():
        field = f'{card} .try [data-name="{name.replace("_", "-") if name.startswith("x_") else name}"]'
        await tab.evaluate(
            f"(() => {{ const field = document.querySelector({quoted(field)}); field.value = {quoted(value)};"
            "field.dispatchEvent(new Event('input', {bubbles: true})) })()"
        )


async def sent(tab: Page, card: str) -> str:
    """Send what is in the form; gives what the page says then."""
    await tab.evaluate(f"document.querySelector('{card} .send').click()")
    return await shown(tab, card)


async def shown(tab: Page, card: str) -> str:
    """What the page says of the answer, once it is there."""
    ready = f"(() => {{ const card = document.querySelector('{card}'); return !card.querySelector('.send').disabled"
    await tab.until(ready + " && card.querySelector('.result').textContent !== '' })()")
    return str(await tab.evaluate(f"document.querySelector('{card} .result').innerText"))


async def body_of(tab: Page, card: str) -> Any:
    """The JSON that is shown as the answer."""
    return json.loads(await tab.evaluate(f"document.querySelector('{card} .answer-body').textContent"))


async def curl_of(tab: Page, card: str) -> list[str]:
    """The command that is shown, as a shell reads it."""
    text = await tab.evaluate(f"document.querySelector('{card} .curl').textContent")
    script = f"set -- {text}\nprintf '%s\\0' \"$@\""
    made = await asyncio.to_thread(subprocess.run, ["sh", "-c", script], capture_output=True, timeout=20, check=True)
    return str(made.stdout.decode()).split("\0")[:-1]


async def run(command: list[str]) -> bytes:
    """What a command prints."""
    return (
        await asyncio.to_thread(subprocess.run, [*command, "-sS"], capture_output=True, timeout=20, check=True)
    ).stdout


def own_complaints(tab: Page) -> list[str]:
    """All that the console says, but for the statuses of requests that were tried."""
    return [text for text in tab.errors if not text.startswith("network: Failed to load resource")]


# -- without a browser


async def test_the_page_allows_nothing_but_itself() -> None:
    """Its policy has the hashes of its style and its script, and lets it connect to its server only; there is nothing
    else in it that a browser would fetch."""
    async with TestClient(everything()) as client:
        response = await client.get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    text = response.body.decode()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for name, content in (("script-src", script), ("style-src", style)):
        assert policy[name] == f"'sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    assert not re.search(r"<(?:link|script|img|iframe)[^>]*(?:src|href)=.(?!data:)", text)
    assert "@import" not in style
    assert "url(" not in style
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script)


async def test_the_page_is_not_sent_again_to_who_has_it() -> None:
    """It has a tag; its title is escaped."""
    app: App[Any] = App()
    install(app, OpenAPI("</title><script>", "1", servers=["https://api.example.com/v1"]))
    async with TestClient(app) as client:
        response = await client.get("/docs")
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert "<title>&lt;/title&gt;&lt;script&gt;</title>" in response.body.decode()
        assert "connect-src 'self' https://api.example.com;" in response.headers["content-security-policy"]
        again = await client.get("/docs", headers={"if-none-match": response.headers["etag"]})
        assert again.status == 304


# -- what is shown


async def test_the_page_shows_every_operation_without_complaints() -> None:
    """Every operation has a link and a card that opens; the console stays silent; only the server is asked."""
    app = everything()
    async with showing(app) as (tab, home):
        assert await tab.evaluate("document.querySelectorAll('.operation').length") == 28
        assert await tab.evaluate("document.querySelectorAll('#links a').length") == 28
        assert await tab.evaluate("document.title") == "Orchard 2.1.0"
        await tab.evaluate("document.querySelectorAll('.operation').forEach((one) => { one.open = true })")
        await tab.until("[...document.querySelectorAll('.operation')].every((one) => one.querySelector('.inside'))")
        await tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
        await asyncio.sleep(0)
        text = str(await tab.evaluate("document.body.innerText"))
        assert tab.errors == []
        assert all(url.startswith((home + "/", "data:")) for url in tab.requests), tab.requests
    for expected in (
        "All that grows.",
        "1 to 40 characters",
        "≥ -500",
        "deprecated",
        "required",
        "apple",
        "PURGE",
        "WS",
    ):
        assert expected in text


async def test_nothing_of_a_document_is_markup() -> None:
    """Hostile summaries, descriptions, tags and examples are text, and so is what an answer says."""
    async with showing(everything()) as (tab, _):
        card = await opened(tab, "hostile")
        await fill(tab, card, text=HOSTILE)
        text = await sent(tab, card)
        assert "200 OK" in text
        assert HOSTILE in text
        assert await tab.evaluate("window.hacked === undefined")
        assert await tab.evaluate("document.querySelector('main img, nav img, main script') === null")
        assert HOSTILE in str(await tab.evaluate(f"document.querySelector('{card} .summary').textContent"))
        assert own_complaints(tab) == []


async def test_the_filter_leaves_what_fits() -> None:
    """By path, method and words; tags without any are gone; and it says when there is nothing."""
    async with showing(everything()) as (tab, _):
        visible = (
            "[...document.querySelectorAll('#links li')].filter((one) => one.offsetParent).map((one) => one.innerText)"
        )

        async def filtered(text: str) -> Any:
            await tab.evaluate(
                f"(() => {{ const box = document.querySelector('#filter'); box.value = {quoted(text)};"
                "box.dispatchEvent(new Event('input')) })()"
            )
            return await tab.evaluate(visible)

        assert [one.split("\n")[-1] for one in await filtered("post trees")] == [
            "Plant a tree.",
            "Add a photo.",
            "Record what was picked.",
        ]
        assert await filtered("no such thing") == []
        assert await tab.evaluate("document.querySelector('.nothing').textContent") == "Nothing fits."
        assert len(await filtered("")) == 28


async def test_a_document_that_cannot_be_read_is_said_in_words() -> None:
    """Instead of an empty page."""

    async def closed(request: Request, call_next: Any) -> Any:
        if request.path == "/openapi.json":
            from forebay.errors import HTTPError

            raise HTTPError(403, "no")
        return await call_next(request)

    app: App[Any] = App(middleware=[closed])
    install(app, OpenAPI("A", "1"))
    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server, chromium() as made:
        tab = await made.page()
        await tab.goto(f"http://127.0.0.1:{server.addresses[0].port}/docs")
        text = await tab.until("document.querySelector('#state.wrong')?.textContent")
    assert text == "The document at /openapi.json could not be read: it was answered with 403 Forbidden."


# -- trying


async def test_a_json_body_is_prefilled_and_sent() -> None:
    """The example fits as it is; status, time, headers and the answer are shown; curl does the same."""
    async with showing(everything()) as (tab, home):
        card = await opened(tab, "plant_tree")
        await fill(tab, card, x_trace="it's me")
        text = await sent(tab, card)
        assert re.search(r"201 Created\s+[\d.]+ ms · \d+ bytes", text)
        body = await body_of(tab, card)
        assert (body["name"], body["kind"], body["position"]) == ("Old Ida", "apple", {"east": 0, "north": 0})
        assert "content-type" in str(await tab.evaluate(f"document.querySelector('{card} .headers').textContent"))
        command = await curl_of(tab, card)
        assert command[:2] == ["curl", f"{home}/trees"]
        assert "x-trace: it's me" in command
        assert json.loads(await run(command)) == body
        assert own_complaints(tab) == []


async def test_every_place_of_a_parameter_is_tried() -> None:
    """Query, header and cookie arrive as they were typed in; what was left empty is not sent."""
    async with showing(everything()) as (tab, _):
        card = await opened(tab, "echo")
        await fill(tab, card, q="a b&c=ü", number="7", x_list="5", theme="dark")
        assert "200 OK" in await sent(tab, card)
        expected = {"q": "a b&c=ü", "flag": False, "number": 7, "at": None, "list": [5], "theme": "dark"}
        assert await body_of(tab, card) == expected
        assert await tab.evaluate("document.cookie") == ""
        assert json.loads(await run(await curl_of(tab, card))) == expected
        await fill(tab, card, number="11")
        text = await sent(tab, card)
        assert "422" in text
        assert "query number" in text
        assert own_complaints(tab) == []


async def test_a_part_of_the_path_must_be_there() -> None:
    """The page says so, sends nothing, and leaves the reader at the field; then the path is encoded."""
    async with showing(everything()) as (tab, home):
        card = await opened(tab, "tool")
        await fill(tab, card, name="")
        await tab.evaluate(f"document.querySelector('{card} .send').click()")
        said = await tab.until(f"document.querySelector('{card} .wrong[role=alert]').textContent")
        assert said == "name is a part of the path: it cannot be empty."
        assert await tab.evaluate("document.activeElement.dataset.name") == "name"
        assert await tab.evaluate("document.activeElement.getAttribute('aria-invalid')") == "true"
        await fill(tab, card, name="a/b ü?#")
        await sent(tab, card)
        assert await body_of(tab, card) == {"name": "a/b ü?#"}
        assert (await curl_of(tab, card))[1] == f"{home}/barn/tools/a%2Fb%20%C3%BC%3F%23"


async def test_credentials_are_sent_and_kept_in_memory_only() -> None:
    """A token that was typed in once is used by every operation that needs it, and is nowhere else."""
    async with showing(everything()) as (tab, _):
        card = await opened(tab, "list_pickers")
        text = await sent(tab, card)
        assert "401" in text
        assert "this needs a bearer token" in text
        await tab.evaluate(
            f"(() => {{ const field = document.querySelector('{card} [data-auth]'); field.value = {quoted(TOKEN)};"
            "field.dispatchEvent(new Event('input', {bubbles: true})) })()"
        )
        assert "200 OK" in await sent(tab, card)
        assert (await body_of(tab, card))[0]["name"] == "Ida"
        other = await opened(tab, "hire")
        assert await tab.evaluate(f"document.querySelector('{other} [data-auth]').value") == TOKEN
        assert "200 OK" in await sent(tab, other)
        assert await tab.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        basic = await opened(tab, "weather")
        for part in ("user", "password"):
            await tab.evaluate(
                f"(() => {{ const field = document.querySelector('{basic} [data-auth=\"basicAuth {part}\"]');"
                "field.value = 'ü'; field.dispatchEvent(new Event('input', {bubbles: true})) })()"
            )
        assert "200 OK" in await sent(tab, basic)
        assert "-u" in await curl_of(tab, basic)


async def test_files_and_forms_are_sent(tmp_path: Path) -> None:
    """A form with a file, several files of one name, and a plain form."""
    first, second = tmp_path / "one.txt", tmp_path / 'tw"o.bin'
    first.write_bytes(b"12345")
    second.write_bytes(bytes(range(256)))
    async with showing(everything()) as (tab, _):
        card = await opened(tab, "add_photo")
        await tab.choose_files(f"{card} input[type=file]", first)
        await fill(tab, card, caption="Old 'Ida'")
        assert "201" in await sent(tab, card)
        expected = {"caption": "Old 'Ida'", "size": 5, "filename": "one.txt"}
        assert await body_of(tab, card) == expected
        command = [part.replace('"one.txt"', f'"{first}"') for part in await curl_of(tab, card)]
        assert json.loads(await run(command)) == expected
        card = await opened(tab, "upload")
        await tab.choose_files(f"{card} input[type=file]", first, second)
        await sent(tab, card)
        names = await body_of(tab, card)
        assert names[0] == "one.txt"
        assert len(names) == 2
        card = await opened(tab, "login")
        await fill(tab, card, user="a&b", password="p w", remember="true")
        await sent(tab, card)
        assert await body_of(tab, card) == {"user": "a&b", "remember": True}
        assert json.loads(await run(await curl_of(tab, card))) == {"user": "a&b", "remember": True}
        assert own_complaints(tab) == []


async def test_an_answer_that_goes_on_can_be_stopped() -> None:
    """Events are shown as they come; the reader stops them."""
    app: App[Any] = App()
    stopped = asyncio.Event()

    async def forever() -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            stopped.set()

    from forebay.http.sse import EventStream

    @app.get("/events")
    def events() -> EventStream:
        return EventStream(forever())

    install(app, OpenAPI("A", "1"))
    async with showing(app) as (tab, _):
        card = await opened(tab, "events")
        await tab.evaluate(f"document.querySelector('{card} .send').click()")
        await tab.until(f"document.querySelector('{card} .result').innerText.includes('data: first')")
        await tab.evaluate(f"document.querySelector('{card} .buttons button:last-child').click()")
        assert "It was stopped." in await shown(tab, card)
        await asyncio.wait_for(stopped.wait(), 5)


async def test_a_server_that_is_gone_is_said_in_words() -> None:
    """And so is one that the page may not reach at all."""
    app = everything()
    async with chromium() as made:
        tab = await made.page()
        async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
            await tab.goto(f"http://127.0.0.1:{server.addresses[0].port}/docs")
            await tab.until(READY)
            card = await opened(tab, "home")
            await tab.evaluate(f"document.querySelector('{card} .send').click()")
            said = await tab.until(f"document.querySelector('{card} .wrong[role=alert]').textContent")
            assert "may not send requests to http://www.example.com" in said
        card = await opened(tab, "report")
        text = await sent(tab, card)
        assert "There was no answer: the server cannot be reached" in text
        assert own_complaints(tab) == []


async def test_below_a_prefix_requests_go_below_it() -> None:
    """Of an application that is mounted, and inside of security headers."""
    inner: App[Any] = App("inner")

    @inner.get("/thing")
    def thing() -> dict[str, int]:
        return {"is": 1}

    install(inner, OpenAPI("Inner", "1"))
    app: App[Any] = App(middleware=[SecurityHeaders(csp="default-src 'self'")])
    app.mount("/in", inner)
    async with showing(app, "/in/docs") as (tab, home):
        card = await opened(tab, "thing")
        assert "200 OK" in await sent(tab, card)
        assert (await curl_of(tab, card))[1] == f"{home}/in/thing"
        assert tab.errors == []


# -- for everybody


async def test_it_can_be_used_by_keyboard_alone() -> None:
    """From the start: past the navigation by the first link; a card opens by Enter; the form is sent by it."""
    async with showing(everything()) as (tab, _):
        await tab.press("Tab")
        assert await tab.evaluate("document.activeElement.className") == "skip"
        await tab.press("Enter")
        await tab.until("document.activeElement.id === 'content'")
        await tab.press("Tab")
        await tab.press("Tab")
        assert await tab.evaluate("document.activeElement.tagName") == "SUMMARY"
        await tab.press("Enter")
        card = "#op-list_trees"
        await tab.until(f"document.querySelector('{card} .try') !== null")
        await tab.evaluate(f"document.querySelector('{card} .try [data-name=limit]').focus()")
        await tab.press("Enter")
        assert "200 OK" in await shown(tab, card)


async def test_every_field_has_a_name() -> None:
    """Fields have labels, buttons and links have words, ids are there once."""
    async with showing(everything()) as (tab, _):
        await tab.evaluate("document.querySelectorAll('.operation').forEach((one) => { one.open = true })")
        await tab.until("[...document.querySelectorAll('.operation')].every((one) => one.querySelector('.inside'))")
        without = await tab.evaluate(
            "[...document.querySelectorAll('input, select, textarea')].filter((one) =>"
            " !one.labels.length && !one.getAttribute('aria-label')).map((one) => one.outerHTML)"
        )
        assert without == []
        assert await tab.evaluate(
            "[...document.querySelectorAll('button, a')].every((one) => one.innerText || one.textContent)"
        )
        ids = await tab.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
        assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("dark", [False, True])
async def test_a_phone_has_it_all(tmp_path: Path, dark: bool) -> None:
    """Nothing is wider than the screen; the navigation is behind a button; texts can be told from what is behind them,
    by day and by night (WCAG 2.2, 1.4.3: 4.5 to 1)."""
    async with showing(everything()) as (tab, _):
        await tab.resize(PHONE, dark=dark)
        await tab.evaluate("document.querySelectorAll('.operation').forEach((one) => { one.open = true })")
        await tab.until("[...document.querySelectorAll('.operation')].every((one) => one.querySelector('.inside'))")
        assert await tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert await tab.evaluate("document.querySelector('#side').offsetParent === null && innerWidth === 390")
        await tab.evaluate("document.querySelector('#menu').click()")
        assert await tab.evaluate("document.querySelector('#menu').getAttribute('aria-expanded')") == "true"
        await tab.evaluate("document.querySelector('#links a').click()")
        assert await tab.evaluate("document.querySelector('#menu').getAttribute('aria-expanded')") == "false"
        assert await tab.evaluate(_CONTRAST) == []
        await tab.screenshot(tmp_path / "phone.png")
        width, height = struct.unpack(">II", (tmp_path / "phone.png").read_bytes()[16:24])
        assert (width, height) == (390, 844)


_CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((one) => (one /= 255) <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) layers.push(rgba(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((under, [r, g, b, a]) =>
      [r, g, b].map((part, index) => part * a / 255 + under[index] * (1 - a / 255)), [255, 255, 255]);
  };
  const wrong = new Set();
  for (const element of document.querySelectorAll("main *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const color = rgba(getComputedStyle(element).color).slice(0, 3);
    const pair = [light(color), light(behind(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) wrong.add(`${element.className || element.tagName}: ${ratio.toFixed(2)}`);
  }
  return [...wrong];
})()"""
