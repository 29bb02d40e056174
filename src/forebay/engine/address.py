"""Where to listen and whom to call, written as a URL: ``tcp://127.0.0.1:9000``, ``http://[::1]:8080``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address

__all__ = ["Address", "parse_address"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.(?!-)[A-Za-z0-9_-]{1,63})*\.?")


@dataclass(frozen=True, slots=True)
class Address:
    """One end of connections. ``str()`` gives its URL back."""

    scheme: str
    host: str  # a name or an address; an IPv6 address is without its brackets
    port: int  # 0: any free port, when listening

    def __str__(self) -> str:
        return f"{self.scheme}://{join_host_port(self.host, self.port)}"

    def with_port(self, port: int) -> Address:
        """The same address with another port."""
        return Address(self.scheme, self.host, port)


def join_host_port(host: str, port: int) -> str:
    """``127.0.0.1:80``, ``[::1]:80``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(url: str, *, schemes: Sequence[str] = ("tcp",)) -> Address:
    """Read an address from its URL. ``http`` and ``https`` have a default port, every other scheme needs one.

    :param schemes: those that make sense here.
    :raises ValueError: in one line, what is wrong and what would be valid.
    """
    example = f"expected something like {schemes[0]}://127.0.0.1:8000"
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ValueError(f"address {url!r} has no scheme; {example}")
    scheme = scheme.lower()
    if scheme not in schemes:
        raise ValueError(f"address {url!r} has scheme {scheme!r}; expected {' or '.join(schemes)}")
    if rest.endswith("/"):
        rest = rest[:-1]
    if any(character in rest for character in "/?#@"):
        raise ValueError(f"address {url!r} must be a scheme, a host and a port only; {example}")
    host, port_text = _split(url, rest)
    return Address(scheme, _host(url, host, example), _port(url, scheme, port_text, example))


def _split(url: str, rest: str) -> tuple[str, str]:
    if rest.startswith("["):
        host, closed, after = rest[1:].partition("]")
        if not closed or (after and not after.startswith(":")):
            raise ValueError(f"address {url!r} has an unfinished IPv6 address; expected one like [::1]:8000")
        try:
            IPv6Address(host)
        except ValueError:
            raise ValueError(f"address {url!r} has no valid IPv6 address in its brackets") from None
        return host, after[1:]
    if rest.count(":") > 1:
        raise ValueError(f"address {url!r}: an IPv6 address is written in brackets, like [::1]:8000")
    host, _, port_text = rest.partition(":")
    return host, port_text


def _host(url: str, host: str, example: str) -> str:
    if ":" in host:
        return host
    if host == "*":
        raise ValueError(f"address {url!r}: to listen on every interface the host is 0.0.0.0 or [::]")
    if not host:
        raise ValueError(f"address {url!r} has no host; {example}")
    if not _NAME.fullmatch(host):
        raise ValueError(f"address {url!r} has no valid host; {example}")
    return host.lower()


def _port(url: str, scheme: str, text: str, example: str) -> int:
    if not text:
        if scheme in _DEFAULT_PORTS:
            return _DEFAULT_PORTS[scheme]
        raise ValueError(f"address {url!r} has no port; {example}")
    if not (text.isascii() and text.isdigit()) or int(text[:6]) > 65535:
        raise ValueError(f"address {url!r} has port {text!r}; expected a number from 0 to 65535")
    return int(text)
