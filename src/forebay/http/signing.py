"""Texts that clients keep for us and cannot change: signed, dated, and checked with any of several keys.

What is signed can be read by whoever has it: it is not encrypted. A signed text looks like ``payload.time.signature``,
in characters that a cookie may have. The signature is HMAC-SHA256 (RFC 2104) over what it is for, the time and the
payload as it is written, so a text that was signed for one purpose, such as the cookie of one name, is none for
another.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

__all__ = ["LEAST_KEY", "Signed", "Signer"]

LEAST_KEY = 32
"""Bytes a key must have: as many as the hash gives (RFC 2104 section 3)."""

_MOST_KEYS = 16
_TEXT = re.compile(r"([A-Za-z0-9_-]*)\.([0-9]{1,12})\.([A-Za-z0-9_-]{43})")
_DOMAIN = b"forebay signed text 1\0"  # the same keys may be used elsewhere


class Signed(NamedTuple):
    """What became of a signed text. ``payload`` is None when it was refused; ``reason`` says why, else it is empty."""

    payload: bytes | None
    reason: str = ""  # malformed, signature, expired
    at: int = 0  # when it was signed, seconds since the epoch
    rotated: bool = False  # by a key that is not the first: sign it anew before the key goes


class Signer:
    """Signs with the first of its keys, and accepts what any of them signed.

    To change the key: put the new one first, and drop the old one when all that it signed has expired.

    :param keys: one, or several: secrets of at least :data:`LEAST_KEY` bytes; texts are taken as UTF-8. At most 16.
        ``python -c 'import secrets; print(secrets.token_urlsafe(32))'`` makes one.
    :raises ValueError: there is none, there are too many, or one is too short.
    """

    __slots__ = ("_keys",)

    def __init__(self, keys: str | bytes | Sequence[str | bytes]) -> None:
        listed = [keys] if isinstance(keys, str | bytes) else list(keys)
        if not 1 <= len(listed) <= _MOST_KEYS:
            raise ValueError(f"{len(listed)} signing keys: must be 1 to {_MOST_KEYS}")
        self._keys = [key.encode() if isinstance(key, str) else bytes(key) for key in listed]
        for place, key in enumerate(self._keys):
            if len(key) < LEAST_KEY:
                raise ValueError(
                    f"signing key {place} has {len(key)} bytes: must be at least {LEAST_KEY}, "
                    f"as secrets.token_urlsafe({LEAST_KEY}) makes them"
                )

    def __repr__(self) -> str:
        return f"<Signer {len(self._keys)} keys>"

    def sign(self, purpose: str, payload: bytes, at: float) -> str:
        """``payload``, signed.

        :param purpose: what it is for, such as the cookie's name; the same must be given to :meth:`read`.
        :param at: the time now, seconds since the epoch.
        """
        text = urlsafe_b64encode(payload).rstrip(b"=").decode()
        time = str(int(at))
        return f"{text}.{time}.{_signature(self._keys[0], purpose, time, text)}"

    def read(self, purpose: str, text: str, *, max_age: float | None, at: float) -> Signed:
        """The payload of a signed text, if one of the keys signed it for ``purpose``.

        :param max_age: seconds it is accepted for; None: for ever.
        :param at: the time now, seconds since the epoch.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            return Signed(None, "malformed")
        payload, time, signature = found.groups()
        signer = self._signer_of(purpose, time, payload, signature)
        if signer is None:
            return Signed(None, "signature")
        signed_at = int(time)
        if max_age is not None and at - signed_at > max_age:
            return Signed(None, "expired", signed_at)
        return Signed(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), "", signed_at, signer > 0)

    def _signer_of(self, purpose: str, time: str, payload: str, signature: str) -> int | None:
        for place, key in enumerate(self._keys):
            if hmac.compare_digest(_signature(key, purpose, time, payload), signature):
                return place
        return None


def _signature(key: bytes, purpose: str, time: str, text: str) -> str:
    message = b"%b%b\0%b\0%b" % (_DOMAIN, purpose.encode(), time.encode(), text.encode())
    return urlsafe_b64encode(hmac.digest(key, message, sha256)).rstrip(b"=").decode()
