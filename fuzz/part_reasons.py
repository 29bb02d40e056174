"""Why our reader of multipart bodies and python-multipart may differ.

Each reason is recognised from the bytes, by a reader of its own that knows nothing but how bodies are laid out (RFC
2046 section 5.1.1).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from fuzz.part_readings import LIMITS

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_UNQUOTED = frozenset(range(33, 127)) - frozenset(b'";\\')

BEFORE, BEHIND, HEAD, CONTENT, CLOSING, AFTER = "before", "behind", "head", "content", "closing", "after"


@dataclass(slots=True)
class Place:
    """Where in a body a byte stands.

    :param kind: before the first boundary, behind one in its line, in a part's headers or content, in the line of the
        last boundary behind it, or after that line.
    :param text: of that place, up to the byte and with it; of headers all, where they are complete.
    :param part: which part it is, from 1.
    :param at_end: the byte is none: the body ends here.
    """

    kind: str
    text: bytes
    part: int
    at_end: bool
    boundary: bytes

    def values(self, name: bytes) -> list[bytes]:
        """Of the headers of that name."""
        lines = (line.partition(b":") for line in self.text.split(b"\r\n"))
        return [value.strip(b" \t") for each, _, value in lines if each.lower() == name]

    def parameters(self) -> list[tuple[bytes, bytes]] | None:
        """Of the content-disposition; None: they are malformed."""
        return parameters(b";".join(self.values(b"content-disposition")))


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one of the two refuses what the other takes.

    :param section: of the RFC that lets it, or makes it.
    :param we_refuse: we do, and python-multipart does not; False: the other way round.
    :param kind: of the place where.
    :param test: recognises it.
    """

    name: str
    section: str
    why: str
    we_refuse: bool
    kind: str
    test: Callable[[Place], bool]


def parameters(value: bytes) -> list[tuple[bytes, bytes]] | None:
    """The parameters of a header, names in lower case, values as sent; None: they are malformed."""
    found = []
    rest = value.partition(b";")[2]
    while rest := rest.strip(b" \t"):
        if rest[:1] == b";":
            rest = rest[1:]
            continue
        name, equals, rest = rest.partition(b"=")
        name, rest = name.rstrip(b" \t"), rest.lstrip(b" \t")
        if not equals or not name or not set(name) <= _TOKEN:
            return None
        end = 0
        if rest[:1] == b'"':
            end = 1
            while rest[end : end + 1] not in (b'"', b""):
                end += 2 if rest[end] == ord("\\") else 1
            end += 1
        else:
            while end < len(rest) and rest[end] in _UNQUOTED:
                end += 1
        if not 0 < end <= len(rest) or rest[end:].lstrip(b" \t")[:1] not in (b"", b";"):
            return None
        found.append((name.lower(), rest[:end]))
        rest = rest[end:]
    return found


def place_of(body: bytes, at: int, boundary: bytes) -> Place:
    """Where byte ``at`` stands; the body's length: its end."""
    data = b"\r\n" + body
    stop = at + 3  # behind the byte

    def place(kind: str, start: int, end: int = 1 << 60) -> Place:
        return Place(kind, data[start : min(stop, end)], part, at == len(body), boundary)

    delimiter = b"\r\n--" + boundary
    part = 0
    found = data.find(delimiter)
    if found < 0 or stop <= found + len(delimiter):
        return place(BEFORE, 0)
    while True:
        behind = found + len(delimiter)
        line_end = data.find(b"\r\n", behind)
        if data.startswith(b"--", behind):
            if line_end < 0 or stop <= line_end + 2:
                return place(CLOSING, behind + 2)
            return place(AFTER, line_end + 2)
        part += 1
        if line_end < 0 or stop <= line_end + 2:
            return place(BEHIND, behind)
        head_end = data.find(b"\r\n\r\n", line_end)
        if head_end < 0 or stop <= head_end + 4:
            return place(HEAD, line_end + 2, head_end if head_end >= 0 else 1 << 60)
        found = data.find(delimiter, head_end + 2)
        if found < 0 or stop <= found + len(delimiter):
            return place(CONTENT, head_end + 4)


def _repeats(place: Place) -> bool:
    names = [name for name, _ in place.parameters() or ()]
    return len(set(names)) < len(names)


def _lacks(place: Place, name: bytes) -> bool:
    return name not in dict(place.parameters() or ())


def _is_not_utf8(place: Place) -> bool:
    found = dict(place.parameters() or ())
    try:
        (found.get(b"name", b"") + b" " + found.get(b"filename", b"")).decode()
    except UnicodeDecodeError:
        return True
    return False


def _has_only_filename_star(place: Place) -> bool:
    return _lacks(place, b"filename") and any(name[:9] == b"filename*" for name, _ in place.parameters() or ())


def _is_encoded(place: Place) -> bool:
    plain = {b"7bit", b"8bit", b"binary"}
    return any(value.lower() not in plain for value in place.values(b"content-transfer-encoding"))


def _kind_is_wrong(place: Place) -> bool:
    values = place.values(b"content-disposition")
    return len(values) == 1 and values[0].partition(b";")[0].strip(b" \t").lower() != b"form-data"


REASONS = (
    Reason(
        "text-before",
        "RFC 2046 section 5.1.1",
        "How much text may stand before the first boundary is everyone's own matter. They skip any that begins with a"
        " line's end.",
        True,
        BEFORE,
        lambda place: len(place.text) - 2 > LIMITS.around,
    ),
    Reason(
        "boundary-within-line",
        "RFC 2046 section 5.1.1",
        "A boundary begins a line, which CRLF ends. They skip any text up to a hyphen behind a line's end, so that for"
        " them a part begins there.",
        True,
        BEFORE,
        lambda place: place.text.endswith(b"--" + place.boundary) and not place.at_end,
    ),
    Reason(
        "text-before-refused",
        "RFC 2046 section 5.1.1",
        "Text may stand before the first boundary, and is ignored. They refuse it, unless it begins with a line's end.",
        False,
        BEFORE,
        lambda place: len(place.text) > 2,
    ),
    Reason(
        "first-padding",
        "RFC 2046 section 5.1.1",
        "Blanks may stand behind a boundary. They take them behind each but the first one.",
        False,
        BEHIND,
        lambda place: place.part == 1 and place.text[-1:] in (b" ", b"\t"),
    ),
    Reason(
        "parts",
        "RFC 7578 section 5.4",
        "How many parts there may be is everyone's own matter.",
        True,
        BEHIND,
        lambda place: place.part > LIMITS.parts and place.text.endswith(b"\r\n"),
    ),
    Reason(
        "long-padding",
        "RFC 2046 section 5.1.1",
        "How many blanks may stand behind a boundary is everyone's own matter.",
        True,
        BEHIND,
        lambda place: len(place.text) > 64 and not place.text.strip(b" \t"),
    ),
    Reason(
        "behind-boundary",
        "RFC 2046 section 5.1.1",
        "Content must not have a line that begins with the boundary. They take one that goes on for content.",
        True,
        BEHIND,
        lambda place: place.text.strip(b" \t") != b"" and not place.text.endswith(b"\r\n"),
    ),
    Reason(
        "long-head",
        "RFC 7578 section 5.4",
        "How many headers a part may have, and how long they may be, is everyone's own matter.",
        True,
        HEAD,
        lambda place: len(place.text) > LIMITS.head or place.text.count(b"\r\n") >= LIMITS.headers,
    ),
    Reason(
        "control-character",
        "RFC 5322 section 2.2",
        "Headers are printable text, blanks and tabs. They take any byte but CR.",
        True,
        HEAD,
        lambda place: any(_CONTROL.search(line) for line in place.text.split(b"\r\n")),
    ),
    Reason(
        "no-disposition",
        "RFC 7578 section 4.2",
        "Each part must have one content-disposition, which is form-data. They leave that to their callers.",
        True,
        HEAD,
        lambda place: len(place.values(b"content-disposition")) != 1 or _kind_is_wrong(place),
    ),
    Reason(
        "transfer-encoding",
        "RFC 7578 section 4.7",
        "Content must not be sent encoded. They leave that to their callers.",
        True,
        HEAD,
        _is_encoded,
    ),
    Reason(
        "malformed-parameter",
        "RFC 2183 section 2",
        "Parameters are names and values, quoted where they have to be. They guess what others may mean.",
        True,
        HEAD,
        lambda place: place.parameters() is None,
    ),
    Reason(
        "repeated-parameter",
        "RFC 2045 section 5",
        "No parameter may be there twice: readers would not agree on which one counts. They take the last one.",
        True,
        HEAD,
        _repeats,
    ),
    Reason(
        "no-name",
        "RFC 7578 section 4.2",
        "Each part must have a name. They leave that to their callers.",
        True,
        HEAD,
        lambda place: place.parameters() is not None and _lacks(place, b"name"),
    ),
    Reason(
        "filename-star",
        "RFC 7578 section 4.2",
        "A file's name must not be sent by filename*. They ignore it, so that a file is a field for them.",
        True,
        HEAD,
        _has_only_filename_star,
    ),
    Reason(
        "not-utf-8",
        "RFC 7578 section 5.1.2",
        "Names are UTF-8, as all else of a form is by now. They leave that to their callers.",
        True,
        HEAD,
        _is_not_utf8,
    ),
    Reason(
        "behind-last-boundary",
        "RFC 2046 section 5.1.1",
        "Behind the last boundary there are blanks and the line's end. They ignore whatever follows it.",
        True,
        CLOSING,
        lambda place: place.text.strip(b" \t") != b"",
    ),
    Reason(
        "long-padding-of-last",
        "RFC 2046 section 5.1.1",
        "How many blanks may stand behind a boundary is everyone's own matter.",
        True,
        CLOSING,
        lambda place: len(place.text) > 64,
    ),
    Reason(
        "text-after",
        "RFC 2046 section 5.1.1",
        "How much text may stand after the last boundary is everyone's own matter. They skip any.",
        True,
        AFTER,
        lambda place: len(place.text) > LIMITS.around,
    ),
)


@dataclass(frozen=True, slots=True)
class NameReason:
    """Why a name that both read is not the same for both; ``test`` recognises it by the content-disposition."""

    name: str
    section: str
    why: str
    test: Callable[[bytes], bool]


NAMES = (
    NameReason(
        "backslash",
        "RFC 2045 section 5",
        "A backslash and what follows it are the latter. Browsers quote nothing by it, so that before anything but a"
        " quote and a backslash it is itself for us. They look for pairs of both kinds one after the other, and cut off"
        " the folders of a path as old browsers sent it.",
        lambda value: b"\\" in value,
    ),
)

EMPTY_PART = "empty-part"
"""RFC 2046 section 5.1.1: the CRLF before a boundary belongs to it, and a part may have no content, so that the empty
line behind its headers may be the boundary's. They take that boundary for content."""
