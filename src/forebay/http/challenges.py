"""Authentication as HTTP has it (RFC 9110 section 11): credentials as they were sent, and challenges to send some.

What the authentication middleware has in common: refusals are answers, not exceptions, so that middleware around it,
such as ``CORS``, gets to see them; they are counted by reason, and logged without what was sent.
"""

from __future__ import annotations

import re

import structlog

from forebay.engine.loop import now
from forebay.errors import HTTPError
from forebay.http.messages import Request, Response
from forebay.http.problems import problem
from forebay.observe.sparing import Sparing

__all__ = ["Refusals", "challenge", "check_realm", "credentials"]

log = structlog.get_logger("forebay.http")

_REALM = re.compile(r"[\t !#-\[\]-~]*")  # what needs no escape in a quoted-string


def check_realm(owner: str, realm: str) -> None:
    """:raises ValueError: ``realm`` cannot stand between quotes as it is."""
    if not _REALM.fullmatch(realm):
        raise ValueError(f"{owner}: realm {realm!r}: must be ASCII without quotes, backslashes and control characters")


def challenge(scheme: str, **parameters: str) -> str:
    """The value of ``www-authenticate`` (RFC 9110 section 11.6.1); parameters without a value are left out."""
    listed = ", ".join(f'{name}="{value}"' for name, value in parameters.items() if value)
    return f"{scheme} {listed}" if listed else scheme


def credentials(request: Request, scheme: str) -> str | None:
    """What ``authorization`` says after ``scheme``, which is given in lower case; None: nothing, or another scheme.

    :raises HTTPError: 400, the header is there more than once: which of them counts is not ours to guess.
    """
    found = request.headers.get_all("authorization")
    if not found:
        return None
    if len(found) > 1:
        raise HTTPError(400, "authorization must be there once")
    name, _, rest = found[0].partition(" ")
    return rest.strip(" ") if name.lower() == scheme else None


class Refusals:
    """Counts those who are not let in, by reason, and logs each reason once a second at most."""

    __slots__ = ("_owner", "_sparing", "accepted", "counts")

    def __init__(self, owner: str, reasons: tuple[str, ...]) -> None:
        self._owner = owner
        self._sparing = Sparing()
        self.accepted = 0
        self.counts = dict.fromkeys(reasons, 0)

    def refuse(self, request: Request, reason: str, status: int, detail: str, *headers: tuple[str, str]) -> Response:
        """The answer: a problem document (RFC 9457)."""
        self.count(request, reason)
        return Response.encoded(*problem(status, detail, headers=headers))

    def count(self, request: Request, reason: str) -> None:
        """Count ``reason``, and log it, unless nothing was sent, as most clients begin."""
        self.counts[reason] += 1
        if reason == "missing":
            return
        if (left_out := self._sparing.due(reason, now())) is not None:
            log.warning(
                "authentication refused",
                middleware=self._owner,
                reason=reason,
                client=request.client,
                route=request.route,
                left_out=left_out,
            )

    def statistics(self) -> dict[str, int]:
        """Requests ``accepted``, and refused by reason, since the start."""
        return {"accepted": self.accepted, **self.counts}
