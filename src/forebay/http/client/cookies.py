"""The cookies of a client on their way out and in."""

from __future__ import annotations

from collections.abc import Mapping

from forebay.chain import Handler
from forebay.http.client.cookie_jar import CookieJar
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.url import URL

__all__ = ["KeepsCookies", "jar_of"]


class KeepsCookies:
    """Sends the cookies that are kept, and keeps those that come (RFC 6265)."""

    __slots__ = ("_following", "_jar")

    def __init__(self, jar: CookieJar, following: Handler[ClientRequest, ClientResponse]) -> None:
        self._jar = jar
        self._following = following

    async def __call__(self, request: ClientRequest) -> ClientResponse:
        jar = self._jar
        pairs = jar.pairs(request.url)
        if pairs:
            own = request.headers.get("cookie", "")
            names = {one.partition("=")[0].strip() for one in own.split(";")} if own else ()
            kept = "; ".join(f"{name}={value}" for name, value in pairs if name not in names)
            request = request.copy()
            request.headers["cookie"] = "; ".join(filter(None, (kept, own)))
        response = await self._following(request)
        for line in response.headers.get_all("set-cookie"):
            jar.receive(line, request.url)
        return response


def jar_of(cookies: CookieJar | Mapping[str, str] | bool | None, base: URL | None) -> CookieJar | None:
    if isinstance(cookies, CookieJar):
        return cookies
    if cookies is None or cookies is False:
        return None
    jar = CookieJar()
    if isinstance(cookies, Mapping):
        if base is None:
            raise ValueError("Client cookies: for whom are they? Give it a base URL, or a CookieJar")
        for name, value in cookies.items():
            jar.set(name, value, domain=base.host)
    return jar
