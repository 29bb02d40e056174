"""One request of a test client: what it is made of, as bytes, and what a redirect makes of it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypedDict

from forebay.errors import UpstreamProtocolError
from forebay.testing.client_response import ClientResponse
from forebay.testing.cookie_jar import CookieJar
from forebay.testing.request_content import URL, Content, Fields, Files
from forebay.wire.heads import encode_headers

__all__ = ["ClientRequest", "HeaderFields", "RequestOptions", "header_pairs"]

HeaderFields: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]

REDIRECTS = frozenset((301, 302, 303, 307, 308))
_OF_CONTENT = frozenset(("content-encoding", "content-language", "content-length", "content-type", "transfer-encoding"))
_OF_ORIGIN = frozenset(("authorization", "cookie", "host"))
_WITH_CONTENT = frozenset(("PATCH", "POST", "PUT"))  # an empty one as well
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class RequestOptions(TypedDict, total=False):
    """What a request may have beside its method and URL. See :meth:`TestClient.request`."""

    params: Fields | None
    headers: HeaderFields
    cookies: Mapping[str, str] | None
    content: bytes | str | AsyncIterable[bytes | str] | None
    json: Any
    msgpack: Any
    form: Fields | None
    files: Files | None
    follow_redirects: bool
    timeout: float | None


def header_pairs(fields: HeaderFields) -> list[tuple[str, str]]:
    """Names, in lower case, and values."""
    pairs = fields.items() if isinstance(fields, Mapping) else fields
    return [(name.lower(), value) for name, value in pairs]


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """A request that is to be sent.

    :raises ValueError: the method is none.
    """

    method: str
    url: URL
    headers: list[tuple[str, str]]  # names in lower case
    cookies: dict[str, str]  # beside those that are kept
    kind: str  # the media type; "" for none
    content: Content

    def __post_init__(self) -> None:
        if not _METHOD.fullmatch(self.method):
            raise ValueError(f"request method {self.method!r}: must be a token (RFC 9110 section 9.1)")

    def __str__(self) -> str:
        return f"{self.method} {self.url}"

    @property
    def chunked(self) -> bool:
        """Whether the content is sent in chunks: its length is not known."""
        return not isinstance(self.content, bytes) and all(name != "content-length" for name, _ in self.headers)

    def head(self, jar: CookieJar) -> bytes:
        """The request line and the headers.

        :raises ValueError: a header is not well-formed.
        """
        url = self.url
        names = {name for name, _ in self.headers}
        fields = [] if "host" in names else [("host", url.authority)]
        fields += self.headers
        if "cookie" not in names and (cookies := self.cookie(jar)):
            fields.append(("cookie", cookies))
        if self.kind and "content-type" not in names:
            fields.append(("content-type", self.kind))
        if not names & {"content-length", "transfer-encoding"}:
            if not isinstance(self.content, bytes):
                fields.append(("transfer-encoding", "chunked"))
            elif self.content or self.method in _WITH_CONTENT:
                fields.append(("content-length", str(len(self.content))))
        line = f"{self.method} {url.target} HTTP/1.1\r\n".encode("ascii")
        return b"".join((line, encode_headers(fields), b"\r\n"))

    def cookie(self, jar: CookieJar) -> str:
        """The value of the ``cookie`` header; "" for none."""
        url = self.url
        kept = jar.header(url.host, url.path, secure=url.secure)
        pairs = [(name, value) for name, value in kept if name not in self.cookies]
        return "; ".join(f"{name}={value}" for name, value in [*pairs, *self.cookies.items()])

    def redirected(self, response: ClientResponse) -> ClientRequest:
        """The request that ``response`` asks for (RFC 9110 section 15.4). What was meant for one origin, such as
        ``authorization``, is not told another.

        :raises ValueError: it leads nowhere.
        :raises UpstreamProtocolError: the content would have to be sent again, and came from an iterable.
        """
        url = self.url.join(response.headers["location"])
        headers, cookies = self.headers, self.cookies
        if not url.same_origin(self.url):
            headers = [(name, value) for name, value in headers if name not in _OF_ORIGIN]
            cookies = {}
        status = response.status
        if (status == 303 and self.method != "HEAD") or (status in (301, 302) and self.method == "POST"):
            headers = [(name, value) for name, value in headers if name not in _OF_CONTENT]
            return ClientRequest("GET", url, headers, cookies, "", b"")
        if not isinstance(self.content, bytes):
            raise UpstreamProtocolError(
                f"{self}: redirected with {status} to {url}, but content from an iterable cannot be sent twice"
            )
        return replace(self, url=url, headers=headers, cookies=cookies)
