"""The cookies of a client on their way out and in."""

from __future__ import annotations

from collections.abc import Mapping

from forebay.chain import Handler
from forebay.http.client.cookie_jar import CookieJar
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.url import URL

__all__ = ["KeepsCookies", "cookie_field", "jar_of"]


_NEWER = "forebay.http.client.cookies"  # in a request's state: the names that answers on its way have set


class KeepsCookies:
    """Sends the cookies that are kept, and keeps those that come (RFC 6265). Those that a request brings come first,
    until an answer, as that of a redirect, sets another of the name."""

    __slots__ = ("_following", "_jar")

    def __init__(self, jar: CookieJar, following: Handler[ClientRequest, ClientResponse]) -> None:
        self._jar = jar
        self._following = following

    async def __call__(self, request: ClientRequest) -> ClientResponse:
        jar, given = self._jar, request
        pairs = jar.pairs(request.url)
        own: list[str] = []  # which the request has from its maker: they are sent in place of those that are kept
        if "cookie" in request.headers:
            newer = request.state.get(_NEWER, ())
            every = [one.strip() for field in request.headers.get_all("cookie") for one in field.split(";")]
            own = [one for one in every if _name(one) not in newer]
        if pairs or own:
            names = {_name(one) for one in own}
            kept = [f"{name}={value}" for name, value in pairs if name not in names]
            request = request.copy()
            request.headers["cookie"] = "; ".join([*kept, *own])  # one field: RFC 6265 section 5.4
        elif "cookie" in request.headers:
            request = request.copy()
            del request.headers["cookie"]
        response = await self._following(request)
        for line in response.headers.get_all("set-cookie"):
            jar.receive(line, request.url)
            if own:
                given.state.setdefault(_NEWER, set()).add(_name(line))
        return response


def _name(cookie: str) -> str:
    return cookie.partition("=")[0].strip()


def cookie_field(cookies: Mapping[str, str]) -> str:
    """The value of a ``cookie`` field that has these, each of which is one.

    :raises TypeError: they are no mapping of texts.
    :raises ValueError: a name or value is none that a cookie can have, or would be taken for two.
    """
    _check_mapping(cookies)
    for name, value in cookies.items():
        CookieJar().set(name, value)
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


def _check_mapping(cookies: object) -> None:
    if not isinstance(cookies, Mapping):
        raise TypeError(f"cookies of type {type(cookies).__name__}: must be a mapping of names to values")
    for name, value in cookies.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"cookie {name!r:.80}: must be text, and its value too, not {type(value).__name__}")


def jar_of(cookies: CookieJar | Mapping[str, str] | bool | None, base: URL | None) -> CookieJar | None:
    """What a client was given for its cookies; those of a mapping are for the host of ``base`` alone.

    :raises TypeError: it is none of these.
    :raises ValueError: there are some, and no ``base``; or one is none that a cookie can be.
    """
    if isinstance(cookies, CookieJar):
        return cookies
    if cookies is None or cookies is False:
        return None
    jar = CookieJar()
    if cookies is not True:
        _check_mapping(cookies)
        for name, value in cookies.items():
            if base is None:
                raise ValueError("Client cookies: for whom are they? Give it a base URL, or a CookieJar")
            jar.set(name, value, domain=base.host)
    return jar
