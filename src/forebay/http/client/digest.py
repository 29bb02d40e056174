"""User and password that are never sent, but proved to be known (RFC 7616)."""

from __future__ import annotations

from collections.abc import Collection

from forebay.errors import UpstreamProtocolError
from forebay.http.client.auth import ForOrigins, Next, check_user, with_credentials
from forebay.http.client.auth_challenges import parse_challenges, parse_parameters
from forebay.http.client.digest_rules import DigestProof, DigestSession, choose
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse

__all__ = ["Digest"]

_REMEMBERED = 64  # origins whose challenge is remembered
_AGAIN = 2  # times that a request is sent again: for a challenge, and for a nonce that has become stale meanwhile


class Digest(ForOrigins):
    """Answers the ``Digest`` challenges of servers (RFC 7616), of several that of the strongest algorithm: SHA-512-256,
    SHA-256 or MD5, each with or without ``-sess``.

    The first request to an origin goes without an answer, gets a 401 with the challenge, and is sent again; those
    behind it answer unasked, until the server has another challenge. A request whose content can be sent once only
    keeps its 401, but the challenge is known from then on. So does one whose answer was refused: the password is wrong.

    Neither password nor what would do for it is sent, but the rest of the request can be read and changed by everybody
    on the way: this is no substitute for TLS.

    :param md5: answer challenges with MD5 as well. Whoever reads an answer can guess passwords with any algorithm,
        and faster with this one.
    :param mutual: take no answer of a server which does not prove that it knows the password, too
        (``authentication-info`` with ``rspauth``, for ``qop=auth``). One that proves it wrongly is never taken.
    :param origins: whom they are for: see :class:`~forebay.http.client.auth.ForOrigins`.
    :raises ValueError: a control character is in user or password.
    :raises UpstreamProtocolError: when called: the server does not know the password.
    """

    __slots__ = ("_md5", "_mutual", "_password", "_sessions", "_user")

    def __init__(
        self, user: str, password: str, *, md5: bool = True, mutual: bool = False, origins: Collection[str] = ()
    ) -> None:
        super().__init__(origins)
        check_user("Digest", user, password)
        self._user = user
        self._password = password
        self._md5 = md5
        self._mutual = mutual
        self._sessions: dict[str, DigestSession] = {}  # by origin; the one that began last is last

    def __repr__(self) -> str:
        return f"Digest({self._user!r}, ...)"

    async def __call__(self, request: ClientRequest, call_next: Next) -> ClientResponse:
        if not self.applies(request, readable=False):
            return await call_next(request)
        origin, content = request.url.origin, request.content.data
        session = self._sessions.get(origin)
        if session is not None and not session.can_answer(content):
            session = None
        asked = False  # ``session`` is of the challenge that this request got
        for again in range(_AGAIN, -1, -1):
            sent, proof = request, None
            if session is not None:
                value, proof = session.answer(request.method, request.url.target, content)
                sent = with_credentials(request, value)
            response = await call_next(sent)
            if response.status != 401:
                break
            challenges = parse_challenges(response.headers.get_all("www-authenticate"))
            challenge = choose(challenges, md5=self._md5, content=content is not None)
            if challenge is None:
                return response
            if asked and challenge.parameters.get("stale", "").lower() != "true":
                if self._sessions.get(origin) is session:
                    del self._sessions[origin]
                return response
            session, asked = DigestSession(challenge, self._user, self._password), True
            self._remember(origin, session)
            if not again or not request.content.replayable:
                return response
            response.discard()
        self._learn(session, proof, response)
        return response

    def _remember(self, origin: str, session: DigestSession) -> None:
        self._sessions.pop(origin, None)
        self._sessions[origin] = session
        if len(self._sessions) > _REMEMBERED:
            del self._sessions[next(iter(self._sessions))]

    def _learn(self, session: DigestSession | None, proof: DigestProof | None, response: ClientResponse) -> None:
        """What ``authentication-info`` says of this request and the next (RFC 7616 section 3.5). A server that did not
        ask for the password has not proved that it knows it."""
        information = parse_parameters(", ".join(response.headers.get_all("authentication-info"))) or {}
        proved = proof.check(information) if proof is not None else None
        if proved is False or (self._mutual and not proved):
            response.discard()
            raise UpstreamProtocolError(
                f"{response.url.origin} does not know the password of Digest: its rspauth is "
                f"{'missing or cannot be checked' if proved is None else 'wrong'}"
            )
        if session is not None and information.get("nextnonce"):
            session.follow(information["nextnonce"])
