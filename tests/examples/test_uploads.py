"""Files that are sent, kept, fetched and removed: what is on the disk, whatever clients send or leave unsent."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from examples import uploads
from forebay.engine import start_task
from forebay.engine.tasks import Event
from forebay.http import FormLimits
from forebay.testing import TestClient
from tests.examples.processes import forebay_run
from tests.support import eventually, free_port, raw_client


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of the files."""
    return tmp_path / "files"


@pytest.fixture
async def client(root: Path) -> AsyncIterator[TestClient]:
    """Asks an application for that folder."""
    async with TestClient(uploads.make_app(root)) as client:
        yield client


def multipart(name: str, content: bytes) -> tuple[bytes, dict[str, str]]:
    """A form with one file, and its headers."""
    head = f'--B\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--B--\r\n", {"content-type": "multipart/form-data; boundary=B"}


async def test_what_was_sent_is_what_is_fetched(client: TestClient, root: Path) -> None:
    """Octet for octet, across many pieces; it is listed, and nothing else is left in the folder."""
    content = os.urandom(3 * uploads.PIECE + 7)
    response = await client.post("/files", files={"file": ("data.bin", content)})
    assert response.status == 201
    (kept,) = response.json()
    assert (kept["name"], kept["size"]) == ("data.bin", len(content))
    fetched = await client.get("/files/data.bin")
    assert fetched.body == content
    assert fetched.headers["content-disposition"] == 'attachment; filename="data.bin"'
    assert (await client.get("/files")).json() == [kept]
    assert os.listdir(root) == ["data.bin"]


async def test_several_files_of_one_form(client: TestClient) -> None:
    """All are kept, and fields that are text are left out; a form without a file is told so."""
    files = {"a": ("a.txt", b"1"), "b": ("b.txt", b"22")}
    response = await client.post("/files", files=files, form={"note": "hello"})
    assert [(kept["name"], kept["size"]) for kept in response.json()] == [("a.txt", 1), ("b.txt", 2)]
    empty = await client.post("/files", files={"a": ("", b"")})
    assert (empty.status, empty.json()["detail"]) == (422, "there is no file in the form")


async def test_a_download_goes_on_where_it_stopped(client: TestClient) -> None:
    """A range gives that part, as long as the file is the same."""
    await client.post("/files", files={"file": ("a.txt", b"0123456789")})
    tag = (await client.get("/files/a.txt")).headers["etag"]
    part = await client.get("/files/a.txt", headers={"range": "bytes=4-", "if-range": tag})
    assert (part.status, part.body, part.headers["content-range"]) == (206, b"456789", "bytes 4-9/10")
    assert (await client.get("/files/a.txt", headers={"range": "bytes=10-"})).status == 416


async def test_no_file_replaces_another(client: TestClient) -> None:
    """The second of a name gets a number."""
    names = []
    for content in (b"one", b"two", b"three"):
        response = await client.post("/files", files={"file": ("a.tar.gz", content)})
        names.append(response.json()[0]["name"])
    assert names == ["a.tar.gz", "a.tar (2).gz", "a.tar (3).gz"]
    assert (await client.get("/files/a.tar.gz")).body == b"one"


async def test_a_file_is_removed_once(client: TestClient, root: Path) -> None:
    """204, then 404."""
    await client.post("/files", files={"file": ("a.txt", b"1")})
    assert (await client.delete("/files/a.txt")).status == 204
    assert os.listdir(root) == []
    assert (await client.delete("/files/a.txt")).status == 404


@pytest.mark.parametrize(
    "path", ["..%2Fsecret", "%2e%2e%2fsecret", ".part-1", "a%00", "..%5Csecret", "%2Fetc%2Fpasswd", "folder", "none"]
)
async def test_nothing_else_is_given_or_removed(client: TestClient, root: Path, path: str) -> None:
    """404 for every other name: of files elsewhere, of those that are not complete, of folders."""
    (root.parent / "secret").write_text("secret")
    (root / ".part-1").write_text("half")
    (root / "folder").mkdir()
    for method in ("GET", "DELETE"):
        response = await client.request(method, f"/files/{path}")
        assert response.status in (400, 404)  # 400: the path itself is none
    assert (root.parent / "secret").exists()
    assert (root / ".part-1").exists()


@given(st.text())
@example("../../etc/passwd")
@example("C:\\Users\\ada\\report.pdf")
@example(".bashrc")
@example("evil\u202egnp.exe")
@example("x" * 300 + ".tar")
@example("\ud800")
def test_a_safe_name_is_safe(name: str) -> None:
    """It stands in the folder itself, is not hidden, can be written, and making it safe again changes nothing."""
    safe = uploads.safe_name(name)
    assert safe
    assert safe not in (".", "..")
    assert not set(safe) & set('/\\\0<>:"|?*%\u202e\n')
    assert not safe.startswith(".")
    assert len(safe.encode()) <= uploads.LONGEST_NAME
    assert uploads.safe_name(safe) == safe


async def test_names_are_kept_as_far_as_they_are_safe(client: TestClient) -> None:
    """In any script, without the folders that some clients send."""
    for sent, kept in (("grüße.txt", "grüße.txt"), ("C:\\a\\b.txt", "b.txt"), ("../c.txt", "c.txt")):
        body, headers = multipart(sent.replace("\\", "\\\\"), b"1")
        response = await client.post("/files", content=body, headers=headers)
        assert response.json()[0]["name"] == kept
        assert (await client.get("/files/" + kept)).status == 200


async def test_what_is_too_large_is_refused_and_not_kept(root: Path) -> None:
    """413 at the limit, and nothing of it is left; what was complete before is kept."""
    limits = FormLimits(files=2, fields=1, file_size=100)
    async with TestClient(uploads.make_app(root, limits)) as client:
        files: dict[str, Any] = {"a": ("a.txt", b"x" * 100), "b": ("b.txt", b"x" * 101)}
        assert (await client.post("/files", files=files)).status == 413
        await eventually(lambda: os.listdir(root) == ["a.txt"])
        many: dict[str, Any] = {name: (name, b"x") for name in "cde"}
        assert (await client.post("/files", files=many)).status == 413
        assert len((await client.get("/files")).json()) == 3


async def test_a_full_folder_takes_no_more(client: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """507, and nothing is left of it."""
    monkeypatch.setattr(uploads, "MOST_KEPT", 1)
    assert (await client.post("/files", files={"file": ("a.txt", b"1")})).status == 201
    full = await client.post("/files", files={"file": ("b.txt", b"1")})
    assert (full.status, full.json()["detail"]) == (507, "there are 1 files already")
    assert os.listdir(root) == ["a.txt"]


async def test_nothing_is_left_of_who_leaves(client: TestClient, root: Path) -> None:
    """A client that goes away in the middle of a file: the part that came is removed."""
    body, headers = multipart("a.bin", b"x" * 3 * uploads.PIECE)
    never = Event()

    async def half() -> AsyncIterator[bytes]:
        yield body[: 2 * uploads.PIECE]
        await never.wait()

    sending = start_task(client.post("/files", content=half(), headers=headers, timeout=30))
    await eventually(lambda: [name for name in os.listdir(root) if name.startswith(uploads.UNFINISHED)])
    sending.cancel()
    await eventually(lambda: os.listdir(root) == [])


async def test_other_sites_cannot_have_files_sent_or_removed(client: TestClient) -> None:
    """403 for what a browser sends for another site's page; its own pages and programs may."""
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 201)):
        headers = {"sec-fetch-site": site}
        assert (await client.post("/files", files={"file": ("a.txt", b"1")}, headers=headers)).status == status
    assert (await client.delete("/files/a.txt", headers={"sec-fetch-site": "cross-site"})).status == 403
    assert (await client.get("/files/a.txt", headers={"sec-fetch-site": "cross-site"})).status == 200


async def test_what_a_killed_process_left_is_removed_after_a_day(root: Path) -> None:
    """At the next start; what another worker may still be writing stays."""
    root.mkdir()
    old, new = root / ".part-old", root / ".part-new"
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 90_000,) * 2)
    async with TestClient(uploads.make_app(root)):
        assert os.listdir(root) == [".part-new"]


async def test_it_runs_as_its_docstring_says(tmp_path: Path) -> None:
    """``forebay run`` serves the page and keeps files where it was told."""
    port, root = free_port(), tmp_path / "kept"
    bind = f"http://127.0.0.1:{port}"
    async with (
        forebay_run("examples.uploads:app", tmp_path / "log", "--bind", bind, UPLOADS=str(root)),
        raw_client(port) as browser,
    ):
        status, headers, content = await browser.get("/")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert content == uploads.PAGE.read_bytes()
        body, fields = multipart("a.txt", b"hello")
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        size = f"content-length: {len(body)}\r\n"
        await browser.send(f"POST /files HTTP/1.1\r\nHost: test\r\n{head}{size}\r\n".encode() + body)
        assert (await browser.response())[0] == 201
    assert (root / "a.txt").read_bytes() == b"hello"
