"""Middleware that has nothing to wait for: request hooks."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence

from forebay.http.headers import MutableHeaders
from forebay.http.messages import HTTPMiddleware, Next, Request, Response
from forebay.wire.http1 import encode_headers

__all__ = ["Hooks", "RequestHook"]

_CRLF = b"\r\n"
_SHORT, _KEPT = 256, 64  # bytes of header lines, and how many of them are known not to need merging


class RequestHook:
    """Middleware that only looks at the request: it refuses it, or adds headers to whatever is answered.

    ::

        class Region(RequestHook):
            def before(self, request: Request) -> Response | bytes | None:
                if request.headers.get("x-region") == "moon":
                    return Response("not here", status=421)
                return b"x-served-from: eu-1\\r\\n"

    It is used like any other middleware. Where only hooks are around it, up to the application, it needs no coroutine:
    it is called when the request has come, and its lines are put on the answer when that is sent, be it of the handler,
    of an error nobody has caught, or of a deadline that was over. A WebSocket's handshake goes without them.
    """

    __slots__ = ()

    words: tuple[bytes, ...] = ()
    """The names of the headers it adds, or what these begin with, in lower case: an answer in which none of them is
    found gets the lines as they are; into others :meth:`merge` puts them."""
    early = True
    """False: it needs the context of the request's Task, and always gets it."""

    def before(self, request: Request) -> Response | bytes | None:
        """Look at ``request``. May raise what handlers may; must not wait.

        :return: an answer, which the handler is left out for; the lines to add to the answer, each with CRLF at its
            end, the name in lower case (:func:`forebay.wire.http1.encode_headers`); None: nothing to add.
        """
        raise NotImplementedError

    def merge(self, headers: MutableHeaders, lines: bytes) -> None:
        """Put the lines of :meth:`before` into an answer that may have such headers of its own. Those are replaced, and
        ``vary`` gets what it lacks, unless a hook does it differently.

        :param headers: of the answer.
        """
        for line in lines.decode("latin-1").split("\r\n"):
            name, _, value = line.partition(": ")
            if name == "vary":
                headers.add_to_list(name, value)
            elif name:
                headers[name] = value

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """The same in the midst of other middleware."""
        found = self.before(request)
        if isinstance(found, Response):
            return found
        if not found:
            return await call_next(request)
        if found.__class__ is not bytes or not found.endswith(_CRLF):
            raise _unfit(self, found)
        response = await call_next(request)
        if response.status != 101 and not response.headers.add_lines(found, self.words):
            self.merge(response.headers, found)
        return response


class Hooks:
    """The hooks around a route that are called where its request arrives."""

    __slots__ = ("_befores", "_plain", "_words", "hooks")

    def __init__(self, layers: Sequence[HTTPMiddleware]) -> None:
        """:param layers: the outermost first; what is behind the first that is no hook is left to the chain."""
        found = []
        for layer in layers:
            if not (isinstance(layer, RequestHook) and layer.early):
                break
            found.append(layer)
        self.hooks = tuple(found)
        self._befores = tuple([hook.before for hook in found])
        words = tuple([word for hook in found for word in hook.words])
        beginnings = sum(other.startswith(word) for word in words for other in words)
        self._words = words if beginnings == len(words) else None  # else one of them may merge another's
        self._plain: set[bytes] = set()

    def run(self, request: Request) -> Response | None:
        """Call the hooks, and leave to the exchange what they add.

        :return: the answer of the one that refused, or None. Errors are passed on.
        """
        exchange = request.exchange
        exchange.hooks = self
        exchange.hook_lines = added = []
        for before in self._befores:
            found = before(request)
            if found.__class__ is bytes and 10 in found:  # an LF: without one, the line would swallow the next header
                added.append(found)
            elif not found:
                added.append(b"")
            elif isinstance(found, Response):
                return found
            else:
                raise _unfit(self.hooks[len(added)], found)
        return None

    def add_to(self, headers: bytes, added: Sequence[bytes]) -> bytes:
        """The header lines of an answer with those that were added."""
        plain = self._plain
        if headers not in plain:
            if self._words is None or any(headers.find(word) >= 0 for word in self._words):
                return self._merged(headers, added)
            if len(headers) <= _SHORT and len(plain) < _KEPT:
                plain.add(headers)
        return headers + b"".join(added)

    def _merged(self, headers: bytes, added: Sequence[bytes]) -> bytes:
        found = MutableHeaders.encoded(headers)
        for hook, lines in zip(reversed(self.hooks[: len(added)]), reversed(added), strict=True):
            if lines and not found.add_lines(lines, hook.words):
                hook.merge(found, lines)
        return encode_headers(found.pairs())  # with those the server sets, which an upgrade or a mount may have given


def _unfit(hook: RequestHook, found: object) -> TypeError:
    """What is wrong with what ``hook`` has given."""
    if isinstance(found, bytes):
        return TypeError(f"{hook!r} gave {found!r:.80}: each header line must end with CRLF")
    if isinstance(found, Coroutine):
        found.close()  # or Python warns that nobody has awaited it
        return TypeError(f"{hook!r} gave a coroutine: before() must not be one; what waits is plain middleware")
    return TypeError(f"{hook!r} gave {type(found).__name__}, not a Response, bytes or None")
