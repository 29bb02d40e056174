"""The heads that leave the gateway: what is passed on, what is dropped, and what is said about the client.

Dropped in both directions: hop-by-hop fields (RFC 9110 section 7.6.1), among them those that ``Connection`` names, and
the framing, which is written anew. ``Host`` is the client's. ``X-Forwarded-For``, ``-Proto`` and ``-Host`` say who the
client is; what came in under ``X-Forwarded-*`` or ``Forwarded`` is believed only from trusted proxies, else replaced.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from forebay.policy.deadline import HEADER, encode_header
from forebay.wire.http1 import HeaderPairs, decode_path

__all__ = ["RequestHeads", "encode_response_headers", "strip_prefix", "with_patience"]

_DROP = frozenset(
    {
        b"content-length",
        b"expect",  # the server in front has answered it
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        HEADER.encode(),  # what is left by now is said anew
        b"te",
        b"trailer",  # trailers are not passed on
        b"transfer-encoding",
        b"upgrade",
    }
)

# What is done with a field, by its name as it was received. A cache: names repeat, so each spelling is looked at once.
_PASS, _SKIP, _CONNECTION, _FORWARDED = range(4)
_fates: dict[bytes, int] = {}
_FATES_KEPT = 2048


def _fate(name: bytes) -> int:
    lower = name.lower().replace(b"_", b"-")  # CGI-like backends read both the same: neither gets around us
    if lower in _DROP:
        fate = _SKIP
    elif lower == b"connection":
        fate = _CONNECTION
    elif lower == b"forwarded" or lower.startswith(b"x-forwarded-"):
        fate = _FORWARDED
    else:
        fate = _PASS
    if len(_fates) < _FATES_KEPT:
        _fates[name] = fate
    return fate


def _named_by_connection(headers: HeaderPairs) -> set[bytes]:
    """The fields, in lower case, that ``Connection`` says are for one hop only."""
    return {
        token.strip(b" \t").lower()
        for name, value in headers
        if name.lower() == b"connection"
        for token in value.split(b",")
    }


def encode_response_headers(headers: HeaderPairs) -> bytes:
    """The header lines of a response for the client, without framing."""
    lines: list[bytes] = []
    fates = _fates
    for name, value in headers:
        fate = fates.get(name)
        if fate is None:
            fate = _fate(name)
        if fate in (_PASS, _FORWARDED):
            lines += (name, b": ", value, b"\r\n")
        elif fate == _CONNECTION and value.lower() not in (b"close", b"keep-alive"):
            return encode_response_headers(_without(headers, _named_by_connection(headers)))
    return b"".join(lines)


def _without(headers: HeaderPairs, names: set[bytes]) -> HeaderPairs:
    names.add(b"connection")
    return [pair for pair in headers if pair[0].lower() not in names]


class RequestHeads:
    """Writes the heads of requests to targets.

    :param trusted_proxies: addresses and networks (``10.0.0.0/8``) of proxies in front of this gateway.
    :raises ValueError: one of them is neither.
    """

    __slots__ = ("_about", "_networks", "_tails")

    _ABOUT_KEPT = 4096
    _TAILS_KEPT = 1024

    def __init__(self, trusted_proxies: Sequence[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(network) for network in trusted_proxies]
        self._about: dict[tuple[str, str], bytes] = {}  # by client: the end of a head, up to its host
        # The reader in front remembers blocks of headers that clients repeat, and gives the very same tuple for each.
        # What follows the request line depends on that block and on the client only.
        self._tails: dict[tuple[int, str, str], tuple[HeaderPairs, bytes]] = {}

    def encode(
        self, method: str, target: bytes, host: bytes, headers: HeaderPairs, client: str, framing: bytes, scheme: str
    ) -> bytes:
        """The head of one request, complete with its empty line.

        :param target: origin-form, as the target is to see it.
        :param host: the client's, or where it sent none the target's.
        :param client: the address of the connection's other end.
        :param framing: the ``content-length`` or ``transfer-encoding`` line, or nothing.
        :param scheme: of the connection, ``http`` or ``https``.
        """
        known = self._tails.get((id(headers), client, scheme))
        if known is not None and known[0] is headers:
            return b"%b %b%b" % (method.encode(), target, known[1])
        passed, forwarded = self._pass_on(headers)
        if forwarded and self._networks and self.trusts(client):
            about = self._chain(headers, client, host, scheme)
        else:
            about = (self._about.get((client, scheme)) or self._introduce(client, scheme)) + host + b"\r\n"
        tail = b"".join((b" HTTP/1.1\r\nhost: ", host, b"\r\n", passed, about, framing, b"\r\n"))
        if isinstance(headers, tuple):
            if len(self._tails) >= self._TAILS_KEPT:
                self._tails.clear()
            self._tails[id(headers), client, scheme] = headers, tail  # holding them keeps their id theirs
        return b"%b %b%b" % (method.encode(), target, tail)

    def _pass_on(self, headers: HeaderPairs) -> tuple[bytes, bool]:
        """The lines that are passed on as they are, and whether there are forwarding fields among the others."""
        lines: list[bytes] = []
        fates = _fates
        forwarded = False
        for name, value in headers:
            fate = fates.get(name)
            if fate is None:
                fate = _fate(name)
            if fate == _PASS:
                lines += (name, b": ", value, b"\r\n")
            elif fate == _FORWARDED:
                forwarded = True
            elif fate == _CONNECTION and value.lower() not in (b"close", b"keep-alive"):
                return self._pass_on(_without(headers, _named_by_connection(headers)))
        return b"".join(lines), forwarded

    def client_ip(self, client: str, headers: HeaderPairs) -> str:
        """The address of the client itself: the last one in ``X-Forwarded-For`` that is not a trusted proxy's."""
        if not self._networks or not self.trusts(client):
            return client
        hops = _values(headers, b"x-forwarded-for")
        for hop in reversed(b",".join(hops).split(b",")):
            address = hop.strip(b" \t").decode("latin-1")
            if not address:
                continue
            if not _is_address(address):
                break  # what is left of here was not written by a proxy of ours
            client = address
            if not self.trusts(address):
                break
        return client

    def trusts(self, client: str) -> bool:
        """Whether ``client`` is a proxy whose word about its own client is believed."""
        try:
            address = ipaddress.ip_address(client)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def _introduce(self, client: str, scheme: str) -> bytes:
        if len(self._about) >= self._ABOUT_KEPT:
            self._about.clear()
        about = b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nx-forwarded-host: " % (
            client.encode(),
            scheme.encode(),
        )
        self._about[client, scheme] = about
        return about

    def _chain(self, headers: HeaderPairs, client: str, host: bytes, scheme: str) -> bytes:
        """What a trusted proxy said, with its own address added."""
        hops = [value for value in _values(headers, b"x-forwarded-for") if value.strip()]
        proto = _values(headers, b"x-forwarded-proto")[:1] or [scheme.encode()]
        first_host = _values(headers, b"x-forwarded-host")[:1] or [host]
        told = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
        others = [pair for pair in headers if _fates.get(pair[0], _fate(pair[0])) == _FORWARDED]
        # a twin written with underscores is not the proxy's word; many servers cannot tell the two apart
        lines = [b"%b: %b\r\n" % pair for pair in others if b"_" not in pair[0] and pair[0].lower() not in told]
        lines.append(b"x-forwarded-for: %b\r\n" % b", ".join((*hops, client.encode())))
        lines.append(b"x-forwarded-proto: %b\r\nx-forwarded-host: %b\r\n" % (proto[0], first_host[0]))
        return b"".join(lines)


def _values(headers: HeaderPairs, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def with_patience(head: bytes, seconds: float) -> bytes:
    """``head`` with the time that its client still waits."""
    return b"%b%b: %b\r\n\r\n" % (head[:-2], HEADER.encode(), encode_header(max(0.0, seconds)).encode())


def strip_prefix(target: bytes, path_length: int, prefix: str) -> bytes:
    """``target`` without ``prefix`` (decoded, whole segments, no slash at its end), as raw as it came.

    A path that spells the prefix with escapes loses it too; one that does not have it stays as it is.

    :param path_length: where in ``target`` the path ends.
    """
    raw = prefix.encode()
    cut = len(raw)
    if not (target.startswith(raw) and (cut == path_length or target[cut : cut + 1] == b"/")):
        cut = -1
        for _ in range(prefix.count("/") + 1):
            cut = target.find(b"/", cut + 1, path_length)
            if cut < 0:
                cut = path_length
                break
        if decode_path(target[:cut]) != prefix:
            return target
    rest = target[cut:]
    return rest if cut < path_length else b"/" + rest
