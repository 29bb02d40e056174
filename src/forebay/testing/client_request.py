"""One request of a test client: what it is made of, as bytes, and what a redirect makes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypedDict

from forebay.errors import UpstreamProtocolError
from forebay.http.client.content import EMPTY, Content, ContentSource, Files
from forebay.http.client.cookie_jar import CookieJar
from forebay.http.client.cookies import cookie_field
from forebay.http.client.redirects import OF_CONTENT, method_after
from forebay.http.client.url import URL, Fields
from forebay.testing.client_response import ClientResponse
from forebay.wire.heads import encode_headers

__all__ = ["ClientRequest", "HeaderFields", "RequestOptions", "header_pairs"]

HeaderFields: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]

_OF_ORIGIN = frozenset(("authorization", "cookie", "host"))
_WITH_CONTENT = frozenset(("PATCH", "POST", "PUT"))  # an empty one as well
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class RequestOptions(TypedDict, total=False):
    """What a request may have beside its method and URL. See :meth:`TestClient.request`."""

    params: Fields | None
    headers: HeaderFields
    cookies: Mapping[str, str] | None
    content: ContentSource | None
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
    content: Content = EMPTY

    def __post_init__(self) -> None:
        if not _METHOD.fullmatch(self.method):
            raise ValueError(f"request method {self.method!r}: must be a token (RFC 9110 section 9.1)")

    def __str__(self) -> str:
        return f"{self.method} {self.url}"

    @property
    def chunked(self) -> bool:
        """Whether the content is sent in chunks: its length is not known."""
        return self.content.length is None and all(name != "content-length" for name, _ in self.headers)

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
        content = self.content
        if content.kind and "content-type" not in names:
            fields.append(("content-type", content.kind))
        if not names & {"content-length", "transfer-encoding"}:
            if content.length is None:
                fields.append(("transfer-encoding", "chunked"))
            elif content.length or self.method in _WITH_CONTENT:
                fields.append(("content-length", str(content.length)))
        line = f"{self.method} {url.target} HTTP/1.1\r\n".encode("ascii")
        return b"".join((line, encode_headers(fields), b"\r\n"))

    def cookie(self, jar: CookieJar) -> str:
        """The value of the ``cookie`` header; "" for none.

        :raises ValueError: one of the request's own would be taken for two.
        """
        url = self.url
        kept = [f"{name}={value}" for name, value in jar.pairs(url) if name not in self.cookies]
        own = [cookie_field(self.cookies)] if self.cookies else []
        return "; ".join((*kept, *own))

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
        method = method_after(status, self.method)
        if method != self.method:
            headers = [(name, value) for name, value in headers if name not in OF_CONTENT]
            return ClientRequest(method, url, headers, cookies)
        if not self.content.replayable:
            raise UpstreamProtocolError(
                f"{self}: redirected with {status} to {url}, but content from an iterable cannot be sent twice"
            )
        return replace(self, url=url, headers=headers, cookies=cookies)
