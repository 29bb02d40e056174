"""What tells kept answers apart (RFC 9111 sections 2 and 4.1). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import TypeAlias

from forebay.http.client.cache_rules import Fields, vary_value
from forebay.http.client.url import URL

__all__ = ["Varying", "owner_of", "url_key", "varying_of"]

Varying: TypeAlias = tuple[tuple[str, str | None], ...]
"""Names of headers, and what a request has there; None: nothing."""

_SECRET = frozenset(("authorization", "cookie", "proxy-authorization"))


def url_key(url: URL) -> str:
    """The URL, without fragment."""
    return url.origin + url.target


def owner_of(headers: Fields) -> str:
    """Whom an answer is for: requests with other credentials may get another one, whether it says so or not. A hash;
    empty: nobody's in particular."""
    found = [headers.get_all(name) for name in ("authorization", "cookie")]
    return sha256(repr(found).encode()).hexdigest() if any(found) else ""


def varying_of(headers: Fields, names: Iterable[str]) -> Varying:
    """What a request has in the headers that are called ``names``; of what is secret, a hash."""
    found = []
    for name in names:
        value = vary_value(headers.get_all(name))
        if value is not None and name in _SECRET:
            value = sha256(value.encode()).hexdigest()
        found.append((name, value))
    return tuple(found)
