"""Serving of the document, and of the page that shows it.

The page is one HTML document with its style and scripts in it, and a content security policy that allows these and
nothing else, by their hashes (CSP level 3, section 2.3.1). It fetches the document and nothing more, until its reader
tries a request.
"""

from __future__ import annotations

import time
from base64 import b64encode
from functools import cache
from hashlib import blake2b, sha256
from html import escape
from importlib.resources import files
from posixpath import dirname, relpath
from string import Template
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from forebay.http.app import App
from forebay.http.conditions import NOT_MODIFIED, precondition, select
from forebay.http.messages import JSON, Request, Response
from forebay.http.openapi.document import build_document
from forebay.http.openapi.settings import OpenAPI
from forebay.http.problems import problem

__all__ = ["install"]

_SCRIPTS = ("elements.js", "schema.js", "request.js", "operation.js", "page.js")
_ROOTS = 16  # places below which one application is seen to be, of which the document is kept


def install(app: App[Any], settings: OpenAPI) -> None:
    """Register the document and the page as hidden routes of ``app``: GET on ``settings.path`` and ``settings.docs``.

    The document is made at the first request for it. Middleware of the application is around both.

    :raises ValueError: one of the paths is taken by a route already.
    """
    if settings.path is None:
        return
    served = _Document(app, settings)
    app.get(settings.path, hidden=True)(served.openapi_document)
    if settings.docs is not None:
        app.get(settings.docs, hidden=True)(_Page(settings).openapi_docs)


class _Page:
    """The page as it is sent, made when it is first asked for."""

    def __init__(self, settings: OpenAPI) -> None:
        self._settings = settings
        self._made: tuple[bytes, str, dict[str, str]] | None = None

    def openapi_docs(self, request: Request) -> Response:
        """Answer with it."""
        if self._made is None:
            page = _page(self._settings)
            headers = {
                "content-security-policy": _policy(self._settings),
                "referrer-policy": "no-referrer",
                "x-content-type-options": "nosniff",
            }
            self._made = page, _tag(page), headers
        page, tag, headers = self._made
        return _conditional(request, page, "text/html; charset=utf-8", tag, headers)


class _Document:
    """The document as it is sent, by where the application is mounted."""

    def __init__(self, app: App[Any], settings: OpenAPI) -> None:
        self._app = app
        self._settings = settings
        self._made: dict[bytes, tuple[bytes, str]] = {}
        self._routes = -1

    def openapi_document(self, request: Request) -> Response:
        """Answer with it."""
        count = len(self._app.routes)
        if count != self._routes:  # an application that was stopped may have got further ones
            self._made.clear()
            self._routes = count
        outside = getattr(request.exchange, "root_path", "")  # where another server says that all of it is mounted
        root = quote(outside).encode() + request.root_path
        made = self._made.get(root)
        if made is None:
            document = build_document(self._app, self._settings)
            if root and not self._settings.servers:
                document = {
                    "openapi": document.pop("openapi"),
                    "info": document.pop("info"),
                    "servers": [{"url": root.decode("latin-1")}],
                    **document,
                }
            body = msgspec.json.encode(document)
            made = body, _tag(body)
            if len(self._made) < _ROOTS:
                self._made[root] = made
        return _conditional(request, made[0], JSON, made[1], {})


def _conditional(request: Request, body: bytes, content_type: str, tag: str, headers: dict[str, str]) -> Response:
    """The content, unless the client has it already (RFC 9110 section 13)."""
    all_headers = {**headers, "etag": tag, "cache-control": "no-cache"}
    fields = select(request.exchange.headers)
    if fields is not None:
        verdict = precondition(fields, request.method, tag.encode(), None, at=time.time())
        if verdict == NOT_MODIFIED:
            return Response(status=NOT_MODIFIED, headers=all_headers)
        if verdict:
            return Response.encoded(*problem(verdict, "what is at this path is not what the request is meant for"))
    return Response(body, headers=all_headers, content_type=content_type)


def _tag(content: bytes) -> str:
    return f'"{blake2b(content, digest_size=16).hexdigest()}"'


# -- the page


@cache
def _parts() -> tuple[Template, str, str]:
    """The page, its style and its scripts, as they are in the package."""
    here = files("forebay.http.openapi")
    style = here.joinpath("page.css").read_text(encoding="utf-8")
    script = "".join(here.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS)
    return (
        Template(here.joinpath("page.html").read_text(encoding="utf-8")),
        style,
        f'"use strict";\n(() => {{\n{script}}})();\n',
    )


def _page(settings: OpenAPI) -> bytes:
    template, style, script = _parts()
    assert settings.path is not None
    assert settings.docs is not None
    text = template.substitute(
        title=escape(settings.title),
        # relative to the page, as a proxy in front may have taken away the beginning of the path
        document=escape(relpath(settings.path, dirname(settings.docs))),
        path=escape(settings.path),
        origins=escape(" ".join(_origins(settings))),
        style=style,
        script=script,
    )
    return text.encode()


def _policy(settings: OpenAPI) -> str:
    _, style, script = _parts()
    connect = " ".join(["'self'", *_origins(settings)])
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; connect-src {connect}; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _origins(settings: OpenAPI) -> list[str]:
    """Other places that the page may send requests to."""
    parts = (urlsplit(url) for url in settings.servers)
    return sorted({f"{one.scheme}://{one.netloc}" for one in parts if one.netloc and "@" not in one.netloc})
