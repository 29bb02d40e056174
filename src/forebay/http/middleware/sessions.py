"""Sessions kept in a signed cookie: the server remembers nothing, any worker can read them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, Literal

import msgspec
import structlog

from forebay.http.cookies import set_cookie_value
from forebay.http.messages import Next, Request, Response
from forebay.http.signing import Signer

__all__ = ["Session", "Sessions"]

log = structlog.get_logger("forebay.http")

LARGEST = 4096
"""Bytes of a cookie's name and value: past it browsers drop it (RFC 6265 section 6.1)."""

_RENEWALS = 10  # a rolling session is sent anew once it has used up that part of its time

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Session(MutableMapping[str, Any]):
    """What is remembered of one client: a dict of JSON values. Read when it is first looked at.

    ``accessed``: somebody looked; ``modified``: something was assigned or deleted. A change within a value, as by
    ``session["cart"].append(1)``, is found by comparison when the answer leaves.
    """

    __slots__ = ("_final", "_load", "_original", "_values", "accessed", "modified")

    def __init__(self, load: Callable[[], bytes]) -> None:
        self._load = load
        self._values: dict[str, Any] = {}
        self._original = b"{}"
        self._final = ""
        self.accessed = False
        self.modified = False

    def __repr__(self) -> str:
        return f"<Session {'accessed' if self.accessed else 'not accessed'}{' modified' if self.modified else ''}>"

    def _read(self) -> dict[str, Any]:
        if not self.accessed:
            self.accessed = True
            payload = self._load()
            if payload:
                try:
                    self._values = _decode(payload)
                except msgspec.DecodeError as error:  # signed with our key, but no session: of another program maybe
                    log.warning("session is not JSON, it begins empty", reason=str(error))
                else:
                    self._original = payload
        return self._values

    def _change(self) -> dict[str, Any]:
        values = self._read()
        self.modified = True
        if self._final:
            log.warning("session changed too late, the change is lost", reason=self._final)
        return values

    def __getitem__(self, key: str) -> Any:
        return self._read()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        """:raises TypeError: the key is no text."""
        if not isinstance(key, str):
            raise TypeError(f"session key {key!r}: must be a str, as in JSON")
        self._change()[key] = value

    def __delitem__(self, key: str) -> None:
        if key not in self._read():
            raise KeyError(key)
        del self._change()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __contains__(self, key: object) -> bool:
        return key in self._read()

    def clear(self) -> None:
        """Forget everything; the client is told to forget its cookie."""
        if self._read():
            self._change().clear()

    def encoded(self) -> bytes | None:
        """What is to be kept, as JSON; None when that is what it was.

        :raises TypeError: a value is none of JSON's.
        """
        if not self.accessed:
            return None
        try:
            made = _encode(self._values)
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(f"session cannot be kept as JSON: {error}") from None
        return None if made == self._original else made

    def finish(self, reason: str) -> None:
        """From now on changes are lost, for ``reason``, and logged."""
        self._final = reason


class Sessions:
    """Gives every request a session, ``request.session``, kept in a cookie that the client cannot change.

    The cookie is signed and not encrypted: the client can read it. It is JSON, so a datetime comes back as text. It has
    4096 bytes at most, its name and signature included: keep what is large on the server, under a key that is in the
    session. Of two answers at the same time the later one counts, whole.

    There is no ``regenerate()``, as sessions have that live on the server: an attacker who plants a cookie before the
    login (session fixation) shares no identifier with it, for there is none; what the login puts in is only in the
    cookie that answers it. For the same reason nothing can be taken back: who copied a cookie can use it until
    ``max_age`` is over, also after a logout. Where that matters, keep a number per user on the server, put it in the
    session, compare, and raise it at the logout.

    A session that was looked at makes the answer its client's own: ``vary: cookie``, and ``cache-control: private``
    (``private, no-cache`` where the handler says nothing). One that was changed is sent; one that was cleared makes the
    client forget the cookie. A cookie that was tampered with, or has expired, is an empty session, and logged at debug.

    A stream can no more change the session than a WebSocket can: the head is sent by then. Both may read it; a change
    is lost, and logged as a warning.

    :param keys: secrets of at least 32 bytes, the first signs, all are accepted: see
        :class:`~forebay.http.signing.Signer`.
    :param name: of the cookie; default ``__Host-session``, which browsers only take from this very host by TLS, or
        ``session`` where ``secure``, ``path`` and ``domain`` do not allow that.
    :param max_age: seconds a session lives after it was sent; default two weeks. The cookie lives as long.
    :param rolling: start its time anew with each request, when at least a tenth of it is over. Else only with a change.
    :param secure: only by TLS; browsers take ``localhost`` for it.
    :param httponly: not for scripts.
    :param samesite: ``lax``: not for requests that other sites make, but for links to here; ``strict``: not for these
        either; ``none``: for all, needs ``secure``.
    :param path: of the cookie.
    :param domain: of the cookie, with all hosts below it; default: this host only.
    :param clock: seconds since the epoch.
    :raises ValueError: a key is too short, a number is out of its range, or the cookie's attributes contradict each
        other.
    """

    __slots__ = (
        "_clock",
        "_domain",
        "_httponly",
        "_max_age",
        "_name",
        "_path",
        "_rolling",
        "_samesite",
        "_secure",
        "_signer",
    )

    def __init__(
        self,
        keys: str | bytes | Sequence[str | bytes],
        *,
        name: str | None = None,
        max_age: int = 14 * 24 * 3600,
        rolling: bool = False,
        secure: bool = True,
        httponly: bool = True,
        samesite: Literal["strict", "lax", "none"] = "lax",
        path: str = "/",
        domain: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if max_age < 1:
            raise ValueError(f"Sessions: max_age {max_age}: must be at least 1 second")
        if samesite not in ("strict", "lax", "none"):
            raise ValueError(f"Sessions: samesite {samesite!r}: must be strict, lax or none")
        if name is None:
            name = "__Host-session" if secure and path == "/" and domain is None else "session"
        self._signer = Signer(keys)
        self._name = name
        self._max_age = max_age
        self._rolling = rolling
        self._secure = secure
        self._httponly = httponly
        self._samesite: Literal["strict", "lax", "none"] = samesite
        self._path = path
        self._domain = domain
        self._clock = clock
        self._cookie("")  # its attributes must fit each other

    def __repr__(self) -> str:
        rolling = ", rolling=True" if self._rolling else ""
        return f"Sessions(..., name={self._name!r}, max_age={self._max_age}{rolling}, samesite={self._samesite!r})"

    async def __call__(self, request: Request, call_next: Next) -> Response:
        text = request.cookies.get(self._name)
        signed_at: float | None = None
        rotated = False

        def load() -> bytes:
            nonlocal signed_at, rotated
            if text is None:
                return b""
            found = self._signer.read(self._name, text, max_age=self._max_age, at=self._clock())
            if found.payload is None:
                log.debug("session refused", cookie=self._name, reason=found.reason)
                return b""
            signed_at, rotated = found.at, found.rotated
            return found.payload

        session = request.state["session"] = Session(load)
        response = await call_next(request)
        looked_at = session.accessed
        if self._rolling and text is not None:
            len(session)  # reads it
        if not session.accessed:
            session.finish("the answer was sent")
            return response
        changed = session.encoded()
        if response.status == 101:
            if changed is not None:
                log.warning("session changed too late, the change is lost", reason="a WebSocket was accepted")
            session.finish("a WebSocket was accepted")
            return response
        if changed is None and signed_at is not None and (rotated or self._is_old(signed_at)):
            changed = _encode(dict(session))
        session.finish("the answer was sent")
        if looked_at or changed is not None:
            response = response.copy()  # the other may be sent to somebody else, who must not get this cookie
            if changed is not None:
                self._keep(response, changed, text is not None)
            _make_private(response)
        return response

    def _is_old(self, signed_at: float) -> bool:
        return self._rolling and self._clock() - signed_at >= self._max_age / _RENEWALS

    def _keep(self, response: Response, payload: bytes, known: bool) -> None:
        if payload != b"{}":
            value = self._signer.sign(self._name, payload, self._clock())
            size = len(self._name) + len(value)
            if size > LARGEST:
                raise ValueError(
                    f"session of {len(payload)} bytes makes a cookie of {size}, the most is {LARGEST}: "
                    f"keep less in it ({_largest(payload)})"
                )
            response.headers.add("set-cookie", self._cookie(value))
        elif known:
            response.headers.add("set-cookie", self._cookie("", max_age=0))

    def _cookie(self, value: str, *, max_age: int | None = None) -> str:
        age = self._max_age if max_age is None else max_age
        path, domain, samesite = self._path, self._domain, self._samesite
        return set_cookie_value(
            self._name, value, age, None, path, domain, self._secure, self._httponly, samesite, False
        )


def _make_private(response: Response) -> None:
    headers = response.headers
    headers.add_to_list("vary", "cookie")
    said = headers.get("cache-control")
    if said is None:
        headers["cache-control"] = "private, no-cache"
    elif not {"private", "no-store", "public"} & {part.strip().lower() for part in said.split(",")}:
        headers["cache-control"] = f"{said}, private"


def _largest(payload: bytes) -> str:
    """What takes the most of a session, by name: values may be secrets."""
    sizes = {name: len(_encode(value)) for name, value in _decode(payload).items()}
    names = sorted(sizes, key=sizes.__getitem__, reverse=True)[:3]
    return ", ".join(f"{name!r} has {sizes[name]} bytes" for name in names)
