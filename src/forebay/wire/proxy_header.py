"""The PROXY protocol, versions 1 and 2: what a proxy says about a connection it passes on, before its first byte.

Specification: HAProxy's `proxy-protocol.txt <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>`_. Whoever
may send such a header can claim to be anybody, so it is to be read from proxies one trusts and from nobody else, and
must then be there: a server never guesses (section 5).
"""

from __future__ import annotations

from forebay.errors import ProxyHeaderError
from forebay.wire.proxy_fields import Command, Endpoint, Family, ProxyHeader, ProxyTLS, Transport
from forebay.wire.proxy_v1 import encode_v1, end_of_v1, read_v1
from forebay.wire.proxy_v2 import LONGEST, LONGEST_ADDRESSES, encode_v2, end_of_v2, read_v2

__all__ = [
    "Command",
    "Endpoint",
    "Family",
    "ProxyHeader",
    "ProxyHeaderError",
    "ProxyHeaderParser",
    "ProxyTLS",
    "Transport",
    "encode_v1",
    "encode_v2",
]


class ProxyHeaderParser:
    """Reads one header from the first bytes of a connection, in pieces of any size.

    :param maximum: bytes of the longest version 2 header accepted, 232 (every address fits) to 65,551. Version 1 has a
        maximum of its own, 107 bytes. More than ``maximum`` bytes are never held.

    :raises ValueError: the maximum is out of range.
    """

    __slots__ = ("_held", "_maximum", "error")

    def __init__(self, maximum: int = 4096) -> None:
        if not LONGEST_ADDRESSES <= maximum <= LONGEST:
            raise ValueError(f"maximum {maximum}: must be {LONGEST_ADDRESSES} to {LONGEST} bytes")
        self.error: ProxyHeaderError | None = None
        self._maximum = maximum
        self._held = bytearray()

    @property
    def pending(self) -> int:
        """Bytes held of a header that is not complete yet."""
        return len(self._held)

    def feed(self, data: bytes) -> tuple[ProxyHeader, int] | None:
        """The header, and how many bytes of ``data`` belong to it: those after them are the client's. ``None``: more is
        needed, and all of ``data`` was taken.

        :raises ProxyHeaderError: what came is no header. This is known with the first byte that cannot be of one.
        """
        if self.error is not None:
            raise self.error
        held = self._held
        before = len(held)
        held += data[: self._maximum - before]
        try:
            text = held[:1] == b"P"
            end = end_of_v1(held) if text else end_of_v2(held, self._maximum)
            if not end:
                return None
            whole = bytes(held[:end])
            header = read_v1(whole) if text else read_v2(whole)
        except ProxyHeaderError as error:
            self.error = error
            self._held = bytearray()
            raise
        self._held = bytearray()
        return header, end - before

    def eof(self) -> None:
        """The peer sends nothing more. To be called when that happens before there was a header.

        :raises ProxyHeaderError: always.
        """
        if self.error is None:
            self.error = ProxyHeaderError(
                f"the connection ended before its PROXY header did, after {self.pending} bytes"
            )
            self._held = bytearray()
        raise self.error
