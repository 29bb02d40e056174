"""What slowhttptest attacks: something small, an upload, something large, and a file."""

from __future__ import annotations

from pathlib import Path

from forebay import App
from forebay.http.files import FileResponse

LARGE = b"l" * (1 << 18)

app = App("slow")


@app.get("/hello")
def hello() -> str:
    """What everybody else asks for."""
    return "hello"


@app.post("/upload")
async def upload(content: bytes) -> str:
    """Wants all of its content."""
    return str(len(content))


@app.get("/large")
def large() -> bytes:
    """More than the kernel keeps for a slow reader."""
    return LARGE


@app.get("/file")
def file() -> FileResponse:
    """For requests of many ranges."""
    return FileResponse(Path(__file__).with_name("fault_clients.py"))
