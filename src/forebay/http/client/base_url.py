"""What the URLs of a client's requests are relative to, and which of them are for others."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from forebay.engine.address import parse_address
from forebay.http.client.endpoint import Endpoint, unix_endpoint
from forebay.http.client.url import URL, parse_url, split_userinfo

__all__ = ["BaseURL", "Place"]

_KEPT = 1024  # URLs that are remembered
_KEPT_LENGTH = 1024  # characters of the longest of them
_LOCAL = parse_url("http://localhost/")  # what a server on a UNIX socket is called


class Place(NamedTuple):
    """Where a request is to go.

    :ivar user: and password, where the URL has them.
    :ivar home: it is of the base URL's origin, or there is no base URL.
    """

    url: URL
    user: tuple[str, str] | None
    home: bool


class BaseURL:
    """The base URL of a client, "" for none: ``http://``, ``https://`` or ``unix:///path``.

    :ivar url: None: there is none, and whole URLs have to be given.
    :ivar user: and password that it had.
    :ivar endpoint: where it is, when that is a UNIX socket.
    :raises ValueError: it is none of these, or has a query or a fragment.
    """

    __slots__ = ("_known", "endpoint", "url", "user")

    def __init__(self, text: str) -> None:
        self.url: URL | None = None
        self.user: tuple[str, str] | None = None
        self.endpoint: Endpoint | None = None
        self._known: dict[str, Place] = {}
        if text.startswith("unix://"):
            self.endpoint = unix_endpoint(parse_address(text, schemes=("unix",)).host)
            self.url = _LOCAL
        elif text:
            text, self.user = split_userinfo(text)
            self.url = parse_url(text)
            if self.url.query or self.url.fragment:
                raise ValueError(f"Client base {text!r}: must be without a query and a fragment")

    def __str__(self) -> str:
        if self.endpoint is not None:
            return self.endpoint.name
        return str(self.url or "of any URL")

    def is_home(self, url: URL) -> bool:
        """Whether it is of this origin; without a base URL all are."""
        return self.url is None or url.same_origin(self.url)

    def find(self, given: str | URL) -> Place:
        """Where ``given`` leads to: a path below this, or a whole URL.

        :raises ValueError: it is none, or a path and there is no base URL.
        :raises TypeError: it is something else.
        """
        if type(given) is str and (known := self._known.get(given)) is not None:
            return known
        if isinstance(given, URL):
            return Place(given, None, self.is_home(given))
        if not isinstance(given, str):
            raise TypeError(f"request URL of type {type(given).__name__}: must be text or a URL")
        place = self._read(given)
        if len(given) <= _KEPT_LENGTH:
            if len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[given] = place
        return place

    def _read(self, given: str) -> Place:
        base = self.url
        if not given.startswith("/") and "://" in given.partition("?")[0]:
            text, user = split_userinfo(given)
            url = parse_url(text)
            return Place(url, user, self.is_home(url))
        if base is None:
            raise ValueError(f"request URL {given!r:.200}: must be a whole one, as the client has no base URL")
        if given == "*":
            return Place(base.with_target(given), None, True)
        path = base.path.rstrip("/")
        target = given if given.startswith("/") and not path else f"{path}/{given.removeprefix('/')}"
        return Place(base.with_target(target), None, True)

    def moved(self, url: URL) -> URL:
        """The same path and query at this origin."""
        return url if self.url is None else replace(self.url, target=url.target, fragment=url.fragment)
