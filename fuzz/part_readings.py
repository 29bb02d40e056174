"""The parts in a multipart body: as our reader reads them, and as python-multipart does."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from forebay.errors import ProtocolError
from forebay.wire.multipart import End, MultipartLimits, MultipartReader, PartBegin, PartData, PartEnd

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns of each body that it refuses

LIMITS = MultipartLimits(parts=4, headers=3, head=200, around=40)
"""Ours; small, so that inputs come to them. Theirs are never reached."""


@dataclass(slots=True)
class Part:
    """A part as it was read. The names of its headers are in lower case, their values without blanks around them."""

    headers: list[tuple[bytes, bytes]]
    name: bytes | None = None
    filename: bytes | None = None
    content: bytes = b""
    complete: bool = False
    cut_by_refusal: bool = False
    """What follows its boundary is refused by us, and may be content for them."""


@dataclass(slots=True)
class Reading:
    """What was made of a body. The last part may have only begun.

    :param status: of our error; of theirs always 400. None: there is none.
    :param at: the byte that they refuse; the body's length: they miss its end.
    """

    parts: list[Part] = field(default_factory=list)
    status: int | None = None
    at: int | None = None


def ours(pieces: Iterable[bytes], boundary: bytes) -> Reading:
    """What our reader makes of them."""
    reader = MultipartReader(boundary, LIMITS)
    reading = Reading()
    try:
        for piece in pieces:
            for event in reader.feed(piece):
                _take(reading, event)
        reader.close()
    except ProtocolError as error:
        reading.status = error.status
    return reading


def we_refuse_at(body: bytes, boundary: bytes) -> int:
    """The first byte that our reader does not take; the body's length: it takes each, and misses its end."""
    reader = MultipartReader(boundary, LIMITS)
    for at in range(len(body)):
        try:
            reader.feed(body[at : at + 1])
            reader.feed(b"")  # what stands before something wrong is given first
        except ProtocolError:
            return at
    return len(body)


def _take(reading: Reading, event: object) -> None:
    if isinstance(event, PartBegin):
        filename = None if event.filename is None else event.filename.encode()
        reading.parts.append(Part(event.headers, event.name.encode(), filename))
    elif isinstance(event, PartData):
        reading.parts[-1].content += event.data
    elif isinstance(event, PartEnd):
        reading.parts[-1].complete = True
    else:
        assert isinstance(event, End), event


class Theirs:
    """``python-multipart``, which tells of each thing by a call."""

    def __init__(self, boundary: bytes) -> None:
        self.reading = Reading()
        self._header = [b"", b""]
        self._ended = False
        calls: Any = {
            "on_part_begin": lambda: self.reading.parts.append(Part([])),
            "on_header_field": lambda data, start, end: self._add(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add(1, data[start:end]),
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, calls, max_header_count=1000, max_header_size=10_000)

    def read(self, body: bytes) -> Reading:
        """A whole body: where it is cut would make a difference to them."""
        try:
            self._parser.write(body)
            self._parser.finalize()
        except MultipartParseError as error:
            self.reading.status, self.reading.at = 400, error.offset
        else:
            if not self._ended:
                self.reading.status, self.reading.at = 400, len(body)
        return self.reading

    def _add(self, to: int, data: bytes) -> None:
        self._header[to] += data

    def _header_end(self) -> None:
        name, value = self._header[0].lower(), self._header[1].strip(b" \t")
        part = self.reading.parts[-1]
        part.headers.append((name, value))
        if name == b"content-disposition":
            _, options = parse_options_header(value)
            part.name, part.filename = _unescaped(options.get(b"name")), _unescaped(options.get(b"filename"))
        self._header = [b"", b""]

    def _data(self, data: bytes, start: int, end: int) -> None:
        self.reading.parts[-1].content += data[start:end]

    def _part_end(self) -> None:
        self.reading.parts[-1].complete = True

    def _end(self) -> None:
        self._ended = True


def _unescaped(name: bytes | None) -> bytes | None:
    """What python-multipart leaves to its callers: how browsers write three characters."""
    for escape, character in ((b"%22", b'"'), (b"%0D", b"\r"), (b"%0d", b"\r"), (b"%0A", b"\n"), (b"%0a", b"\n")):
        name = name and name.replace(escape, character)
    return name
