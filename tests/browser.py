"""A headless Chromium for tests, driven by the DevTools protocol over a WebSocket.

It needs Debian's package ``chromium`` (or any Chromium or Chrome on the path), and a test without one fails: what it is
about has not been tested then. Profile and port are the test's own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.support import eventually

__all__ = ["DESKTOP", "PHONE", "Browser", "Page", "chromium"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests run in containers, and open pages of their own only
    "--remote-debugging-port=0",  # any free one; it is written into the profile
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--mute-audio",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
)
DESKTOP, PHONE = (1280, 900), (390, 844)
STARTS, ANSWERS = 30.0, 15.0  # seconds


class Page:
    """One tab. ``errors`` has what its console was told of as an error or a warning: uncaught exceptions,
    ``console.error``, and what the browser itself says, such as that a file could not be loaded. ``requests`` are the
    URLs that it has asked for."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.errors: list[str] = []
        self.requests: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A method of the DevTools protocol, as ``Page.navigate``."""
        return await self._browser.call(method, self._session, **params)

    async def goto(self, url: str) -> None:
        """Open a URL, and wait until it is loaded."""
        answer = await self.call("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"
        await self.until("document.readyState === 'complete'")

    async def evaluate(self, script: str) -> Any:
        """The value of a script, which may be a promise."""
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        failure = answer.get("exceptionDetails")
        assert failure is None, f"{script}: {failure.get('exception', {}).get('description', failure)}"
        return answer["result"].get("value")

    async def until(self, script: str, timeout: float = 10.0) -> Any:
        """The value of a script as soon as it is true."""
        seen: Any = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not (seen := await self.evaluate(script)):
                    await asyncio.sleep(0.02)
        assert seen, f"not within {timeout} s: {script}\n{await self.evaluate('document.body.innerText')}"
        return seen

    async def resize(self, size: tuple[int, int], *, dark: bool = False) -> None:
        """Show it in a window of this size; as a phone does where that is narrow."""
        width, height = size
        phone = width < 600
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def press(self, key: str) -> None:
        """Press and release a key."""
        text = {"Enter": "\r", " ": " "}.get(key)
        code = {"Enter": 13, "Tab": 9, " ": 32, "Escape": 27}[key]
        more = {"text": text} if text else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **more)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    async def choose_files(self, selector: str, *paths: Path) -> None:
        """Have files in a file input."""
        root = (await self.call("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.call("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    async def screenshot(self, path: Path) -> None:
        """Write what is seen as PNG."""
        await self.call("Page.bringToFront")  # a tab behind others may not be painted
        answer = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))

    async def overflows(self) -> bool:
        """Has the page to be scrolled sideways?"""
        wide: bool = await self.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        return wide

    def heard(self, method: str, params: dict[str, Any]) -> None:
        """An event of the protocol."""
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(f"exception: {details.get('exception', {}).get('description', details['text'])}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(f"console: {[arg.get('value', arg.get('description')) for arg in params['args']]}")
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            entry = params["entry"]
            self.errors.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])


class Browser:
    """A running Chromium."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._number = 0

    async def listen(self) -> None:
        """Take what it says, until it is closed."""
        async for message in self._connection:
            said = json.loads(message)
            if "id" in said:
                waiting = self._waiting.pop(said["id"], None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(said)
            elif (page := self._pages.get(said.get("sessionId", ""))) is not None:
                page.heard(said["method"], said["params"])

    async def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """A method of the DevTools protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = answer
        await self._connection.send(json.dumps(message))
        said = await asyncio.wait_for(answer, ANSWERS)
        assert "error" not in said, f"{method}: {said['error']}"
        result: dict[str, Any] = said["result"]
        return result

    async def page(self, url: str = "", size: tuple[int, int] = DESKTOP) -> Page:
        """A new tab, with a URL opened in it. It shares cookies and storage with the other tabs."""
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            await page.call(f"{domain}.enable")
        await page.resize(size)
        if url:
            await page.goto(url)
        return page


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser with a profile of its own, until it is left."""
    with tempfile.TemporaryDirectory(prefix="forebay-chromium-", ignore_cleanup_errors=True) as folder:
        async with _chromium(Path(folder)) as browser:
            yield browser


@asynccontextmanager
async def _chromium(profile: Path) -> AsyncIterator[Browser]:
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    assert path is not None, f"none of {', '.join(NAMES)} is on the path: apt-get install chromium"
    log = profile / "chromium.log"
    environment = {**os.environ, "HOME": str(profile), "XDG_CONFIG_HOME": str(profile), "XDG_CACHE_HOME": str(profile)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [path, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # its helpers end with it
        )
    try:
        port_file = profile / "DevToolsActivePort"
        await eventually(lambda: process.poll() is not None or _lines(port_file) == 2, timeout=STARTS)
        assert process.poll() is None, log.read_text(errors="replace")
        port, browser_path = port_file.read_text().split()
        url = f"ws://127.0.0.1:{port}{browser_path}"
        async with connect(url, max_size=64 * 1024 * 1024, compression=None, proxy=None) as connection:
            browser = Browser(connection)
            listening = asyncio.create_task(browser.listen())
            try:
                yield browser
            finally:
                listening.cancel()
                await asyncio.wait([listening])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _lines(path: Path) -> int:
    return len(path.read_text().split()) if path.exists() else 0
