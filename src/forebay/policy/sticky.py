"""A client keeps its target, by a token that it brings along."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from forebay.policy.balance import Balancer, Member

__all__ = ["Sticky"]

M = TypeVar("M", bound="Member")


class Sticky:
    """Tokens that stand for targets: 16 characters that say nothing of the name they are made from.

    No table of clients is kept, only the tokens of the targets there are. A token is a keyed hash of the name (BLAKE2b,
    RFC 7693), so all processes with the same secret make and know the same ones, and nobody else can make one, to
    choose a target. Two clients of one target have the same token: it is no name of a client, nor of a session.

    :param secret: 16 to 64 random bytes, the same in all processes.
    :param previous: secrets of before, whose tokens are still known: so that a secret can be replaced.
    :param enabled: when not, no token is known and none is given.
    """

    __slots__ = (
        "_current",
        "_names",
        "_previous",
        "_secret",
        "_tokens",
        "enabled",
        "fresh",
        "kept",
        "stale",
        "unknown",
    )

    def __init__(self, secret: bytes, *, previous: Sequence[bytes] = (), enabled: bool = True) -> None:
        if any(not 16 <= len(each) <= 64 for each in (secret, *previous)):
            raise ValueError(f"secret of {len(secret)} bytes: it and those before must have 16 to 64")
        self.enabled = enabled
        self._secret = secret
        self._previous = tuple(previous)
        self._current: frozenset[str] = frozenset()
        self._names: dict[str, str] = {}  # by token
        self._tokens: dict[str, str] = {}  # by name
        self.kept = 0  # choices that followed a token
        self.fresh = 0  # choices that came without one
        self.unknown = 0  # ... with one that stands for nobody: made up, or of a target that has left
        self.stale = 0  # ... with one of a target that cannot be chosen now

    def __repr__(self) -> str:
        return f"<Sticky targets={len(self._tokens)} kept={self.kept}>"

    def update(self, names: Iterable[str]) -> None:
        """Say which targets there are. Tokens of others are unknown from now on."""
        current = frozenset(names)
        if current == self._current:
            return
        self._current = current
        self._tokens = {name: _token(self._secret, name) for name in current}
        self._names = {_token(secret, name): name for secret in self._previous for name in current}
        self._names.update((token, name) for name, token in self._tokens.items())

    def token(self, name: str) -> str:
        """What a client of this target is to bring along; empty when switched off, or there is no such target."""
        return self._tokens.get(name, "") if self.enabled else ""

    def name(self, token: str) -> str:
        """The name of the target that ``token`` stands for; empty when it stands for none."""
        return self._names.get(token, "") if self.enabled else ""

    def pick(
        self, balancer: Balancer, members: Sequence[M], now: float, key: str = "", token: str = ""
    ) -> tuple[M, str]:
        """The member that ``token`` stands for, where it is one of ``members``; else the choice of the balancer.

        :return: it, and the token to give to the client; empty when it has the right one.
        """
        if not self.enabled:
            return balancer.pick(members, now, key), ""
        name = self.name(token)
        for member in members:
            if member.name == name:
                self.kept += 1
                new = self._tokens[name]
                return member, "" if new == token else new
        self.missed(token, name)
        chosen = balancer.pick(members, now, key)
        return chosen, self.token(chosen.name)

    def missed(self, token: str, name: str) -> None:
        """Count a choice that no token decided."""
        if not token:
            self.fresh += 1
        elif name:
            self.stale += 1
        else:
            self.unknown += 1

    def statistics(self) -> dict[str, Any]:
        """How many targets have tokens, and what choices followed."""
        return {
            "enabled": self.enabled,
            "targets": len(self._tokens),
            "kept": self.kept,
            "fresh": self.fresh,
            "unknown": self.unknown,
            "stale": self.stale,
        }


def _token(secret: bytes, name: str) -> str:
    encoded = name.encode("utf-8", "surrogatepass")
    return urlsafe_b64encode(blake2b(encoded, key=secret, digest_size=12, person=b"forebay sticky").digest()).decode()
