"""Chromium without a window, driven over the DevTools protocol on loopback."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

__all__ = ["Browser", "Tab", "browser"]

_WAIT = 30.0


class Tab:
    """One page. ``complaints`` is everything its console says of errors and warnings."""

    def __init__(self, owner: Browser, session: str) -> None:
        self._owner = owner
        self._session = session
        self.complaints: list[str] = []
        self.requests: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command, and wait for its result."""
        return await self._owner.call(method, params, self._session)

    async def open(self, url: str) -> None:
        """Go to ``url``, and wait until the page has shown what it shows."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def evaluate(self, script: str) -> Any:
        """The value of an expression, or of its promise."""
        made = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in made, made["exceptionDetails"]
        return made["result"].get("value")

    async def until(self, script: str, timeout: float = 15.0) -> Any:
        """The value of an expression as soon as it is true; fail when it is not within ``timeout`` seconds."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not (value := await self.evaluate(script)):
            assert asyncio.get_running_loop().time() < deadline, f"not within {timeout} s: {script}; {self.complaints}"
            await asyncio.sleep(0.02)
        return value

    async def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """Have a window of this size, and the colours of the day or of the night."""
        phone = width < 600
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        value = "dark" if dark else "light"
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

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
        made = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(made["data"]))

    def on_event(self, method: str, params: dict[str, Any]) -> None:
        """Something has happened in the page."""
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(f"console: {params['args']}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(f"exception: {params['exceptionDetails']}")
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            entry = params["entry"]
            self.complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])


class Browser:
    """A browser that runs."""

    def __init__(self, link: ClientConnection) -> None:
        self._link = link
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}
        self._last = 0
        self._reader = asyncio.create_task(self._read())

    async def call(self, method: str, params: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """Send a command, and wait for its result."""
        self._last += 1
        answer = self._answers[self._last] = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        await self._link.send(json.dumps(message))
        return await asyncio.wait_for(answer, _WAIT)

    async def _read(self) -> None:
        async for text in self._link:
            message = json.loads(text)
            if "id" in message:
                answer = self._answers.pop(message["id"])
                if answer.done():
                    continue
                if "error" in message:
                    answer.set_exception(AssertionError(message["error"]))
                else:
                    answer.set_result(message["result"])
            elif (tab := self._tabs.get(message.get("sessionId", ""))) is not None:
                tab.on_event(message["method"], message["params"])

    async def tab(self) -> Tab:
        """A new page."""
        target = (await self.call("Target.createTarget", {"url": "about:blank"}))["targetId"]
        session = (await self.call("Target.attachToTarget", {"targetId": target, "flatten": True}))["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            await tab.call(f"{domain}.enable")
        return tab

    async def close(self) -> None:
        """Stop reading."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Start Chromium, and end it with all its processes at the end."""
    with tempfile.TemporaryDirectory(prefix="forebay-chromium-", ignore_cleanup_errors=True) as home:
        process = await asyncio.create_subprocess_exec(
            "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
            f"--user-data-dir={home}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            assert process.stderr is not None
            url = await asyncio.wait_for(_url(process.stderr), _WAIT)
            draining = asyncio.create_task(_drain(process.stderr))
            async with connect(url, max_size=1 << 26, proxy=None) as link:
                made = Browser(link)
                try:
                    yield made
                    await made.call("Browser.close", {})
                finally:
                    await made.close()
            await asyncio.wait_for(process.wait(), _WAIT)
            await draining
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _url(stream: asyncio.StreamReader) -> str:
    said = ""
    while line := (await stream.readline()).decode():
        said += line
        if found := re.search(r"DevTools listening on (ws://\S+)", line):
            return found[1]
    raise AssertionError(f"Chromium did not start: {said}")


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass
