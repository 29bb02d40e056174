"""The masking of WebSocket payloads: RFC 6455 section 5.3. By C where ``websockets`` is installed, else by integers."""

from __future__ import annotations

from collections.abc import Callable
from sys import byteorder

__all__ = ["apply_mask", "apply_mask_by_integers"]


def apply_mask_by_integers(data: bytes, mask: bytes) -> bytes:
    """``data`` with each byte exclusive-ored with a byte of ``mask``, which is four bytes and repeats.

    One long integer instead of a loop over bytes. Masking twice gives ``data`` back.
    """
    size = len(data)
    whole = mask * (size // 4) + mask[: size % 4]
    return (int.from_bytes(data, byteorder) ^ int.from_bytes(whole, byteorder)).to_bytes(size, byteorder)


apply_mask: Callable[[bytes, bytes], bytes]
"""The fastest way there is here to do what :func:`apply_mask_by_integers` does."""

try:
    from websockets.speedups import apply_mask
except ImportError:  # the extra "websocket" is not installed, or was not compiled
    apply_mask = apply_mask_by_integers
