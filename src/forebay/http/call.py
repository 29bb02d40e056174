"""A handler at work: its Task, the content it reads, the answer it streams, the client that may leave."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import structlog

from forebay.engine.connection import CloseReason
from forebay.engine.loop import Cancelled, sleep, timeout
from forebay.engine.tasks import Gate, Task
from forebay.errors import ConnectionClosed
from forebay.http.binding.arguments import Source
from forebay.http.calling import invoke
from forebay.http.cancelled import LAST_PATIENCE
from forebay.http.exchange import Exchange, Receiver
from forebay.http.files import FileResponse
from forebay.http.messages import BodySource, Request, Response
from forebay.http.problems import problem
from forebay.http.results import negotiated

if TYPE_CHECKING:
    from forebay.http.app import App, Route

__all__ = ["Call", "Releases"]

log = structlog.get_logger("forebay.http")

_HIGH = 65536  # bytes of content that wait for the handler; past it the client waits
_TURN = 262144  # bytes that are streamed at once to a client that takes them all


class Call(Receiver, BodySource):
    """One request in the hands of a handler that may wait."""

    __slots__ = (
        "_app",
        "_ended",
        "_exchange",
        "_failure",
        "_gone",
        "_path_params",
        "_pieces",
        "_readable",
        "_request",
        "_response",
        "_rest",
        "_route",
        "_size",
        "_task",
        "_waits_for_content",
        "_writable",
    )

    def __init__(
        self,
        app: App[Any],
        route: Route,
        exchange: Exchange,
        path_params: dict[str, Any] | None,
        request: Request | None = None,
        rest: Awaitable[Any] | None = None,
    ) -> None:
        self._app = app
        self._rest = rest  # of a handler that was begun
        self._route = route
        self._exchange = exchange
        self._path_params = path_params
        self._pieces: list[bytes] = []
        self._size = 0
        self._ended = False
        self._gone: CloseReason | None = None
        self._readable: Gate | None = None  # made when somebody waits
        self._writable: Gate | None = None
        self._task: Task[None] | None = None
        self._waits_for_content = False
        self._response: Response | None = None  # which is being streamed
        self._request = request
        if request is not None:
            request._source = self
        self._failure: Exception | None = None  # of what came behind the handler, with its dependencies still open

    def begin(self, response: Response | None = None) -> None:
        """Run the handler, in a Task if it has to wait; or only stream ``response``."""
        exchange = self._exchange
        if not exchange.has_body:
            self._ended = True
        self._task = task = self._app.eager.start(self._run(response))
        if task is not None and not task.done() and self._readable is None:
            exchange.attach(self, content=False)  # it comes when the handler asks for it

    # -- the Task

    async def _run(self, response: Response | None) -> None:
        """Answer, whatever happens on the way: a request without an answer would hold its client for ever."""
        failure = None
        try:
            if response is None:
                answer = await self._answer()
                response = answer if isinstance(answer, Response) else None
                if response is None and not self._exchange.finished:
                    self._exchange.respond(*answer)
            if isinstance(response, FileResponse):
                if not self._exchange.finished:
                    self._app.send_file(response, self._exchange, self._route)
            elif response is not None:
                await self._stream(response)
        except BaseException as error:
            self._rescue(error)
            failure = error
        request = self._request
        if request is not None and (request.resources or request.after_response):
            failed, self._failure = failure or self._failure, None
            await self._app.releases.release(self._app, request, failed)
            del failed
        self._request = None  # it knows us, and a cycle would wait for the collector
        if isinstance(failure, Cancelled | KeyboardInterrupt | SystemExit):
            try:
                raise failure
            finally:
                del failure  # its traceback refers to us

    async def _answer(self) -> Any:
        """What the handler and its middleware make of the request: an answer, or a response to stream, or a file."""
        app, route, exchange = self._app, self._route, self._exchange
        binding = route.binding
        try:
            if route.chain is not None:
                self._request = request = self._made_request()
                answer: Any = await route.chain(request)
                if not isinstance(answer, Response):
                    raise TypeError(f"middleware returned {type(answer).__name__}, not a Response")
            else:
                if self._rest is not None:
                    rest, self._rest = self._rest, None
                    result = await rest
                elif route.by_request:
                    self._request = request = self._made_request()
                    result = await invoke(app, route, request)
                else:
                    body = b""
                    if binding.wants_body:
                        body = exchange.take_body() if exchange.body_complete else await self._whole()
                    if binding.wants_request:
                        self._request = self._made_request()
                    if binding.waits:
                        source = Source(exchange, self._path_params, body, self._request, app)
                        arguments = await binding.resolve(source)
                    else:
                        arguments = binding.bind(exchange, self._path_params, body, self._request, app)
                    result = route.handler(**arguments)
                    if route.is_async:
                        result = await result
                answer = route.encode(result)
                if exchange.fields.msgpack:
                    answer = negotiated(exchange, result, answer)
        except Exception as error:
            if self._gone is not None:
                raise
            if self._request is not None and self._request.resources:
                self._failure = error
            answer = app.answer_of(error, exchange, route)
        if isinstance(answer, Response) and answer.stream is None and not isinstance(answer, FileResponse):
            return app.encode_response(answer, exchange, route)
        return answer

    def _made_request(self) -> Request:
        if self._request is not None:  # of hooks
            return self._request
        return Request(self._exchange, self._path_params or {}, self._route.pattern, self, self._app)

    async def _stream(self, response: Response) -> None:
        """Send a response piece by piece, at the pace of the client."""
        exchange = self._exchange
        stream = response.stream
        if stream is None:
            raise RuntimeError("there is nothing to stream")
        try:
            if exchange.finished:
                return
            length = response.headers.pop("content-length", None)
            self._response = response
            if exchange.link.last:
                response.drain()
            exchange.start(response.status, response.headers.encode(), None if length is None else int(length))
            if exchange.method != "HEAD":
                exchange.flush()  # the first piece may take its time
                turn = 0
                async for piece in stream:
                    data = piece.encode() if isinstance(piece, str) else piece
                    turn += len(data) + 64
                    if not exchange.write(data):
                        await self._drained()
                        turn = 0
                    elif turn > _TURN:  # it may never wait: others want their turn, and the client's end is to be heard
                        await sleep(0)
                        turn = 0
            exchange.finish()
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()

    def _rescue(self, error: BaseException) -> None:
        """The handler, its stream or its answer failed in a way nothing else has caught."""
        app, route, exchange = self._app, self._route, self._exchange
        if self._gone is not None and isinstance(error, Cancelled | ConnectionClosed):
            return  # the client left, and so did the handler
        if isinstance(error, Cancelled):
            log.warning("handler was cancelled", app=app.name, method=exchange.method, route=route.pattern)
        else:
            app.report(error, exchange, route)
        if exchange.finished:
            return
        if exchange.started:
            exchange.abort("its handler failed")
        else:
            exchange.respond(*problem(503 if isinstance(error, Cancelled) else 500))

    # -- what the Task waits for

    async def next_piece(self) -> bytes:
        """See :class:`BodySource`."""
        while not self._pieces:
            if self._gone is not None:
                raise self._client_left()
            if self._ended:
                return b""
            if self._readable is None:
                self._readable = Gate()
                self._exchange.attach(self)
            else:
                self._readable.close()
                self._waits_for_content = True
                try:
                    await self._readable.wait()
                finally:
                    self._waits_for_content = False
        pieces, self._pieces = self._pieces, []
        if self._size >= _HIGH:
            self._exchange.resume_body()
        self._size = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _whole(self) -> bytes:
        pieces = []
        while piece := await self.next_piece():
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _drained(self) -> None:
        if self._gone is not None:
            raise self._client_left()
        if self._writable is None:
            self._writable = Gate()
        self._writable.close()
        await self._writable.wait()
        if self._gone is not None:
            raise self._client_left()

    def _client_left(self) -> ConnectionClosed:
        return ConnectionClosed(f"the client is gone ({self._gone})")

    # -- from the exchange

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _HIGH:
            self._exchange.pause_body()  # each time: attaching resumes after the pieces that waited
        if self._readable is not None:
            self._readable.open()

    def on_body_end(self) -> None:
        self._ended = True
        if self._readable is not None:
            self._readable.open()

    def on_writable(self) -> None:
        if self._writable is not None:
            self._writable.open()

    def on_drain(self) -> None:
        if self._response is not None:
            self._response.drain()

    def on_disconnect(self, reason: CloseReason) -> None:
        if self._gone is not None:
            return  # the deadline was over, and what was cut then is gone now: it is told once
        self._gone = reason
        for gate in (self._readable, self._writable):
            if gate is not None:
                gate.open()
        task = self._task
        if task is not None and not task.done():
            closes = self._request is not None and self._request.closing  # a rollback must not stop halfway
            if not self._waits_for_content and not closes:  # the former is told by ConnectionClosed
                task.cancel()
            self._app.cancelled.add(task, self._exchange.method, self._route.pattern)


class Releases:
    """What is done when the response was sent: dependencies are closed, and the work that was left for then begins."""

    __slots__ = ("_none", "_open")

    def __init__(self) -> None:
        self._open = 0
        self._none: Gate | None = None

    async def release(self, app: App[Any], request: Request, failure: BaseException | None) -> None:
        """Close what ``request`` holds, with what has made its answer fail, and begin the work that was left for then.
        Errors of that are reported."""
        stacks, request.resources = request.resources, None
        await self.close(app, request.exchange, stacks or (), failure)
        if request.after_response:
            app.work_after(request)

    async def close(
        self, app: App[Any], exchange: Exchange, stacks: Sequence[AsyncExitStack], failure: BaseException | None
    ) -> None:
        """Close ``stacks``, the last one first, with what has failed. Errors of that are reported."""
        self._open += 1
        try:
            for stack in reversed(stacks):
                try:
                    await stack.__aexit__(*_of(failure))
                except BaseException as error:
                    if error is not failure:
                        app.report(error, exchange, app.no_route)
                    if isinstance(error, Cancelled):
                        failure = failure or error
        finally:
            self._open -= 1
            if not self._open and self._none is not None:
                self._none.open()

    async def join(self, name: str) -> None:
        """Return when everything is closed. What takes longer than some seconds is left alone, and reported."""
        if not self._open:
            return
        self._none = Gate()
        try:
            async with timeout(LAST_PATIENCE):
                await self._none.wait()
        except TimeoutError:
            log.error("dependencies still closing", app=name, requests=self._open, seconds=LAST_PATIENCE)


def _of(error: BaseException | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)
