"""Bytes to values: query strings, and bodies of JSON and MessagePack. What does not fit becomes an :class:`HTTPError`,
never a crash."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec

from forebay.errors import FieldError, HTTPError, ValidationError
from forebay.http.field_errors import field_errors, is_struct_like, unfit
from forebay.http.pydantic_models import (
    decode_model_json,
    decode_model_value,
    encode_hook,
    holds_pydantic,
    is_pydantic,
)

__all__ = [
    "MSGPACK",
    "ContentDecoder",
    "check_json",
    "content_decoder",
    "decode_content",
    "decode_json",
    "encode_json",
    "encode_msgpack",
    "field_errors",
    "is_record",
    "parse_query",
    "unfit",
]

T = TypeVar("T")

MSGPACK = "application/msgpack"
"""The media type of MessagePack, as IANA has it."""

ContentDecoder = Callable[[bytes, bytes | None], Any]
"""``decode(content, content_type)``: see :func:`content_decoder`."""

_JSON = b"application/json"
_MSGPACK_TYPES = frozenset({b"application/msgpack", b"application/vnd.msgpack", b"application/x-msgpack"})
_REFUSED = (ValueError, TypeError, RecursionError)
_ERRORS_KEPT = 100  # of one request: a list of a million wrong items must not become an answer of a million errors
_LOOKED_INTO = 1 << 20  # bytes of the longest body that is looked into for more than the first wrong field


def parse_query(raw: bytes) -> list[tuple[str, str]]:
    """Fields of a query string in order, as HTML forms write it: ``&`` between, ``+`` for a blank, ``%xx`` in UTF-8.

    A field without ``=`` has an empty value. Octets that are not UTF-8 become U+FFFD.
    """
    if not raw:
        return []
    text = raw.decode("utf-8", "replace")
    if "%" in text or "+" in text:
        pairs = [field.replace("+", " ").partition("=") for field in text.split("&") if field]
        return [(unquote(name), unquote(value)) for name, _, value in pairs]
    if "&" not in text:
        name, _, value = text.partition("=")
        return [(name, value)]
    pairs = [field.partition("=") for field in text.split("&") if field]
    return [(name, value) for name, _, value in pairs]


def check_json(content_type: bytes | None) -> None:
    """Accept ``application/json`` and ``application/*+json``.

    :raises HTTPError: 415, for any other content type and for none.
    """
    if content_type == _JSON or _is_json(_media_type(content_type)):
        return
    raise _unsupported(content_type, "application/json")


def decode_json(content: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """``content`` as the decoder's type.

    :raises HTTPError: 400, it is not JSON.
    :raises ValidationError: 422, it is JSON of another shape; lists every field that does not fit.
    """
    try:
        return decoder.decode(content)
    except _REFUSED as error:
        raise _json_refused(content, decoder.type, error) from None


def content_decoder(kind: Any) -> ContentDecoder:
    """What reads content as ``kind``, JSON (``application/json``, ``application/*+json``) or MessagePack
    (``application/msgpack`` and its older names ``vnd.msgpack``, ``x-msgpack``), as its content type says.

    :raises TypeError: neither msgspec nor pydantic can read ``kind``; at once.

    What is returned raises :class:`~forebay.errors.HTTPError`, 415 for another content type or none, and 400 for
    content that is not what it says; and :class:`~forebay.errors.ValidationError`, 422, for content of another shape,
    with every field that does not fit.
    """
    if holds_pydantic(kind):
        return _ModelDecoder(kind).decode
    from_json = msgspec.json.Decoder(kind).decode
    from_msgpack: Callable[[bytes], Any] | None = None

    def decode(content: bytes, content_type: bytes | None) -> Any:
        nonlocal from_msgpack
        if content_type == _JSON or not _is_msgpack(content_type):
            try:
                return from_json(content)
            except _REFUSED as error:
                raise _json_refused(content, kind, error) from None
        if from_msgpack is None:
            from_msgpack = msgspec.msgpack.Decoder(kind).decode
        try:
            return from_msgpack(content)
        except _REFUSED as error:
            raise _msgpack_refused(content, kind, error) from None

    return decode


def decode_content(content: bytes, content_type: bytes | None, kind: Any) -> Any:
    """``content`` as ``kind``, once. Raises what :func:`content_decoder` and what it returns raise."""
    return content_decoder(kind)(content, content_type)


encode_json = msgspec.json.Encoder(enc_hook=encode_hook).encode
"""A value as JSON; models of pydantic may be in it.

:raises NotImplementedError: it holds something that cannot be written."""

encode_msgpack = msgspec.msgpack.Encoder(enc_hook=encode_hook).encode
"""The same as MessagePack."""


def is_record(kind: Any) -> bool:
    """Is ``kind`` a type with named fields: msgspec Struct, dataclass, TypedDict or model of pydantic?"""
    return (isinstance(kind, type) and is_struct_like(kind)) or is_pydantic(kind)


class _ModelDecoder:
    """The same for models of pydantic."""

    __slots__ = ("_from_json", "_from_value")

    def __init__(self, kind: Any) -> None:
        self._from_json = decode_model_json(kind)
        self._from_value = decode_model_value(kind)

    def decode(self, content: bytes, content_type: bytes | None) -> Any:
        packed = content_type != _JSON and _is_msgpack(content_type)
        if not content:
            raise _empty("MessagePack" if packed else "JSON")
        if not packed:
            return self._from_json(content)
        try:
            value = msgspec.msgpack.decode(content)
        except (ValueError, RecursionError) as error:
            raise _not_well_formed(error, "MessagePack") from None
        return self._from_value(value)


def _media_type(content_type: bytes | None) -> bytes:
    return (content_type or b"").partition(b";")[0].strip().lower()


def _is_json(media_type: bytes) -> bool:
    return media_type == _JSON or (media_type[:12] == b"application/" and media_type[-5:] == b"+json")


def _is_msgpack(content_type: bytes | None) -> bool:
    """Is it MessagePack, or else JSON?

    :raises HTTPError: 415, neither.
    """
    media_type = _media_type(content_type)
    if media_type in _MSGPACK_TYPES:
        return True
    if _is_json(media_type):
        return False
    raise _unsupported(content_type, "application/json", MSGPACK)


def _unsupported(content_type: bytes | None, *expected: str) -> HTTPError:
    shown = _media_type(content_type)[:80].decode("latin-1") or "none"
    detail = f"content type is {shown}; {' or '.join(expected)} is expected"
    return HTTPError(415, detail, headers=[("accept", ", ".join(expected))])


def _empty(what: str) -> HTTPError:
    return HTTPError(400, f"request body is empty; {what} is expected")


def _not_well_formed(error: Exception, what: str) -> HTTPError:
    if isinstance(error, RecursionError):
        return HTTPError(400, "request body is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return HTTPError(400, "request body is not UTF-8" if what == "JSON" else f"a text in the {what} is not UTF-8")
    return HTTPError(400, f"request body is not valid {what}: {error}")


def _json_refused(content: bytes, kind: Any, error: Exception) -> HTTPError:
    if not content:
        return _empty("JSON")
    if _is_unfit(error):
        return ValidationError(_listed(content, msgspec.json.decode, kind, error, text_keys=True))
    return _not_well_formed(error, "JSON")


def _msgpack_refused(content: bytes, kind: Any, error: Exception) -> HTTPError:
    if not content:
        return _empty("MessagePack")
    if _is_unfit(error):
        return ValidationError(_listed(content, msgspec.msgpack.decode, kind, error, text_keys=False))
    return _not_well_formed(error, "MessagePack")


def _is_unfit(error: Exception) -> bool:
    """Is it of another shape, rather than not well-formed?

    :raises TypeError: neither; something the type itself calls, as a default's factory, has raised it.
    """
    if isinstance(error, TypeError):
        if "unhashable type" not in str(error):  # of a set, for a list in it
            raise error
        return True
    return isinstance(error, msgspec.ValidationError)


def _listed(
    content: bytes, decode: Callable[[bytes], Any], kind: Any, error: Exception, *, text_keys: bool
) -> list[FieldError]:
    """msgspec stops at the first wrong field; on that path, look at all of them one by one."""
    first = FieldError("body", _place_in(error), unfit("body", "", error).message)
    if len(content) > _LOOKED_INTO:
        return [first]
    try:
        value = decode(content)
    except (ValueError, RecursionError):  # wrong before and after the field that was reported
        return [first]
    found = list(itertools.islice(field_errors(value, kind, text_keys=text_keys), _ERRORS_KEPT))
    return found or [first]


def _place_in(error: Exception) -> str:
    """Where in the document msgspec says that it is, as we write it."""
    path = str(error).partition(" - at `")[2].rpartition("`")[0]
    if not path.startswith("$"):  # also `key` in `$.a`
        return "$"
    return path.removeprefix("$").removeprefix(".") or "$"
