"""Digests of passwords, as HTTP has them (RFC 7616): which challenge to answer, and with what. Pure."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Callable, Iterable
from urllib.parse import quote

from forebay.http.client.auth_challenges import Challenge

__all__ = ["AUTH", "AUTH_INT", "DigestSession", "choose"]

AUTH = "auth"
AUTH_INT = "auth-int"
"""Qualities of protection (RFC 7616 section 3.4.3): of method and target; of the content as well."""

Hash = Callable[[bytes], str]


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sha512_256(data: bytes) -> str:
    return hashlib.new("sha512_256", data).hexdigest()


_HASHES: dict[str, Hash] = {"MD5": _md5, "SHA-256": _sha256}
if "sha512_256" in hashlib.algorithms_available:  # of OpenSSL, not of every Python
    _HASHES["SHA-512-256"] = _sha512_256
_STRENGTH = ("MD5", "SHA-256", "SHA-512-256")
_SESSION = "-SESS"


def choose(challenges: Iterable[Challenge], *, md5: bool, content: bool) -> Challenge | None:
    """The one of the strongest algorithm that can be answered; of equals the first. None: there is none.

    :param md5: whether MD5 will do.
    :param content: whether the request's content is in memory, for ``auth-int``.
    """
    best, found = -1, None
    for challenge in challenges:
        parameters = challenge.parameters
        name = _algorithm(parameters).removesuffix(_SESSION)
        if challenge.scheme != "digest" or name not in _HASHES or not parameters.keys() >= {"realm", "nonce"}:
            continue
        offered = _offered(parameters)
        if offered and AUTH not in offered and not (AUTH_INT in offered and content):
            continue
        strength = _STRENGTH.index(name)
        if strength > best and (md5 or strength):
            best, found = strength, challenge
    return found


def _algorithm(parameters: dict[str, str]) -> str:
    return parameters.get("algorithm", "MD5").upper()


def _offered(parameters: dict[str, str]) -> set[str]:
    """Qualities of protection; empty: the server is older than RFC 2617."""
    return {one.strip().lower() for one in parameters.get("qop", "").split(",")} - {""}


class DigestSession:
    """A challenge, and how often it was answered. Answers differ: each counts one more (RFC 7616 section 3.4).

    User name and password are hashed as UTF-8, normalised to NFC, whether the server asks for it or not: nobody knows
    what it would take instead.

    :param challenge: one that :func:`choose` gave.
    :param cnonce: of the client's choice, for tests; default: 128 random bits.
    """

    __slots__ = ("_algorithm", "_cnonce", "_first", "_hash", "_name", "_offered", "_parameters", "nonce", "sent")

    def __init__(self, challenge: Challenge, user: str, password: str, *, cnonce: str | None = None) -> None:
        parameters = self._parameters = challenge.parameters
        self._algorithm = parameters.get("algorithm")
        algorithm = _algorithm(parameters)
        self._hash = _HASHES[algorithm.removesuffix(_SESSION)]
        self._offered = _offered(parameters)
        self._cnonce = cnonce if cnonce is not None else secrets.token_hex(16)
        self.nonce = parameters["nonce"]
        self.sent = 0
        realm = parameters["realm"].encode("latin-1")
        name = unicodedata.normalize("NFC", user).encode()
        first = self._hash(b"%b:%b:%b" % (name, realm, unicodedata.normalize("NFC", password).encode()))
        if algorithm.endswith(_SESSION):  # once, of the first nonces: they are the session (section 3.4.2)
            first = self._hash(b"%b:%b:%b" % (first.encode(), self._latin(self.nonce), self._latin(self._cnonce)))
        self._first = first
        if parameters.get("userhash", "").lower() == "true":
            self._name = f'username="{self._hash(b"%b:%b" % (name, realm))}", userhash=true'
        elif name.isascii():
            self._name = f"username={_quoted(name.decode())}"
        else:
            self._name = f"username*=UTF-8''{quote(name, safe='')}"  # section 3.4, by RFC 5987

    def __repr__(self) -> str:
        return f"<DigestSession {self._algorithm or 'MD5'} answered={self.sent}>"

    @property
    def realm(self) -> str:
        """What the password is for, as the server has it."""
        return self._parameters["realm"]

    def follow(self, nonce: str) -> None:
        """Go on with the ``nextnonce`` of a server (section 3.5)."""
        if nonce != self.nonce:
            self.nonce = nonce
            self.sent = 0

    def can_answer(self, content: bytes | None) -> bool:
        """Whether it can be answered for content like that; None: it is not in memory."""
        return content is not None or not self._offered or AUTH in self._offered

    def answer(self, method: str, target: str, content: bytes | None) -> tuple[str, DigestProof | None]:
        """The value of ``authorization``, and what the server is going to prove that it knows the password, too.

        :param target: of the request, as it is sent.
        :param content: of the request; None: not in memory.
        :return: None for the proof: servers older than RFC 2617 have none.
        :raises ValueError: the server wants ``auth-int`` only, and the content is not in memory.
        """
        if AUTH in self._offered:
            qop = AUTH
        elif AUTH_INT in self._offered:
            qop = AUTH_INT
        else:
            qop = ""
        second = f"{method}:{target}"
        if qop == AUTH_INT:
            if content is None:
                raise ValueError("Digest: qop auth-int needs content that is in memory")
            second = f"{second}:{self._hash(content)}"
        self.sent += 1
        nonce, hashed = self.nonce, self._hash(self._latin(second))
        middle = f"{nonce}:{self.sent:08x}:{self._cnonce}:{qop}" if qop else nonce
        parts = [
            self._name,
            f"realm={_quoted(self.realm)}",
            f"nonce={_quoted(nonce)}",
            f'uri="{target}"',
            f'response="{self._keyed(middle, hashed)}"',
        ]
        if self._algorithm is not None:
            parts.append(f"algorithm={self._algorithm}")
        if "opaque" in self._parameters:
            parts.append(f"opaque={_quoted(self._parameters['opaque'])}")
        proof = None
        if qop:
            parts.append(f'qop={qop}, nc={self.sent:08x}, cnonce="{self._cnonce}"')
            expected = self._keyed(middle, self._hash(self._latin(f":{target}"))) if qop == AUTH else None
            proof = DigestProof(f"{self.sent:08x}", self._cnonce, expected)
        elif self._algorithm is not None and self._algorithm.upper().endswith(_SESSION):
            parts.append(f'cnonce="{self._cnonce}"')
        return f"Digest {', '.join(parts)}", proof

    def _keyed(self, middle: str, second: str) -> str:
        return self._hash(self._latin(f"{self._first}:{middle}:{second}"))

    @staticmethod
    def _latin(text: str) -> bytes:
        return text.encode("latin-1")


class DigestProof:
    """What a server says in ``rspauth`` that knows the password (RFC 7616 section 3.5)."""

    __slots__ = ("_cnonce", "_expected", "_nc")

    def __init__(self, nc: str, cnonce: str, expected: str | None) -> None:
        self._nc = nc
        self._cnonce = cnonce
        self._expected = expected  # None: it is of the answer's content, which has not come

    def __repr__(self) -> str:
        return f"<DigestProof nc={self._nc}>"

    def check(self, information: dict[str, str]) -> bool | None:
        """Whether ``authentication-info`` proves it; None: it says nothing of that, or nothing that can be checked."""
        said = information.get("rspauth")
        if said is None or self._expected is None or information.get("qop", AUTH).lower() != AUTH:
            return None
        same = hmac.compare_digest(said.lower().encode("latin-1"), self._expected.encode())
        return (
            same
            and information.get("cnonce", self._cnonce) == self._cnonce
            and information.get("nc", self._nc) == self._nc
        )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
