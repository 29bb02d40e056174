"""What an application's OpenAPI document says of it as a whole, and where it is served."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = ["OpenAPI"]

_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+")


@dataclass(frozen=True, slots=True)
class OpenAPI:
    """The documentation of an application: ``App(openapi=OpenAPI("Shop", "1.4.0"))``.

    :param title: of the API, not empty.
    :param version: of the API, not empty; not that of OpenAPI, which is 3.1.0.
    :param description: of the API as a whole; CommonMark.
    :param path: of the document, ``/...`` without a slash at its end; None: it is not served, nor is the page.
    :param docs: of the page that shows it; None: there is none.
    :param servers: URLs where the API is reached, ``https://...`` or a path; the page can try requests at each.
        Default: where the document comes from.
    :param tags: descriptions of tags, in the order in which the page has them; tags that are not here follow.
    :raises ValueError: one of them is not like that.
    """

    title: str
    version: str
    description: str = ""
    path: str | None = "/openapi.json"
    docs: str | None = "/docs"
    servers: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, text in (("title", self.title), ("version", self.version)):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"OpenAPI: {name} {text!r}: must be a text that is not empty")
        for name, path in (("path", self.path), ("docs", self.docs)):
            if path is not None and not _PATH.fullmatch(path):
                raise ValueError(
                    f"OpenAPI: {name} {path!r}: must be like /openapi.json, without parameters and without a slash at "
                    "its end, or None"
                )
        if self.docs is not None and self.docs == self.path:
            raise ValueError(f"OpenAPI: docs and path are both {self.docs!r}: they must differ")
        if isinstance(self.servers, str):
            raise ValueError(f"OpenAPI: servers {self.servers!r}: must be a list of URLs")
        for url in self.servers:
            _check_server(url)


def _check_server(url: str) -> None:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        fits = False
    fits = fits or (url.startswith("/") and not url.startswith("//"))
    if not fits or any(c.isspace() or c in "\"'<>;,{}?#" for c in url):
        raise ValueError(f"OpenAPI: server {url!r}: must be a URL like https://api.example.com/v1, or a path like /v1")
