"""How to call a handler: its own arguments, and the dependencies they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from forebay.errors import ValidationError
from forebay.http.binding.arguments import Arguments, Source
from forebay.http.binding.dependencies import Dependency, Graph, How
from forebay.http.binding.fields import Errors
from forebay.http.binding.signature import Signature
from forebay.http.exchange import Exchange
from forebay.http.form_data import FormData
from forebay.http.forms import read_form
from forebay.http.messages import Request

if TYPE_CHECKING:
    from forebay.http.app import App
    from forebay.http.converters import Converter

__all__ = ["Binding", "compile_binding"]


class Binding:
    """How to call one handler.

    ``wants_body``: its arguments need the whole content; ``wants_request``: one of them is the request; ``trivial``: it
    takes nothing but what the path gives; ``waits``: its arguments cannot be had without waiting, so :meth:`resolve` is
    to be used; ``holds``: some of them, as the files of a form, are to be closed after the response, so it is
    :meth:`resolve_all`.
    """

    __slots__ = ("_graph", "arguments", "holds", "trivial", "waits", "wants_body", "wants_form", "wants_request")

    def __init__(self, arguments: Arguments, graph: Graph) -> None:
        self.arguments = arguments
        self._graph = graph if graph.dependencies else None
        every = [arguments, *(one.arguments for one in graph.dependencies)]
        self.wants_body = any(one.content for one in every)
        self.wants_form = any(one.form for one in every)
        known = frozenset(name for one in every for name in one.query_names)
        for one in every:
            one.known_in_query = known
        own = [one for one in graph.dependencies if not one.shared]
        self.waits = self.wants_form or any(one.how is not How.VALUE for one in own)
        self.holds = self.wants_form or any(one.how is How.CONTEXT for one in own)
        self.wants_request = self.holds or any(one.request for one in every)
        self.trivial = arguments.trivial and not graph.dependencies

    @property
    def dependencies(self) -> list[Dependency]:
        """All there are, each after those it depends on."""
        return self._graph.dependencies if self._graph is not None else []

    def bind(
        self, exchange: Exchange, path: dict[str, Any] | None, body: bytes, request: Request | None, app: App[Any]
    ) -> dict[str, Any]:
        """The handler's keyword arguments, where nothing needs to wait.

        :raises HTTPError: 400 or 415: the content cannot be read, or does not say what it is.
        :raises ValidationError: 422 with every field that does not fit.
        """
        errors: Errors = []
        source = Source(exchange, path, body, request, app)
        if self._graph is not None:
            self._graph.bind(source, errors)
        arguments = self.arguments.read(source, errors)
        if errors:
            raise _unfit(errors)
        return arguments

    async def resolve_all(self, request: Request, stack: AsyncExitStack) -> dict[str, Any]:
        """The handler's keyword arguments; what is to be closed after the response is left with ``stack``.

        :raises HTTPError: and ``ValidationError``: as for :meth:`bind`.
        """
        body = await request.body() if self.wants_body else b""
        source = Source(request.exchange, request.path_params, body, request, request.app)
        if self.wants_form:
            sent = request.exchange.has_body or request.exchange.header(b"content-type") is not None
            source.form = form = await read_form(request) if sent else FormData()
            stack.push_async_callback(form.aclose)
        return await self.resolve(source, stack)

    async def resolve(self, source: Source, stack: AsyncExitStack | None = None) -> dict[str, Any]:
        """The same, of what was read already. ``stack`` may be None where nothing ``holds``."""
        errors: Errors = []
        if self._graph is not None:
            await self._graph.resolve(source, errors, stack)
        arguments = self.arguments.read(source, errors)
        if errors:
            raise _unfit(errors)
        return arguments


def _unfit(errors: Errors) -> ValidationError:
    """Each once: a handler and its dependencies may read the same."""
    return ValidationError(list(dict.fromkeys(errors)))


def compile_binding(
    handler: Callable[..., Any] | Signature,
    pattern: str,
    converters: Mapping[str, Converter],
    app: App[Any] | None = None,
    *,
    given: frozenset[str] = frozenset(),
) -> Binding:
    """Compile a handler's signature.

    :param pattern: the route's, for messages.
    :param converters: the parameters of the pattern's path and host, with their converters.
    :param given: parameters that the caller provides by itself.
    :raises TypeError: a parameter that nothing provides, or a path parameter that neither the handler nor a dependency
        takes; names the handler, its place and the parameter.
    """
    signature = handler if isinstance(handler, Signature) else Signature(handler, "handler", pattern)
    where = signature.where
    arguments = Arguments(signature.without(given), dict(converters), where, app)
    graph = Graph(app, dict(converters))
    graph.add_all(arguments, (signature.function,), "request", where)
    taken = {name for one in (arguments, *(each.arguments for each in graph.dependencies)) for name in one.path_names}
    missing = [name for name in converters if name not in taken]
    if missing:
        raise TypeError(f"{where} does not take the path parameter {missing[0]}")
    binding = Binding(arguments, graph)
    if binding.wants_body and binding.wants_form:
        every = (arguments, *(each.arguments for each in graph.dependencies))
        content, form = next(one for one in every if one.content), next(one for one in every if one.form)
        both = where if content is form is arguments else f"{content.where}, and form of {form.where}"
        raise TypeError(f"{both}: the request's content cannot be a form and something else as well")
    return binding
