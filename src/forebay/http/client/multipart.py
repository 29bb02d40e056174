"""Forms with files, as browsers send them (RFC 7578)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import IO, TypeAlias

from forebay.http.client.sources import Content, File, Streamed
from forebay.http.client.url import Fields, field_pairs, field_text
from forebay.http.files import guess_type

__all__ = ["FilePart", "FileSource", "Files", "encode_multipart"]

FileSource: TypeAlias = bytes | Path | IO[bytes] | AsyncIterable[bytes | str] | Content
"""A file's content: bytes, the path of a file, an open binary file, or an async iterable."""
FilePart: TypeAlias = FileSource | tuple[str, FileSource] | tuple[str, FileSource, str]
"""Its content alone, which is then called as on the disk, or as its field; or its name and content, and the media
type."""
Files: TypeAlias = Mapping[str, FilePart | list[FilePart]] | Sequence[tuple[str, FilePart]]

_SMALL = 1024 * 1024  # bytes in memory that are joined, to be sent at once


class _Multipart(Content):
    """Heads and contents in turn; a content that is None belongs to the head, as the last line does."""

    __slots__ = ("_parts",)

    def __init__(self, boundary: str, parts: list[tuple[bytes, Content | None]]) -> None:
        length: int | None = 0
        for head, content in parts:
            if content is not None and content.length is None:
                length = None
                break
            length = (length or 0) + len(head) + (content.length or 0 if content is not None else 0)
        super().__init__(
            None,
            f"multipart/form-data; boundary={boundary}",
            length=length,
            replayable=all(content is None or content.replayable for _, content in parts),
        )
        self._parts = parts

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        waiting = b""  # heads and small contents go together
        for head, content in self._parts:
            waiting += head
            if content is None:
                continue
            data = content.data
            if data is not None and len(data) <= _SMALL:
                waiting += data
                if len(waiting) > _SMALL:
                    yield waiting
                    waiting = b""
                continue
            yield waiting
            waiting = b""
            pieces = content.pieces()
            try:
                async for piece in pieces:
                    yield piece
            finally:
                await pieces.aclose()
        if waiting:
            yield waiting


def encode_multipart(form: Fields, files: Files) -> Content:
    """``multipart/form-data``: the fields of ``form``, then the files. Files that are not in memory are read while it
    is sent, so that it takes no more memory than one piece of them.

    :raises TypeError: a field or file is of a type that cannot be sent.
    :raises ValueError: a media type holds what no header may; a name or field has lone surrogates; a file is none that
        can be read.
    :raises OSError: there is no such file.
    """
    boundary = token_hex(16)
    parts: list[tuple[bytes, Content | None]] = []
    lead = ""

    def add(disposition: str, headers: str, content: Content) -> None:
        nonlocal lead
        head = f"{lead}--{boundary}\r\ncontent-disposition: form-data; {disposition}\r\n{headers}\r\n"
        parts.append((_encoded(head), content))
        lead = "\r\n"

    for name, value in field_pairs(form):
        add(f'name="{_escaped(name)}"', "", Content(_encoded(field_text(name, value))))
    for name, part in _pairs_of_files(files):
        filename, source, kind = _named(name, part)
        content = _content(name, source, kind)
        field = f'name="{_escaped(name)}"'
        if filename is None:
            filename = (isinstance(content, File) and content.name) or name
        kind = kind or (source.kind if isinstance(source, Content) else "") or guess_type(filename)
        add(f'{field}; filename="{_escaped(filename)}"', f"content-type: {kind}\r\n", content)
    parts.append((f"{lead}--{boundary}--\r\n".encode(), None))
    whole = _Multipart(boundary, parts)
    if whole.length is not None and whole.length <= _SMALL:
        in_memory = [head + (b"" if part is None else part.data or b"") for head, part in parts]
        if sum(map(len, in_memory)) == whole.length:
            return Content(b"".join(in_memory), whole.kind)
    return whole


def _content(name: str, source: object, kind: str) -> Content:
    if isinstance(source, Content):
        Content(kind=kind)  # which checks it
        return source
    if isinstance(source, bytes | bytearray | memoryview):
        return Content(bytes(source), kind)
    if isinstance(source, Path) or hasattr(source, "read"):
        found: Path | IO[bytes] = source  # type: ignore[assignment]  # File refuses what is none
        return File(found, kind=kind)
    if isinstance(source, AsyncIterable):
        return Streamed(source, kind=kind)
    raise TypeError(
        f"file {name!r}: its content must be bytes, not {type(source).__name__}; "
        "or a Path, an open binary file, or an async iterable of bytes"
    )


def _named(name: str, part: object) -> tuple[str | None, object, str]:
    """Name, content and media type of a file; None and "" where they are not given. A name that is "" is sent, as
    browsers do where no file was chosen."""
    if not isinstance(part, tuple):
        return None, part, ""
    if len(part) not in (2, 3):
        raise TypeError(f"file {name!r}: must be (name, content[, media type]), and has {len(part)} values")
    filename, source, kind = (*part, "")[:3]
    return filename, source, kind or ""


def _pairs_of_files(files: Files) -> Iterable[tuple[str, FilePart]]:
    if isinstance(files, (str, bytes)):  # type: ignore[unreachable]  # callers that mypy does not check
        raise TypeError(f"files of type {type(files).__name__}: must be a mapping, or pairs of name and file")
    for name, value in files.items() if isinstance(files, Mapping) else files:
        for one in value if isinstance(value, list) else [value]:
            yield name, one


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"fields must be Unicode: {text[error.start : error.end]!r} is not") from None


def _escaped(name: object) -> str:
    """As browsers do (WHATWG HTML, "multipart/form-data encoding algorithm")."""
    if not isinstance(name, str):
        raise TypeError(f"name {name!r} of a field or file: must be text, not {type(name).__name__}")
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
