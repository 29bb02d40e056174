"""What answers the requests that no route takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forebay.errors import HTTPError
from forebay.http.compile import compile_route
from forebay.http.exchange import Exchange
from forebay.http.messages import Request, Response
from forebay.http.route import Route, RouteOptions

if TYPE_CHECKING:
    from forebay.http.app import App
    from forebay.http.group import Group

__all__ = ["MissingRoutes"]

_PLACE = "forebay"  # no user's line has registered them


class MissingRoutes:
    """Makes a route for them, inside the middleware of the group whose path it is: so a group's CORS answers preflight
    requests. Where no group has the path, it is the application's."""

    __slots__ = ("_app", "_routes")

    def __init__(self, app: App[Any]) -> None:
        self._app = app
        self._routes: dict[Group, Route] = {}

    def make(self, group: Group) -> Route:
        """The route for ``group``."""
        route = Route(self._app, group, "", (), self._answer, RouteOptions(), host=None, place=_PLACE)
        compile_route(route, {})
        return route

    def forget(self) -> None:
        """The middleware may be another from now on."""
        self._routes = {}

    def route_for(self, exchange: Exchange, raw_path: bytes) -> Route:
        """What answers a request that no route takes. Of several groups that have routes for its path it is that of the
        method which a preflight request asks for, else of the first.

        :raises ProtocolError: the path is not UTF-8.
        """
        app, host = self._app, exchange.host
        methods = app.router.allowed(raw_path, host) if raw_path != b"*" else []
        if exchange.method == "OPTIONS" and methods:
            wanted = (exchange.header(b"access-control-request-method") or b"").strip(b" \t").decode("latin-1")
            methods = sorted(methods, key=lambda method: method != wanted)
        for other in methods:
            found = app.router.find(other, raw_path, host)
            if found is not None:
                group = found[0].group
                if group is app:
                    break
                if group not in self._routes:
                    self._routes[group] = app.finish(self.make(group))
                return self._routes[group]
        return app.no_route

    def _answer(self, request: Request) -> Response:
        """404, 405, the automatic OPTIONS, or the path with or without its last slash."""
        router, raw_path, host = self._app.router, request.routed_path, request.exchange.host
        if raw_path == b"*":
            return Response(status=204)
        allowed = ", ".join(router.allowed(raw_path, host))
        if allowed and request.method == "OPTIONS":
            return Response(status=204, headers={"allow": allowed})
        if self._app.slashes == "redirect":
            other = router.other_slash(request.method, raw_path, host)
            if other is not None:
                query = request.exchange.query
                location = request.base_path + (other + (b"?" + query if query else b"")).decode("latin-1")
                if location[1:2] in ("/", "\\"):  # what other servers let pass; browsers would take it for a host
                    raise HTTPError(404, "there is nothing at this path")
                return Response(status=308, headers={"location": location})
        if not allowed:
            raise HTTPError(404, "there is nothing at this path")
        raise HTTPError(405, f"{request.method} is not one of {allowed}", headers=[("allow", allowed)])
