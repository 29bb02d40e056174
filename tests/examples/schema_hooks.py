"""What schemathesis is taught for the test of the CRUD example: MessagePack."""

from __future__ import annotations

from typing import Any

import msgspec
import schemathesis

_NAMES = ("application/msgpack", "application/vnd.msgpack", "application/x-msgpack")


@schemathesis.serializer(*_NAMES)
def pack(context: Any, value: Any) -> bytes:
    """A content in MessagePack."""
    return msgspec.msgpack.encode(_packable(value))


@schemathesis.deserializer(*_NAMES)
def unpack(context: Any, response: Any) -> Any:
    """An answer in MessagePack."""
    return msgspec.msgpack.decode(response.content)


def _packable(value: Any) -> Any:
    """``value`` with what MessagePack has no way to write: integers of more than 64 bits, and lone surrogates."""
    if isinstance(value, dict):
        return {_packable(name): _packable(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_packable(one) for one in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return float(min(max(value, -(10**300)), 10**300))
    return value
