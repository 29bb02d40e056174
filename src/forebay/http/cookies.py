"""Cookies (RFC 6265, and its revision draft-ietf-httpbis-rfc6265bis): those a client sends, and the setting of one."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Literal

from forebay.wire.http1 import HeaderPairs

__all__ = ["Cookies", "parse_cookies", "set_cookie_value"]

Cookies = dict[str, str]

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a token
_VALUE = re.compile(
    r"[!#-+\--:<-\[\]-~]*"  # RFC 6265 section 4.1.1: no blanks, quotes, commas, semicolons, backslashes
)
_ATTRIBUTE = re.compile(r"[ -:<-~]*")
_LONGEST = 4096  # bytes of name and value, past which browsers drop the cookie
_LONGEST_ATTRIBUTE = 1024  # bytes, past which they ignore the attribute (RFC 6265bis section 5.6)


def parse_cookies(headers: HeaderPairs) -> Cookies:
    """The cookies of a request, by name. Of two of one name the first counts: the one with the longer path."""
    cookies: Cookies = {}
    for key, line in headers:
        if len(key) != 6 or key.lower() != b"cookie":
            continue
        for pair in line.decode("latin-1").split(";"):
            name, equals, value = pair.partition("=")
            name = name.strip(" \t")
            if equals and name and name not in cookies:
                cookies[name] = value.strip(" \t")
    return cookies


def set_cookie_value(
    name: str,
    value: str,
    max_age: int | None,
    expires: datetime | None,
    path: str | None,
    domain: str | None,
    secure: bool,
    httponly: bool,
    samesite: Literal["strict", "lax", "none"] | None,
    partitioned: bool,
) -> str:
    """The value of a ``Set-Cookie`` header; see :meth:`forebay.http.Response.set_cookie`.

    :raises ValueError: a cookie cannot be like that.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"cookie name {name!r}: must be a token (RFC 9110 section 5.6.2)")
    if not _VALUE.fullmatch(value):
        raise ValueError(f"cookie {name}: its value may not have blanks, quotes, commas, semicolons or backslashes")
    if len(name) + len(value) > _LONGEST:
        raise ValueError(f"cookie {name}: {len(name) + len(value)} bytes of name and value, the most is {_LONGEST}")
    if samesite not in ("strict", "lax", "none", None):
        raise ValueError(
            f"cookie {name}: samesite {samesite!r}: must be 'strict', 'lax', 'none', or None to leave it out"
        )
    if max_age is not None and (not isinstance(max_age, int) or isinstance(max_age, bool)):
        raise ValueError(f"cookie {name}: max_age {max_age!r}: must be whole seconds")
    if samesite == "none" and not secure:
        raise ValueError(f"cookie {name}: samesite='none' needs secure=True")
    if partitioned and not secure:
        raise ValueError(f"cookie {name}: partitioned=True needs secure=True")
    if name.lower().startswith(("__secure-", "__host-")) and not secure:
        raise ValueError(f"cookie {name}: a name that begins like this needs secure=True")
    if name.lower().startswith("__host-") and (domain is not None or path != "/"):
        raise ValueError(f"cookie {name}: a name that begins like this needs path='/' and no domain")
    if expires is not None and expires.utcoffset() is None:
        raise ValueError(f"cookie {name}: expires must have a time zone")
    parts = [f"{name}={value}"]
    if max_age is not None:
        parts.append(f"Max-Age={max_age}")
    if expires is not None:
        parts.append(f"Expires={format_datetime(expires.astimezone(UTC), usegmt=True)}")
    for attribute, text in (("Domain", domain), ("Path", path)):
        if text is not None:
            if not _ATTRIBUTE.fullmatch(text):
                raise ValueError(f"cookie {name}: {attribute.lower()} {text!r} has characters that it cannot have")
            if len(text) > _LONGEST_ATTRIBUTE:
                raise ValueError(
                    f"cookie {name}: {attribute.lower()} of {len(text)} bytes, the most is {_LONGEST_ATTRIBUTE}"
                )
            parts.append(f"{attribute}={text}")
    if secure:
        parts.append("Secure")
    if httponly:
        parts.append("HttpOnly")
    if samesite is not None:
        parts.append(f"SameSite={samesite.capitalize()}")
    if partitioned:
        parts.append("Partitioned")
    return "; ".join(parts)
