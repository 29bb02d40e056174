"""A static file, for :func:`benchmarks.peers.forebay_file`: ``BENCH_FILE=PATH forebay run benchmarks.file_app:app``."""

from __future__ import annotations

import os

from forebay import App
from forebay.http.files import FileResponse

FILE = os.environ["BENCH_FILE"]

app = App("file")


@app.get("/{name}")
def get_file(name: str) -> FileResponse:
    """The one file there is, whatever it is called."""
    return FileResponse(FILE)
