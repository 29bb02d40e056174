"""``multipart/form-data`` (RFC 7578, RFC 2046 section 5.1), read as it comes.

What is refused and what is not, where the specifications leave room or clients do not keep to them:

=========================================  ===========================================================================
no part at all (``--b--``)                 taken: browsers send it for an empty form
text before the first boundary, after the  taken up to a bound, and dropped
last one
a first boundary that begins no line       refused: for other readers it begins a part, which would be missing
blanks at the end of a boundary's line     taken, up to 64 (RFC 2046 section 5.1.1)
anything else behind a boundary            refused: another reader might take it for a part's content
lines that end with LF alone               refused, as in the heads of HTTP (RFC 9112 section 2.2)
folded header lines                        refused; nobody writes them
a part without ``name``, or with two       refused (RFC 7578 section 4.2)
``content-disposition``
``filename*``, ``filename*0``              must not be sent (RFC 7578 section 4.2). Beside ``filename`` they are
                                           ignored, since .NET always sends both. Alone they are refused: ignoring
                                           them would make a field of a file
``%22``, ``%0D``, ``%0A`` in names         a quote, CR and LF, as browsers write them (WHATWG HTML section 4.10.21.8).
                                           Any other ``%`` is itself
``\\"`` and ``\\\\`` in names                  a quote and a backslash, as Go and old curl write them. A name
                                           of a browser's that ends with a backslash is refused thereby
names that are not UTF-8                   refused
``content-transfer-encoding``              refused, but for ``7bit``, ``8bit`` and ``binary`` (RFC 7578 section 4.7)
=========================================  ===========================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from forebay.errors import ProtocolError
from forebay.wire.parameters import read_parameters

__all__ = [
    "End",
    "MultipartEvent",
    "MultipartLimits",
    "MultipartReader",
    "PartBegin",
    "PartData",
    "PartEnd",
    "read_boundary",
]

_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 section 5.1.1
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_ESCAPE = re.compile("%(22|0[Dd]|0[Aa])")
_ESCAPES = {"22": '"', "0D": "\r", "0A": "\n"}
_PLAIN = (b"7bit", b"8bit", b"binary")
_PADDING = 64  # blanks behind a boundary

_PREAMBLE, _BEHIND, _HEAD, _DATA, _CLOSING, _EPILOGUE = range(6)


class PartBegin(msgspec.Struct, frozen=True):
    """A part begins. ``filename`` is None for a field; it may be empty: a file input in which no file was chosen.
    ``content_type`` is as sent, and None without one. ``headers`` are all headers, names in lower case."""

    name: str
    filename: str | None
    content_type: bytes | None
    headers: list[tuple[bytes, bytes]]


class PartData(msgspec.Struct, frozen=True):
    """Some of the part's content, never empty."""

    data: bytes


class PartEnd(msgspec.Struct, frozen=True):
    """The part is complete."""


class End(msgspec.Struct, frozen=True):
    """The last part is complete."""


MultipartEvent: TypeAlias = PartBegin | PartData | PartEnd | End

_PART_END = PartEnd()
_END = End()


@dataclass(frozen=True, slots=True)
class MultipartLimits:
    """Bounds of one multipart body.

    :param parts: parts at most.
    :param headers: headers of one part.
    :param head: bytes of one part's headers, all together.
    :param around: bytes before the first boundary, and as many after the last one.

    :raises ValueError: one of them is less than 1 (``around``: than 0).
    """

    parts: int = 1_100
    headers: int = 16
    head: int = 8 * 1024
    around: int = 1024

    def __post_init__(self) -> None:
        for name, least in (("parts", 1), ("headers", 1), ("head", 1), ("around", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"MultipartLimits {name} {getattr(self, name)}: must be {least} or more")


def read_boundary(content_type: bytes | None) -> bytes:
    """The boundary that a ``content-type`` names.

    :raises ProtocolError: 415, it is not ``multipart/form-data``; 400, it has no boundary, or one that is none: those
        have 1 to 70 characters, the last of which is no blank.
    """
    media_type = (content_type or b"").partition(b";")[0].strip().lower()
    if content_type is None or media_type != b"multipart/form-data":
        shown = media_type.decode("latin-1") or "none"
        raise ProtocolError(f"content type is {shown}; multipart/form-data is expected", status=415)
    _, parameters = read_parameters(content_type, "content-type")
    boundary = parameters.get(b"boundary")
    if boundary is None:
        raise ProtocolError("content-type multipart/form-data has no boundary")
    _check_boundary(boundary)
    return boundary


def _check_boundary(boundary: bytes) -> None:
    if not _BOUNDARY.fullmatch(boundary):
        rule = "must be 1 to 70 letters, digits, blanks and '()+_,-./:=?, and not end with a blank"
        raise ProtocolError(f"multipart boundary {boundary[:80]!r}: {rule}")


class MultipartReader:
    """One body's bytes to events.

    It holds at most a head (``limits.head``), the text before the first boundary (``limits.around``) or the beginning
    of a boundary, besides what was fed. The time grows with
    the number of bytes, however they are cut, and what is read does not depend on the cuts, but for where the content
    of a part is cut into :class:`PartData`.

    :param boundary: as :func:`read_boundary` finds it.
    :raises ProtocolError: 400, it is not 1 to 70 of the characters that are allowed.
    """

    __slots__ = ("_at", "_delimiter", "_error", "_held", "_limits", "_offset", "_parts", "_seen", "_state", "_text")

    def __init__(self, boundary: bytes, limits: MultipartLimits | None = None) -> None:
        _check_boundary(boundary)
        self._delimiter = b"\r\n--" + boundary
        self._limits = limits or MultipartLimits()
        self._held = bytearray(b"\r\n")  # so that a boundary at the very beginning stands after a line's end too
        self._at = 0  # up to where what is held was read
        self._offset = -2  # of what is held, in the body
        self._seen = 0  # bytes behind _at that are known to complete neither a head nor the first boundary
        self._text = 0  # bytes after the last boundary
        self._parts = 0
        self._state = _PREAMBLE
        self._error: ProtocolError | None = None

    def __repr__(self) -> str:
        return f"<MultipartReader parts={self._parts} pending={self.pending}>"

    @property
    def pending(self) -> int:
        """Bytes held: the text before the first boundary, the beginning of a head or of a boundary."""
        return len(self._held)

    def feed(self, data: bytes) -> list[MultipartEvent]:
        """The events that ``data`` completes. What stands before something wrong is still given; the error is raised
        by the next call.

        :raises ProtocolError: 400, the body is malformed; 413, it has too many parts, too many or too long headers, or
            too much text around the parts. The message names the part and the byte. Each call after it raises it again.
        """
        if self._error is not None:
            raise self._error
        held = self._held
        held += data
        events: list[MultipartEvent] = []
        try:
            while _STEPS[self._state](self, events):
                pass
        except ProtocolError as error:
            self._error = error
            self._held = bytearray()
            if not events:
                raise
            return events
        if self._at:
            self._offset += self._at
            del held[: self._at]
            self._at = 0
        return events

    def close(self) -> None:
        """The body has ended.

        :raises ProtocolError: 400, the last boundary is missing, or what :meth:`feed` had still to raise.
        """
        if self._error is None:
            if self._state == _CLOSING and self._held.strip(b" \t"):
                self._error = self._wrong("something other than a line's end follows the last boundary")
            elif self._state in (_PREAMBLE, _BEHIND, _HEAD, _DATA):
                where = f" in part {self._parts}" if self._parts else ""
                self._error = self._wrong(f"the body ends{where} without its last boundary")
        if self._error is not None:
            raise self._error

    # -- one step each: whether there may be another

    def _preamble(self, events: list[MultipartEvent]) -> bool:
        """Up to the first boundary. All of it is held until then: no part may be taken for text."""
        del events
        held, line = self._held, self._delimiter[2:]
        found = held.find(line, self._seen)
        begins_line = found >= 0 and held.startswith(b"\r\n", found - 2)
        end = self._text_end(line) if found < 0 else found - 2 if begins_line else found
        if self._offset + end > self._limits.around:
            self._at = end
            raise self._wrong(f"there are more than {self._limits.around} bytes before the first boundary", 413)
        if found < 0:
            self._seen = end
            return False
        self._at = found
        if not begins_line:
            raise self._wrong("the first boundary does not follow CRLF")
        self._at += len(line)
        self._state = _BEHIND
        return True

    def _text_end(self, line: bytes) -> int:
        """Where what may be the beginning of the first boundary's ``line`` begins, at the end of what is held."""
        held, delimiter = self._held, self._delimiter
        for at in range(max(0, len(held) - len(delimiter) + 1), len(held)):
            if delimiter.startswith(rest := bytes(held[at:])) or line.startswith(rest):
                return at
        return len(held)

    def _behind(self, events: list[MultipartEvent]) -> bool:
        """After a boundary: a line's end, or two hyphens."""
        held = self._held
        if held.startswith(b"--", self._at):
            self._at += 2
            self._state = _CLOSING
            events.append(_END)
            return True
        end = self._padding_end()
        if held.startswith(b"\r\n", end):
            self._at = end  # the CRLF stays: a head without headers is CRLF CRLF then
            self._parts += 1
            if self._parts > self._limits.parts:
                raise self._wrong(f"there are more than {self._limits.parts} parts", 413)
            self._seen = 0
            self._state = _HEAD
            return True
        rest = bytes(held[end : end + 2])
        if rest in (b"", b"\r") or (rest == b"-" and end == self._at):
            return False
        raise self._wrong("something other than a line's end follows a boundary")

    def _head(self, events: list[MultipartEvent]) -> bool:
        held, limit = self._held, self._limits.head
        start = self._at + 2
        found = held.find(b"\r\n\r\n", self._at + self._seen, start + limit + 4)
        if found < 0:
            if len(held) - start >= limit + 4:
                raise self._wrong(f"the headers of part {self._parts} are longer than {limit} bytes", 413)
            self._seen = max(0, len(held) - self._at - 3)
            return False
        events.append(self._part(bytes(memoryview(held)[start:found])))
        self._at = found + 2  # the last CRLF may begin a boundary: a part without content
        self._state = _DATA
        self._seen = 2  # of the content's own, two bytes are to be left out
        return True

    def _data(self, events: list[MultipartEvent]) -> bool:
        held = self._held
        found = held.find(self._delimiter, self._at)
        end = found if found >= 0 else self._keep_beginning()
        start = self._at + self._seen
        if end > start:
            events.append(PartData(bytes(memoryview(held)[start:end])))
        if end > self._at:
            self._seen = 0
        self._at = end
        if found < 0:
            return False
        self._at += len(self._delimiter)
        self._state = _BEHIND
        events.append(_PART_END)
        return True

    def _closing(self, events: list[MultipartEvent]) -> bool:
        del events
        end = self._padding_end()
        if self._held.startswith(b"\r\n", end):
            self._at = end + 2
            self._state = _EPILOGUE
            return True
        if bytes(self._held[end : end + 2]) not in (b"", b"\r"):
            raise self._wrong("something other than a line's end follows the last boundary")
        return False

    def _epilogue(self, events: list[MultipartEvent]) -> bool:
        del events
        self._text += len(self._held) - self._at
        self._at = len(self._held)
        if self._text > self._limits.around:
            raise self._wrong(f"there are more than {self._limits.around} bytes after the last boundary", 413)
        return False

    # -- what the steps share

    def _keep_beginning(self) -> int:
        """Where what may be the beginning of a boundary begins, at the end of what is held: at its only CR."""
        held = self._held
        at = held.rfind(b"\r", max(self._at, len(held) - len(self._delimiter) + 1))
        if at >= 0 and self._delimiter.startswith(memoryview(held)[at:]):
            return at
        return len(held)

    def _padding_end(self) -> int:
        held, at = self._held, self._at
        end, last = at, min(len(held), at + _PADDING + 1)
        while end < last and held[end] in b" \t":
            end += 1
        if end - at > _PADDING:
            raise self._wrong(f"more than {_PADDING} blanks follow a boundary")
        return end

    def _part(self, head: bytes) -> PartBegin:
        """A part by its header lines."""
        where = f"part {self._parts}"
        lines = head.split(b"\r\n") if head else []
        if len(lines) > self._limits.headers:
            raise self._wrong(f"{where} has more than {self._limits.headers} headers", 413)
        headers = []
        for line in lines:
            match = _HEADER.fullmatch(line)
            if match is None:
                raise self._wrong(f"{where} has a malformed header line: {line[:80]!r}")
            headers.append((match[1].lower(), match[2].rstrip(b" \t")))
        dispositions = [value for name, value in headers if name == b"content-disposition"]
        if len(dispositions) != 1:
            raise self._wrong(f"{where} has {len(dispositions) or 'no'} content-disposition headers; one is expected")
        codings = [value for name, value in headers if name == b"content-transfer-encoding"]
        if any(coding.lower() not in _PLAIN for coding in codings):
            raise self._wrong(f"{where} has a content-transfer-encoding; only 7bit, 8bit and binary are read")
        kind, parameters = read_parameters(dispositions[0], f"content-disposition of {where}")
        if kind != b"form-data":
            raise self._wrong(f"content-disposition of {where} is {kind.decode()}; form-data is expected")
        raw_name, raw_filename = parameters.get(b"name"), parameters.get(b"filename")
        if raw_name is None:
            raise self._wrong(f"{where} has no name")
        if raw_filename is None and any(each.startswith(b"filename*") for each in parameters):
            raise self._wrong(f"{where} has filename* and no filename (RFC 7578 section 4.2)")
        name = self._name(raw_name, f"name of {where}")
        filename = None if raw_filename is None else self._name(raw_filename, f"filename of {where}")
        content_type = next((value for header, value in headers if header == b"content-type"), None)
        return PartBegin(name, filename, content_type, headers)

    def _name(self, raw: bytes, what: str) -> str:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise self._wrong(f"{what} is not UTF-8: {raw[:80]!r}") from None
        return _ESCAPE.sub(lambda match: _ESCAPES[match[1].upper()], text) if "%" in text else text

    def _wrong(self, what: str, status: int = 400) -> ProtocolError:
        return ProtocolError(f"multipart body, byte {max(0, self._offset + self._at)}: {what}", status=status)


_STEPS = (
    MultipartReader._preamble,
    MultipartReader._behind,
    MultipartReader._head,
    MultipartReader._data,
    MultipartReader._closing,
    MultipartReader._epilogue,
)
