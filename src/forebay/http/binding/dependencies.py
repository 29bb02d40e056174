"""Dependencies: functions whose values are handed to handlers, and to each other.

::

    async def transaction(db: Annotated[Database, Depends(database, scope="app")]) -> AsyncIterator[Transaction]:
        async with db.begin() as transaction:
            yield transaction              # goes on when the response was sent

    Transactional = Annotated[Transaction, Depends(transaction)]

    @app.post("/users")
    async def add(user: User, tx: Transactional) -> User: ...

Its own parameters are bound like a handler's, dependencies among them. Each runs once for a request, before the
handler, those it depends on first, in the order of the parameters.

What follows the ``yield`` of a generator function runs exactly once, in reverse order: when the response was sent, or
at once with the exception raised at the ``yield``, when the handler or another dependency failed, the time was up, or
the client has gone (as cancellation). What it raises then takes the place of that exception; a generator that swallows
the exception does not: the request has failed all the same. What it raises after the response is logged.

With ``scope="app"`` it runs once, when the application starts, and its end when that stops; it can depend on others of
that scope, on the application and its ``state``.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Hashable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from forebay.http.binding.arguments import FAILED, Arguments, Source
from forebay.http.binding.blocking import is_blocking
from forebay.http.binding.fields import Errors
from forebay.http.binding.markers import Depends
from forebay.http.binding.signature import (
    Signature,
    is_async_generator_function,
    is_coroutine_function,
    is_generator_function,
    name_of,
    place_of,
)

if TYPE_CHECKING:
    from forebay.http.app import App
    from forebay.http.converters import Converter

__all__ = ["Dependency", "Graph", "How"]

Function = Callable[..., Any]


class How(Enum):
    """What it takes to get a dependency's value."""

    VALUE = auto()  # a call
    COROUTINE = auto()
    CONTEXT = auto()  # entered, and left later
    BLOCKING = auto()  # a call in a thread


class Dependency:
    """A function, and how its value is got. ``function`` is what runs, which may stand in for ``original``."""

    __slots__ = ("arguments", "bare", "enter", "function", "how", "original", "shared")

    def __init__(self, original: Function, function: Function, scope: str, arguments: Arguments) -> None:
        self.original = original
        self.function = function
        self.shared = scope == "app"
        self.arguments = arguments
        self.enter: Callable[..., Any] = function
        self.how = self._find_how()
        self.bare = self.how is How.COROUTINE and not arguments.signature.parameters
        """It is a coroutine function without parameters."""

    def _find_how(self) -> How:
        function = self.function
        if is_blocking(function):
            return How.BLOCKING
        if is_generator_function(function):
            is_async = is_async_generator_function(function)
            self.enter = asynccontextmanager(function) if is_async else contextmanager(function)
            return How.CONTEXT
        if is_generator_function(inspect.unwrap(function)):  # @asynccontextmanager was there already
            return How.CONTEXT
        return How.COROUTINE if is_coroutine_function(function) else How.VALUE

    def __repr__(self) -> str:
        return f"<Dependency {name_of(self.function)} ({place_of(self.function)})>"

    async def get(self, arguments: dict[str, Any], stack: AsyncExitStack | None, app: App[Any]) -> Any:
        """Its value. Contexts are left with ``stack``, which must be there for them."""
        if self.how is How.VALUE:
            return self.call(arguments)
        if self.how is How.COROUTINE:
            return await self.function(**arguments)
        if self.how is How.BLOCKING:
            return await app.run_blocking(self.function, **arguments)
        if stack is None:
            raise RuntimeError(f"{self!r} has to be closed, and nobody would")
        manager = self.enter(**arguments)
        if isinstance(manager, AbstractAsyncContextManager):
            return await stack.enter_async_context(manager)
        if isinstance(manager, AbstractContextManager):
            return stack.enter_context(manager)
        return manager  # what is decorated is a generator function, and what decorates it has made a value of it

    def call(self, arguments: dict[str, Any]) -> Any:
        """The value of a plain function.

        :raises TypeError: it is a coroutine, which nobody would await.
        """
        value = self.function(**arguments)
        if type(value) is types.CoroutineType:
            value.close()
            raise TypeError(f"{self!r} is a plain function and returned a coroutine: declare it with async def")
        return value


class Graph:
    """The dependencies of one handler, each after those it depends on.

    :raises TypeError: a cycle, a dependency of the application that needs a request, or a signature that nothing
        provides for; names what depends on what, with places.
    """

    __slots__ = ("_app", "_converters", "_indices", "dependencies")

    def __init__(self, app: App[Any] | None, converters: dict[str, Converter]) -> None:
        self._app = app
        self._converters = converters
        self.dependencies: list[Dependency] = []
        self._indices: dict[Function, int] = {}

    def add_all(self, arguments: Arguments, above: tuple[Function, ...], scope: str, where: str) -> None:
        """Add what a function depends on.

        :param above: the functions that led to it, outermost first.
        """
        for parameter in arguments.signature.parameters:
            marker = parameter.marker
            if isinstance(marker, Depends):
                function = marker.function or parameter.kind
                if not callable(function):
                    raise TypeError(f"{where}: parameter {parameter.name}: Depends() needs a function or a class")
                index = self._add(function, marker.scope, above, scope, f"{where}: parameter {parameter.name}")
                arguments.depends.append((parameter.name, index))
        arguments.seal()

    def _add(self, original: Function, scope: str, above: tuple[Function, ...], user_scope: str, where: str) -> int:
        if scope not in ("request", "app"):
            raise TypeError(f"{where}: scope {scope!r}: must be 'request' or 'app'")
        if user_scope == "app" and scope != "app":
            needs = f"{name_of(original)} ({place_of(original)}), which is made for each request"
            raise TypeError(f"{where}: a dependency of the application cannot depend on {needs}")
        if not isinstance(original, Hashable):
            raise TypeError(f"{where}: {original!r:.80} ({place_of(original)}) must be hashable to be a dependency")
        if original in above:
            chain = [*above[above.index(original) :], original]
            raise TypeError(f"dependency cycle: {' -> '.join(f'{name_of(one)} ({place_of(one)})' for one in chain)}")
        index = self._indices.get(original)
        if index is not None:
            known = self.dependencies[index]
            if known.shared != (scope == "app"):
                what = f"{name_of(original)} ({place_of(original)})"
                raise TypeError(f"{where}: {what} is used with another scope than {scope!r} elsewhere")
            return index
        function = self._app.overrides.get(original, original) if self._app is not None else original
        signature = Signature(function, "dependency", above=f", on which {where} depends")
        where = signature.where
        arguments = Arguments(signature, {} if scope == "app" else self._converters, where, self._app)
        if scope == "app":
            if arguments.of_request:
                name = arguments.of_request[0]
                raise TypeError(f"{where}: made when the application starts, it cannot have {name} of a request")
            if is_blocking(function):
                raise TypeError(f"{where}: made when the application starts, it cannot be blocking")
        self.add_all(arguments, (*above, original), scope, where)
        self.dependencies.append(Dependency(original, function, scope, arguments))
        self._indices[original] = len(self.dependencies) - 1
        return self._indices[original]

    # -- a request

    def bind(self, source: Source, errors: Errors) -> None:
        """Get all values, where every one of them is a call."""
        given = source.given = []
        for dependency in self.dependencies:
            if dependency.shared:
                given.append(source.app.scoped[dependency.original])
                continue
            arguments = self._arguments(dependency, source, errors)
            given.append(FAILED if arguments is None else dependency.call(arguments))

    async def resolve(self, source: Source, errors: Errors, stack: AsyncExitStack | None) -> None:
        """Get all values."""
        given = source.given = []
        for dependency in self.dependencies:
            if dependency.shared:
                given.append(source.app.scoped[dependency.original])
                continue
            if dependency.bare:
                given.append(await dependency.function())
                continue
            arguments = self._arguments(dependency, source, errors)
            given.append(FAILED if arguments is None else await dependency.get(arguments, stack, source.app))

    def _arguments(self, dependency: Dependency, source: Source, errors: Errors) -> dict[str, Any] | None:
        """Its arguments; None when one of them does not fit."""
        before = len(errors)
        found = dependency.arguments.read(source, errors)
        if len(errors) > before:
            return None
        if dependency.arguments.depends and any(found[name] is FAILED for name, _ in dependency.arguments.depends):
            return None
        return found
