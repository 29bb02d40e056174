"""A client's transport that asks a function, and no server."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from forebay.engine.deadlines import fail_after
from forebay.engine.loop import now
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.messages import Response

__all__ = ["Answer", "AnswerFunction", "FunctionTransport"]

Answer: TypeAlias = (
    ClientResponse | Response | tuple[int, Mapping[str, str] | Sequence[tuple[str, str]], bytes | str] | int
)
"""What the function may give: an answer, a server's :class:`~forebay.http.Response`, ``(status, headers, content)``, or
just a status."""

AnswerFunction: TypeAlias = Callable[[ClientRequest], Awaitable[Answer] | Answer]


class FunctionTransport:
    """Answers each request with what ``function`` makes of it: for tests of what is built on a client.

    ::

        async def users(request: ClientRequest) -> Response:
            return Response({"id": 7, "path": request.url.path})

        async with Client("http://users", transport=FunctionTransport(users)) as client:
            assert (await (await client.get("/users/7")).json())["id"] == 7

    ``requests`` has the requests so far, the last ``keep`` of them, as they came to the function: redirects followed by
    the client, cookies, auth and retries are the client's, so each of them is one. An error that the function raises
    reaches whoever made the request, as that of a server would: raise ``ConnectFailed`` to be one that is not there.

    :param function: ``async def`` or ``def``. Content of the request is at ``await content_of(request)``.
    :param keep: how many requests are kept, at least 0.
    :raises ValueError: ``keep`` is less.
    """

    __slots__ = ("_function", "_keep", "requests")

    def __init__(self, function: AnswerFunction, *, keep: int = 1000) -> None:
        if keep < 0:
            raise ValueError(f"FunctionTransport keep {keep}: must be at least 0")
        self._function = function
        self._keep = keep
        self.requests: list[ClientRequest] = []

    def __repr__(self) -> str:
        return f"<FunctionTransport {getattr(self._function, '__name__', self._function)!s}>"

    async def start(self) -> None:
        """There is nothing to start."""

    async def drain(self) -> None:
        """There is nothing to wait for."""

    async def stop(self) -> None:
        """There is nothing to stop."""

    async def send(self, request: ClientRequest) -> ClientResponse:
        """What the function makes of it.

        :raises DeadlineExceeded: not in time.
        :raises TypeError: what it gave is no answer.
        :raises Exception: whatever it raised.
        """
        self.requests.append(request)
        del self.requests[: -self._keep or len(self.requests)]
        async with fail_after(max(0.0, request.deadline - now())):
            made = self._function(request)
            answer = await made if inspect.isawaitable(made) else made
        return answered(request, answer)


def answered(request: ClientRequest, answer: object) -> ClientResponse:
    """The answer to ``request`` that ``answer`` stands for. A HEAD has none of its content.

    :raises TypeError: it is none.
    """
    match answer:
        case ClientResponse():
            return answer
        case Response():
            content = answer.body if answer.stream is None else _encoded(answer.stream)
            headers = answer.headers.pairs()
            return _made(request, answer.status, headers, content)
        case bool():
            pass
        case int():
            return _made(request, answer, [], b"")
        case (int() as status, headers, bytes() as content):
            return _made(request, status, _pairs(headers), content)
        case (int() as status, headers, str() as content):
            return _made(request, status, _pairs(headers), content.encode())
    raise TypeError(
        f"{request} was answered with {answer!r}: must be a ClientResponse, a Response, "
        "(status, headers, bytes or str), or a status"
    )


def _pairs(headers: Mapping[str, str] | Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return list(headers.items() if isinstance(headers, Mapping) else headers)


def _made(
    request: ClientRequest, status: int, headers: list[tuple[str, str]], content: bytes | AsyncIterator[bytes]
) -> ClientResponse:
    if isinstance(content, bytes) and status not in (204, 304) and all(name != "content-length" for name, _ in headers):
        headers = [*headers, ("content-length", str(len(content)))]
    return ClientResponse.made(request, status, headers, b"" if request.method == "HEAD" else content)


async def _encoded(stream: AsyncIterable[bytes | str]) -> AsyncIterator[bytes]:
    async for piece in stream:
        yield piece.encode() if isinstance(piece, str) else piece
