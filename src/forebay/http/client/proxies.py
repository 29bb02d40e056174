"""Which proxy a request goes through."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import unquote_to_bytes

from forebay.engine import ClientTLS
from forebay.engine.address import Address, join_host_port, parse_address
from forebay.http.client.url import URL

__all__ = ["Proxies", "ProxyTarget"]

_SECURE = frozenset({"https", "wss"})
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_EXAMPLE = "expected something like http://user:password@proxy.example:3128"


@dataclass(frozen=True, slots=True)
class ProxyTarget:
    """A proxy.

    :param address: ``tcp://host:port``, or ``tls://host:port`` for one that is itself spoken to by TLS.
    :param authorization: the value of ``Proxy-Authorization``; empty: it asks for none.
    """

    address: Address
    authorization: str = ""

    def __repr__(self) -> str:
        return f"<ProxyTarget {self.address}{' with credentials' if self.authorization else ''}>"


class _Exception:
    """One entry of ``no_proxy``: what needs no proxy."""

    __slots__ = ("_any", "_network", "_port", "_suffix", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._any = text == "*"
        self._network: IPv4Network | IPv6Network | None = None
        self._port: int | None = None
        self._suffix = ""
        if self._any:
            return
        host = text
        if text.startswith("["):  # [::1], [::1]:8080
            host, closed, rest = text[1:].partition("]")
            if not closed or (rest and not rest.startswith(":")):
                raise self._wrong()
            self._read_port(rest[1:] if rest else None)
        elif text.count(":") == 1:
            host, _, port = text.partition(":")
            self._read_port(port)
        try:
            self._network = ip_network(host, strict=False)
        except ValueError:
            self._suffix = host.lower().removeprefix("*").removeprefix(".").rstrip(".")
            if not _HOST.fullmatch(self._suffix):
                raise self._wrong() from None

    def _read_port(self, text: str | None) -> None:
        if text is None:
            return
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535):
            raise self._wrong()
        self._port = int(text)

    def _wrong(self) -> ValueError:
        return ValueError(
            f"no_proxy {self.text!r}: must be a name like example.com, an address, a network like 10.0.0.0/8, each with"
            " or without a port, or *"
        )

    def covers(self, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
        """Whether a request to there needs no proxy."""
        if self._any:
            return True
        if self._port is not None and self._port != port:
            return False
        if self._network is not None:
            return address is not None and address in self._network
        return address is None and (host == self._suffix or host.endswith(f".{self._suffix}"))


class Proxies:
    """The proxies of a client, and what goes without one.

    :param http: for ``http`` and ``ws``: a URL like ``http://user:password@proxy.example:3128``; ``https://`` for a
        proxy that is itself spoken to by TLS. ``None``: none. Without a scheme it is ``http``, and the port is 80 (443)
        where none is given.
    :param https: the same for ``https`` and ``wss``.
    :param no_proxy: what goes without: names, which stand for all below them as well (``example.com``, the same as
        ``.example.com`` and ``*.example.com``), addresses, networks (``10.0.0.0/8``), each with or without a port, or
        ``*``. Names are not looked up to compare them with addresses.
    :param tls: how to speak TLS with proxies whose URL is ``https://``; ``None``: as the client does with servers, but
        without showing them its certificate.
    :raises ValueError: a URL is none of a proxy, such as one of SOCKS, which is not supported; or an entry makes no
        sense. Credentials are never part of the text.
    """

    __slots__ = ("_http", "_https", "_without", "tls")

    def __init__(
        self,
        http: str | None = None,
        https: str | None = None,
        no_proxy: Sequence[str] = (),
        *,
        tls: ClientTLS | None = None,
    ) -> None:
        if isinstance(no_proxy, str):
            raise ValueError(f"no_proxy {no_proxy!r}: must be a sequence of entries")
        self.tls = tls
        self._http = _parse("http", http)
        self._https = _parse("https", https)
        self._without = tuple(_Exception(text) for text in no_proxy)

    def __repr__(self) -> str:
        without = ",".join(one.text for one in self._without)
        return f"<Proxies http={self._http} https={self._https} no_proxy={without!r}>"

    def __bool__(self) -> bool:
        """Whether there is any proxy."""
        return self._http is not None or self._https is not None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Proxies:
        """Those of ``http_proxy``, ``https_proxy``, ``all_proxy`` (for what has none of its own) and ``no_proxy``
        (separated by commas or blanks). Where a variable is there in both cases, the lower one counts; an empty one
        says that there is none.

        ``HTTP_PROXY`` is ignored in a CGI program, known by its ``REQUEST_METHOD``: there it is a request's header.

        :raises ValueError: as the class; the text names the variable.
        """
        others = _variable(environ, "all_proxy")
        found: dict[str, str | None] = {}
        for name in ("http_proxy", "https_proxy"):
            value = _variable(environ, name)
            source = name if value is not None else "all_proxy"
            found[name] = others if value is None else value
            try:
                _parse(source, found[name])
            except ValueError as error:
                raise ValueError(f"environment variable {error}") from None
        without = re.split(r"[,\s]+", _variable(environ, "no_proxy") or "")
        try:
            return cls(found["http_proxy"], found["https_proxy"], [entry for entry in without if entry])
        except ValueError as error:
            raise ValueError(f"environment variable {error}") from None

    def of(self, url: URL) -> ProxyTarget | None:
        """The proxy for a request to ``url``; ``None``: it goes without one."""
        found = self._https if url.scheme in _SECURE else self._http
        if found is None or not self._without:
            return found
        address = _address(url.host)
        host = url.host.rstrip(".")
        return None if any(one.covers(host, address, url.port) for one in self._without) else found


def _variable(environ: Mapping[str, str], name: str) -> str | None:
    value = environ.get(name)
    if value is None and not (name == "http_proxy" and "REQUEST_METHOD" in environ):  # httpoxy: CVE-2016-5385
        value = environ.get(name.upper())
    return value.strip() if value is not None else None


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return found if mapped is None else mapped


def _parse(where: str, url: str | None) -> ProxyTarget | None:
    """The proxy that ``url`` names. Errors never quote what may be a password."""
    if not url:
        return None
    match = _SCHEME.match(url)
    scheme = match[1].lower() if match is not None else "http"
    rest = url[match.end() :] if match is not None else url
    if scheme.startswith("socks"):
        raise ValueError(f"{where} proxy of scheme {scheme!r}: SOCKS is not supported; {_EXAMPLE}")
    if scheme not in ("http", "https"):
        raise ValueError(f"{where} proxy of scheme {scheme!r}: must be http or https; {_EXAMPLE}")
    userinfo, at, place = rest.rpartition("@")
    place = place.removesuffix("/")
    if re.search(r"[\s/?#\\]", userinfo + place):
        raise ValueError(
            f"{where} proxy: must have a host and a port only, and such characters of a password escaped; {_EXAMPLE}"
        )
    try:
        address = parse_address(f"{scheme}://{place}", schemes=("http", "https"))
    except ValueError as error:
        if ":" in place.rpartition("]")[2]:  # what is taken for the port is a password whose @host was forgotten
            raise ValueError(
                f"{where} proxy: must have a host, and a port from 1 to 65535, behind its credentials; {_EXAMPLE}"
            ) from None
        raise ValueError(f"{where} proxy: {error}") from None
    if not address.port or address.host == "*":
        raise ValueError(f"{where} proxy {join_host_port(address.host, address.port)}: nobody can be there; {_EXAMPLE}")
    below = "tls" if scheme == "https" else "tcp"
    return ProxyTarget(Address(below, address.host, address.port), _basic(where, userinfo) if at else "")


def _basic(where: str, userinfo: str) -> str:
    """``Basic`` credentials (RFC 7617) of the user and password in a URL."""
    if _BAD_ESCAPE.search(userinfo):
        raise ValueError(f"{where} proxy: a % in its credentials is written %25")
    user, _, password = userinfo.partition(":")
    name, secret = unquote_to_bytes(user), unquote_to_bytes(password)
    if b":" in name or _CONTROL.search(name + secret):
        raise ValueError(f"{where} proxy: its credentials have a colon in the user's name, or control characters")
    return f"Basic {b64encode(name + b':' + secret).decode('ascii')}"
