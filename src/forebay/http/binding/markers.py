"""What is written into ``Annotated[...]`` to say where a parameter comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Body", "Cookie", "Depends", "Form", "Header", "Marker", "Path", "Query"]


@dataclass(frozen=True, slots=True)
class Marker:
    """A place in the request.

    :param name: what it is called there; default: the parameter's name.
    :param description: for the OpenAPI document, as are ``examples`` and ``deprecated``.
    """

    name: str | None = None
    description: str = ""
    examples: Sequence[Any] = ()
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class Path(Marker):
    """A part of the path. Needed only to describe it."""


@dataclass(frozen=True, slots=True)
class Query(Marker):
    """A field of the query; for a record, all its fields."""


@dataclass(frozen=True, slots=True)
class Header(Marker):
    """A header; the parameter's underscores are hyphens in its name. For a record, all its fields are headers."""


@dataclass(frozen=True, slots=True)
class Cookie(Marker):
    """A cookie; for a record, all its fields are cookies."""


@dataclass(frozen=True, slots=True)
class Body(Marker):
    """The content, from JSON or MessagePack."""


@dataclass(frozen=True, slots=True)
class Form(Marker):
    """A field of the form that is the content; for a record, the whole form."""


@dataclass(frozen=True, slots=True)
class Depends:
    """What ``function`` gives, which has its own parameters bound like a handler's. None: the annotated class itself.

    :param scope: ``request``: once for each request, however many ask for it. ``app``: once, when the application
        starts.

    A function may be plain, a coroutine function, or a generator function of either kind that yields once, which goes
    on when the response was sent: see :mod:`forebay.http.binding.dependencies`.
    """

    function: Callable[..., Any] | None = None
    scope: Literal["request", "app"] = "request"
