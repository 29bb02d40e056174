"""What a function says of itself: its parameters with their annotations, where it stands, how it is called."""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Literal

import msgspec

from forebay.http.binding.markers import Depends, Marker
from forebay.http.field_errors import without_wrappers

__all__ = [
    "MISSING",
    "Made",
    "Parameter",
    "Signature",
    "allows_none",
    "bare",
    "is_async_generator_function",
    "is_coroutine_function",
    "is_generator_function",
    "name_of",
    "place_of",
    "place_of_caller",
    "remember_names",
    "wrapped_function",
]

MISSING: Any = inspect.Parameter.empty

_HINTS = "__forebay_hints__"  # of a function: itself, and its annotations, once they were resolved


@dataclass(frozen=True, slots=True)
class Made:
    """A default that is made each time."""

    make: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: ``kind`` is its annotation without our marker, which is ``marker``; ``default`` may be
    :class:`Made`."""

    name: str
    kind: Any
    default: Any
    marker: Marker | Depends | None


class Signature:
    """A function's parameters and return annotation (:data:`MISSING` without one), read once.

    :param what: what the function is, for messages: "handler", "dependency".
    :param route: the pattern it handles, for messages; as is ``above``, what wants to call it.
    :raises TypeError: a parameter cannot be given by its name, an annotation is not defined, or has two markers.

    What a ``functools.partial`` has given by name already is no parameter any more.
    """

    __slots__ = ("function", "parameters", "returns", "where")

    def __init__(self, function: Callable[..., Any], what: str, route: str | None = None, *, above: str = "") -> None:
        self.function = function
        of = "" if route is None else f" of route {route!r}"
        self.where = where = f"{what} {name_of(function)} ({place_of(function)}){of}{above}"
        hints = _hints(function, where)
        self.returns = hints.get("return", MISSING)
        self.parameters: list[Parameter] = []
        given = _given_by_partials(function)
        for name, parameter in _parameters(function, where).items():
            if name in given:
                continue
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise TypeError(f"{where}: parameter {name} must be a plain one, which can be given by its name")
            kind, marker = _without_marker(hints.get(name, MISSING), f"{where}: parameter {name}")
            if isinstance(parameter.default, Marker | Depends):
                shown = type(parameter.default).__name__
                raise TypeError(f"{where}: parameter {name}: write {name}: Annotated[..., {shown}(...)], not a default")
            self.parameters.append(Parameter(name, kind, parameter.default, marker))

    def without(self, names: frozenset[str]) -> Signature:
        """The same without some of the parameters."""
        if not names:
            return self
        copy = object.__new__(Signature)
        copy.function, copy.where, copy.returns = self.function, self.where, self.returns
        copy.parameters = [one for one in self.parameters if one.name not in names]
        return copy


def _without_marker(kind: Any, where: str) -> tuple[Any, Marker | Depends | None]:
    """``Annotated[T, Query(), Meta(ge=1)]`` as ``Annotated[T, Meta(ge=1)]`` and the marker."""
    if typing.get_origin(kind) is not Annotated:
        return kind, None
    base, *notes = typing.get_args(kind)
    markers = [note() if isinstance(note, type) else note for note in notes if _is_marker(note)]
    if len(markers) > 1:
        raise TypeError(f"{where} has two markers: {markers[0]} and {markers[1]}")
    rest = tuple(note for note in notes if not _is_marker(note))
    if rest:
        base = Annotated[(base, *rest)]
    return base, markers[0] if markers else None


def _is_marker(note: Any) -> bool:
    return isinstance(note, Marker | Depends) or (isinstance(note, type) and note in _MARKERS)


_MARKERS = frozenset((Depends, *Marker.__subclasses__()))  # written without brackets


def bare(kind: Any) -> Any:
    """Without ``| None``: a field that is there is never None."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        return members[0] if len(members) == 1 else typing.Union[tuple(members)]  # noqa: UP007  # built at run time
    if typing.get_origin(kind) is Annotated and allows_none(kind):
        inner, *notes = typing.get_args(kind)
        return Annotated[(bare(inner), *notes)]
    return kind


def allows_none(kind: Any) -> bool:
    """Is None one of the values of ``kind``?"""
    kind = without_wrappers(kind)
    if typing.get_origin(kind) is Literal:
        return None in typing.get_args(kind)
    return typing.get_origin(kind) in (typing.Union, types.UnionType) and type(None) in typing.get_args(kind)


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called in its module."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__qualname__", type(function).__name__)


def place_of(function: Any) -> str:
    """``file:line`` of the definition of a function or class."""
    if isinstance(function, type):
        try:
            lines = inspect.getsourcelines(function)
            return f"{inspect.getsourcefile(function)}:{lines[1]}"
        except (OSError, TypeError):
            return f"{function.__module__}.{function.__qualname__}"
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type):
        return place_of(function)
    code = getattr(inspect.unwrap(wrapped_function(function)), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else "unknown place"


def place_of_caller() -> str:
    """``file:line`` of who called into ``forebay.http``."""
    frame = _caller()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def is_coroutine_function(handler: Callable[..., Any]) -> bool:
    """Does calling ``handler`` give a coroutine? It may be a partial, or an object with ``async def __call__``."""
    return inspect.iscoroutinefunction(wrapped_function(handler))


def is_generator_function(handler: Callable[..., Any]) -> bool:
    """Does calling ``handler`` give a generator, of either kind?"""
    function = wrapped_function(handler)
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def is_async_generator_function(handler: Callable[..., Any]) -> bool:
    """Does calling ``handler`` give an asynchronous generator?"""
    return inspect.isasyncgenfunction(wrapped_function(handler))


def remember_names(function: Callable[..., Any]) -> None:
    """Resolve the annotations of ``function``, and of what it depends on, while the functions that they were defined in
    still run. What is not defined yet is left for later."""
    if _remembered(_annotated(function)) is not None:
        return
    try:
        hints = _hints(function, "")
    except TypeError:
        return
    for hint in hints.values():
        for note in typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ():
            if isinstance(note, Depends) and note.function is not None:
                remember_names(note.function)


def wrapped_function(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside partials and callable objects."""
    found: Any = handler
    while isinstance(found, functools.partial):
        found = found.func
    if not hasattr(found, "__code__") and not inspect.ismethod(found) and not isinstance(found, type):
        found = type(found).__call__
    return typing.cast("Callable[..., Any]", found)


def _caller() -> types.FrameType:
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("forebay.http"):
        frame = frame.f_back
    return frame


def _given_by_partials(function: Callable[..., Any]) -> set[str]:
    given: set[str] = set()
    while isinstance(function, functools.partial):
        given.update(function.keywords)
        function = function.func
    return given


def _parameters(function: Callable[..., Any], where: str) -> dict[str, inspect.Parameter]:
    try:
        parameters = dict(inspect.signature(function).parameters)
        if isinstance(function, type) and issubclass(function, msgspec.Struct):
            for field in msgspec.structs.fields(function):
                if field.default_factory is not msgspec.NODEFAULT:
                    parameters[field.name] = parameters[field.name].replace(default=Made(field.default_factory))
        return parameters
    except (ValueError, TypeError) as error:  # of a built-in function, or nothing that can be called
        raise TypeError(f"{where}: its parameters cannot be found out: {error}") from None


def _annotated(function: Callable[..., Any]) -> Any:
    """What has the annotations of the parameters of ``function``."""
    if not isinstance(function, type) and not hasattr(function, "__code__"):
        inner = getattr(function, "__wrapped__", None)  # an object that stands for a function, as `cached` makes them
        if callable(inner):
            return _annotated(inner)
    found: Any = wrapped_function(function)
    if isinstance(found, type):
        if issubclass(found, msgspec.Struct) or is_dataclass(found):
            return found
        made_by = found.__init__ if found.__init__ is not object.__init__ else found.__new__
        return made_by if inspect.isfunction(made_by) else found
    return getattr(found, "__func__", found)


def _remembered(found: Any) -> dict[str, Any] | None:
    known = getattr(found, _HINTS, None) if inspect.isfunction(found) else None
    # functools.wraps copies attributes to another function
    return known[1] if known is not None and known[0]() is found else None


def _hints(function: Callable[..., Any], where: str) -> dict[str, Any]:
    """The annotations, resolved; names may also be those of the functions it was defined in, while they run, and of the
    function that is registering the handler."""
    found = _annotated(function)
    hints = _remembered(found)
    if hints is not None:
        return hints
    caller = _caller()
    names = {**caller.f_globals, **caller.f_locals}
    inner = inspect.unwrap(found) if callable(found) else found
    names.update(getattr(inner, "__globals__", None) or vars(sys.modules.get(getattr(inner, "__module__", ""), typing)))
    for scope in _scopes(inner):
        names.update(scope)
    try:
        hints = typing.get_type_hints(found, globalns=names, include_extras=True)
    except NameError as error:
        raise TypeError(f"{where}: its annotations name {error.name!r}, which is not defined there") from None
    except (AttributeError, SyntaxError, TypeError) as error:
        raise TypeError(f"{where}: its annotations cannot be read: {error}") from None
    if inspect.isfunction(found):
        setattr(found, _HINTS, (weakref.ref(found), hints))
    return hints


def _scopes(function: Any) -> Iterator[dict[str, Any]]:
    """The names of the functions that ``function`` is defined in, the outermost first: as far as they still run, and
    those that it has kept itself."""
    qualname = getattr(function, "__qualname__", "")
    module = getattr(function, "__module__", None)
    running = []
    frame: types.FrameType | None = sys._getframe(1) if "<locals>" in qualname else None
    while frame is not None:
        if qualname.startswith(f"{frame.f_code.co_qualname}.<locals>.") and frame.f_globals.get("__name__") == module:
            running.append(frame.f_locals)
        frame = frame.f_back
    yield from reversed(running)
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    kept = {}
    for name, cell in zip(code.co_freevars if code else (), cells, strict=True):
        try:
            kept[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield kept
