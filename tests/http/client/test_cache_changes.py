"""Which answers are from before a change."""

from __future__ import annotations

from forebay.http.client.cache_changes import Changes


def test_what_began_before_a_change_is_from_before() -> None:
    """And what began after it is not; other things are others."""
    changes = Changes()
    before = changes.next()
    changes.note("a", changes.next())
    after = changes.next()
    assert (changes.since("a", before), changes.since("a", after), changes.since("b", before)) == (True, False, False)
    changes.note("a", before)
    assert changes.since("a", before), "an older note changes nothing"


def test_what_is_forgotten_may_be_anything() -> None:
    """So few are remembered, but nothing that began before a forgotten change passes."""
    changes = Changes(remembered=2)
    before = changes.next()
    for name in "abc":
        changes.note(name, changes.next())
    after = changes.next()
    assert [changes.since(name, before) for name in "abcd"] == [True] * 4
    assert [changes.since(name, after) for name in "abcd"] == [False] * 4
