"""The examples' pages in a browser: they work, also over a reload of the server and the death of its worker; they fit
a desk and a phone; and nothing is wrong in the console.

With ``FOREBAY_SOAK_ROUNDS`` set, chat and ticker run for a minute each.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.browser import DESKTOP, PHONE, Browser, Page, chromium
from tests.examples.processes import ROOT
from tests.support import eventually, free_port

SECONDS = 60.0 if os.environ.get("FOREBAY_SOAK_ROUNDS") else 2.0  # that each of them runs
pytestmark = pytest.mark.timeout(240 if SECONDS > 10 else 90)

AWAY = ("ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "WebSocket connection to")
"""What the browser itself says when a server is killed; nothing a page could prevent."""


class Server:
    """An example under ``forebay run``, with one worker."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, url: str) -> None:
        self._process = process
        self._log = log
        self.url = url

    def workers(self) -> list[int]:
        """Its worker processes."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    async def reload(self) -> None:
        """Replace the worker by another one, as with new code."""
        before = self.workers()
        self._process.send_signal(signal.SIGHUP)
        await eventually(lambda: self.workers() and not set(self.workers()) & set(before), timeout=30)

    async def lose_worker(self) -> None:
        """Kill the worker, and wait for its successor."""
        (before,) = self.workers()
        os.kill(before, signal.SIGKILL)
        await eventually(lambda: self.workers() and before not in self.workers(), timeout=30)


@asynccontextmanager
async def serving(target: str, folder: Path, **environment: str) -> AsyncIterator[Server]:
    """``forebay run target``, from its readiness to its end."""
    port, log = free_port(), folder / "server.log"
    command = [sys.executable, "-m", "forebay", "run", target, "--bind", f"http://127.0.0.1:{port}", "--workers", "1"]
    command += ["--admin", "off", "--log-format", "json", "--drain-timeout", "3s"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=output)
    try:
        await eventually(lambda: '"ready"' in log.read_text() or process.poll() is not None, timeout=30)
        assert process.poll() is None, log.read_text()
        yield Server(process, log, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
    assert process.returncode == 0, log.read_text()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A browser of its own."""
    async with chromium() as started:
        yield started


async def look(page: Page, folder: Path, name: str) -> None:
    """Screenshots at a desk, on a phone, and on a phone at night; nothing has to be scrolled sideways."""
    for kind, size, dark in (("desk", DESKTOP, False), ("phone", PHONE, False), ("phone-dark", PHONE, True)):
        await page.resize(size, dark=dark)
        await page.screenshot(folder / f"{name}-{kind}.png")
        assert not await page.overflows(), f"{name} is wider than {size[0]} pixels"
    await page.resize(DESKTOP)


def unexpected(page: Page) -> list[str]:
    """What is wrong in the console, but that a server was away."""
    return [error for error in page.errors if not any(away in error for away in AWAY)]


async def say(page: Page, text: str) -> None:
    """Type a message, and send it."""
    await page.evaluate("document.querySelector('#say input').focus()")
    await page.call("Input.insertText", text=text)
    for kind in ("keyDown", "keyUp"):
        await page.call(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
        )


def shows(text: str) -> str:
    """A script that finds ``text`` in the chat."""
    return f"document.querySelector('#log').innerText.includes({text!r})"


CONNECTED = "document.querySelector('#state').className === 'well'"


async def test_two_people_chat_over_a_reload(browser: Browser, tmp_path: Path) -> None:
    """They hear each other, what is said is text and never HTML, the page says what goes on while the server is
    replaced or has died, and connects again by itself."""
    async with serving("examples.websocket_chat:app", tmp_path) as server:
        ada = await browser.page(server.url)
        await ada.until(CONNECTED)
        await ada.evaluate(
            "document.querySelector('#rename input').value = 'Ada'; document.querySelector('#rename').requestSubmit()"
        )
        await ada.until(shows("Ada joined"))
        alan = await browser.page(server.url, PHONE)
        await alan.until(CONNECTED)
        await say(ada, "Good morning, <b>everybody</b> & <img src=x onerror='document.title=1'>")
        await alan.until(shows("Good morning, <b>everybody</b> & <img src=x onerror="))
        await say(alan, "What does the engine weave?")
        await ada.until(shows("What does the engine weave?"))
        await say(ada, "Algebraical patterns, just as the Jacquard loom weaves flowers and leaves.")
        late = await browser.page(server.url)
        await late.until(shows("Good morning"))
        await look(ada, tmp_path, "chat")
        await alan.evaluate("document.querySelector('#more').click()")
        await alan.screenshot(tmp_path / "chat-phone-rooms.png")
        assert not await alan.overflows()
        await alan.evaluate("document.querySelector('#more').click()")
        assert ada.errors + alan.errors + late.errors == []

        await server.reload()
        for page in (ada, alan):
            await page.until(f"{CONNECTED} && document.querySelector('#lost').hidden", timeout=20)
        assert unexpected(ada) + unexpected(alan) == []
        await say(ada, "after the reload")
        await alan.until(shows("after the reload"))
        assert await ada.evaluate(shows("Good morning"))

        await server.lose_worker()
        for page in (ada, alan):
            await page.until(f"{CONNECTED} && document.querySelector('#lost').hidden", timeout=30)
        end, number = time.monotonic() + SECONDS, 0
        while number == 0 or time.monotonic() < end:
            number += 1
            await say(alan, f"message {number}")
            await ada.until(shows(f"message {number}"))
            await asyncio.sleep(0.5)
        assert unexpected(ada) + unexpected(alan) == []


async def test_the_chat_says_what_it_waits_for(browser: Browser, tmp_path: Path) -> None:
    """While there is no server the page counts down to the next try, keeps what was typed, and can be told to try
    now."""
    async with serving("examples.websocket_chat:app", tmp_path) as server:
        page = await browser.page(server.url)
        await page.until(CONNECTED)
    await page.until("!document.querySelector('#lost').hidden")
    await page.until("/Trying again in \\d+ s/.test(document.querySelector('#lost').innerText)", timeout=20)
    await say(page, "kept")
    assert await page.evaluate("document.querySelector('#say input').value") == "kept"
    assert await page.evaluate("document.querySelector('#say button').disabled")
    await look(page, tmp_path, "chat-lost")
    errors = [error for error in unexpected(page) if "ERR_CONNECTION_REFUSED" not in error]
    assert errors == []


async def test_prices_come_over_a_reload(browser: Browser, tmp_path: Path) -> None:
    """They move, the page says when it is connected, and goes on by itself when the server was replaced or has died."""
    async with serving("examples.ticker:app", tmp_path) as server:
        page = await browser.page(server.url)
        await page.until("document.querySelectorAll('tbody tr').length === 5")
        count = "Number(document.querySelector('#count').textContent)"
        await page.until(f"{CONNECTED} && {count} >= 3")
        assert page.errors == []
        for replace in (server.reload, server.lose_worker):
            before = await page.evaluate("Number(document.querySelector('#missed').textContent)")
            await replace()
            await page.until(f"Number(document.querySelector('#missed').textContent) > {before}", timeout=20)
            await page.until(f"{CONNECTED} && {count} > {await page.evaluate(count)}")
            assert unexpected(page) == []
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            await page.until(f"{CONNECTED} && {count} > {await page.evaluate(count)}")
        await look(page, tmp_path, "ticker")
        assert unexpected(page) == []


async def test_files_are_sent_with_progress(browser: Browser, tmp_path: Path) -> None:
    """A chosen file is sent, listed with its name as text, and removed; one that is refused says why."""
    kept, name = tmp_path / "kept", "<b>report</b> & plans for the second engine, with a rather long name.txt"
    (tmp_path / "notes.txt").write_text("hello")
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(20 * 1024 * 1024)
    async with serving("examples.uploads:app", tmp_path, UPLOADS=str(kept)) as server:
        page = await browser.page(server.url)
        await page.until("!document.querySelector('#none').hidden")
        await page.evaluate(
            "window.seen = []; new MutationObserver(() => { const bar = document.querySelector('progress');"
            "if (bar) seen.push(bar.value); }).observe(document.body, {subtree: true, childList: true,"
            " attributes: true, characterData: true})"
        )
        document = await page.call("DOM.getDocument")
        found = await page.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector="input")
        files = [str(tmp_path / "notes.txt"), str(big)]
        await page.call("DOM.setFileInputFiles", files=files, nodeId=found["nodeId"])
        await page.until(
            "document.querySelectorAll('#files li').length === 2 && !document.querySelector('#sending li')"
        )
        assert await page.evaluate("Math.max(...seen)") > 0
        assert sorted(path.name for path in kept.iterdir()) == ["big.bin", "notes.txt"]
        await page.evaluate(f"add([new File(['x'], {name!r})])")
        await page.until("document.querySelectorAll('#files li').length === 3")
        assert await page.evaluate("document.querySelectorAll('#files b').length") == 0
        await look(page, tmp_path, "uploads")
        await page.evaluate("document.querySelector('#files button[aria-label=\"Remove notes.txt\"]').click()")
        await page.until("document.querySelectorAll('#files li').length === 2")
        assert not (kept / "notes.txt").exists()
        assert page.errors == []
