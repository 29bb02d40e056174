"""What is mounted below a prefix, and how it gets its requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, runtime_checkable

from forebay.errors import HTTPError
from forebay.http.messages import Request, Response
from forebay.http.route import Route
from forebay.wire.http1 import decode_path

__all__ = ["Mountable", "mounted"]


@runtime_checkable
class Mountable(Protocol):
    """What takes all requests below a prefix, such as ``StaticFiles``. It may have coroutine functions ``startup`` and
    ``shutdown``, which are called with those of the application."""

    async def respond(self, request: Request, path: str) -> Response:
        """Answer ``request``.

        :param path: what is left of the request's path behind the prefix and its slash, decoded. Its slashes are those
            of the request: one with ``%2F`` among them is 404 before, since it could lead past a route to what that
            one guards.
        """


def mounted(route: Route) -> Callable[[Route, Request], Awaitable[Response]]:
    """What gives requests to what is mounted by ``route``.

    :raises TypeError: that is nothing that can be mounted.
    """
    target: Any = route.handler
    if isinstance(target, type) and (hasattr(target, "respond") or hasattr(target, "respond_mounted")):
        raise TypeError(f"mount {route.pattern!r}: {target.__name__} is a class: an instance of it is wanted")
    if target is route.app or route.app in getattr(target, "mounted_apps", tuple)():
        raise TypeError(f"mount {route.pattern!r}: {target!r} would be a part of itself")
    depth = route.pattern.count("/")
    whole = getattr(target, "respond_mounted", None)
    is_asgi = False
    if whole is None:
        from forebay.http.asgi_mount import ASGIMount

        if not isinstance(target, Mountable):
            if not callable(target):
                what = "an App, something with respond(), or an ASGI application"
                raise TypeError(f"mount {route.pattern!r}: {target!r} must be {what}")
            made: Any = ASGIMount(target)
            target = route.handler = made
        is_asgi = isinstance(target, ASGIMount)

    async def answer(route: Route, request: Request) -> Response:
        parts = request.routed_path.split(b"/", depth + 1)
        rest = parts[depth + 1] if len(parts) > depth + 1 else b""
        raw_path = request.exchange.raw_path
        request.root_path = raw_path[: len(raw_path) - len(rest)].removesuffix(b"/")
        if whole is not None:
            response: Response = await whole(request, b"/" + rest)
        elif not is_asgi and (b"%2F" in rest or b"%2f" in rest):  # an ASGI application has the path as it was received
            raise HTTPError(404, "there is nothing at this path")
        else:
            response = await target.respond(request, decode_path(rest))
        return response

    return answer
