"""Files: sent by a form, kept in a folder, listed, fetched whole or in parts, removed.

Run it, and open http://127.0.0.1:8000, or send and fetch files by hand::

    UPLOADS=var/uploads forebay run examples.uploads:app
    curl -F file=@README.md http://127.0.0.1:8000/files
    curl -O -C - http://127.0.0.1:8000/files/README.md          # goes on where it stopped

What is sent goes to the disk as it comes, a piece at a time, in threads: neither memory nor temporary files grow with
the size of a file. It is written beside its place first, so a name always stands for a whole file, and nothing is left
of a client that leaves half-way. A name that a client chose becomes one that is safe, and never replaces a file.

Who may use it is left out: put it behind ``BasicAuth`` or ``BearerAuth`` before others can reach it.
"""

from __future__ import annotations

import os
import re
import time
import unicodedata
from asyncio import shield
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, TypeVar

from msgspec import Struct

from forebay import App
from forebay.engine import Cancelled, start_task
from forebay.engine.tasks import unfinished
from forebay.errors import HTTPError
from forebay.http import FileResponse, FormLimits, Next, Request, Response, blocking, request_parts
from forebay.http.forms import FormPart
from forebay.http.middleware import SecurityHeaders

PAGE = Path(__file__).with_suffix(".html")
LARGEST_FILE = 2 * 1024**3  # bytes
LARGEST_REQUEST = 4 * 1024**3  # bytes of all files of one form, and what is between them
MOST_FILES = 20  # of one form
MOST_KEPT = 10_000  # files in the folder
LONGEST_NAME = 120  # bytes; most file systems take 255, and a number or a suffix may follow
PIECE = 1024 * 1024  # bytes that are written at once: what comes is smaller, and each hand-over to a thread costs
SLOWEST_DISK = 30.0  # seconds that one write may take
UNFINISHED = ".part-"  # what names of files begin with that are not complete

T = TypeVar("T")


class Kept(Struct):
    """A file in the folder."""

    name: str
    size: int
    """Bytes."""
    changed: datetime


class Folder:
    """Where files are kept. Its methods block."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make it where it is not there, and remove what a process that was killed left half-done a day ago."""
        self.root.mkdir(parents=True, exist_ok=True)
        for path in self.root.glob(f"{UNFINISHED}*"):
            with suppress(FileNotFoundError):  # another worker was faster
                if time.time() - path.stat().st_mtime > 24 * 3600:
                    path.unlink()

    def listed(self) -> list[Kept]:
        """The files that are complete, the newest first."""
        found = []
        with os.scandir(self.root) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # it was removed just now
                    if entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                        found.append(_kept(entry.name, entry.stat(follow_symlinks=False)))
        return sorted(found, key=lambda kept: kept.changed, reverse=True)

    def remove(self, name: str) -> None:
        """Remove a file: 404 when there is none."""
        try:
            self.place(name).unlink()
        except OSError:
            raise HTTPError(404, f"there is no file {name}") from None

    def place(self, name: str) -> Path:
        """Where the file of this name is: 404 for a name that none of them has."""
        if safe_name(name) != name:
            raise HTTPError(404, "there is no such file")
        return self.root / name


class Incoming:
    """A file that is being sent. Its methods block."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._path = folder.root / f"{UNFINISHED}{token_hex(8)}"
        self._file: IO[bytes] | None = None

    def write(self, data: bytes) -> None:
        """Add to its end: 507 when there are too many files already."""
        if self._file is None:
            if len(os.listdir(self._folder.root)) >= MOST_KEPT:
                raise HTTPError(507, f"there are {MOST_KEPT} files already")
            self._file = self._path.open("xb")
        self._file.write(data)

    def finish(self, wanted: str) -> Kept:
        """It is complete. Give it its name, or one like it where that is taken."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())  # or a crash could leave a name without its content
        self._file.close()
        stem, ending = os.path.splitext(wanted)
        for number in range(1, MOST_KEPT + 2):
            name = wanted if number == 1 else f"{stem} ({number}){ending}"
            with suppress(FileExistsError):
                os.link(self._path, self._folder.root / name)  # a rename would replace what is there
                os.unlink(self._path)
                return _kept(name, os.stat(self._folder.root / name))
        raise HTTPError(409, "there are too many files of this name")

    def give_up(self) -> None:
        """Leave nothing of it."""
        if self._file is not None:
            with suppress(OSError):  # it may not be able to write what is left, and is closed all the same
                self._file.close()
            self._path.unlink(missing_ok=True)


def safe_name(name: str) -> str:
    """``name`` as one that can stand in a folder, and that shows what it is: without the folders before it, control
    characters, those that turn the direction of writing, what other systems forbid, and dots and blanks at its ends."""
    name = unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1])
    name = "".join(c if unicodedata.category(c)[0] != "C" else "" for c in name)
    name = re.sub(r'[<>:"|?*%]', "_", name).strip(". \u3000")
    stem, ending = os.path.splitext(name)
    ending = ending if len(ending.encode()) <= 16 else ""
    stem = stem if ending else name
    while len(f"{stem}{ending}".encode()) > LONGEST_NAME:
        stem = stem[:-1]
    return f"{stem.rstrip()}{ending}" or "file"


def _kept(name: str, status: os.stat_result) -> Kept:
    return Kept(name, status.st_size, datetime.fromtimestamp(round(status.st_mtime, 3), UTC))


async def same_site(request: Request, call_next: Next) -> Response:
    """Other sites' pages cannot have a visitor's browser send or remove files: browsers say who asks."""
    changes = request.method not in ("GET", "HEAD", "OPTIONS")
    if changes and request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise HTTPError(403, "another site has caused this request")
    return await call_next(request)


@asynccontextmanager
async def lifespan(app: App[Folder]) -> AsyncIterator[None]:
    """The folder is there before the first request."""
    app.state.prepare()
    yield


def make_app(root: Path, limits: FormLimits | None = None) -> App[Folder]:
    """An application for the files of one folder."""
    limits = limits or FormLimits(files=MOST_FILES, fields=10, file_size=LARGEST_FILE)
    app = App(
        "uploads",
        state=Folder(root),
        lifespan=lifespan,
        body_limit=LARGEST_REQUEST,
        middleware=[SecurityHeaders(), same_site],
    )

    async def in_thread(call: Callable[..., T], *args: Any) -> T:
        """``call`` in a thread, to its end: also when the client leaves, for nobody else may touch its file then."""
        task = start_task(app.run_blocking(partial(call, *args)))
        try:
            made: T = await shield(task)
            return made
        except OSError as error:
            raise HTTPError(507, f"the file cannot be kept: {error.strerror}") from error
        except Cancelled:
            await unfinished([task], SLOWEST_DISK)
            raise

    async def keep(part: FormPart, folder: Folder) -> Kept:
        """Write what comes to the disk, at the pace of both."""
        incoming = Incoming(folder)
        try:
            data = bytearray()
            async for piece in part:
                data += piece
                if len(data) >= PIECE:
                    await in_thread(incoming.write, bytes(data))
                    data.clear()
            await in_thread(incoming.write, bytes(data))
            return await in_thread(incoming.finish, safe_name(part.filename or ""))
        except BaseException:  # it is too large, or the client has left
            await in_thread(incoming.give_up)
            raise

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE)

    @app.get("/files")
    @blocking
    def files(folder: Folder) -> list[Kept]:
        """The files that are there."""
        return folder.listed()

    @app.post("/files", status=201)
    async def upload(request: Request, folder: Folder) -> list[Kept]:
        """Keep the files of a form. Of one that is refused half-way those are kept that were complete."""
        kept = [await keep(part, folder) async for part in request_parts(request, limits) if part.filename]
        if not kept:
            raise HTTPError(422, "there is no file in the form")
        return kept

    @app.get("/files/{name}")
    def download(name: str, folder: Folder) -> FileResponse:
        """A file, or a part of it. It is always saved and never shown: a page that somebody has sent would be one of
        ours."""
        return FileResponse(
            folder.place(name),
            content_type="application/octet-stream",
            filename=name,
            headers={"content-security-policy": "sandbox", "cache-control": "no-cache"},
        )

    @app.delete("/files/{name}")
    @blocking
    def remove(name: str, folder: Folder) -> None:
        """Remove a file."""
        folder.remove(name)

    return app


app = make_app(Path(os.environ.get("UPLOADS", "var/uploads")))
