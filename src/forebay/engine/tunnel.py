"""Connecting through an HTTP proxy: CONNECT, and what comes of it (RFC 9110 section 9.3.6)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from forebay.engine.address import Address, join_host_port, parse_address
from forebay.engine.handler import CloseReason
from forebay.engine.loop import ticker
from forebay.engine.tls import TLSLayer
from forebay.engine.tls_settings import ClientTLS
from forebay.engine.tls_sides import client_side
from forebay.errors import ConnectFailed, ForebayError, ProtocolError, ProxyFailed, RetryClass, TLSFailed, TLSTimeout
from forebay.wire.heads import find_header
from forebay.wire.responses import ResponseReader

__all__ = ["Tunnel", "TunnelRequest"]

Note = Callable[[str, dict[str, Any]], None]

_SCHEMES = ("tcp", "tls", "unix")
_VALUE = re.compile(r"[\x21-\x7e]+( [\x21-\x7e]+)*")  # of a header: nothing that could begin another one
_FIELDS = 100
_AGAIN = frozenset({408, 425, 429})  # of the 4xx, those that may be other the next time


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The way through an HTTP proxy, to any target that is dialled.

    :param proxy: its address: ``tcp://host:port``, ``tls://host:port`` for one that is itself spoken to by TLS (what is
        said to the target is then encrypted twice), or ``unix:///path``.
    :param authorization: the value of ``Proxy-Authorization``, such as ``Basic dTpw``; empty: none is sent.
    :param tls: how to speak TLS with the proxy; ``None``: by the defaults of :class:`ClientTLS`. For ``tls://`` only.
    :param max_head: bytes of the proxy's answer before its content, at least 128.
    :raises ValueError: one makes no sense.
    """

    proxy: Address | str
    authorization: str = ""
    tls: ClientTLS | None = None
    max_head: int = 16384

    def __post_init__(self) -> None:
        if isinstance(self.proxy, str):
            object.__setattr__(self, "proxy", parse_address(self.proxy, schemes=_SCHEMES))
        if self.address.scheme not in _SCHEMES:
            raise ValueError(f"Tunnel proxy {self.proxy}: must be a tcp, tls or unix address")
        if self.authorization and not _VALUE.fullmatch(self.authorization):
            raise ValueError("Tunnel authorization: must be visible ASCII characters with single spaces between them")
        if self.tls is not None and self.address.scheme != "tls":
            raise ValueError(f"Tunnel tls: the proxy {self.proxy} is not spoken to by TLS; its address must be tls://")
        if self.max_head < 128:
            raise ValueError(f"Tunnel max_head {self.max_head}: must be at least 128")

    def __repr__(self) -> str:
        return f"<Tunnel through {self.proxy}{' with credentials' if self.authorization else ''}>"

    @property
    def address(self) -> Address:
        """Of the proxy."""
        return cast("Address", self.proxy)  # since __post_init__

    def request(self, target: Address) -> bytes:
        """What asks the proxy for a tunnel to ``target``.

        :raises ValueError: that is not a host and a port.
        """
        if target.kind != "tcp":
            raise ValueError(f"address {target} is not reached through a proxy; that takes a host and a port")
        where = join_host_port(target.host, target.port)
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        if self.authorization:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")


class TunnelRequest(asyncio.Protocol):
    """Asks the proxy that was connected to for a tunnel, and gives that to the protocol above.

    ``done`` is done when ``upper`` has the transport, or has the error: :class:`ProxyFailed` when the proxy refuses or
    does not speak HTTP, :class:`TLSFailed` or :class:`TLSTimeout` when it is TLS with the proxy that failed.

    :param upper: the protocol above; it is connected once there is a tunnel.
    :param tunnelled: called with ``upper`` right before that.
    :param note: is told of the steps; see :func:`~forebay.engine.dial.dial`.
    :raises ValueError: the target is none for a proxy.
    """

    def __init__(
        self,
        tunnel: Tunnel,
        target: Address,
        upper: asyncio.Protocol,
        tunnelled: Callable[[asyncio.Protocol], None],
        note: Note | None,
    ) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ticker = ticker()
        self._tunnel = tunnel
        self._target = target
        self._upper = upper
        self._tunnelled = tunnelled
        self._note = note
        self._request = tunnel.request(target)
        self._transport: asyncio.Transport | None = None
        self._layer: TLSLayer | None = None  # TLS with the proxy
        self._reader = ResponseReader(self, max_head=tunnel.max_head, max_count=_FIELDS)
        self._reader.expect("CONNECT")
        self._status = 0  # of the answer
        self._asking = False  # between tunnel-start and tunnel-done

    async def lowest(self) -> asyncio.Protocol:
        """The protocol for the connection to the proxy: this one, or TLS below it.

        :raises StartError: a certificate's file cannot be used.
        """
        proxy = self._tunnel.address
        if proxy.scheme != "tls":
            return self
        side = client_side(self._tunnel.tls or ClientTLS())
        await side.fresh()
        return TLSLayer(self, side.target(proxy.host, proxy.port), self)

    def give_up(self) -> None:
        """Nobody waits for the tunnel any more, or nobody uses it. Idempotent."""
        if self._asking:
            self._asking = False
            self._tell("tunnel-done", status=0, error="given up")
        if not self.done.cancel() and not self.done.cancelled():
            self.done.exception()  # else asyncio complains that nobody has seen it
        if self._layer is not None:
            self._layer.abort(CloseReason.TIMEOUT)
            self._layer.connection_lost(None)  # uvloop does not say so for what it closes itself, when cancelled
        elif self._transport is not None:
            self._transport.abort()

    # TLS with the proxy: see forebay.engine.tls.LayerOwner

    def arrived(self, layer: TLSLayer) -> bool:
        """See :class:`~forebay.engine.tls.LayerOwner`."""
        self._layer = layer
        self._tell("tls-start", host=self._tunnel.address.host)
        return True

    def left(self, layer: TLSLayer, reason: CloseReason, detail: str) -> None:
        """See :class:`~forebay.engine.tls.LayerOwner`."""
        self._tell("tls-done", error=detail)
        kinds = {CloseReason.HANDSHAKE: TLSFailed, CloseReason.HANDSHAKE_TIMEOUT: TLSTimeout}
        kind = kinds.get(reason, ConnectFailed)
        self._end(kind(f"{self._cannot()}: the TLS handshake with it failed: {detail}", target=str(self._target)))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport: the proxy is there."""
        self._transport = cast("asyncio.Transport", transport)
        if (info := transport.get_extra_info("forebay_tls")) is not None:
            self._tell("tls-done", version=info.version, cipher=info.cipher, alpn=info.alpn, resumed=info.resumed)
        where = join_host_port(self._target.host, self._target.port)
        self._asking = True
        self._tell("tunnel-start", host=where, proxy=str(self._tunnel.proxy))
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Called by the transport: the answer, in any pieces."""
        if self.done.done():
            return  # it was on its way when we gave up
        try:
            self._reader.feed(data)
        except ProtocolError as error:
            if not self._status:
                self._refuse(f"it answered what is not HTTP: {error}", 0)
        if self._status:
            self._answered()

    def eof_received(self) -> None:
        """Called by the transport: it is closed next."""
        self._refuse("it closed the connection before it answered", 0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport, unless the protocol above has it."""
        self._refuse("it closed the connection before it answered", 0)

    def _answered(self) -> None:
        reader, status = self._reader, self._status
        if not reader.switched:
            wanted = find_header(reader.headers, b"proxy-authenticate") if status == 407 else None
            self._refuse(_meaning(status, wanted, given=bool(self._tunnel.authorization)), status)
            return
        if reader.rest:
            self._refuse(f"{len(reader.rest)} bytes came behind its answer, before anything was sent there", status)
            return
        transport = self._transport
        assert transport is not None, "it has answered"
        reader.close()
        self._asking = False
        self._tell("tunnel-done", status=status)
        transport.set_protocol(self._upper)
        self._tunnelled(self._upper)
        self._upper.connection_made(transport)
        self.done.set_result(None)

    # What the reader calls: see forebay.wire.reader.Sink

    def on_head(self) -> None:
        """A head is complete. Interim ones mean nothing here."""
        self._status = self._reader.status if self._reader.status >= 200 else 0

    def on_body(self, data: bytes) -> None:
        """Some of what a refusal says; nobody reads it."""

    def on_end(self) -> None:
        """The end of that."""

    def _refuse(self, why: str, status: int) -> None:
        if self.done.done():
            return
        self._asking = False
        self._tell("tunnel-done", status=status, error=why)
        error = ProxyFailed(f"{self._cannot()}: {why}", target=str(self._target), answered=status)
        if 400 <= status <= 499 and status not in _AGAIN:
            error.retry = RetryClass.NEVER
        self._end(error)

    def _end(self, error: ForebayError) -> None:
        if not self.done.done():
            self.done.set_exception(error)
        self._reader.close()
        if self._transport is not None:
            self._transport.abort()

    def _cannot(self) -> str:
        return f"cannot connect to {self._target} through the proxy {self._tunnel.proxy}"

    def _tell(self, step: str, **detail: Any) -> None:
        if self._note is not None:
            self._note(step, detail)


def _meaning(status: int, wanted: bytes | None, *, given: bool) -> str:
    """``status`` of a refusal, in words."""
    if status != 407:
        return f"it answered {status}"
    schemes = f" ({wanted.split(None, 1)[0].decode('latin-1')[:40]})" if wanted and wanted.strip() else ""
    return f"it {'does not accept our credentials' if given else 'wants credentials'}: 407{schemes}"
