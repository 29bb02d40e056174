"""What tells kept answers apart (RFC 9111 sections 2 and 4.1). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias

from forebay.http.client.cache_rules import Fields, vary_value
from forebay.http.client.secret_fields import SECRETS

if TYPE_CHECKING:
    from forebay.http.client.request import ClientRequest
    from forebay.http.client.url import URL
    from forebay.http.headers import Headers, MutableHeaders

__all__ = ["Varying", "owner_of", "place_of", "url_key", "varying_of"]

Varying: TypeAlias = tuple[tuple[str, str | None], ...]
"""Names of headers, and what a request has there; None: nothing."""


def place_of(request: ClientRequest) -> str:
    """Where a request goes to, other than its URL says: ``host`` and the socket; empty: nowhere else."""
    host, endpoint = request.headers.get("host"), request.endpoint
    if host is None and endpoint is None:
        return ""
    return f" host={host} at={endpoint.name if endpoint is not None else None}"


def url_key(url: URL, place: str) -> str:
    """The URL, without fragment.

    :param place: see :func:`place_of`.
    """
    return url.origin + url.target + place


def owner_of(headers: Headers | MutableHeaders) -> str:
    """Whom an answer is for: requests with other credentials may get another one, whether it says so or not. A hash;
    empty: nobody's in particular."""
    found = sorted((key, value) for name, value in headers.pairs() if _is_secret(key := name.lower()))
    return sha256(repr(found).encode("utf-8", "backslashreplace")).hexdigest() if found else ""


@lru_cache(maxsize=512)
def _is_secret(name: str) -> bool:
    return name in SECRETS.headers or SECRETS.has(name)


def varying_of(headers: Fields, names: Iterable[str]) -> Varying:
    """What a request has in the headers that are called ``names``; of what is secret, a hash."""
    found = []
    for name in names:
        value = vary_value(headers.get_all(name))
        if value is not None and _is_secret(name):
            value = sha256(value.encode("utf-8", "backslashreplace")).hexdigest()
        found.append((name, value))
    return tuple(found)
