"""The opening handshake of WebSockets: RFC 6455 section 4, without the connection that follows."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from functools import lru_cache
from hashlib import sha1
from typing import Literal

from forebay.engine.settings import SlowConsumer
from forebay.errors import WebSocketError
from forebay.http.exchange import Exchange
from forebay.http.headers import Headers
from forebay.http.problems import problem
from forebay.http.websocket_settings import WebSocketSettings, is_token
from forebay.wire.deflate import DeflateParameters, DeflateSettings, accept_offer
from forebay.wire.extensions import parse_extensions
from forebay.wire.http1 import HeaderPairs, encode_headers

__all__ = [
    "Opening",
    "accept_key",
    "accept_lines",
    "compression_of",
    "list_of",
    "opening_of",
    "upgrade_refusal",
    "values_of",
]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64
_NONCES = frozenset((b"sec-websocket-key", b"sec-websocket-accept"))
_KEPT = 512  # heads of handshakes that are remembered, to be shared, if they have at most
_LONG = 2048  # bytes
_UPGRADE = (("connection", "upgrade"), ("upgrade", "websocket"))  # one never without the other: RFC 9110 section 7.8
_PORTS = {b"http": b"80", b"https": b"443"}


class Opening:
    """The request a WebSocket began with, in as few objects as can be: there may be very many of them."""

    __slots__ = ("_head", "host", "query", "raw_path")

    def __init__(self, raw_path: bytes, query: bytes, host: bytes, head: bytes) -> None:
        self.raw_path = raw_path
        self.query = query
        self.host = host
        self._head = head

    @property
    def headers(self) -> Headers:
        """The headers, split anew each time."""
        lines = self._head.split(b"\n") if self._head else []
        return Headers([(name, value) for name, _, value in (line.partition(b":") for line in lines)])


_openings = lru_cache(_KEPT)(Opening)


@lru_cache(_KEPT)
def _first_of_its_like(head: bytes) -> bytes:
    return head


def opening_of(raw_path: bytes, query: bytes, host: bytes, headers: HeaderPairs) -> Opening:
    """What is kept of a handshake: of ``headers``, the request's on a server and the answer's on a client, all but the
    key, which is different each time. Browsers of one kind mostly send the same otherwise, and share one object."""
    pairs = [(name, value.strip(b" \t")) for name, value in headers if name.lower() not in _NONCES]
    head = b"\n".join([b"%b:%b" % pair for pair in pairs])
    if len(head) > _LONG:
        return Opening(raw_path, query, host, head)
    head = _first_of_its_like(head)
    make = Opening if len(raw_path) + len(query) > _LONG else _openings
    return make(raw_path, query, host, head)


def values_of(headers: HeaderPairs, name: bytes) -> list[bytes]:
    """Every value of ``name``, which is given in lower case."""
    size = len(name)
    return [value.strip(b" \t") for key, value in headers if len(key) == size and key.lower() == name]


def list_of(headers: HeaderPairs, name: bytes) -> list[str]:
    """The elements of a header that is a list, all its fields together (RFC 9110 section 5.6.1)."""
    text = b",".join(values_of(headers, name)).decode("latin-1")
    return [element for part in text.split(",") if (element := part.strip(" \t"))]


def accept_key(key: bytes) -> bytes:
    """What a server answers ``Sec-WebSocket-Key`` with, to show that it speaks WebSocket."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def upgrade_refusal(exchange: Exchange, settings: WebSocketSettings) -> tuple[int, bytes, bytes] | None:
    """Why a request cannot become a WebSocket, as an answer: status, header lines, content. None: it can.

    426: it asks for no upgrade, or for another version than 13; 400: a header of the handshake is missing, repeated or
    malformed; 403: its origin is not allowed.
    """
    if b"websocket" not in [option.strip(b" \t") for option in exchange.upgrade_to.split(b",")]:
        detail = "this is a WebSocket: GET it by HTTP/1.1, with connection: upgrade and upgrade: websocket"
        return problem(426, detail, headers=_UPGRADE)
    headers = exchange.headers
    versions = values_of(headers, b"sec-websocket-version")
    if versions != [b"13"]:
        if len(versions) > 1:
            return problem(400, "sec-websocket-version must be there once")
        return problem(426, "sec-websocket-version must be 13", headers=(*_UPGRADE, ("sec-websocket-version", "13")))
    keys = values_of(headers, b"sec-websocket-key")
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        return problem(400, "sec-websocket-key must be there once, and be 16 bytes in base64")
    if values_of(headers, b"sec-websocket-protocol"):
        offered = list_of(headers, b"sec-websocket-protocol")
        if not offered or not all(map(is_token, offered)):
            return problem(400, "sec-websocket-protocol must be a list of tokens")
    extensions = values_of(headers, b"sec-websocket-extensions")
    if extensions:
        try:
            parse_extensions(b", ".join(extensions).decode("latin-1"))
        except WebSocketError as error:
            return problem(400, str(error))
    if settings.origins != "*":
        origins = values_of(headers, b"origin")
        if len(origins) > 1:
            return problem(400, "origin must be there once")
        if origins and not _allowed(origins[0].lower(), exchange.host.lower(), settings):
            return problem(403, "this origin may not connect")
    return None


def _allowed(origin: bytes, host: bytes, settings: WebSocketSettings) -> bool:
    if settings.origins != "same":
        allowed = [one.lower().encode("latin-1", "replace") for one in settings.origins]
        return _with_port(origin) in [_with_port(one) for one in allowed]
    scheme, _, authority = origin.partition(b"://")
    # The scheme is the page's; ours may be another one, behind a proxy that ends TLS
    return scheme in _PORTS and bool(authority) and _with_port(origin) == _with_port(scheme + b"://" + host)


def _with_port(origin: bytes) -> bytes:
    """An origin with the port that it means."""
    scheme, _, authority = origin.partition(b"://")
    _, colon, port = authority.rpartition(b":")
    if (colon and port.isdigit()) or scheme not in _PORTS:
        return origin
    return origin.removesuffix(b":") + b":" + _PORTS[scheme]


def compression_of(settings: WebSocketSettings, side: Literal["server", "client"]) -> DeflateSettings | None:
    """What ``side`` negotiates. Where messages may be dropped, none of ours refers to those before it."""
    if settings.compression is None or settings.outbound.policy is not SlowConsumer.DROP_OLDEST:
        return settings.compression
    if side == "server":
        return replace(settings.compression, server_no_context_takeover=True)
    return replace(settings.compression, client_no_context_takeover=True)


def accept_lines(
    headers: HeaderPairs, settings: WebSocketSettings, subprotocol: str | None
) -> tuple[bytes, str | None, DeflateParameters | None]:
    """The header lines that accept a handshake, the subprotocol and the compression they agree on.

    :param subprotocol: ``None``: the first of the settings' that is offered.
    :raises ValueError: there is no key to accept, or the subprotocol is no token.
    """
    keys = values_of(headers, b"sec-websocket-key")
    if len(keys) != 1:
        raise ValueError("the request is no WebSocket handshake: ask upgrade_refusal first")
    pairs: list[tuple[str, str | bytes]] = [*_UPGRADE, ("sec-websocket-accept", accept_key(keys[0]))]
    if subprotocol is None and settings.subprotocols:
        offered = list_of(headers, b"sec-websocket-protocol")
        subprotocol = next((one for one in settings.subprotocols if one in offered), None)
    if subprotocol is not None:
        if not is_token(subprotocol):
            raise ValueError(f"subprotocol {subprotocol!r}: must be a token (RFC 9110 section 5.6.2)")
        pairs.append(("sec-websocket-protocol", subprotocol))
    parameters = None
    offers = values_of(headers, b"sec-websocket-extensions")
    compression = compression_of(settings, "server")
    if offers and compression is not None:
        found = accept_offer(b", ".join(offers).decode("latin-1"), compression)
        if found is not None:
            pairs.append(("sec-websocket-extensions", found[0]))
            parameters = found[1]
    return encode_headers(pairs), subprotocol, parameters
