"""Where a request goes: URLs of HTTP, read strictly, and references resolved against them (RFC 3986)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeAlias
from urllib.parse import quote, unquote, urlencode

from forebay.engine.address import join_host_port

__all__ = ["URL", "Fields", "encode_fields", "field_pairs", "field_text", "parse_url", "split_userinfo"]

Fields: TypeAlias = Mapping[str, Any] | Sequence[tuple[str, Any]]
"""Names and values; a list or tuple for a value stands for several of its name, None for an empty value."""

PORTS = {"http": 80, "https": 443}

_PARTS = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LABEL = r"(?!-)[a-z0-9_-]{1,63}"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_NUMERIC = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\.?")  # the last label of what systems take for an IPv4 address
_DEVIATIONS = re.compile("[\u00df\u1e9e\u03c2\u200c\u200d]")  # IDNA 2003 and 2008 make different hosts of these
_LONGEST_NAME = 253  # octets without the dot of the root (RFC 1035 section 2.3.4)
_AUTHORITY = re.compile(r"[A-Za-z0-9._:\[\]-]+")
_TARGET = re.compile(r"[!-~]+")

_IN_PATH = "/%:@!$&'()*+,;=~-._"
_IN_QUERY = _IN_PATH + "?"
_PLAIN = re.compile(r"(?:[A-Za-z0-9/:@!$&'()*+,;=~._?-]|%[0-9A-Fa-f]{2})*")  # nothing to encode
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_USERINFO = re.compile(r"(?<=//)(?:[^/?#]*@|[^/?#@]*:.*@)", re.DOTALL)  # also where a password has a raw / in it
_DOTS = re.compile(r"/\.\.?(?:/|$)")

_CACHED = 1024  # URLs that are remembered
_CACHED_LENGTH = 1024  # characters of the longest of them


@dataclass(frozen=True, slots=True)
class URL:
    """Where a request goes. Made by :func:`parse_url`, :meth:`join` and the ``with_`` methods. ``str()`` gives it back,
    without its fragment, which is never sent.

    ``host`` is a name in lower case (IDNA where it was not ASCII) or an address (IPv6 without brackets), ``port`` 1 to
    65535, ``authority`` what the ``host`` field says (without the scheme's own port), ``target`` path and query,
    encoded ("*": the server as a whole).

    :raises ValueError: ``authority`` or ``target`` has characters that are not allowed there.
    """

    scheme: str
    host: str
    port: int
    authority: str
    target: str
    fragment: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not _AUTHORITY.fullmatch(self.authority):
            raise ValueError(f"URL authority {self.authority!r}: must be host[:port], in ASCII")
        if not _TARGET.fullmatch(self.target) or not (self.target[0] == "/" or self.target == "*"):
            raise ValueError(f"URL target {self.target!r}: must be * or begin with /, in visible ASCII, without blanks")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target if self.target != '*' else ''}"

    @property
    def path(self) -> str:
        """The path, encoded."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The query, encoded, without its ``?``; "" for none."""
        return self.target.partition("?")[2]

    @property
    def secure(self) -> bool:
        """Whether it asks for TLS."""
        return self.scheme == "https"

    @property
    def origin(self) -> str:
        """Scheme, host and port, as in ``https://example.org`` or ``http://[::1]:8000``."""
        return f"{self.scheme}://{self.authority}"

    def same_origin(self, other: URL) -> bool:
        """Whether both are of one scheme, host and port (RFC 6454 section 4)."""
        return (self.host, self.port, self.scheme) == (other.host, other.port, other.scheme)

    def with_target(self, target: str) -> URL:
        """The same with another path and query, or "*" for the server as a whole. What must be percent-encoded and is
        not, becomes so.

        :raises ValueError: it does not begin with ``/``, or holds control characters.
        """
        if target == "*":
            return replace(self, target=target, fragment="")
        if not target.startswith("/"):
            raise ValueError(f"URL target {target!r}: must be * or begin with /")
        _check_characters(target)
        path, fragment_mark, fragment = target.partition("#")
        path, mark, query = path.partition("?")
        return replace(self, target=_target(path, query if mark else None), fragment=fragment if fragment_mark else "")

    def with_params(self, params: Fields) -> URL:
        """The same with fields added to the query.

        :raises TypeError: a value is none that a query can hold.
        """
        added = encode_fields(params)
        if not added:
            return self
        path, _, query = self.target.partition("?")
        return replace(self, target=f"{path}?{query}&{added}" if query else f"{path}?{added}")

    def join(self, reference: str) -> URL:
        """Where ``reference`` leads from here (RFC 3986 section 5.2). One with a scheme needs a host as well.

        :raises ValueError: nowhere that HTTP is spoken.
        """
        _check_characters(reference)
        scheme, authority, path, query, fragment = _split(reference)
        if scheme is not None:
            return parse_url(reference)
        if authority is not None:
            return parse_url(f"{self.scheme}:{reference}")
        fragment = _encoded(fragment or "", _IN_QUERY)
        if not path:
            base = self.path if self.target != "*" else "/"
            target = self.target if query is None else f"{base}?{_encoded(query, _IN_QUERY)}"
            return replace(self, target=target, fragment=fragment)
        if not path.startswith("/"):
            path = f"{self.path.rpartition('/')[0]}/{path}"  # of "*" as of "/"
        return replace(self, target=_target(path, query), fragment=fragment)


def parse_url(text: str, params: Fields | None = None) -> URL:
    """Read ``http://host[:port]/path?query``, or ``https``. What must be percent-encoded in path and query and is not,
    blanks too, becomes so; names that are not ASCII become IDNA's; dot segments are removed (RFC 3986 section 5.2.4).

    :param params: fields to add to the query.
    :raises ValueError: it is not like that; holds a control character anywhere, or a user (see
        :func:`split_userinfo`).
    :raises TypeError: a parameter's value is none that a query can hold.
    """
    url = _remembered(text) if len(text) <= _CACHED_LENGTH else _parse(text)
    return url.with_params(params) if params else url


def split_userinfo(text: str) -> tuple[str, tuple[str, str] | None]:
    """The URL without its user, and user and password (decoded, "" where there is none), if it has one.

    :raises ValueError: they hold control characters, or are not UTF-8; or there is a backslash in front of the host,
        where others take it for the end of one.
    """
    scheme, mark, rest = text.partition("://")
    end = re.search(r"[/?#]", rest)
    authority = rest[: end.start()] if end else rest
    user_info, at, host = authority.rpartition("@")
    if not mark or not at:
        return text, None
    if "\\" in user_info:
        raise ValueError(f"URL {_shown(text)!r}: a backslash in its user or password must be written as %5C")
    user, _, password = user_info.partition(":")
    try:
        pair = unquote(user, errors="strict"), unquote(password, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"URL {_shown(text)!r}: its user and password must be UTF-8") from None
    if _FORBIDDEN.search("".join(pair)):
        raise ValueError(f"URL {_shown(text)!r}: its user and password must be without control characters")
    return f"{scheme}://{host}{rest[len(authority) :]}", pair


def encode_fields(fields: Fields) -> str:
    """As in queries and forms: ``application/x-www-form-urlencoded``.

    :raises TypeError: a value is none that a field can hold.
    :raises ValueError: a lone surrogate is in one.
    """
    try:
        return urlencode([(name, field_text(name, value)) for name, value in field_pairs(fields)])
    except UnicodeEncodeError as error:
        raise ValueError(f"fields must be Unicode: {error.object!r} is not") from None


def field_pairs(fields: Fields) -> Iterable[tuple[str, Any]]:
    """Names and values, one by one.

    :raises TypeError: ``fields`` are neither a mapping nor pairs.
    """
    if isinstance(fields, (str, bytes)):  # type: ignore[unreachable]  # callers that mypy does not check
        raise TypeError(f"fields of type {type(fields).__name__}: must be a mapping, or pairs of name and value")
    for name, value in fields.items() if isinstance(fields, Mapping) else fields:
        if isinstance(value, list | tuple):
            yield from ((name, one) for one in value)
        else:
            yield name, value


def field_text(name: str, value: Any) -> str:
    """A field's value as it is sent: ``true`` and ``false``, "" for None, the value of an enumeration's member, else
    ``str()`` of it.

    :raises TypeError: it is bytes or a collection, whose ``str()`` nobody wants.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, bytes | bytearray | memoryview | Mapping | list | tuple | set | frozenset):
        raise TypeError(
            f"field {name!r}: must be text, a number or the like, or a list of them, not {type(value).__name__}"
        )
    return str(value)


def _parse(text: str) -> URL:
    _check_characters(text)
    scheme, authority, path, query, fragment = _split(text)
    scheme = (scheme or "").lower()
    if scheme not in PORTS or not authority:
        raise ValueError(f"URL {_shown(text)!r}: must be like http://example.org/path, or https://")
    if "@" in authority:
        raise ValueError(f"URL {_shown(text)!r}: must be without a user")
    host, port = _host_and_port(text, authority, PORTS[scheme])
    shown = join_host_port(host, port) if port != PORTS[scheme] else f"[{host}]" if ":" in host else host
    return URL(scheme, host, port, shown, _target(path, query), _encoded(fragment or "", _IN_QUERY))


_remembered = lru_cache(_CACHED)(_parse)


def _split(text: str) -> tuple[str | None, str | None, str, str | None, str | None]:
    """Scheme, authority, path, query and fragment (RFC 3986 appendix B); None for what is not there."""
    match = _PARTS.fullmatch(text)
    assert match is not None, text  # the pattern takes any text
    scheme, authority, path, query, fragment = match.groups()
    return scheme, authority, path, query, fragment


def _check_characters(text: str) -> None:
    found = _FORBIDDEN.search(text)
    if found is not None:
        raise ValueError(f"URL {_shown(text)!r}: character {found[0]!r} at {found.start()} must not be there")
    if text[:1] == " " or text[-1:] == " ":
        raise ValueError(f"URL {_shown(text)!r}: must be without blanks around it")


def _shown(text: str) -> str:
    """For errors: without user and password, and not endless."""
    masked = _USERINFO.sub("***@", text)
    return masked if len(masked) <= 200 else f"{masked[:200]}..."


def _host_and_port(text: str, authority: str, default: int) -> tuple[str, int]:
    host, port_text = authority, ""
    if authority.startswith("["):
        host, closed, after = authority.partition("]")
        if not closed or (after and not after.startswith(":")):
            raise ValueError(f"URL {_shown(text)!r}: an IPv6 address must be like [::1], or [::1]:8000")
        host, port_text = _ipv6(text, host[1:]), after[1:]
    else:
        host, _, port_text = authority.partition(":")
        host = _name(text, host)
    if not port_text:
        return host, default
    if not (port_text.isascii() and port_text.isdigit()) or not 1 <= int(port_text[:9]) <= 65535:
        port = "" if "@" in text else f" {port_text[:20]!r}"  # it may be the beginning of a password
        raise ValueError(f"URL {_shown(text)!r}: port{port} must be a number from 1 to 65535")
    return host, int(port_text[:9])


def _ipv6(text: str, host: str) -> str:
    if "%" in host:
        raise ValueError(f"URL {_shown(text)!r}: an address with a zone makes sense on one machine only")
    try:
        return str(IPv6Address(host))
    except ValueError:
        raise ValueError(f"URL {_shown(text)!r}: {host!r} is no IPv6 address") from None


def _name(text: str, host: str) -> str:
    """The name as it is resolved and sent."""
    name = host
    if not host.isascii():
        if (deviation := _DEVIATIONS.search(host)) is not None or len(host) > _LONGEST_NAME:
            why = f"write names with {deviation[0]!r} as the xn-- name that is meant" if deviation else "too long"
            raise ValueError(f"URL {_shown(text)!r}: {host[:80]!r} is no name of a host here: {why}")
        try:
            name = host.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise ValueError(f"URL {_shown(text)!r}: {host!r} is no name of a host: {error}") from None
    name = name.lower()
    if not _NAME.fullmatch(name) or len(name.removesuffix(".")) > _LONGEST_NAME:  # also what IDNA may have made of it
        raise ValueError(f"URL {_shown(text)!r}: {host!r} must be the name of a host, an IPv4 address or [IPv6]")
    if _NUMERIC.fullmatch(name[name.removesuffix(".").rfind(".") + 1 :]):
        try:
            return str(IPv4Address(name.removesuffix(".")))  # 127.1 and 0x7f.1 would be read as other addresses are
        except ValueError:
            raise ValueError(f"URL {_shown(text)!r}: {host!r} is no IPv4 address of four numbers") from None
    return name


def _target(path: str, query: str | None) -> str:
    if _DOTS.search(path):
        path = _without_dots(path)
    path = _encoded(path, _IN_PATH) or "/"
    return path if query is None else f"{path}?{_encoded(query, _IN_QUERY)}"


def _encoded(text: str, safe: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    return quote(_LONE_PERCENT.sub("%25", text), safe=safe)


def _without_dots(path: str) -> str:
    """RFC 3986 section 5.2.4, for a path that begins with ``/``."""
    kept: list[str] = []
    *segments, last = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if last == "..":
        del kept[-1:]
        last = ""
    elif last == ".":
        last = ""
    return "/" + "/".join([*kept, last])
