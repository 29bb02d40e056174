"""Reading server-sent events (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

__all__ = ["EventReader", "ServerSentEvent"]

_LINE_END = re.compile(r"\r\n|\n|\r")
_LONGEST = 1 << 20  # characters of one event


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event. ``id`` is the last id that was sent, with it or before; ``retry`` milliseconds to wait before a
    reconnect, where it came with the event."""

    data: str
    event: str = "message"
    id: str = ""
    retry: int | None = None


class EventReader:
    """Makes events of the content of a response, however it is cut."""

    __slots__ = ("_data", "_decode", "_event", "_first", "_id", "_kept", "_retry", "_size")

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._kept = ""
        self._first = True
        self._data: list[str] = []
        self._size = 0
        self._event = ""
        self._id = ""
        self._retry: int | None = None

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """The events that ``data`` completes.

        :raises ValueError: an event is longer than 1 Mi characters.
        """
        text = self._kept + self._decode(data)
        if self._first and text:
            self._first = False
            text = text.removeprefix("\ufeff")
        events = []
        at = 0
        for end in _LINE_END.finditer(text):
            if end[0] == "\r" and end.end() == len(text):
                break  # its LF may follow
            line = text[at : end.start()]
            at = end.end()
            if line:
                self._field(line)
            elif (event := self._dispatched()) is not None:
                events.append(event)
        self._kept = text[at:]
        if self._size + len(self._kept) > _LONGEST:
            raise ValueError(f"a server-sent event is longer than {_LONGEST} characters")
        return events

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
                self._size += len(value) + 1
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit():
                self._retry = int(value[:18])

    def _dispatched(self) -> ServerSentEvent | None:
        data, self._data = self._data, []
        event, self._event = self._event, ""
        retry, self._retry = self._retry, None
        self._size = 0
        return ServerSentEvent("\n".join(data), event or "message", self._id, retry) if data else None
