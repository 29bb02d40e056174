"""Forms: ``application/x-www-form-urlencoded`` and ``multipart/form-data``, whole or a part at a time.

Both are UTF-8: another ``charset`` is 415, and octets that are not UTF-8 are 400. A field ``_charset_`` (RFC 7578
section 4.6) is a field as any other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from forebay.errors import HTTPError
from forebay.http.form_data import FormData
from forebay.http.form_records import convert_form, form_decoder
from forebay.http.headers import Headers
from forebay.http.uploads import SPOOL_AT, UploadFile
from forebay.wire.multipart import (
    End,
    MultipartEvent,
    MultipartLimits,
    MultipartReader,
    PartBegin,
    PartData,
    PartEnd,
    read_boundary,
)
from forebay.wire.parameters import read_parameters

if TYPE_CHECKING:
    from forebay.http.messages import Request

__all__ = ["FormData", "FormLimits", "FormPart", "convert_form", "form_decoder", "read_form", "request_parts"]

_URLENCODED = b"application/x-www-form-urlencoded"
_MULTIPART = b"multipart/form-data"
_ACCEPTED = (("accept", "application/x-www-form-urlencoded, multipart/form-data"),)
_UTF8 = frozenset({b"utf-8", b"utf8", b"us-ascii"})
_FIELD_COST = 128  # bytes a field takes besides its name and its text
_EMPTY_FIELDS = 1_000  # ``&`` without a field that are looked over


@dataclass(frozen=True, slots=True)
class FormLimits:
    """Bounds of one form. What is past one of them is 413.

    :param fields: fields that are text.
    :param files: files.
    :param field_size: bytes of one field's text.
    :param file_size: bytes of one file; None: no bound but the application's ``body_limit``.
    :param memory: bytes of all names and texts together. Files that would take more than what is left of it go to the
        disk, however small they are.
    :param spool_at: bytes of one file that are kept in memory; a larger one goes to the disk.
    :param directory: of temporary files; None: the system's.

    :raises ValueError: one of them is less than 0.
    """

    fields: int = 1_000
    files: int = 100
    field_size: int = 1024 * 1024
    file_size: int | None = None
    memory: int = 8 * 1024 * 1024
    spool_at: int = SPOOL_AT
    directory: str | Path | None = None

    def __post_init__(self) -> None:
        for name in ("fields", "files", "field_size", "file_size", "memory", "spool_at"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"FormLimits {name} {value}: must be 0 or more")


_DEFAULT = FormLimits()


async def read_form(request: Request, limits: FormLimits = _DEFAULT) -> FormData:
    """The whole form that a request carries. Whoever called it closes the form; where it fails, nothing is left.

    :raises HTTPError: 415, the content is of another type, or not in UTF-8; 413, one of ``limits``; 400, it is
        malformed; 507 or 503, a file cannot be kept.
    :raises ProtocolError: 400 or 413, the multipart body is malformed, or has too many or too long headers.
    :raises ConnectionClosed: the client is gone before the content is complete.
    :raises RuntimeError: the content was read already, piece by piece.
    """
    media_type = _form_type(request)
    if media_type == _URLENCODED:
        return await _read_urlencoded(request, limits)
    items: list[tuple[str, str | UploadFile]] = []
    left = limits.memory
    try:
        async for part in request_parts(request, limits):
            left = _left_of(left, len(part.name) + len(part.filename or "") + _FIELD_COST, limits)
            if part.filename is None:
                content = bytearray()
                async for piece in part:
                    left = _left_of(left, len(piece), limits)
                    content += piece
                items.append((part.name, _text(part, bytes(content))))
            else:
                file = UploadFile(
                    part.filename,
                    part.content_type or "application/octet-stream",
                    part.headers,
                    spool_at=limits.spool_at,
                    directory=limits.directory,
                )
                items.append((part.name, file))
                async for piece in part:
                    if file.in_memory and file.size + len(piece) > left:
                        await file.roll_over()
                    await file.write(piece)
                if file.in_memory:
                    left -= file.size
    except BaseException:
        await FormData(items).aclose()
        raise
    return FormData(items)


class FormPart:
    """A part of a multipart body, while it comes: an async iterable of its content, to be read once and before the
    next part. ``filename`` is None for a field that is text; ``content_type`` is None where the client says nothing.
    """

    __slots__ = ("_limit", "_source", "content_type", "filename", "headers", "name")

    def __init__(self, begin: PartBegin, source: _Parts, limit: int | None) -> None:
        self.name = begin.name
        self.filename = begin.filename
        self.headers = Headers(begin.headers)
        self.content_type = None if begin.content_type is None else begin.content_type.decode("latin-1")
        self._source = source
        self._limit = limit

    def __repr__(self) -> str:
        return f"<FormPart {self.name!r} filename={self.filename!r}>"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Its content, in pieces.

        :raises HTTPError: 413, it is larger than the limits allow.
        :raises RuntimeError: the next part has begun.
        """
        size = 0
        while (piece := await self._source.piece_of(self)) is not None:
            size += len(piece)
            if self._limit is not None and size > self._limit:
                what = "field" if self.filename is None else "file"
                raise _too_large(f"{what} {self.name[:80]!r} is larger than {self._limit} bytes")
            yield piece

    async def read(self, limit: int) -> bytes:
        """The whole content.

        :param limit: bytes at most.
        :raises HTTPError: 413, it is larger.
        """
        content = bytearray()
        async for piece in self:
            if len(content) + len(piece) > limit:
                raise _too_large(f"field {self.name[:80]!r} is larger than {limit} bytes")
            content += piece
        return bytes(content)


async def request_parts(request: Request, limits: FormLimits = _DEFAULT) -> AsyncIterator[FormPart]:
    """The parts of a multipart body one after the other, while they come: nothing is kept. What a part has left unread
    is skipped when the next one is asked for, and the client waits while nobody asks.

    Of ``limits``, ``fields``, ``files``, ``field_size`` and ``file_size`` hold. Raises what :func:`read_form` raises,
    but for what concerns the disk; content that is not multipart is 415.
    """
    if _form_type(request) != _MULTIPART:
        raise HTTPError(415, "multipart/form-data is expected", headers=[("accept", "multipart/form-data")])
    boundary = read_boundary(request.exchange.header(b"content-type"))
    reader = MultipartReader(boundary, MultipartLimits(parts=max(1, limits.fields + limits.files)))
    source = _Parts(request.stream(), reader)
    fields = files = 0
    while (begin := await source.next_part()) is not None:
        if begin.filename is None:
            fields += 1
            if fields > limits.fields:
                raise _too_large(f"the form has more than {limits.fields} fields")
        else:
            files += 1
            if files > limits.files:
                raise _too_large(f"the form has more than {limits.files} files")
        source.current = FormPart(begin, source, limits.field_size if begin.filename is None else limits.file_size)
        yield source.current


class _Parts:
    """The events of a body, as they are asked for."""

    __slots__ = ("_ended", "_events", "_reader", "_stream", "current")

    def __init__(self, stream: AsyncIterator[bytes], reader: MultipartReader) -> None:
        self._stream = stream
        self._reader = reader
        self._events: list[MultipartEvent] = []  # the next one is the last
        self._ended = False
        self.current: FormPart | None = None

    async def _event(self) -> MultipartEvent | None:
        while not self._events:
            if self._ended:
                return None
            piece = await anext(self._stream, None)
            if piece is None:
                self._ended = True
                self._reader.close()
            else:
                self._events = self._reader.feed(piece)
                self._events.reverse()
        return self._events.pop()

    async def next_part(self) -> PartBegin | None:
        """The next part's beginning; None at the end of the body, which was read whole then."""
        self.current = None
        while (event := await self._event()) is not None:
            if isinstance(event, PartBegin):
                return event
        return None

    async def piece_of(self, part: FormPart) -> bytes | None:
        """The next piece of a part; None at its end."""
        if self.current is not part:
            if self.current is None or self._ended:
                return None
            raise RuntimeError(f"{part!r} cannot be read any more: the next part has begun")
        event = await self._event()
        if isinstance(event, PartData):
            return event.data
        assert event is None or isinstance(event, PartEnd | End)
        self.current = None
        return None


async def _read_urlencoded(request: Request, limits: FormLimits) -> FormData:
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > limits.memory:
            raise _too_large(f"the form is larger than {limits.memory} bytes")
    separators = content.count(b"&")  # counted first: a list of millions is not made
    fields = [field for field in bytes(content).split(b"&", limits.fields + _EMPTY_FIELDS) if field]
    if len(fields) > limits.fields or separators > limits.fields + _EMPTY_FIELDS:
        raise _too_large(f"the form has more than {limits.fields} fields")
    items: list[tuple[str, str | UploadFile]] = []
    for field in fields:
        raw_name, _, raw_value = field.replace(b"+", b" ").partition(b"=")
        if len(raw_value) > limits.field_size:
            raise _too_large(f"a field of the form is larger than {limits.field_size} bytes")
        try:
            name = unquote_to_bytes(raw_name).decode()
            items.append((name, unquote_to_bytes(raw_value).decode()))
        except UnicodeDecodeError:
            raise HTTPError(400, f"field {len(items) + 1} of the form is not UTF-8") from None
    return FormData(items)


def _form_type(request: Request) -> bytes:
    """The media type, one of the two.

    :raises HTTPError: 415, it is another one, or the charset is not UTF-8.
    """
    content_type = request.exchange.header(b"content-type") or b""
    media_type = content_type.partition(b";")[0].strip().lower()
    if media_type not in (_URLENCODED, _MULTIPART):
        shown = media_type[:80].decode("latin-1") or "none"
        detail = f"content type is {shown}; application/x-www-form-urlencoded or multipart/form-data is expected"
        raise HTTPError(415, detail, headers=_ACCEPTED)
    if b"charset" in content_type.lower():
        _check_charset(content_type, "the form")
    return media_type


def _check_charset(content_type: bytes, what: str) -> None:
    _, parameters = read_parameters(content_type, f"content-type of {what}")
    if parameters.get(b"charset", b"utf-8").lower() not in _UTF8:
        raise HTTPError(415, f"the charset of {what} is {parameters[b'charset'][:40]!r}; UTF-8 is expected")


def _text(part: FormPart, content: bytes) -> str:
    if part.content_type is not None and "charset" in part.content_type.lower():
        _check_charset(part.content_type.encode("latin-1"), f"field {part.name[:80]!r}")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise HTTPError(400, f"field {part.name[:80]!r} of the form is not UTF-8") from None


def _left_of(left: int, taken: int, limits: FormLimits) -> int:
    """What is left of ``limits.memory`` when so much more of it is taken."""
    if taken > left:
        raise _too_large(f"the fields of the form take more than {limits.memory} bytes")
    return left - taken


def _too_large(detail: str) -> HTTPError:
    return HTTPError(413, detail)
