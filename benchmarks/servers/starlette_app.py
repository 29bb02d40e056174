"""Starlette, for uvicorn: the plain response and the typed JSON route."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route


async def hello(request: Request) -> Response:
    """A response of 13 bytes."""
    return PlainTextResponse("Hello, world!")


async def get_user(request: Request) -> Response:
    """A typed path parameter, a query parameter, and a JSON body."""
    return JSONResponse({"id": request.path_params["user_id"], "name": request.query_params.get("name")})


app = Starlette(routes=[Route("/", hello), Route("/users/{user_id:int}", get_user)])
