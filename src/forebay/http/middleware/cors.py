"""Cross-origin requests: which pages of other origins may read this one's answers (Fetch standard, section 3.2)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence

from forebay.http.messages import Request, Response
from forebay.http.problems import problem
from forebay.http.request_hook import RequestHook
from forebay.wire.http1 import encode_headers

__all__ = ["CORS", "check_origin"]

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_DEFAULT_PORTS = (("http://", ":80"), ("https://", ":443"))
_SAFELISTED = ("accept", "accept-language", "content-language", "content-type")
"""Headers any page may send; asked for only where their values are unusual."""

_ALLOW = "access-control-allow-origin"
_VARY_LINE = b"vary: Origin\r\n"


def check_origin(owner: str, origin: str) -> str:
    """``origin``, which must be written as browsers do (RFC 6454 section 6.2).

    :raises ValueError: it would never match; says how it is written, beginning with ``owner``.
    """
    if origin == "null" or (_ORIGIN.fullmatch(origin) and not any(map(_has_default_port(origin), _DEFAULT_PORTS))):
        return origin
    raise ValueError(
        f"{owner}: origin {origin!r} never matches: write scheme://host[:port] in lower case, without a path, a slash "
        f"at the end or the scheme's own port, such as https://a.example (CORS takes a compiled pattern for more)"
    )


def _has_default_port(origin: str) -> Callable[[tuple[str, str]], bool]:
    return lambda pair: origin.startswith(pair[0]) and origin.endswith(pair[1])


def _tokens(name: str, given: Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise ValueError(f"CORS: {name}={given!r} must be a list, such as [{given!r}], or '*'")
    for one in given:
        if not _TOKEN.fullmatch(one):
            raise ValueError(f"CORS: {name}: {one!r} is not a name (a token of RFC 9110 section 5.6.2)")
    return tuple(given)


class CORS(RequestHook):
    """Lets pages of other origins use this application, and answers their browsers' preflight requests.

    For the whole application or for a group. Put it outside of what refuses requests, such as authentication, since
    preflight requests carry no credentials, and of ``Recover``, so that pages can read errors too.

    A preflight request is answered here: 204, or 403 with a problem document that says what is not allowed. To others
    the headers are added, also to errors, and instead of any that a handler has set; requests of origins that are not
    allowed are handled as usual, but their pages cannot read the answer, unless the handler itself says so. It is no
    defence against forged requests: see ``CSRF``. WebSockets are not subject to CORS; which pages may open them is said
    in ``WebSocketSettings``.

    Where the answer depends on the origin, ``vary: Origin`` is on all of them, those to requests without one too, or a
    cache would give to one what was meant for another. With ``origins="*"`` all answers carry the same header instead,
    as section 3.2.5 advises.

    :param origins: a list of origins, such as ``https://a.example``; ``"*"`` for all; a compiled pattern that must
        match the whole origin; or a plain function from origin to bool. ``null`` (sandboxed frames, files) is allowed
        only by ``"*"`` and by a list that has it.
    :param methods: that other origins may use where browsers ask first; ``"*"``: any. Simple requests by GET, HEAD and
        POST are sent without asking.
    :param headers: that they may send, besides accept, accept-language, content-language and content-type; ``"*"``:
        any. ``authorization`` is one that is often needed.
    :param expose: response headers that pages may read, besides the few they always may; ``"*"``: all, but not with
        ``credentials``.
    :param credentials: browsers send cookies along, and show the answer. Not with ``origins="*"`` nor with ``null``:
        every page there is could act as the user.
    :param max_age: seconds a browser may remember the answer to a preflight; 0 to 86400, default 600. None says
        nothing: 5 seconds then.
    :param private_network: pages of public sites may reach this server in a private network (draft "Private Network
        Access"); else their preflight requests are refused.
    :raises ValueError: something could never match, or is not safe; says what is.
    """

    __slots__ = (
        "_always",
        "_blocks",
        "_credentials",
        "_exposed",
        "_for_all",
        "_given",
        "_headers",
        "_list",
        "_matches",
        "_max_age",
        "_methods",
        "_more",
        "_private",
        "_vary",
    )  # fmt: skip

    words = (b"access-control-", b"vary")

    def __init__(
        self,
        *,
        origins: Sequence[str] | str | re.Pattern[str] | Callable[[str], bool],
        methods: Sequence[str] | str = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"),
        headers: Sequence[str] | str = (),
        expose: Sequence[str] | str = (),
        credentials: bool = False,
        max_age: int | None = 600,
        private_network: bool = False,
    ) -> None:
        self._list: frozenset[str] = frozenset()
        self._matches: Callable[[str], object] | None = None
        self._always = False
        self._given = self._read_origins(origins)
        if credentials and (self._always or "null" in self._list):
            named = "'*'" if self._always else "'null'"
            raise ValueError(
                f"CORS: origins={named} with credentials=True lets any page act as the user; list the origins, or give "
                f"a pattern"
            )
        if credentials and expose == "*":
            raise ValueError("CORS: expose='*' has no effect with credentials=True; list the headers")
        if max_age is not None and not 0 <= max_age <= 86400:
            raise ValueError(f"CORS: max_age={max_age} must be 0 to 86400 seconds, or None")
        self._methods = None if methods == "*" else tuple(method.upper() for method in _tokens("methods", methods))
        self._headers = None if headers == "*" else tuple(one.lower() for one in _tokens("headers", headers))
        self._exposed = "*" if expose == "*" else ", ".join(_tokens("expose", expose))
        self._credentials = credentials
        self._max_age = max_age
        self._private = private_network
        self._more = [("access-control-allow-credentials", "true")] if credentials else []
        if self._exposed:
            self._more.append(("access-control-expose-headers", self._exposed))
        self._for_all = encode_headers([(_ALLOW, "*"), *self._more])
        self._blocks: dict[bytes | None, bytes] = {one.encode(): self._block(one) for one in self._list}
        varies = ["Access-Control-Request-Method", "Access-Control-Request-Headers"]
        varies = varies if self._always else ["Origin", *varies]
        self._vary = ", ".join([*varies, "Access-Control-Request-Private-Network"] if private_network else varies)

    def _read_origins(self, origins: Sequence[str] | str | re.Pattern[str] | Callable[[str], bool]) -> str:
        """Set what decides; return how it is shown."""
        if isinstance(origins, re.Pattern):
            self._matches = origins.fullmatch
            return f"re.compile({origins.pattern!r})"
        if origins == "*" or (not callable(origins) and list(origins) == ["*"]):
            self._always = True
            return "'*'"
        if isinstance(origins, str):
            raise ValueError(f"CORS: origins={origins!r} must be a list, such as [{origins!r}], or '*'")
        if callable(origins):
            if inspect.iscoroutinefunction(origins):
                raise ValueError("CORS: origins must be a plain function, not a coroutine function")
            self._matches = origins
            return str(getattr(origins, "__qualname__", origins))
        if not origins:
            raise ValueError("CORS: origins is empty, which allows nobody; leave CORS out, or list origins")
        self._list = frozenset(check_origin("CORS", origin) for origin in origins)
        return repr(list(origins))

    def __repr__(self) -> str:
        methods = "'*'" if self._methods is None else list(self._methods)
        headers = "'*'" if self._headers is None else list(self._headers)
        expose = "'*'" if self._exposed == "*" else self._exposed.split(", ") if self._exposed else []
        return (
            f"CORS(origins={self._given}, methods={methods}, headers={headers}, expose={expose}, "
            f"credentials={self._credentials}, max_age={self._max_age}, private_network={self._private})"
        )

    def before(self, request: Request) -> Response | bytes:
        """Answer a preflight request, or have the headers added."""
        exchange = request.exchange
        raw = exchange.header(b"origin")
        lines = self._blocks.get(raw)
        if lines is not None and exchange.method != "OPTIONS":
            return lines
        origin = None if raw is None else raw.strip(b" \t").decode("latin-1")
        if exchange.method == "OPTIONS" and origin is not None:
            method = exchange.header(b"access-control-request-method")
            if method is not None:
                return self._preflight(request, origin, method.strip(b" \t").decode("latin-1"))
        if self._always:
            return self._for_all
        return self._block(origin) if origin is not None and self._allows(origin) else _VARY_LINE

    def _block(self, origin: str) -> bytes:
        return encode_headers([("vary", "Origin"), (_ALLOW, origin), *self._more])

    def _allows(self, origin: str) -> bool:
        if self._matches is None:
            return self._always or origin in self._list
        return _ORIGIN.fullmatch(origin) is not None and bool(self._matches(origin))

    def _preflight(self, request: Request, origin: str, method: str) -> Response:
        """What the browser asks before the request itself (section 3.2.3)."""
        wanted = [
            name for value in request.headers.get_all("access-control-request-headers") for name in _listed(value)
        ]
        private = request.headers.get("access-control-request-private-network") == "true"
        reason = self._objection(origin, method, wanted, private)
        if reason:
            response = Response.encoded(*problem(403, reason))
            response.headers["vary"] = self._vary
            return response
        response = Response(status=204)
        headers = response.headers
        headers.add(_ALLOW, "*" if self._always else origin)
        headers.add("access-control-allow-methods", method if self._methods is None else ", ".join(self._methods))
        allowed = wanted if self._headers is None else self._headers + tuple(h for h in wanted if h in _SAFELISTED)
        if allowed:
            headers.add("access-control-allow-headers", ", ".join(dict.fromkeys(allowed)))
        if self._credentials:
            headers.add("access-control-allow-credentials", "true")
        if self._max_age is not None:
            headers.add("access-control-max-age", str(self._max_age))
        if private:
            headers.add("access-control-allow-private-network", "true")
        headers.add("vary", self._vary)
        return response

    def _objection(self, origin: str, method: str, wanted: list[str], private: bool) -> str:
        """Why this preflight request is refused; empty when it is not. What a client has sent is not repeated unless it
        is well-formed."""
        if not self._allows(origin):
            return "this origin may not use the server (CORS: origins)"
        if not _TOKEN.fullmatch(method):
            return "access-control-request-method is not a method"
        if self._methods is not None and method not in self._methods:
            return f"method {method} is not one of {', '.join(self._methods)} (CORS: methods)"
        for name in wanted:
            if not _TOKEN.fullmatch(name):
                return "access-control-request-headers is not a list of header names"
            if self._headers is not None and name not in self._headers and name not in _SAFELISTED:
                return f"header {name} may not be sent by other origins (CORS: headers)"
        if private and not self._private:
            return "pages of public sites may not reach this private network (CORS: private_network)"
        return ""


def _listed(value: str) -> list[str]:
    return [name for part in value.split(",") if (name := part.strip(" \t").lower())]
