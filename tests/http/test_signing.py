"""Texts that clients keep and cannot change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.http.signing import Signer

OLD, NEW = "o" * 32, b"n" * 32


@given(st.binary(max_size=300), st.integers(0, 10**11))
def test_what_was_signed_is_read(payload: bytes, at: int) -> None:
    """Any payload comes back, with its time, and has no character that a cookie cannot have."""
    text = Signer(NEW).sign("s", payload, at)
    found = Signer(NEW).read("s", text, max_age=10, at=at + 10)
    assert (found.payload, found.reason, found.at, found.rotated) == (payload, "", at, False)
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


@given(st.data())
def test_no_change_of_one_character_is_accepted(data: st.DataObject) -> None:
    """Whatever is changed, left out or put in, the text is refused."""
    signer = Signer(NEW)
    text = signer.sign("s", b'{"user":1}', 1000)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("aZ09-_.= "))
    changed = data.draw(
        st.sampled_from([text[:place] + other + text[place + 1 :], text[:place] + text[place + 1 :], text + other])
    )
    if changed != text:
        assert signer.read("s", changed, max_age=None, at=1000).payload is None


def test_keys_are_rotated() -> None:
    """The first key signs, all are accepted, one that is gone is not."""
    text = Signer(OLD).sign("s", b"x", 1000)
    both = Signer([NEW, OLD])
    found = both.read("s", text, max_age=60, at=1001)
    assert (found.payload, found.rotated) == (b"x", True)
    assert Signer(NEW).read("s", both.sign("s", b"x", 1000), max_age=60, at=1001).payload == b"x"
    assert Signer(NEW).read("s", text, max_age=60, at=1001).reason == "signature"


def test_it_is_for_one_purpose_and_some_time() -> None:
    """Another purpose's text is none, and neither is one that is too old."""
    signer = Signer(NEW)
    text = signer.sign("session", b"x", 1000)
    assert signer.read("other", text, max_age=None, at=1000).reason == "signature"
    assert signer.read("session", text, max_age=60, at=1060).payload == b"x"
    assert signer.read("session", text, max_age=60, at=1061).reason == "expired"
    assert signer.read("session", text, max_age=None, at=10**9).payload == b"x"


@pytest.mark.parametrize("text", ["", "a", "a.1", "a.b.c", ".1.", "é.1." + "a" * 43, "a.1." + "a" * 42])
def test_what_is_no_signed_text(text: str) -> None:
    """Malformed, without looking at a key."""
    assert Signer(NEW).read("s", text, max_age=None, at=1).reason == "malformed"


def test_keys_that_are_none() -> None:
    """Too short, none, too many; and no key is shown."""
    with pytest.raises(ValueError, match="signing key 1 has 31 bytes: must be at least 32"):
        Signer([NEW, "x" * 31])
    with pytest.raises(ValueError, match="0 signing keys"):
        Signer([])
    with pytest.raises(ValueError, match="17 signing keys"):
        Signer([NEW] * 17)
    assert "nnn" not in repr(Signer(NEW))
