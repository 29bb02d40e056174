"""Functions that block, and so are run in a thread."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

__all__ = ["blocking", "is_blocking"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__forebay_blocking__"


def blocking(function: F) -> F:
    """Mark a plain function that blocks: as a handler, a dependency or work after a response it is run in a thread.

    ::

        @app.get("/report")
        @blocking
        def report() -> bytes: ...

    How many run at once is bounded by the application's ``threads``; past ``threads_queue`` waiting ones, a request is
    503.

    :raises TypeError: it is a coroutine or generator function, which would not run in a thread.
    """
    from forebay.http.binding.signature import is_coroutine_function, is_generator_function, place_of

    if is_coroutine_function(function) or is_generator_function(function):
        raise TypeError(f"blocking({function!r}) ({place_of(function)}): only plain functions run in a thread")
    try:
        setattr(function, _MARK, True)
    except (AttributeError, TypeError):  # a method of an object, or a built-in function
        around = functools.partial(function)
        setattr(around, _MARK, True)
        return cast("F", around)
    return function


def is_blocking(function: Callable[..., Any]) -> bool:
    """Was ``function`` marked by :func:`blocking`, and is it still a plain one? It may be a partial of such a one."""
    from forebay.http.binding.signature import is_coroutine_function, is_generator_function, wrapped_function

    inner: Any = function
    while isinstance(inner, functools.partial) and not hasattr(inner, _MARK):
        inner = inner.func
    if not (getattr(inner, _MARK, False) or getattr(wrapped_function(inner), _MARK, False)):
        return False
    return not (is_coroutine_function(function) or is_generator_function(function))  # functools.wraps copies the mark
