"""What ``forebay.http`` offers, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import forebay.http


@pytest.mark.parametrize("name", forebay.http.__all__)
def test_every_name_is_there(name: str) -> None:
    """Also those that are imported when they are first used."""
    found = getattr(forebay.http, name)
    assert name in ("HTTPMiddleware", "Next") or found.__name__ == name  # these two are aliases of types


def test_another_name_is_an_attribute_error() -> None:
    """It says which one."""
    with pytest.raises(AttributeError, match=r"'forebay\.http' has no attribute 'Nothing'"):
        _ = forebay.http.Nothing


def test_importing_it_does_not_import_what_few_need() -> None:
    """The ASGI host is not loaded by programs that do not name it."""
    program = "import sys, forebay.http; print([name for name in sys.modules if 'http.asgi' in name]); "
    program += "from forebay.http import ASGIApplication; print(ASGIApplication.__module__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "forebay.http.asgi"]
