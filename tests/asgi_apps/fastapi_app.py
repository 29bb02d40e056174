"""A FastAPI application as its users write them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, File, Form, Request, Response, UploadFile, WebSocket
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from fastapi.websockets import WebSocketDisconnect

done: dict[str, str] = {}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """What every request finds in its state."""
    yield {"greeting": "good morning"}


app = FastAPI(lifespan=lifespan)


def query(q: str | None = None) -> str | None:
    return q


@app.get("/items/{id}")
async def item(id: int, q: Annotated[str | None, Depends(query)]) -> dict[str, Any]:  # noqa: A002
    return {"id": id, "q": q}


@app.post("/form")
def form(name: Annotated[str, Form()], color: Annotated[list[str], Form()]) -> list[list[str]]:
    return sorted([["name", name], *(["color", one] for one in color)])


@app.post("/upload")
async def upload(file: Annotated[UploadFile, File()]) -> list[Any]:
    content = await file.read()
    return [file.filename, file.content_type, len(content), hashlib.sha256(content).hexdigest()]


@app.post("/raw")
async def raw(request: Request) -> Response:
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return PlainTextResponse(str(size))


@app.get("/stream")
async def stream() -> Response:
    async def pieces() -> AsyncIterator[str]:
        for number in range(20):
            yield f"line {number}\n" * 500
            await asyncio.sleep(0)

    return StreamingResponse(pieces(), media_type="text/plain")


@app.get("/state")
async def state(request: Request) -> Response:
    return PlainTextResponse(request.state.greeting)


@app.post("/background/{key}", status_code=202)
async def background(key: str, tasks: BackgroundTasks) -> str:
    async def work() -> None:
        await asyncio.sleep(0.05)
        done[key] = "done"

    tasks.add_task(work)
    return "accepted"


@app.get("/background/{key}")
async def outcome(key: str) -> Response:
    return PlainTextResponse(done.get(key, "not yet"))


@app.get("/redirect")
async def redirect() -> Response:
    return RedirectResponse("/items/1")


@app.get("/cookies")
def cookies(request: Request, response: Response) -> str:
    response.set_cookie("a", "1")
    response.set_cookie("b", "2", httponly=True)
    return request.cookies.get("c", "")


@app.get("/nothing", status_code=204)
async def nothing() -> None:
    return


@app.get("/file")
async def file() -> Response:
    return FileResponse(Path(__file__), filename="source.py")


@app.get("/error")
async def error() -> None:
    raise LookupError("secret")


@app.websocket("/ws")
async def echo(websocket: WebSocket) -> None:
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=offered[-1] if offered else None, headers=[(b"x-from", b"app")])
    try:
        while True:
            message = await websocket.receive()
            websocket._raise_on_disconnect(message)
            if message.get("text") == "close":
                await websocket.close(4002, "as you wish")
                return
            if message.get("text") == "fail":
                raise LookupError("secret")
            if message.get("text") is not None:
                await websocket.send_text(message["text"].upper())
            else:
                await websocket.send_bytes(message["bytes"][::-1])
    except WebSocketDisconnect:
        return


@app.websocket("/ws/deny")
async def deny(websocket: WebSocket) -> None:
    await websocket.close()


@app.websocket("/ws/words")
async def deny_in_words(websocket: WebSocket) -> None:
    await websocket.send_denial_response(PlainTextResponse("no ticket", 401))
