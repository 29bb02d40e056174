"""A client keeps its target, by a token that it brings along."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from forebay.policy.balance import Member, RoundRobin
from forebay.policy.sticky import Sticky

SECRET = b"sixteen or more!"


def group_of(*names: str) -> tuple[Sticky, list[Member]]:
    sticky = Sticky(SECRET)
    sticky.update(names)
    return sticky, [Member(name) for name in names]


def test_a_client_keeps_its_target() -> None:
    """The first choice gives a token, and those after it follow it and give no other."""
    sticky, members = group_of("a", "b", "c")
    balancer = RoundRobin()
    first, token = sticky.pick(balancer, members, 0.0)
    assert token
    for _ in range(5):
        assert sticky.pick(balancer, members, 0.0, token=token) == (first, "")
    others = Counter(sticky.pick(balancer, members, 0.0)[0].name for _ in range(6))
    assert others == {"a": 2, "b": 2, "c": 2}
    assert sticky.statistics()["kept"] == 5
    assert sticky.statistics()["fresh"] == 7


@pytest.mark.parametrize("token", ["", "nonsense", "a", "\udcff", "x" * 100_000])
def test_what_is_no_token_leads_to_the_balancer(token: str) -> None:
    """And to a token; the name of a target is none."""
    sticky, members = group_of("a", "b")
    member, new = sticky.pick(RoundRobin(), members, 0.0, token=token)
    assert member is members[0]
    assert new == sticky.token("a")
    assert sticky.statistics()["unknown"] == (1 if token else 0)


def test_a_target_that_is_out_or_gone_is_replaced() -> None:
    """One that cannot be chosen now is passed by, with a new token; one that has left is forgotten."""
    sticky, members = group_of("a", "b")
    token = sticky.token("a")
    member, new = sticky.pick(RoundRobin(), members[1:], 0.0, token=token)
    assert (member.name, new) == ("b", sticky.token("b"))
    assert sticky.statistics()["stale"] == 1
    sticky.update(["b"])
    assert sticky.name(token) == ""
    assert sticky.token("a") == ""
    assert sticky.statistics()["targets"] == 1


def test_tokens_are_opaque_and_need_the_secret() -> None:
    """16 characters that fit a cookie, other ones with another secret; and the same in another process."""
    sticky, _ = group_of("http://10.0.0.1:80")
    token = sticky.token("http://10.0.0.1:80")
    assert len(token) == 16
    assert token.replace("-", "").replace("_", "").isalnum()
    other = Sticky(b"another secret, also long")
    other.update(["http://10.0.0.1:80"])
    assert other.token("http://10.0.0.1:80") != token
    assert other.name(token) == ""
    program = (
        "from forebay.policy.sticky import Sticky; sticky = Sticky(b'sixteen or more!');"
        "sticky.update(['http://10.0.0.1:80']); print(sticky.token('http://10.0.0.1:80'))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == token


def test_a_secret_can_be_replaced() -> None:
    """Tokens of the one before are followed, and replaced by new ones."""
    old, members = group_of("a", "b")
    new = Sticky(b"the secret of today", previous=[SECRET])
    new.update(["a", "b"])
    member, token = new.pick(RoundRobin(), members, 0.0, token=old.token("b"))
    assert (member.name, token) == ("b", new.token("b"))
    assert new.pick(RoundRobin(), members, 0.0, token=token) == (member, "")


def test_switched_off_it_knows_and_gives_no_tokens() -> None:
    """At run time."""
    sticky, members = group_of("a", "b")
    token = sticky.token("b")
    sticky.enabled = False
    assert sticky.pick(RoundRobin(), members, 0.0, token=token) == (members[0], "")
    assert sticky.token("a") == ""
    sticky.enabled = True
    assert sticky.pick(RoundRobin(), members, 0.0, token=token) == (members[1], "")


@pytest.mark.parametrize("secret", [b"", b"short", b"x" * 65])
def test_secrets_are_checked(secret: bytes) -> None:
    """Too short can be guessed; longer than the hash takes is refused, current or previous."""
    with pytest.raises(ValueError, match="must have 16 to 64"):
        Sticky(secret)
    with pytest.raises(ValueError, match="must have 16 to 64"):
        Sticky(SECRET, previous=[secret])
