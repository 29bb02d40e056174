"""The layer table of docs/design.md, enforced from the imports of every module.

All imports count, also those inside functions and under ``TYPE_CHECKING``: an upward import hidden at the bottom of a
file is one all the same.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "forebay"

ROWS: tuple[tuple[str, ...], ...] = (
    ("errors", "chain", "service"),
    ("wire", "policy", "observe"),
    ("engine",),
    ("http",),
    ("config", "rpc", "registry"),
    ("gateway", "realtime", "messaging", "jobs", "saga", "loadtest"),
    ("admin",),
    ("runtime",),
    ("cli",),  # in the table it shares a row with runtime: both are wiring, and the command line wires the runtime
    ("__main__",),
)
ROW = {package: number for number, row in enumerate(ROWS) for package in row}

FACADE = "__init__"  # forebay/__init__.py: re-exports the public names, and nothing inside imports it
ASIDE = "testing"  # public fakes: may import everything, imported by nothing
RUNS_ASIDE = frozenset({"cli.faultproxy"})  # but by the command that runs one of them

ENGINE_ONLY = frozenset(
    {"asyncio", "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading", "uvloop"},
)
ALLOWED_OUTSIDE_ENGINE = {
    ("service", "asyncio"),  # asyncio.timeout: a group keeps its deadline
    ("__main__", "signal"),  # a reload that is asked for before anything else is imported must not end the program
}

GRAB_BAGS = frozenset({"utils", "util", "helpers", "common", "misc"})
LONGEST_FILE = 500


def module_name(root: Path, file: Path) -> str:
    """``wire.http1`` for ``wire/http1.py``, ``wire`` for its ``__init__.py``."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == FACADE else parts)


def imported(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """The line and the absolute name of everything imported; ``from a import b`` gives ``a.b``."""
    package = ["forebay", *module.split(".")] if module != FACADE else ["forebay"]
    if not is_package:
        package.pop()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{origin}.{alias.name}"


def violations(root: Path) -> list[str]:
    """Everything below ``root``, which stands for ``forebay``, that breaks the table: one readable line each."""
    found = []
    for file in sorted(root.rglob("*.py")):
        where = file.relative_to(root)
        text = file.read_text()
        if (length := text.count("\n")) > LONGEST_FILE:
            found.append(f"{where}: {length} lines, the most is {LONGEST_FILE}: look for the seam")
        found += [f"{where}: {part} says nothing; name it after what it does" for part in _grab_bags(where)]
        module = module_name(root, file)
        home = module.split(".")[0]
        if home not in ROW and home not in (FACADE, ASIDE):
            found.append(f"{where}: {home} is in no row of the layer table")
            continue
        for line, name in imported(ast.parse(text), module, is_package=file.name == "__init__.py"):
            if module in RUNS_ASIDE and f"{name}.".startswith(f"forebay.{ASIDE}."):
                continue
            if reason := _why_not(home, name):
                found.append(f"{where}:{line}: {reason}")
    return found


def _grab_bags(where: Path) -> Iterator[str]:
    return (part for part in where.with_suffix("").parts if part in GRAB_BAGS)


def _why_not(home: str, name: str) -> str | None:
    """Why a module of package ``home`` must not import ``name``; None when it may."""
    top, _, rest = name.partition(".")
    if top != "forebay":
        if top in ENGINE_ONLY and home not in ("engine", ASIDE) and (home, top) not in ALLOWED_OUTSIDE_ENGINE:
            return f"imports {top}, which only engine/ may"
        return None
    target = rest.split(".")[0]
    if target == home:
        return None
    if target == ASIDE:
        return f"imports forebay.{ASIDE}, which nothing in forebay may"
    if home in (FACADE, ASIDE):
        return None
    if target not in ROW:  # a name of the façade (or a package that is in no row, which is reported where it stands)
        return f"imports {name}: import from the module that defines it"
    if ROW[target] > ROW[home]:
        return f"{home} imports {target}, which is below it in the layer table"
    if ROW[target] == ROW[home]:
        return f"{home} imports {target}, its sibling"
    return None


def test_the_package_keeps_to_the_layer_table() -> None:
    """No module of the package breaks the table."""
    assert len(list(SOURCE.rglob("*.py"))) > 30, "the package was not found"
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("wire/http1.py", "from forebay.engine import now\n", "wire imports engine, which is below it"),
        ("wire/http1.py", "def f():\n    import forebay.http.app\n", "wire imports http, which is below it"),
        ("wire/http1.py", "from ..engine.loop import now\n", "wire imports engine, which is below it"),
        ("wire/__init__.py", "from ..engine.loop import now\n", "wire imports engine, which is below it"),
        (
            "wire/http1.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from forebay import engine\n",
            "wire/http1.py:3: wire imports engine, which is below it",
        ),
        ("wire/http1.py", "from forebay.policy import retry\n", "wire imports policy, its sibling"),
        ("errors.py", "from . import chain\n", "errors imports chain, its sibling"),
        ("errors.py", "from .chain import Handler\n", "errors imports chain, its sibling"),
        ("runtime/system.py", "import forebay.cli\n", "runtime imports cli, which is below it"),
        ("http/app.py", "from forebay import App\n", "imports forebay.App: import from the module that defines it"),
        ("http/app.py", "import forebay\n", "import from the module that defines it"),
        ("cli/run.py", "from forebay.testing import Clock\n", "imports forebay.testing, which nothing in forebay may"),
        ("__init__.py", "from forebay.testing import Clock\n", "imports forebay.testing, which nothing in forebay may"),
        ("http/app.py", "import asyncio\n", "imports asyncio, which only engine/ may"),
        ("http/app.py", "import asyncio.streams\n", "imports asyncio, which only engine/ may"),
        ("http/app.py", "from asyncio import Task\n", "imports asyncio, which only engine/ may"),
        ("service.py", "import threading\n", "imports threading, which only engine/ may"),
        ("plugins/x.py", "", "plugins is in no row of the layer table"),
        ("http/utils.py", "", "utils says nothing"),
        ("http/common/x.py", "", "common says nothing"),
        ("http/app.py", "x = 1\n" * 501, "501 lines, the most is 500"),
    ],
)
def test_the_checker_finds(tmp_path: Path, file: str, text: str, expected: str) -> None:
    """Each way to break the table is found, once, and named."""
    _write(tmp_path, file, text)
    (found,) = violations(tmp_path)
    assert found.startswith(file)
    assert expected in found


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "gateway/proxy.py",
            "from forebay.http.server import Exchange\nfrom forebay import errors\nimport forebay.wire\n",
        ),
        ("gateway/proxy.py", "from . import table\nfrom .table import Table\nfrom ..config import schema\n"),
        ("gateway/__init__.py", "from forebay.gateway.proxy import Proxy\nfrom .table import Table\n"),
        ("engine/loop.py", "import asyncio, uvloop, ssl\nfrom socket import socket\n"),
        ("service.py", "import asyncio\n"),
        ("cli/up.py", "from forebay.runtime.system import System\n"),
        ("cli/faultproxy.py", "from forebay.testing.fault_script import read_script\n"),
        ("__main__.py", "from forebay.cli import main\n"),
        ("__init__.py", "from forebay.http import App\nfrom forebay.engine import TCPServer\n"),
        ("testing/clock.py", "from forebay.cli import main\n"),
        ("testing/fault_proxy.py", "import asyncio, socket\n"),
        ("__main__.py", "import signal\n"),
        ("http/app.py", "x = 1\n" * 500),
    ],
)
def test_the_checker_allows(tmp_path: Path, file: str, text: str) -> None:
    """What the table allows is not reported."""
    _write(tmp_path, file, text)
    assert violations(tmp_path) == []


def _write(root: Path, file: str, text: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
