"""The admin listener: probes, metrics, the status page."""

from __future__ import annotations

import hmac
from typing import Any

from forebay.admin.exposition import expose
from forebay.admin.page import status_page
from forebay.admin.process import process_families, worker_families
from forebay.admin.system import System
from forebay.chain import Handler
from forebay.config import is_loopback
from forebay.engine import parse_address
from forebay.errors import HTTPError, StartError
from forebay.http import App, HTTPServer, Request, Response, ServerLimits
from forebay.observe import Family, merge

__all__ = ["admin_app", "admin_server"]

_PROBES = ("/livez", "/readyz")


def admin_server(system: System, address: str, token: str | None = None) -> HTTPServer:
    """The admin listener as a Service.

    :param address: HOST:PORT.
    :param token: needed where others than this machine can reach ``address``; then everything but the two probes asks
        for it, as ``Authorization: Bearer TOKEN``.
    :raises StartError: an address past loopback without a token.
    """
    host = parse_address(f"http://{address}", schemes=("http",)).host
    if not is_loopback(host) and not token:
        raise StartError(f"admin address {address} is not on loopback: set system.admin_token, or use 127.0.0.1")
    limits = ServerLimits(head=16 * 1024, connections=100)
    return HTTPServer(admin_app(system, token), bind=f"http://{address}", name="admin", limits=limits)


def admin_app(system: System, token: str | None = None) -> App:
    """The routes of the admin listener."""
    app = App(name="admin", body_limit=1024)

    def authorised(request: Request) -> bool:
        if token is None:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), token.encode())
        return same and scheme.lower() == "bearer"

    @app.middleware
    async def guard(request: Request, call_next: Handler[Request, Response]) -> Response:
        if request.path in _PROBES:
            return await call_next(request)  # load balancers probe without tokens, and some without a Host
        if not authorised(request):
            raise HTTPError(401, "a bearer token is needed", headers=[("www-authenticate", 'Bearer realm="forebay"')])
        if token is None and not _names_this_machine(request.headers.get("host", "")):
            # A page in a browser on this machine could have its own name resolve to 127.0.0.1 and read everything.
            raise HTTPError(403, "without a token, admin answers only to localhost and loopback addresses")
        return await call_next(request)

    def told_everything(request: Request) -> bool:
        return authorised(request) and (token is not None or _names_this_machine(request.headers.get("host", "")))

    @app.get("/livez")
    def livez() -> dict[str, Any]:
        return {"status": "alive"}

    @app.get("/readyz")
    def readyz(request: Request) -> Response:
        reasons = system.unready()
        answer: dict[str, Any] = {"status": "not ready" if reasons else "ready"}
        if told_everything(request):
            answer |= {"state": system.state, "reasons": reasons}
        return Response(answer, status=503 if reasons else 200, headers={"cache-control": "no-store"})

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        body, content_type = expose(await _collect(system), request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    @app.get("/debug/workers")
    def workers() -> dict[str, Any]:
        now = system.now()
        return {
            "workers": [
                {
                    "name": worker.name,
                    "index": worker.index,
                    "pid": worker.pid,
                    "state": worker.state,
                    "restarts": worker.restarts,
                    "seconds_up": round(now - worker.started_at, 1) if worker.pid else None,
                    "last_exit": worker.last_exit,
                }
                for worker in system.workers
            ]
        }

    @app.get("/")
    async def status() -> Response:
        page = status_page(system, await _collect(system))
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        headers = {"content-type": "text/html; charset=utf-8", "cache-control": "no-store"}
        return Response(page.encode(), headers=headers | {"content-security-policy": policy})

    return app


async def _collect(system: System) -> list[Family]:
    return merge([process_families(), worker_families(system.workers), await system.collect()])


def _names_this_machine(host: str) -> bool:
    name, _, port = host.rpartition(":")
    if not name or not port.isdigit():
        name = host
    return is_loopback(name.removeprefix("[").removesuffix("]").lower())
