"""Where to listen and whom to call, written as a URL.

================================  ==================================================================================
``tcp://127.0.0.1:9000``          an IPv4 address, an IPv6 one (``tcp://[::1]:9000``) or a name. Port 0, when
                                  listening: any free one. ``tls``, ``udp``, ``http`` and ``https`` look the same
``tcp://*:9000``                  when listening: every address of this machine, IPv4 and IPv6 on one socket.
                                  (``0.0.0.0`` is IPv4 alone, ``[::]`` is IPv6 alone)
``unix:///run/app.sock``          a UNIX socket, by its absolute path
``unix://@app``                   ... by a name that is no file (Linux's abstract namespace)
``fd://3``, ``fd://web``          when listening: an inherited descriptor, by number, or by the name systemd gave it
================================  ==================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Literal

__all__ = [
    "ANY_HOST",
    "BIND_SCHEMES",
    "HTTP_SCHEMES",
    "LISTEN_SCHEMES",
    "Address",
    "join_host_port",
    "parse_address",
]

ANY_HOST = "*"
"""The host that stands for every address of this machine, of both families."""

LISTEN_SCHEMES = ("tcp", "tls", "unix", "fd")
"""Where a server of connections may listen."""

HTTP_SCHEMES = ("http", "https", "unix", "fd")
"""Where an HTTP server may; on ``unix`` and ``fd`` it speaks plain HTTP."""

BIND_SCHEMES = ("http", "https", "tcp", "tls", "unix", "udp", "fd")
"""Where any server may."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.(?!-)[A-Za-z0-9_-]{1,63})*\.?")
_DESCRIPTOR = re.compile(r"[A-Za-z0-9_.@-]{1,255}")  # what names of systemd units are made of
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_PATH = 107  # bytes: sun_path of unix(7) has 108, and ends in a NUL or begins with one
_LARGEST_DESCRIPTOR = 2**31 - 1

_EXAMPLES = {
    "unix": "unix:///run/app.sock",
    "fd": "fd://3",
}

Kind = Literal["tcp", "udp", "unix", "fd"]

_KINDS: dict[str, Kind] = {"udp": "udp", "unix": "unix", "fd": "fd"}


@dataclass(frozen=True, slots=True)
class Address:
    """One end of connections. ``str()`` gives its URL back."""

    scheme: str
    host: str  # name, address (IPv6 without brackets), ANY_HOST; unix: path, or "@name"; fd: number or name
    port: int  # 0: any free port, when listening; always 0 for unix and fd

    def __str__(self) -> str:
        if self.kind in ("unix", "fd"):
            return f"{self.scheme}://{self.host}"
        return f"{self.scheme}://{join_host_port(self.host, self.port)}"

    @property
    def kind(self) -> Kind:
        """Which kind of socket it stands for, whatever is spoken on it; ``fd`` is known only once it is opened."""
        return _KINDS.get(self.scheme, "tcp")

    def with_port(self, port: int) -> Address:
        """The same address with another port; itself, when it has none."""
        return self if self.kind in ("unix", "fd") else Address(self.scheme, self.host, port)


def join_host_port(host: str, port: int) -> str:
    """``127.0.0.1:80``, ``[::1]:80``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(url: str, *, schemes: Sequence[str] = ("tcp",)) -> Address:
    """Read an address from its URL. ``http`` and ``https`` have a default port, others need one.

    :param schemes: those that make sense here.
    :raises ValueError: in one line, what is wrong and what would be valid.
    """
    example = f"expected something like {_EXAMPLES.get(schemes[0], f'{schemes[0]}://127.0.0.1:8000')}"
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ValueError(f"address {url!r} has no scheme; {example}")
    scheme = scheme.lower()
    if scheme not in schemes:
        raise ValueError(f"address {url!r} has scheme {scheme!r}; expected {' or '.join(schemes)}")
    if scheme == "unix":
        return Address(scheme, _path(url, rest), 0)
    if scheme == "fd":
        return Address(scheme, _descriptor(url, rest), 0)
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
    if ":" in host or host == ANY_HOST:
        return host
    if not host:
        raise ValueError(f"address {url!r} has no host; {example} (every interface: *, IPv4 alone: 0.0.0.0)")
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


def _path(url: str, path: str) -> str:
    """The path of a UNIX socket; taken literally, nothing in it is an escape."""
    example = f"expected something like {_EXAMPLES['unix']}"
    if not path.startswith(("/", "@")):
        what = f"has the relative path {path!r}" if path else "has no path"
        raise ValueError(f"address {url!r} {what}; {example}, or unix://@name for a name that is no file")
    if _CONTROL.search(path) or any(character in path for character in "?#"):
        raise ValueError(f"address {url!r} has characters in its path that none may have: controls, ? or #; {example}")
    if path == "@" or path.endswith("/"):
        raise ValueError(f"address {url!r} names no socket; {example}")
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        raise ValueError(f"address {url!r} has a path that is not Unicode; {example}") from None
    if length > _LONGEST_PATH:
        raise ValueError(
            f"address {url!r} has a path of {length} bytes; the system allows {_LONGEST_PATH} for a UNIX socket"
        )
    return path


def _descriptor(url: str, text: str) -> str:
    example = "expected a number from 3 on, as in fd://3, or a name, as in fd://web"
    if not _DESCRIPTOR.fullmatch(text):
        raise ValueError(f"address {url!r} names no descriptor; {example}")
    if not text.isdigit():
        return text
    if len(text) > 10 or not 3 <= int(text) <= _LARGEST_DESCRIPTOR:
        raise ValueError(f"address {url!r} has no valid descriptor number; {example}")
    return str(int(text))
