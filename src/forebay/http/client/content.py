"""What a request sends, in the encodings of JSON, MessagePack and forms."""

from __future__ import annotations

from collections.abc import AsyncIterable
from pathlib import Path
from typing import IO, Any, TypeAlias

import msgspec

from forebay.http.client.multipart import FilePart, Files, FileSource, encode_multipart
from forebay.http.client.sources import EMPTY, Content, File, Progress, Streamed, with_progress
from forebay.http.client.url import Fields, encode_fields
from forebay.http.encoding import MSGPACK, encode_json, encode_msgpack

__all__ = [
    "EMPTY",
    "Content",
    "ContentSource",
    "Fields",
    "File",
    "FilePart",
    "FileSource",
    "Files",
    "Progress",
    "Streamed",
    "encode_content",
    "with_progress",
]

ContentSource: TypeAlias = bytes | str | Path | IO[bytes] | AsyncIterable[bytes | str] | Content
"""Bytes, text (sent as UTF-8), the path of a file, an open binary file, or an async iterable of bytes or text."""


def encode_content(
    content: ContentSource | None = None,
    json: Any = msgspec.UNSET,
    msgpack: Any = msgspec.UNSET,
    form: Fields | None = None,
    files: Files | None = None,
) -> Content:
    """What is sent: one of these, but that ``form`` and ``files`` go together.

    :param json: anything that msgspec or pydantic can write, None included; ``msgspec.UNSET`` for none, as for
        ``msgpack``.
    :raises ValueError: more than one kind of content was given, text has lone surrogates, or a file is none that can be
        read.
    :raises TypeError: content is of a type that cannot be sent.
    :raises OSError: there is no such file.
    """
    if content is not None and json is msgpack is msgspec.UNSET and form is files is None:
        return _as_it_is(content)
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
        return Content(encode_json(json), "application/json")
    if msgpack is not msgspec.UNSET:
        return Content(encode_msgpack(msgpack), MSGPACK)
    if files is not None:
        return encode_multipart(form or {}, files)
    if form is not None:
        return Content(encode_fields(form).encode(), "application/x-www-form-urlencoded")
    return EMPTY


def _as_it_is(content: object) -> Content:
    if isinstance(content, Content):
        return content
    if isinstance(content, str):
        return Content(content.encode(), "text/plain; charset=utf-8")
    if isinstance(content, bytes | bytearray | memoryview):
        return Content(bytes(content))
    if isinstance(content, Path) or hasattr(content, "read"):
        file: Any = content
        return File(file)  # which refuses what is none
    if isinstance(content, AsyncIterable):
        return Streamed(content)
    raise TypeError(
        f"content of type {type(content).__name__}: must be bytes, str, a Path, an open binary file, "
        "or an async iterable of bytes or str"
    )
