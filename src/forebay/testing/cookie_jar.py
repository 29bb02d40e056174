"""What a client keeps of the cookies it is sent, and which it sends where (RFC 6265 section 5)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from itertools import count
from math import inf

__all__ = ["CookieJar"]

_KEPT = 3000  # RFC 6265 section 6.1
_FROM_HERE = -inf


@dataclass(slots=True)
class _Cookie:
    name: str
    value: str
    domain: str
    host_only: bool
    path: str
    secure: bool
    expires_at: float  # seconds of the clock; inf: with the client
    number: int  # in which order they came


class CookieJar:
    """Cookies by name, domain and path. ``SameSite``, ``HttpOnly`` and ``Partitioned`` are a browser's matter.

    At most 3,000 are kept; the oldest goes first.

    :param clock: seconds since 1970, for what expires.
    """

    __slots__ = ("_clock", "_cookies", "_numbers")

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._cookies: dict[tuple[str, str, str], _Cookie] = {}
        self._numbers = count()

    def __repr__(self) -> str:
        return f"<CookieJar {', '.join(self)}>"  # values may be secrets

    def __iter__(self) -> Iterator[str]:
        """The names of those that have not expired."""
        self._expire()
        return iter(dict.fromkeys(cookie.name for cookie in self._cookies.values()))

    def __len__(self) -> int:
        self._expire()
        return len(self._cookies)

    def __contains__(self, name: object) -> bool:
        return any(name == one for one in self)

    def __getitem__(self, name: str) -> str:
        """The value of the cookie ``name``, the newest where there are several.

        :raises KeyError: there is none.
        """
        self._expire()
        found = [cookie for cookie in self._cookies.values() if cookie.name == name]
        if not found:
            raise KeyError(name)
        return max(found, key=lambda cookie: cookie.number).value

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of the cookie ``name``; ``default`` without one."""
        try:
            return self[name]
        except KeyError:
            return default

    def set(self, name: str, value: str, *, domain: str = "", path: str = "/", secure: bool = False) -> None:
        """Keep a cookie as if it had been sent.

        :param domain: the host it is for; "": every host.
        """
        self._keep(_Cookie(name, value, domain.lower(), True, path, secure, inf, next(self._numbers)))

    def delete(self, name: str) -> None:
        """Forget every cookie of that name."""
        self._cookies = {key: cookie for key, cookie in self._cookies.items() if cookie.name != name}

    def clear(self) -> None:
        """Forget all."""
        self._cookies.clear()

    # What the client calls

    def receive(self, line: str, host: str, path: str) -> None:
        """Keep what ``Set-Cookie: line`` says (RFC 6265 sections 5.2 and 5.3), or ignore it.

        :param host: the request's, without port; ``path`` the request's.
        """
        pair, *attributes = line.split(";")
        name, equals, value = pair.partition("=")
        name = name.strip(" \t")
        if not equals or not name:
            return
        cookie = _Cookie(name, value.strip(" \t"), host, True, default_path(path), False, inf, next(self._numbers))
        expires, max_age = inf, None
        for attribute in attributes:
            key, _, text = attribute.partition("=")
            text = text.strip(" \t")
            match key.strip(" \t").lower():
                case "domain" if text.lstrip("."):
                    cookie.domain, cookie.host_only = text.removeprefix(".").lower(), False
                case "path":
                    cookie.path = text if text.startswith("/") else default_path(path)
                case "secure":
                    cookie.secure = True
                case "expires":
                    expires = _date(text, expires)
                case "max-age":
                    max_age = _seconds(text, max_age)
        if not domain_matches(host, cookie.domain):
            return  # of somebody else
        if "." not in cookie.domain and not cookie.host_only:
            cookie.host_only = True  # as if it were a public suffix: for this host alone, which it equals
            if cookie.domain != host:
                return
        now = self._clock()
        if max_age is not None:
            expires = now + max_age if max_age > 0 else _FROM_HERE
        cookie.expires_at = expires
        if expires <= now:
            self._cookies.pop((cookie.name, cookie.domain, cookie.path), None)
        else:
            self._keep(cookie)

    def header(self, host: str, path: str, *, secure: bool) -> list[tuple[str, str]]:
        """Names and values to send to ``host`` for ``path``, in their order (RFC 6265 section 5.4)."""
        self._expire()
        found = [
            cookie
            for cookie in self._cookies.values()
            if (not cookie.domain or cookie.domain == host or (not cookie.host_only and _below(host, cookie.domain)))
            and path_matches(path, cookie.path)
            and (secure or not cookie.secure)
        ]
        found.sort(key=lambda cookie: (-len(cookie.path), cookie.number))
        return [(cookie.name, cookie.value) for cookie in found]

    def _keep(self, cookie: _Cookie) -> None:
        key = (cookie.name, cookie.domain, cookie.path)
        old = self._cookies.get(key)
        if old is not None:
            cookie.number = old.number  # it keeps its place
        elif len(self._cookies) >= _KEPT:
            del self._cookies[next(iter(self._cookies))]
        self._cookies[key] = cookie

    def _expire(self) -> None:
        now = self._clock()
        for key in [key for key, cookie in self._cookies.items() if cookie.expires_at <= now]:
            del self._cookies[key]


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
    return host == domain or _below(host, domain)


def _below(host: str, domain: str) -> bool:
    return host.endswith("." + domain) and not _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _date(text: str, before: float) -> float:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return before


def _seconds(text: str, before: int | None) -> int | None:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 16 else before
