"""What a client keeps of the cookies it is sent, and which it sends where (RFC 6265 section 5, with 6265bis)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from itertools import count
from typing import TypeAlias

import msgspec

from forebay.http.client.cookie_date import parse_cookie_date
from forebay.http.client.url import URL

__all__ = ["CookieJar"]

_KEPT = 3000  # RFC 6265 section 6.1, as are those of a domain, and the size
_KEPT_PER_DOMAIN = 50
_LONGEST = 4096  # octets of name and value together
_LONGEST_ATTRIBUTE = 1024  # octets of an attribute's value (6265bis section 5.6)
_LONGEST_AGE = 10**11  # seconds: some thousand years
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")
_AGE = re.compile(r"-?[0-9]+")
_NAME = re.compile(
    r"[!-:<>-~\x80-\xff](?:[\t -:<>-~\x80-\xff]*[!-:<>-~\x80-\xff])?"
)  # without ; = and blanks around it
_VALUE = re.compile(r"[\t -:<-~\x80-\xff]*")


class _Cookie(msgspec.Struct):
    """One cookie; these are the names in JSON."""

    name: str
    value: str
    domain: str  # "" for every host
    host_only: bool
    path: str
    secure: bool
    expires: float | None  # seconds since 1970; None: with the client


_Key: TypeAlias = tuple[str, str, bool]  # of those of a domain: name, path, and whether it is for one host alone


def _key(cookie: _Cookie) -> _Key:
    """What replaces what: a subdomain's cookie for all of a domain is no replacement for one that the domain's own host
    keeps to itself (6265bis section 5.7)."""
    return cookie.name, cookie.path, cookie.host_only


class _Kept:
    """A cookie in a jar."""

    __slots__ = ("cookie", "number", "used")

    def __init__(self, cookie: _Cookie, number: int) -> None:
        self.cookie = cookie
        self.number = number  # in which order they were made
        self.used = number  # the higher, the later it was sent


class CookieJar:
    """Cookies by name, domain and path. ``HttpOnly``, ``SameSite`` and ``Partitioned`` are a browser's matter. Clients
    and tasks may share one, in one thread.

    At most 3,000 are kept, and 50 of a domain. Those that have expired go first; then, of those that are not for https
    alone before the others, the one that was not sent for the longest. Which domains are open to everybody's
    registration (``co.uk``) is not known here: a server may set cookies for all of its parents, but for those without a
    dot.

    :param clock: seconds since 1970, for what expires.
    """

    __slots__ = ("_clock", "_domains", "_numbers", "_size")

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._domains: dict[str, dict[_Key, _Kept]] = {}
        self._numbers = count()
        self._size = 0

    def __repr__(self) -> str:
        return f"<CookieJar {', '.join(self)}>"  # values may be secrets

    def __iter__(self) -> Iterator[str]:
        """The names of those that have not expired."""
        return iter(dict.fromkeys(kept.cookie.name for kept in self._in_order()))

    def __len__(self) -> int:
        self._expire()
        return self._size

    def __contains__(self, name: object) -> bool:
        return any(name == one for one in self)

    def __getitem__(self, name: str) -> str:
        """The value of the cookie ``name``, the newest where there are several.

        :raises KeyError: there is none.
        """
        found = [kept.cookie.value for kept in self._in_order() if kept.cookie.name == name]
        if not found:
            raise KeyError(name)
        return found[-1]

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of the cookie ``name``; ``default`` without one."""
        try:
            return self[name]
        except KeyError:
            return default

    def set(self, name: str, value: str, *, domain: str = "", path: str = "/", secure: bool = False) -> None:
        """Keep a cookie as if it had been sent.

        :param domain: the host it is for; "": every host.
        :param secure: for https alone.
        :raises ValueError: ``name``, ``value`` or ``path`` is none that a cookie can have.
        """
        self._keep(_checked(_Cookie(name, value, domain.lower(), True, path, secure, None)))

    def delete(self, name: str) -> None:
        """Forget every cookie of that name."""
        for kept in self._all():
            if kept.cookie.name == name:
                self._remove(kept.cookie)

    def clear(self) -> None:
        """Forget all."""
        self._domains.clear()
        self._size = 0

    def to_json(self) -> bytes:
        """All that have not expired, those without an expiry as well, to be kept where secrets are: see
        :meth:`from_json`."""
        return msgspec.json.encode([kept.cookie for kept in self._in_order()])

    @classmethod
    def from_json(cls, data: bytes | str, clock: Callable[[], float] = time.time) -> CookieJar:
        """A jar with what :meth:`to_json` gave.

        :raises ValueError: it is not like that.
        """
        try:
            cookies = msgspec.json.decode(data, type=list[_Cookie])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"cookies: must be JSON of CookieJar.to_json: {error}") from None
        jar = cls(clock)
        for cookie in cookies:
            jar._keep(_checked(cookie))
        return jar

    # What the client calls

    def receive(self, line: str, url: URL) -> None:
        """Keep what ``Set-Cookie: line`` of the answer to ``url`` says, or ignore it (RFC 6265 sections 5.2, 5.3)."""
        cookie = _read(line, url, self._clock)
        if cookie is None or not (url.secure or self._may_be_set_openly(cookie)):
            return
        if cookie.expires is not None and cookie.expires <= self._clock():
            self._remove(cookie)
        else:
            self._keep(cookie)

    def pairs(self, url: URL) -> list[tuple[str, str]]:
        """Names and values to send to ``url``, in their order (RFC 6265 section 5.4)."""
        if not self._size:
            return []
        host, path, now = url.host, url.path, self._clock()
        found = [
            kept
            for domain in _domains_of(host)
            for kept in self._domains.get(domain, {}).values()
            if (domain == host or not domain or not kept.cookie.host_only)
            and (url.secure or not kept.cookie.secure)
            and path_matches(path, kept.cookie.path)
            and (kept.cookie.expires is None or kept.cookie.expires > now)
        ]
        found.sort(key=lambda kept: (-len(kept.cookie.path), kept.number))
        used = next(self._numbers)
        for kept in found:
            kept.used = used
        return [(kept.cookie.name, kept.cookie.value) for kept in found]

    def header(self, url: URL) -> str:
        """The value of the ``cookie`` header for ``url``; "" for none."""
        return "; ".join(f"{name}={value}" for name, value in self.pairs(url)) if self._size else ""

    # What it has

    def _all(self) -> list[_Kept]:
        return [kept for cookies in self._domains.values() for kept in cookies.values()]

    def _in_order(self) -> list[_Kept]:
        self._expire()
        return sorted(self._all(), key=lambda kept: kept.number)

    def _may_be_set_openly(self, cookie: _Cookie) -> bool:
        """Whether a server without TLS may set it: it is none for TLS, and hides none (6265bis section 5.7)."""
        return not cookie.secure and not any(
            kept.cookie.name == cookie.name
            and kept.cookie.secure
            and (domain_matches(cookie.domain, kept.cookie.domain) or domain_matches(kept.cookie.domain, cookie.domain))
            and path_matches(cookie.path, kept.cookie.path)
            for kept in self._all()
        )

    def _keep(self, cookie: _Cookie) -> None:
        cookies = self._domains.setdefault(cookie.domain, {})
        key = _key(cookie)
        old = cookies.get(key)
        if old is not None:
            old.cookie = cookie  # it keeps its place
            return
        cookies[key] = _Kept(cookie, next(self._numbers))
        self._size += 1
        most = _KEPT_PER_DOMAIN if cookie.domain else _KEPT  # no server has a say in those of every host
        if len(cookies) > most:
            self._make_room(list(cookies.values()))
        if self._size > _KEPT:
            self._make_room(self._all())

    def _remove(self, cookie: _Cookie) -> None:
        cookies = self._domains.get(cookie.domain, {})
        if cookies.pop(_key(cookie), None) is not None:
            self._size -= 1
            if not cookies:
                del self._domains[cookie.domain]

    def _make_room(self, among: list[_Kept]) -> None:
        """Forget at least one of them."""
        if not self._expire(among):
            self._remove(min(among, key=_by_use).cookie)

    def _expire(self, among: list[_Kept] | None = None) -> int:
        """Forget those that have expired; how many they were."""
        now = self._clock()
        over = [
            kept.cookie
            for kept in (self._all() if among is None else among)
            if kept.cookie.expires is not None and kept.cookie.expires <= now
        ]
        for cookie in over:
            self._remove(cookie)
        return len(over)


def default_path(path: str) -> str:
    """RFC 6265 section 5.1.4."""
    return path[: path.rfind("/")] or "/" if path.startswith("/") else "/"


def path_matches(path: str, cookie_path: str) -> bool:
    """RFC 6265 section 5.1.4."""
    return path == cookie_path or (
        path.startswith(cookie_path) and (cookie_path.endswith("/") or path[len(cookie_path)] == "/")
    )


def domain_matches(host: str, domain: str) -> bool:
    """RFC 6265 section 5.1.3."""
    return host == domain or (host.endswith("." + domain) and not _is_address(host))


def _domains_of(host: str) -> Iterator[str]:
    """Those that ``host`` matches; "" is every host's."""
    yield ""
    yield host
    if not _is_address(host):
        while host := host.partition(".")[2]:
            yield host


def _is_address(host: str) -> bool:
    if not host[-1:].isdigit() and ":" not in host:
        return False
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _by_use(kept: _Kept) -> tuple[bool, int]:
    return kept.cookie.secure, kept.used  # those that anybody on the way could set go first (6265bis section 5.7)


def _read(line: str, url: URL, clock: Callable[[], float]) -> _Cookie | None:
    """The cookie that ``line`` sets; None where it is to be ignored."""
    if _FORBIDDEN.search(line):
        return None
    pair, *attributes = line.split(";")
    name, equals, value = pair.partition("=")
    name, value = name.strip(" \t"), value.strip(" \t")
    if not equals or not name or len(name) + len(value) > _LONGEST:  # they were octets, of which each is a character
        return None
    cookie = _Cookie(name, value, url.host, True, default_path(url.path), False, None)
    expires = age = None
    has_path = False
    for attribute in attributes:
        key, _, text = attribute.partition("=")
        text = text.strip(" \t")
        if len(text) > _LONGEST_ATTRIBUTE:
            continue
        match key.strip(" \t").lower():
            case "domain" if text.removeprefix("."):
                cookie.domain, cookie.host_only = text.removeprefix(".").lower(), False
            case "path":
                has_path = text.startswith("/")
                cookie.path = text if has_path else default_path(url.path)
            case "secure":
                cookie.secure = True
            case "expires":
                found = parse_cookie_date(text)
                expires = expires if found is None else found
            case "max-age" if _AGE.fullmatch(text):
                age = -1 if text.startswith("-") else min(int(text.lstrip("0")[:12] or 0), _LONGEST_AGE)
    cookie.expires = expires if age is None else clock() + age if age > 0 else 0.0
    if not domain_matches(url.host, cookie.domain):
        return None  # of somebody else
    if "." not in cookie.domain.removesuffix("."):  # as if it were open to everybody: for this host alone
        cookie.host_only = True
        if cookie.domain != url.host:
            return None
    prefix = name.lower()
    if prefix.startswith(("__secure-", "__host-")) and not (cookie.secure and url.secure):
        return None
    if prefix.startswith("__host-") and not (cookie.host_only and has_path and cookie.path == "/"):
        return None
    return cookie


def _checked(cookie: _Cookie) -> _Cookie:
    """A cookie that did not come from a server's line.

    :raises ValueError: it could not have.
    """
    if not _NAME.fullmatch(cookie.name):
        raise ValueError(
            f"cookie name {cookie.name!r}: must be latin-1 without ; or = or control characters, not empty"
        )
    if not _VALUE.fullmatch(cookie.value):
        raise ValueError(f"value of cookie {cookie.name!r}: must be latin-1 without ; or control characters")
    if not cookie.path.startswith("/"):
        raise ValueError(f"path {cookie.path!r} of cookie {cookie.name!r}: must begin with /")
    return cookie
