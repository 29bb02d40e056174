"""What a test client sends: the URL it asks for, and the content in the encodings of forms, JSON and MessagePack."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode, urljoin, urlsplit

import msgspec

from forebay.engine.address import parse_address

__all__ = ["URL", "Content", "Fields", "File", "Files", "encode_content", "parse_url"]

Content: TypeAlias = bytes | AsyncIterable[bytes | str]
File: TypeAlias = bytes | tuple[str, bytes] | tuple[str, bytes, str]
"""Its content alone, which is then called as its field; or its name and content, and the media type."""
Fields: TypeAlias = Mapping[str, Any] | Sequence[tuple[str, Any]]
"""Names and values; a list or tuple for a value stands for several of its name."""
Files: TypeAlias = Mapping[str, File | list[File]] | Sequence[tuple[str, File]]

_SAFE = "/%:@!$&'()*+,;=~-._"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class URL:
    """Where a request goes. ``str()`` gives it back."""

    scheme: str
    host: str
    port: int
    authority: str  # what the Host field says
    target: str  # path and query, encoded; "*" for the server as a whole

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target if self.target != '*' else ''}"

    @property
    def path(self) -> str:
        """The path, encoded."""
        return self.target.partition("?")[0]

    @property
    def secure(self) -> bool:
        """Whether it asks for TLS."""
        return self.scheme == "https"

    def same_origin(self, other: URL) -> bool:
        """Whether both are of one scheme, host and port (RFC 6454 section 4)."""
        return (self.scheme, self.host, self.port) == (other.scheme, other.host, other.port)

    def join(self, reference: str) -> URL:
        """Where ``reference`` leads from here (RFC 3986 section 5).

        :raises ValueError: nowhere that HTTP is spoken.
        """
        return parse_url(urljoin(str(self), reference))


def parse_url(text: str, params: Fields | None = None) -> URL:
    """Read ``http://host[:port]/path?query``. What must be percent-encoded and is not, becomes so; a fragment is left
    out.

    :param params: fields to add to the query.
    :raises ValueError: it is not like that.
    """
    parts = urlsplit(text)
    if parts.scheme not in _PORTS or not parts.netloc or "@" in parts.netloc:
        raise ValueError(f"URL {text!r}: must be like http://testserver/path, or https://, without a user")
    address = parse_address(f"{parts.scheme}://{parts.netloc}", schemes=("http", "https"))
    authority = parts.netloc.lower()
    if address.port == _PORTS[parts.scheme]:
        authority = authority.removesuffix(f":{address.port}")
    query = "&".join(filter(None, (quote(parts.query, safe=_SAFE + "?"), encode_fields(params or {}))))
    target = quote(parts.path, safe=_SAFE) or "/"
    return URL(parts.scheme, address.host, address.port, authority, f"{target}?{query}" if query else target)


def encode_content(
    content: bytes | str | AsyncIterable[bytes | str] | None,
    json: Any,
    msgpack: Any,
    form: Fields | None,
    files: Files | None,
) -> tuple[str, Content]:
    """The media type, "" for none, and the content.

    :param json: and ``msgpack``: ``msgspec.UNSET`` for none.
    :raises ValueError: more than one kind of content was given.
    :raises TypeError: content is of a type that cannot be sent.
    """
    kinds = {
        "content": content is not None,
        "json": json is not msgspec.UNSET,
        "msgpack": msgpack is not msgspec.UNSET,
        "form or files": form is not None or files is not None,
    }
    given = [name for name, is_given in kinds.items() if is_given]
    if len(given) > 1:
        raise ValueError(f"a request has one content, and was given {' and '.join(given)}")
    if json is not msgspec.UNSET:
        return "application/json", msgspec.json.encode(json)
    if msgpack is not msgspec.UNSET:
        return "application/msgpack", msgspec.msgpack.encode(msgpack)
    if files is not None:
        return _multipart(_pairs(form or {}), files)
    if form is not None:
        return "application/x-www-form-urlencoded", encode_fields(form).encode()
    if isinstance(content, str):
        return "text/plain; charset=utf-8", content.encode()
    if isinstance(content, bytes | bytearray | memoryview):
        return "", bytes(content)
    if content is not None and not isinstance(content, AsyncIterable):
        raise TypeError(f"content of type {type(content).__name__}: must be bytes, str or an async iterable of them")
    return "", content if content is not None else b""


def encode_fields(fields: Fields) -> str:
    """As in queries and forms: ``application/x-www-form-urlencoded``."""
    return urlencode([(name, _text(value)) for name, value in _pairs(fields)])


def _pairs(fields: Fields) -> Iterable[tuple[str, Any]]:
    for name, value in fields.items() if isinstance(fields, Mapping) else fields:
        if isinstance(value, list | tuple):
            yield from ((name, one) for one in value)
        else:
            yield name, value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _multipart(form: Iterable[tuple[str, Any]], files: Files) -> tuple[str, bytes]:
    """RFC 7578, with names escaped as browsers do."""
    boundary = token_hex(16)
    parts: list[bytes] = []

    def add(disposition: str, headers: str, data: bytes) -> None:
        head = f"--{boundary}\r\ncontent-disposition: form-data; {disposition}\r\n{headers}\r\n"
        parts.extend((head.encode(), data, b"\r\n"))

    for name, value in form:
        add(f'name="{_escaped(name)}"', "", _text(value).encode())
    for name, file in _pairs_of_files(files):
        filename, data, kind = (*file, "")[:3] if isinstance(file, tuple) else (name, file, "")
        if not isinstance(data, bytes):
            raise TypeError(f"file {name!r}: its content must be bytes, not {type(data).__name__}")
        kind = kind or "application/octet-stream"
        add(f'name="{_escaped(name)}"; filename="{_escaped(filename)}"', f"content-type: {kind}\r\n", data)
    parts.append(f"--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", b"".join(parts)


def _pairs_of_files(files: Files) -> Iterable[tuple[str, File]]:
    for name, value in files.items() if isinstance(files, Mapping) else files:
        for one in value if isinstance(value, list) else [value]:
            yield name, one


def _escaped(name: str) -> str:
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
