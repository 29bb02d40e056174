"""Reading server-sent events (WHATWG HTML, sections 9.2.5 and 9.2.6)."""

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
    """Makes events of the content of a response, however it is cut.

    :param last_event_id: of the content before, which this one goes on from.
    :ivar last_event_id: the id of the last event that was complete, or of the last block of lines without data.
    :ivar retry: milliseconds to wait before a reconnect, as last asked for; None: never.
    """

    __slots__ = (
        "_after_cr", "_data", "_decode", "_event", "_first", "_id", "_kept", "_kept_size", "_retry", "_size",
        "last_event_id", "retry",
    )  # fmt: skip

    def __init__(self, last_event_id: str = "") -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._kept: list[str] = []  # pieces of a line that is not complete
        self._kept_size = 0
        self._after_cr = False  # an LF now belongs to the line end before
        self._first = True
        self._data: list[str] = []
        self._size = 0
        self._event = ""
        self._id = last_event_id
        self._retry: int | None = None
        self.last_event_id = last_event_id
        self.retry: int | None = None

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """The events that ``data`` completes.

        :raises ValueError: an event is longer than 1 Mi characters.
        """
        text = self._decode(data)
        if not text:
            return []
        if self._first:
            self._first = False
            text = text.removeprefix("\ufeff")
        at = 1 if self._after_cr and text[:1] == "\n" else 0
        self._after_cr = text[-1:] == "\r"
        events = []
        for end in _LINE_END.finditer(text, at):
            line = text[at : end.start()]
            at = end.end()
            if self._kept:
                line = "".join((*self._kept, line))
                self._kept.clear()
                self._kept_size = 0
            if line:
                self._field(line)
            elif (event := self._dispatched()) is not None:
                events.append(event)
        if at < len(text):
            self._kept.append(text[at:])
            self._kept_size += len(text) - at
        if self._size + self._kept_size > _LONGEST:
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
                self._retry = self.retry = int(value[:18])

    def _dispatched(self) -> ServerSentEvent | None:
        data, self._data = self._data, []
        event, self._event = self._event, ""
        retry, self._retry = self._retry, None
        self._size = 0
        self.last_event_id = self._id
        return ServerSentEvent("\n".join(data), event or "message", self._id, retry) if data else None
