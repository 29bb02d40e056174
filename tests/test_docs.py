"""What README and docs show is true: every Python snippet runs, and every TOML snippet is a valid configuration.

A Python snippet is a fenced block that stands on its own (its imports are in it), as a reader would paste it; it is run
as a module that is not ``__main__``, and may ``await`` at its top level. A block that is not meant to be run is fenced
as something else (``text``, ``console``). A server of the client's guide stands in for 127.0.0.1:8000.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import types
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from examples import client_server
from forebay.config import load_system
from forebay.http import HTTPServer

ROOT = Path(__file__).parent.parent
GUIDES_SERVER = "127.0.0.1:8000"  # where ``forebay run examples.client_server:app`` serves
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```\s*?$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Snippet:
    """One fenced block. ``line`` is the 1-based line of its first line of text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets_of(page: str, markdown: str) -> Iterator[Snippet]:
    """Every fenced block of a page."""
    for match in FENCE.finditer(markdown):
        indent = match["indent"]
        text = "".join(line.removeprefix(indent) for line in match["text"].splitlines(keepends=True))
        yield Snippet(page, markdown[: match.start("text")].count("\n") + 1, match["language"], text)


SNIPPETS = [s for page in PAGES if page.exists() for s in snippets_of(str(page.relative_to(ROOT)), page.read_text())]
PYTHON = [snippet for snippet in SNIPPETS if snippet.language == "python"]
TOML = [snippet for snippet in SNIPPETS if snippet.language == "toml"]


async def run(snippet: Snippet, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Run a snippet as a module; its tracebacks show the line in the page."""
    module = types.ModuleType("snippet")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where annotations of its classes are looked up
    source = "\n" * (snippet.line - 1) + snippet.text
    code = compile(source, str(ROOT / snippet.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    running = eval(code, module.__dict__)
    if inspect.iscoroutine(running):
        await running
    return module


@asynccontextmanager
async def answered(snippet: Snippet) -> AsyncIterator[Snippet]:
    """The snippet with the address of a server that runs meanwhile, where it asks one."""
    if GUIDES_SERVER not in snippet.text:
        yield snippet
        return
    server = HTTPServer(client_server.make_app(), bind="http://127.0.0.1:0")
    await server.start()
    try:
        where = f"127.0.0.1:{server.addresses[0].port}"
        yield replace(snippet, text=snippet.text.replace(GUIDES_SERVER, where))
    finally:
        await server.stop()


@pytest.mark.parametrize("snippet", PYTHON, ids=str)
async def test_python_snippet_runs(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippet runs to its end, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    async with answered(snippet) as ready:
        await run(ready, monkeypatch)


@pytest.mark.parametrize("snippet", TOML, ids=str)
def test_toml_snippet_is_valid(snippet: Snippet, tmp_path: Path) -> None:
    """The snippet is a configuration that ``forebay check`` accepts."""
    file = tmp_path / "forebay.toml"
    file.write_text(snippet.text)
    load_system(file)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Links within the project lead to files that exist, and to headings that their pages have."""
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), f"{page.name} has a link to {target}"
        if anchor:
            assert anchor in anchors_of(found.read_text()), f"{page.name} has a link to {target}"


def anchors_of(markdown: str) -> set[str]:
    """The headings of a page, as links name them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_life_of_a_request_names_modules_that_exist() -> None:
    """Each file that is named as the one to open is there."""
    named = re.findall(r"\*\*`([\w/]+\.py)`\*\*", (ROOT / "docs/life-of-a-request.md").read_text())
    assert len(named) > 50
    assert [name for name in named if not (ROOT / "src/forebay" / name).exists()] == []


def test_design_names_every_module_of_http_and_wire() -> None:
    """The map has no blank spots."""
    page = (ROOT / "docs/design.md").read_text()
    source = ROOT / "src/forebay"
    modules = [file for row in ("http", "http/client", "wire") for file in (source / row).glob("[!_]*.py")]
    missing = [file.name for file in modules if not re.search(rf"`{file.stem}(\.py)?`", page)]
    assert sorted(missing) == []


def test_readme_shows_python_and_toml() -> None:
    """README has snippets of both kinds: the tests above did not run over nothing."""
    assert [snippet for snippet in PYTHON if snippet.page == "README.md"]
    assert [snippet for snippet in TOML if snippet.page == "README.md"]


def test_snippets_are_found_with_their_lines() -> None:
    """Blocks are found with language, line and text, also in a list; the text keeps its own indentation."""
    page = "# T\n\n```python\na = 1\n```\n\n- item\n\n  ```toml\n  [system]\n    name = 'x'\n  ```\n\n```\nplain\n```\n"
    assert list(snippets_of("p.md", page)) == [
        Snippet("p.md", 4, "python", "a = 1\n"),
        Snippet("p.md", 10, "toml", "[system]\n  name = 'x'\n"),
        Snippet("p.md", 15, "", "plain\n"),
    ]


async def test_a_failing_snippet_fails_at_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in a snippet, before or after an await, is raised and points into the page."""
    for text in ("1 / 0\n", "import asyncio\nawait asyncio.sleep(0)\n1 / 0\n"):
        with pytest.raises(ZeroDivisionError) as raised:
            await run(Snippet("README.md", 40, "python", text), monkeypatch)
        assert raised.traceback[-1].lineno == 40 + text.count("\n") - 2  # pytest counts lines from 0


async def test_a_snippet_is_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snippet's names are its module's, and it is not the main program."""
    module = await run(Snippet("p.md", 1, "python", "name = __name__\n"), monkeypatch)
    assert module.name == "snippet"
