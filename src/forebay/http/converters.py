"""What a parameter of a path may be: how it is read, and how it is written again.

``int`` (64 bits, signed), ``float`` (finite), ``uuid`` (with hyphens), ``str`` (one segment, the default) and ``path``
(all that is left) are built in. An application adds its own::

    def read_day(text: str) -> date:
        return date.fromisoformat(text)

    Router(converters={"day": Converter(parse=read_day, format=date.isoformat, kind=date)})
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

__all__ = ["CONVERTERS", "Converter", "converters_with"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_INT = re.compile(r"-?[0-9]{1,19}")
_FLOAT = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class Converter:
    """One kind of parameter.

    :param parse: from a percent-decoded segment, never empty, to the value. A ``ValueError`` means that it does not
        match, and other routes are tried; any other exception is a defect and fails the request. ``Decimal(text)``, for
        one, raises something else. It runs for every request that comes by: it must be quick and must not wait.
    :param format: from a value to the text for it, as it is before percent-encoding. It raises ``ValueError`` for a
        value that ``parse`` would not give back.
    :param kind: the type of the values, for handlers' annotations and schemas.
    """

    parse: Callable[[str], Any]
    format: Callable[[Any], str]
    kind: Any


def _read_int(text: str) -> int:
    """At most 64 bits, signed: databases and JSON readers hold no more, and would fail behind the handler's back."""
    if len(text) < 19 and text.isdecimal() and text.isascii():
        return int(text)
    if not _INT.fullmatch(text) or not -(1 << 63) <= (value := int(text)) < 1 << 63:
        raise ValueError("not an integer of 64 bits")
    return value


def _write_int(value: Any) -> str:
    if not isinstance(value, int) or isinstance(value, bool) or not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{_shown(value)} is not an integer of 64 bits")
    return str(int(value))


def _read_float(text: str) -> float:
    if not _FLOAT.fullmatch(text) or not math.isfinite(value := float(text)):
        raise ValueError("not a number")
    return value


def _write_float(value: Any) -> str:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number != value:
        raise ValueError(f"{_shown(value)} is not a finite number of 64 bits")
    return repr(number)


def _read_uuid(text: str) -> UUID:
    if not _UUID.fullmatch(text):
        raise ValueError("not a UUID")
    return UUID(text)


def _write_uuid(value: Any) -> str:
    if not isinstance(value, UUID):
        raise ValueError(f"{_shown(value)} is not a UUID")
    return str(value)


def _write_str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is not a str")
    return str(value)


def _write_path(value: Any) -> str:
    if not isinstance(value, str) or value.startswith("/"):
        raise ValueError(f"{_shown(value)} is not a str that begins without a slash")
    return str(value)


def _shown(value: Any) -> str:
    return f"{value!r:.60}"


CONVERTERS: dict[str, Converter] = {
    "int": Converter(_read_int, _write_int, int),
    "float": Converter(_read_float, _write_float, float),
    "uuid": Converter(_read_uuid, _write_uuid, UUID),
    "str": Converter(str, _write_str, str),
    "path": Converter(str, _write_path, str),
}
"""The built-in converters, in the order in which they are tried."""


def converters_with(own: Mapping[str, Converter] | None) -> dict[str, Converter]:
    """All converters, in the order in which they are tried: built-in typed ones, ``own``, ``str`` and ``path``.

    :raises ValueError: a name is not ``[a-z][a-z0-9_]*``, or is built in already.
    :raises TypeError: a value is no :class:`Converter`.
    """
    found = dict(CONVERTERS)
    text, rest = found.pop("str"), found.pop("path")
    for name, converter in (own or {}).items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"converter {name!r}: a name is a small letter, then small letters, digits and _")
        if name in CONVERTERS:
            raise ValueError(f"converter {name!r} is built in already, as are {', '.join(CONVERTERS)}")
        if not isinstance(converter, Converter):
            raise TypeError(f"converter {name!r} must be a Converter, not {type(converter).__name__}")
        found[name] = converter
    return {**found, "str": text, "path": rest}
