"""Static files over real sockets: what is served, how it is kept, and what nobody gets."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest

from forebay.errors import HTTPError
from forebay.http import App, HTTPServer, Request, Response
from forebay.http.static_files import StaticFiles
from tests.support import RawClient, raw_client, running

PAGE = "text/html"
METHODS = ("GET", "HEAD", "POST", "OPTIONS")


def write(folder: Path, **files: str) -> None:
    """Write files; ``__`` in a name is a slash, ``_`` a dot."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a bit of everything, beside a file that is nobody's business."""
    write(tmp_path, secret_txt="secret")
    folder = tmp_path / "site"
    write(folder, index_html="<home>", app_js="script();", docs__index_html="<docs>", empty__a_txt="a", notes="plain")
    write(folder, _env="hidden", _git__config="hidden", docs___hidden_txt="hidden")
    (folder / ".well-known").mkdir()
    (folder / ".well-known" / "security.txt").write_text("mail us")
    (folder / "ä b.txt").write_text("ä")
    return folder


@asynccontextmanager
async def serving(files: StaticFiles, prefix: str = "") -> AsyncIterator[RawClient]:
    """A client of a server with ``files`` mounted."""
    app = App()

    async def below(request: Request, path: str) -> Response:
        return await files.respond(request, path)

    async def root(request: Request) -> Response:
        return await files.respond(request, "")

    app.route(prefix + "/{path:path}", METHODS)(below)
    app.route(prefix + "/", METHODS)(root)
    if prefix:
        app.route(prefix, METHODS)(root)
    async with (
        running(HTTPServer(app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        yield client


@pytest.mark.both_loops
@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        ("/app.js", "text/javascript; charset=utf-8", b"script();"),
        ("/", "text/html; charset=utf-8", b"<home>"),
        ("/docs/", "text/html; charset=utf-8", b"<docs>"),
        ("/docs/index.html", "text/html; charset=utf-8", b"<docs>"),
        ("/notes", "application/octet-stream", b"plain"),
        ("/%C3%A4%20b.txt", "text/plain; charset=utf-8", "ä".encode()),
        ("/.well-known/security.txt", "text/plain; charset=utf-8", b"mail us"),
    ],
)
async def test_files_are_served(site: Path, path: str, content_type: str, body: bytes) -> None:
    """With their type and an entity tag; the same to HEAD without content; 304 to who has it."""
    async with serving(StaticFiles(site)) as client:
        status, headers, got = await client.get(path)
        assert (status, headers["content-type"], headers["cache-control"], got) == (200, content_type, "no-cache", body)
        await client.send(f"HEAD {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        head = await client.response(head_only=True)
        assert (head[0], head[1]["etag"], head[1]["content-length"]) == (200, headers["etag"], str(len(body)))
        unchanged = await client.get(path, if_none_match=headers["etag"])
        assert (unchanged[0], unchanged[1]["cache-control"], unchanged[2]) == (304, "no-cache", b"")
        part = await client.get(path, range="bytes=0-0")
        assert (part[0], part[2]) == (206, body[:1])


HOSTILE = [
    "..", "../secret.txt", "docs/../../secret.txt", "docs/..", ".", "./app.js", "docs/.", "docs/./index.html",
    "//secret.txt", "/app.js", "/etc/passwd", "docs//index.html", "docs//", "/", "//", "app.js/", "app.js/x",
    "..\\secret.txt", "docs\\index.html", "\\\\host\\share", "app.js\0", "\0", "app.js\0.html", ".env", ".git/config",
    ".git/", "docs/.hidden.txt", ".well-known/.hidden", "docs/.well-known/security.txt", "x" * 300, "x/" * 3000 + "y",
    "empty", "empty/", "nothing", "nothing/", "out.txt", "outside/secret.txt", "outside", "outside/", "circle",
    "fifo", "C:/windows/win.ini", "~root", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE, ids=repr)
async def test_nobody_gets_what_is_not_served(site: Path, path: str) -> None:
    """404 for every path that is not exactly that of a file to be served, whoever made the path."""
    (site / "out.txt").symlink_to(site.parent / "secret.txt")
    (site / "outside").symlink_to(site.parent)
    (site / "circle").symlink_to(site / "circle")
    os.mkfifo(site / "fifo")
    files = StaticFiles(site)
    with pytest.raises(HTTPError, match="404") as error:
        await files.respond(made_request(), path)
    assert error.value.status == 404
    with suppress(HTTPError):
        answer = await StaticFiles(site, fallback="index.html").respond(made_request(PAGE), path)
        assert answer.path == str(site / "index.html")  # type: ignore[attr-defined]  # and nothing else


def made_request(accept: str = "*/*", target: bytes = b"/x") -> Any:
    """What a request looks like to an endpoint."""

    class Made:
        method = "GET"
        raw_path = target

        class headers:
            @staticmethod
            def get_all(name: str) -> list[str]:
                return [accept] if name == "accept" else []

        class exchange:
            query = b""

    return Made()


@pytest.mark.parametrize(
    "target",
    [
        "/..%2fsecret.txt", "/%2e%2e/secret.txt", "/docs/%2e%2e/%2e%2e/secret.txt", "/..%5csecret.txt",
        "/%2fetc/passwd", "/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/.%65nv", "//etc/passwd", "/docs/..%c0%af..",
        "/app.js%00", "/outside/secret.txt",
    ],
)  # fmt: skip
async def test_encoded_attacks_get_nothing(site: Path, target: str) -> None:
    """Through the server: whatever is decoded where, the answer is a 4xx without the secret."""
    (site / "outside").symlink_to(site.parent)
    async with serving(StaticFiles(site)) as client:
        status, _, body = await client.get(target)
        assert 400 <= status < 500
        assert b"secret" not in body
        assert b"root:" not in body


async def test_links_within_the_folder_and_a_folder_that_is_a_link_are_followed(site: Path) -> None:
    """Also when the folder's link is set to another release while it is served."""
    (site / "latest.js").symlink_to(site / "app.js")
    other = site.parent / "other"
    write(other, app_js="newer();")
    current = site.parent / "current"
    current.symlink_to(site)
    async with serving(StaticFiles(current, valid_for=0)) as client:
        assert (await client.get("/latest.js"))[2] == b"script();"
        replacement = site.parent / "replacement"
        replacement.symlink_to(other)
        replacement.rename(current)
        assert (await client.get("/app.js"))[2] == b"newer();"
        assert (await client.get("/latest.js"))[0] == 404


async def test_links_out_of_the_folder_are_followed_where_that_is_said(site: Path) -> None:
    """But paths are checked all the same."""
    (site / "out.txt").symlink_to(site.parent / "secret.txt")
    async with serving(StaticFiles(site, follow_symlinks=True)) as client:
        assert (await client.get("/out.txt"))[2] == b"secret"
        assert (await client.get("/..%2fsecret.txt"))[0] in (400, 404)


async def test_hidden_files_are_served_where_that_is_said(site: Path) -> None:
    """Names with a dot at the beginning; ``..`` never."""
    files = StaticFiles(site, hidden=True)
    async with serving(files) as client:
        assert (await client.get("/.env"))[2] == b"hidden"
        assert (await client.get("/.git/config"))[2] == b"hidden"
    with pytest.raises(HTTPError, match="404"):
        await files.respond(made_request(), "../secret.txt")


@pytest.mark.parametrize(
    ("prefix", "target", "leads_to"),
    [
        ("", "/docs", "/docs/"),
        ("", "/docs?a=1&b=%2F", "/docs/?a=1&b=%2F"),
        ("", "/d%6fcs", "/d%6fcs/"),
        ("/static", "/static", "/static/"),
        ("/static", "/static/docs", "/static/docs/"),
    ],
)
async def test_folders_are_redirected_to_their_slash(site: Path, prefix: str, target: str, leads_to: str) -> None:
    """308, so that the page's relative links work; the query is kept."""
    async with serving(StaticFiles(site), prefix) as client:
        status, headers, _ = await client.get(target)
        assert status == 308
        assert urljoin(f"http://test{target}", headers["location"]) == f"http://test{leads_to}"
        assert (await client.get(leads_to))[0] == 200


@pytest.mark.parametrize(
    "target", [b"//docs", b"//evil.example/docs", b"/\\docs", b"///docs", b"/http:docs", b"/%2Fdocs"]
)
async def test_no_redirect_leads_to_another_host(site: Path, target: bytes) -> None:
    """Whatever the path looks like to a browser, which takes ``//evil`` and ``/\\evil`` for hosts."""
    answer = await StaticFiles(site).respond(made_request(target=target), "docs")
    location = answer.headers["location"]
    assert location.startswith("./")
    assert urlsplit(urljoin("http://test" + target.decode(), location)).netloc == "test"


async def test_a_single_page_application_gets_its_page(site: Path) -> None:
    """For navigation only: a missing script, image or piece of data stays missing."""
    async with serving(StaticFiles(site, fallback="index.html", max_age=60)) as client:
        for path in ("/users/42", "/users/", "/empty"):
            status, headers, body = await client.get(path, accept="text/html,application/xhtml+xml,*/*;q=0.8")
            assert (status, body, headers["cache-control"], headers["vary"]) == (200, b"<home>", "no-cache", "accept")
        assert (await client.get("/app.js", accept="text/html"))[1]["cache-control"] == "max-age=60"
        for path, accept in (
            ("/users/42", "*/*"),
            ("/users/42", "application/json"),
            ("/users/42", "text/html;q=0"),
            ("/missing.js", "text/html"),
        ):
            assert (await client.get(path, accept=accept))[0] == 404
        status, headers, _ = await client.get("/users/42")
        assert (status, headers["vary"]) == (404, "accept")  # or a cache would give it to browsers
        await client.send(b"POST /users/42 HTTP/1.1\r\nhost: a\r\naccept: text/html\r\ncontent-length: 0\r\n\r\n")
        assert (await client.response())[0] == 405


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip, zstd", "zstd"),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP", "gzip"),
        ("br;q=0.5, gzip;q=0.9", "gzip"),
        ("br;q=0, *;q=0.1", "zstd"),
        ("*", "br"),
        ("br;q=0, gzip;q=0.0", None),
        ("identity, br;q=0.5", None),
        ("identity;q=0.5, br;q=0.5", "br"),
        ("br;q=nonsense", None),
        ("deflate", None),
        ("identity;q=0", None),
        ("*;q=0", None),
        (None, None),
    ],
)
async def test_compressed_siblings(site: Path, accepted: str | None, coding: str | None) -> None:
    """The best that the client takes, as what it stands for; caches are told that there are several."""
    write(site, app_js_br="BR", app_js_zst="ZST!", app_js_gz="GZIP!")
    bodies = {"br": b"BR", "zstd": b"ZST!", "gzip": b"GZIP!", None: b"script();"}
    async with serving(StaticFiles(site)) as client:
        headers = {} if accepted is None else {"accept_encoding": accepted}
        status, got, body = await client.get("/app.js", **headers)
        assert (status, got.get("content-encoding"), body) == (200, coding, bodies[coding])
        assert (got["content-type"], got["vary"]) == ("text/javascript; charset=utf-8", "accept-encoding")
        again = await client.get("/app.js", if_none_match=got["etag"], **headers)
        assert (again[0], again[1]["vary"]) == (304, "accept-encoding")
        assert (await client.get("/app.js", if_none_match='"other"', **headers))[2] == bodies[coding]


async def test_siblings_that_do_not_fit_are_not_sent(site: Path) -> None:
    """Older than the file, out of the folder, a folder, switched off; and none alone."""
    write(site, app_js_br="stale", lone_js_br="lone")
    os.utime(site / "app.js.br", (1, 1))
    (site / "app.js.gz").symlink_to(site.parent / "secret.txt")
    (site / "app.js.zst").mkdir()
    async with serving(StaticFiles(site)) as client:
        status, headers, body = await client.get("/app.js", accept_encoding="br, gzip, zstd")
        assert (status, body) == (200, b"script();")
        assert not {"content-encoding", "vary"} & headers.keys()
        assert (await client.get("/lone.js", accept_encoding="br"))[0] == 404
    write(site, app_js_br="fresh")
    async with serving(StaticFiles(site, precompressed=())) as client:
        assert (await client.get("/app.js", accept_encoding="br"))[2] == b"script();"


async def test_what_caches_are_told(site: Path) -> None:
    """By age; names with a hash are for ever; and nothing, where that is wanted."""
    (site / "app-0123abcd.js").write_text("hashed")
    async with serving(StaticFiles(site, max_age=3600, immutable=r"-[0-9a-f]{8}\.")) as client:
        assert (await client.get("/app.js"))[1]["cache-control"] == "max-age=3600"
        assert (await client.get("/app-0123abcd.js"))[1]["cache-control"] == "max-age=31536000, immutable"
    async with serving(StaticFiles(site, max_age=None)) as client:
        assert "cache-control" not in (await client.get("/app.js"))[1]


async def test_other_methods_are_not_allowed(site: Path) -> None:
    """405 with what is, whether there is a file or not; OPTIONS tells it."""
    async with serving(StaticFiles(site)) as client:
        for path in (b"/app.js", b"/nothing"):
            await client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n" % path)
            status, headers, _ = await client.response()
            assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        await client.send(b"OPTIONS /app.js HTTP/1.1\r\nhost: a\r\n\r\n")
        status, headers, _ = await client.response()
        assert (status, headers["allow"]) == (204, "GET, HEAD, OPTIONS")


async def test_what_was_found_is_believed_for_a_second(site: Path) -> None:
    """And what was not is looked for each time. At most a bounded number is remembered."""
    at = 100.0
    files = StaticFiles(site, clock=lambda: at)
    with pytest.raises(HTTPError):
        await files.respond(made_request(), "late.txt")
    write(site, late_txt="late")
    assert (await files.respond(made_request(), "late.txt")).status == 200
    (site / "late.txt").unlink()
    assert (await files.respond(made_request(), "late.txt")).status == 200  # which is a 404 once it is opened
    at += 1.0
    with pytest.raises(HTTPError):
        await files.respond(made_request(), "late.txt")
    for number in range(1100):
        (site / f"{number}.txt").touch()
        await files.respond(made_request(), f"{number}.txt")
    assert len(files._found) == 1024


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"directory": "/nowhere"}, "'/nowhere': must be an existing folder"),
        ({"index": "a/b"}, "index 'a/b': must be the name of a file"),
        ({"fallback": "../index.html"}, "fallback '../index.html': must be the path of a file below"),
        ({"precompressed": ["lzma"]}, "precompressed 'lzma': must be a list of br, zstd, gzip"),
        ({"precompressed": "br"}, "precompressed 'br': must be a list of br, zstd, gzip"),
        ({"max_age": -1}, "max_age -1: must be 0 seconds or more"),
        ({"valid_for": -1}, "valid_for -1: must be 0 seconds or more"),
        ({"immutable": "("}, "immutable '\\('.*: is no regular expression"),
    ],
)
def test_arguments_are_checked(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    """Each with what would be right."""
    with pytest.raises(ValueError, match=message):
        StaticFiles(**{"directory": tmp_path, **arguments})


def test_it_shows_what_it_serves(tmp_path: Path) -> None:
    """As the call that makes it."""
    assert repr(StaticFiles(tmp_path, fallback="index.html")) == f"StaticFiles('{tmp_path}', fallback='index.html')"
