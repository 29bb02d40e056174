"""``Sec-WebSocket-Extensions``, read by its grammar: RFC 6455 section 9.1."""

from __future__ import annotations

import re
from typing import TypeAlias

from forebay.errors import WebSocketError

__all__ = ["Parameters", "parse_extensions"]

Parameters: TypeAlias = list[tuple[str, str | None]]
"""Names and values, as they were sent; None where there is no value."""

_CHARACTER = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_TOKEN = re.compile(f"{_CHARACTER}+")
_PARAMETER = re.compile(
    rf"""({_CHARACTER}+)(?:[ \t]*=[ \t]*(?:({_CHARACTER}+)|"((?:\\?{_CHARACTER})+)"))?""",
)


def parse_extensions(value: str) -> list[tuple[str, Parameters]]:
    """The extensions of the header's value, in order. Several headers are one, joined by commas.

    :raises WebSocketError: malformed. A server answers that with 400, a client ends the connection.
    """
    found = []
    for extension in value.split(","):  # a quoted value has to be a token too, so there is no comma in it
        if not (text := extension.strip(" \t")):
            continue  # a list may have empty elements: RFC 9110 section 5.6.1.2
        name, *rest = (part.strip(" \t") for part in text.split(";"))
        if not _TOKEN.fullmatch(name):
            raise _malformed(value, name, "an extension's name")
        found.append((name, [_parameter(value, part) for part in rest]))
    if not found:
        raise WebSocketError(f"Sec-WebSocket-Extensions: {value!r}: must name an extension")
    return found


def _parameter(value: str, part: str) -> tuple[str, str | None]:
    match = _PARAMETER.fullmatch(part)
    if match is None:
        raise _malformed(value, part, "name or name=value")
    name, token, quoted = match.groups()
    return name, quoted.replace("\\", "") if quoted is not None else token


def _malformed(value: str, part: str, expected: str) -> WebSocketError:
    return WebSocketError(f"Sec-WebSocket-Extensions: {value!r}: {part!r} must be {expected}")
