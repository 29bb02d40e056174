"""ETag: tags of content, conditional requests by them (RFC 9110 section 13), and what is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from forebay.http import App, FileResponse, Request, Response
from forebay.http.middleware import ETag
from tests.http.middleware.served import UPGRADE, Answer, Asker, serving

MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT"


def site(layer: ETag, file: Path | None = None) -> App[Any]:
    """An application with answers of every kind."""
    app: App[Any] = App()
    app.middleware(layer)
    app.state.closed = asyncio.Event()
    kept = Response("kept", headers={"set-cookie": "a=b", "cache-control": "max-age=5", "content-language": "en"})

    @app.route("/text/{text}", methods=["GET", "POST"])
    async def a_text(text: str) -> str:
        return text

    @app.get("/kept")
    async def a_kept() -> Response:
        return kept

    @app.get("/own")
    async def own() -> Response:
        return Response("a" * 100, headers={"ETag": '"v1"'})

    @app.get("/dated")
    async def dated() -> Response:
        return Response(pieces(), headers={"last-modified": MODIFIED})

    @app.get("/private")
    async def private() -> Response:
        return Response("a", headers={"cache-control": "private, No-Store"})

    @app.get("/made")
    async def made() -> Response:
        return Response("a", status=201)

    async def pieces() -> AsyncIterator[bytes]:
        try:
            yield b"ab"
            yield b"c"
        finally:
            app.state.closed.set()

    class Stream:
        """Notices that nobody wants it."""

        def __aiter__(self) -> AsyncIterator[bytes]:
            return pieces()

        async def aclose(self) -> None:
            app.state.closed.set()

    @app.get("/stream")
    async def stream() -> Response:
        return Response(Stream())

    @app.get("/own-stream")
    async def own_stream() -> Response:
        return Response(Stream(), headers={"etag": 'W/"v1"'})

    @app.get("/file")
    async def a_file() -> FileResponse:
        assert file is not None
        return FileResponse(file)

    @app.websocket("/ws")
    async def ws(ws: Any) -> None:
        return None

    return app


async def conditional(client: Asker, path: str, method: str = "GET", **conditions: str) -> Answer:
    """Ask with conditions."""
    headers = [(name.replace("_", "-"), value) for name, value in conditions.items()]
    return await client.ask(path, *headers, method=method)


async def test_the_tag_is_of_the_content() -> None:
    """The same for the same content and for HEAD, another one for other content; weak by default."""
    for weak in (True, False):
        async with serving(site(ETag(weak=weak))) as client:
            first, same, head, other = (
                (await client.ask("/text/a")).headers["etag"],
                (await client.ask("/text/a")).headers["etag"],
                (await client.ask("/text/a", method="HEAD")).headers["etag"],
                (await client.ask("/text/b")).headers["etag"],
            )
            assert first == same == head != other
            assert first.startswith('W/"' if weak else '"')


async def test_who_has_it_gets_304() -> None:
    """To GET and HEAD, by any tag of the list or ``*``; the connection goes on, and the content is there for others."""
    async with serving(site(ETag())) as client:
        tag = (await client.ask("/text/a")).headers["etag"]
        for method in ("GET", "HEAD"):
            for sent in (tag, tag.removeprefix("W/"), f'"x", {tag}', "*"):
                answer = await conditional(client, "/text/a", method, if_none_match=sent)
                assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
                assert not {"content-type", "content-length"} & set(answer.headers)
        for sent in ('"x"', "W/", tag[:-2] + '"', ""):
            assert (await conditional(client, "/text/a", if_none_match=sent)).body == b"a"
        assert (await conditional(client, "/text/b", if_none_match=tag)).body == b"b"


async def test_a_304_keeps_what_a_cache_needs_and_the_response_as_it_was() -> None:
    """Section 15.4.5; the handler may return the same response again and again."""
    async with serving(site(ETag())) as client:
        tag = (await client.ask("/kept")).headers["etag"]
        for _ in range(2):
            answer = await conditional(client, "/kept", if_none_match=tag)
            got = answer.headers
            assert (answer.status, got["cache-control"], got["set-cookie"]) == (304, "max-age=5", "a=b")
            assert not {"content-type", "content-language"} & set(got)
            answer = await client.ask("/kept")
            assert (answer.status, answer.body, answer.headers["content-language"]) == (200, b"kept", "en")


async def test_if_match() -> None:
    """412 where it is not what the client means; a weak tag never is (section 13.1.1)."""
    async with serving(site(ETag(weak=False))) as client:
        tag = (await client.ask("/text/a")).headers["etag"]
        assert (await conditional(client, "/text/a", if_match=tag)).status == 200
        assert (await conditional(client, "/text/a", if_match="*")).status == 200
        answer = await conditional(client, "/text/a", if_match='"x"')
        assert (answer.status, answer.headers["content-type"]) == (412, "application/problem+json")
        assert (await conditional(client, "/text/a", if_match='"x"', if_none_match=tag)).status == 412
    async with serving(site(ETag())) as client:
        tag = (await client.ask("/text/a")).headers["etag"]
        assert (await conditional(client, "/text/a", if_match=tag)).status == 412


async def test_a_tag_or_date_of_the_handler() -> None:
    """They are kept, and conditions evaluated by them, for streams too: those nobody needs are closed."""
    app = site(ETag(max_size=10))
    async with serving(app) as client:
        assert (await client.ask("/own")).headers["etag"] == '"v1"'
        assert (await conditional(client, "/own", if_none_match='"v1"')).status == 304
        assert (await client.ask("/own-stream")).body == b"abc"
        app.state.closed.clear()
        answer = await conditional(client, "/own-stream", if_none_match='"v1"')
        assert (answer.status, answer.headers["etag"], answer.body) == (304, 'W/"v1"', b"")
        assert app.state.closed.is_set()
        assert (await conditional(client, "/dated", if_modified_since=MODIFIED)).status == 304
        assert (await conditional(client, "/dated", if_unmodified_since="Sun, 06 Nov 1994 08:49:36 GMT")).status == 412
        answer = await conditional(client, "/dated", if_modified_since="Sun, 06 Nov 1994 08:49:36 GMT")
        assert (answer.status, answer.body, "etag" in answer.headers) == (200, b"abc", False)


async def test_what_is_left_alone(tmp_path: Path) -> None:
    """Streams, large content, other statuses and methods, ``no-store``, errors, WebSockets; conditions or not."""
    file = tmp_path / "a.txt"
    file.write_text("file")
    async with serving(site(ETag(max_size=3), file)) as client:
        assert "etag" in (await client.ask("/text/abc")).headers
        for path, method, status in (
            ("/text/abcd", "GET", 200),
            ("/stream", "GET", 200),
            ("/private", "GET", 200),
            ("/made", "GET", 201),
            ("/text/a", "POST", 200),
            ("/nothing", "GET", 404),
            ("/kept", "DELETE", 405),
        ):
            for conditions in ({}, {"if_none_match": "*"}, {"if_match": '"x"'}):
                answer = await conditional(client, path, method, **conditions)
                assert (answer.status, "etag" in answer.headers) == (status, False)
        answer = await client.ask("/file")
        assert (answer.body, answer.headers["etag"].startswith('"')) == (b"file", True)
        assert (await conditional(client, "/file", if_none_match=answer.headers["etag"])).status == 304
        assert (await client.ask("/ws", *UPGRADE)).status == 101


async def test_content_without_bytes() -> None:
    """Nothing is content as well, and has a tag."""
    app: App[Any] = App()
    app.middleware(ETag(max_size=0))

    @app.get("/")
    async def root(request: Request) -> str:
        return ""

    async with serving(app) as client:
        tag = (await client.ask("/")).headers["etag"]
        assert (await conditional(client, "/", if_none_match=tag)).status == 304


def test_misconfiguration() -> None:
    """Less than nothing is refused."""
    with pytest.raises(ValueError, match="0 bytes or more"):
        ETag(max_size=-1)
