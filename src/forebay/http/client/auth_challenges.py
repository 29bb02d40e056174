"""Challenges of servers, as ``www-authenticate`` has them (RFC 9110 section 11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Challenge", "parse_challenges", "parse_parameters"]

_GAP = re.compile(r"[ \t,]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SCHEME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]++(?![ \t]*=)")
_TOKEN68 = re.compile(r"[ \t]+([A-Za-z0-9._~+/-]+=*)[ \t]*(?=,|$)")
_PARAMETER = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*"
    r'(?:"((?:[^"\\]|\\.)*+)"|([!#$%&\'*+.^_`|~0-9A-Za-z-]+))[ \t]*(?=,|$)'
)
_MANY = 32  # challenges that are looked at


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a server asks for.

    :ivar scheme: in lower case.
    :ivar parameters: by name in lower case, values without their quotes; the header's bytes as latin-1 text.
    :ivar token: what some schemes have instead of parameters (``token68``).
    """

    scheme: str
    parameters: dict[str, str]
    token: str | None = None


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """All challenges of ``values``, which are those of ``www-authenticate``, in their order; 32 at most.

    A challenge that is not well-formed, or that says one thing twice, is left out, and all behind it in the same value:
    where the next one begins is anybody's guess.
    """
    found: list[Challenge] = []
    for value in values:
        place = _skip(value, 0)
        while place < len(value) and len(found) < _MANY:
            name = _TOKEN.match(value, place)
            if name is None:
                break
            place = name.end()
            token = _TOKEN68.match(value, place)
            parameters: dict[str, str] | None = {}
            if token is not None:
                place = _skip(value, token.end())
            else:
                if place < len(value) and value[place] not in " \t,":
                    break
                place = _skip(value, place)
                parameters, place = _parameters(value, place)
            if parameters is None:
                break
            found.append(Challenge(name[0].lower(), parameters, token[1] if token is not None else None))
    return found


def parse_parameters(value: str) -> dict[str, str] | None:
    """Parameters alone, as in ``authentication-info`` (RFC 9110 section 11.6.3); None: they are not well-formed."""
    parameters, place = _parameters(value, _skip(value, 0))
    return parameters if place == len(value) else None


def _skip(value: str, place: int) -> int:
    gap = _GAP.match(value, place)
    return gap.end() if gap is not None else place


def _parameters(value: str, place: int) -> tuple[dict[str, str] | None, int]:
    """As many as there are, and where they end: at the next scheme. None: one is there twice, or is not well-formed."""
    found: dict[str, str] = {}
    while (parameter := _PARAMETER.match(value, place)) is not None:
        name, quoted, token = parameter.groups()
        if name.lower() in found:
            return None, place
        found[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else token
        place = _skip(value, parameter.end())
    if place < len(value) and not _SCHEME.match(value, place):
        return None, place
    return found, place
