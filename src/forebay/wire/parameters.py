"""Values with parameters: ``form-data; name="a"; filename="b.txt"`` (RFC 9110 section 5.6.6, RFC 2183 section 2)."""

from __future__ import annotations

import re

from forebay.errors import ProtocolError

__all__ = ["read_parameters"]

_FIRST = re.compile(rb"[ \t]*([!#$%&'*+./^_`|~0-9A-Za-z-]+)[ \t]*(?=;|\Z)")
# Values without quotes may have more than a token's characters, since clients write boundaries like that.
_PARAMETER = re.compile(
    rb";[ \t]*(?:"
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*"
    rb'(?:"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\.)*+)"|([!#-:<-\[\]-~]++))'
    rb"[ \t]*)?(?=;|\Z)",
    re.DOTALL,
)
_QUOTED_PAIR = re.compile(rb'\\(["\\])')


def read_parameters(value: bytes, what: str) -> tuple[bytes, dict[bytes, bytes]]:
    """The value itself and its parameters by name, both names in lower case.

    In a quoted value ``\\"`` and ``\\\\`` stand for the second character; any other backslash is itself, as browsers
    write it. Empty parameters (``;;``) are left out. The time it takes grows with the length and not faster.

    :param what: what it is, for messages.
    :raises ProtocolError: 400, it is not well-formed, or a parameter is there twice: readers would not agree on which
        one counts.
    """
    match = _FIRST.match(value)
    if match is None:
        raise ProtocolError(f"{what} is malformed: {_shown(value)}")
    first = match[1].lower()
    found: dict[bytes, bytes] = {}
    at = match.end()
    while at < len(value):
        match = _PARAMETER.match(value, at)
        if match is None:
            raise ProtocolError(f"{what} has a malformed parameter: {_shown(value[at:])}")
        at = match.end()
        name, quoted, plain = match.groups()
        if name is None:
            continue
        name = name.lower()
        if name in found:
            raise ProtocolError(f"{what} has the parameter {name.decode()} twice")
        found[name] = plain if quoted is None else _QUOTED_PAIR.sub(rb"\1", quoted)
    return first, found


def _shown(value: bytes) -> str:
    return repr(value[:80])[1:]
