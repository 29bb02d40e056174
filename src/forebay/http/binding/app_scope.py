"""Dependencies that are made once, when the application starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from forebay.http.binding.arguments import Source
from forebay.http.binding.plan import Binding

if TYPE_CHECKING:
    from forebay.http.app import App

__all__ = ["enter_app_scope"]


async def enter_app_scope(
    app: App[Any], bindings: Iterable[Binding], stack: AsyncExitStack
) -> dict[Callable[..., Any], Any]:
    """The values of those with ``scope="app"``, each after those it depends on; they are left with ``stack``."""
    made: dict[Callable[..., Any], Any] = {}
    for binding in bindings:
        for dependency in binding.dependencies:
            if dependency.shared and dependency.original not in made:
                source = Source(None, None, app=app)  # type: ignore[arg-type]  # there is no request, nor need for one
                source.given = [made.get(one.original) for one in binding.dependencies]
                arguments = dependency.arguments.read(source, [])
                made[dependency.original] = await dependency.get(arguments, stack, app)
    return made
