"""Applications that do not start."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette


@asynccontextmanager
async def no_database(app: Any) -> AsyncIterator[None]:
    """Fails before the first request."""
    if "A_DATABASE" not in os.environ:
        raise ConnectionError("the database does not answer")
    yield


app = Starlette(lifespan=no_database)


def make_with(name: str) -> Starlette:
    """No factory: it has a parameter."""
    return app
