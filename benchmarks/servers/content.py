"""A server for clients to be measured against: ``PATH`` says how many bytes it sends, and what it is sent it counts.

``python -m benchmarks.servers.content PORT``. Cheap, so that what the client costs can be seen.
"""

from __future__ import annotations

import sys

from forebay.engine import run, serve_until_signalled
from forebay.http import App, HTTPServer, Request, Response

app = App("content")
_CONTENT = {size: bytes(size) for size in (13, 1024 * 1024)}


@app.get("/{size:int}")
def send(size: int) -> Response:
    """So many bytes."""
    return Response(_CONTENT[size], content_type="application/octet-stream")


@app.post("/")
async def receive(request: Request) -> str:
    """How many came."""
    total = 0
    async for piece in request.stream():
        total += len(piece)
    return str(total)


if __name__ == "__main__":
    run(serve_until_signalled(HTTPServer(app, bind=f"http://127.0.0.1:{sys.argv[1]}")))
