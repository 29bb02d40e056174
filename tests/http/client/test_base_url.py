"""Where requests go, from the base URL and what they are made with."""

from __future__ import annotations

from typing import Any

import pytest

from forebay.http.client.base_url import BaseURL
from forebay.http.client.url import parse_url

PLACES = [
    # base, what is asked for; where that is, and whether it is of the base's origin
    ("http://a", "/x", "http://a/x", True),
    ("http://a", "x?y=z", "http://a/x?y=z", True),
    ("http://a", "", "http://a/", True),
    ("http://a", "?q", "http://a/?q", True),
    ("http://a/v1", "/x", "http://a/v1/x", True),
    ("http://a/v1/", "x", "http://a/v1/x", True),
    ("http://a/v1", "//b/x", "http://a/v1//b/x", True),
    ("http://a", "//b/x", "http://a//b/x", True),
    ("http://a", "/p/http://b/x", "http://a/p/http://b/x", True),
    ("http://a", "x?to=http://b/x", "http://a/x?to=http://b/x", True),
    ("http://a/v1", "http://a/x", "http://a/x", True),
    ("http://a", "HTTP://A:80/x", "http://a/x", True),
    ("http://a", "https://a/x", "https://a/x", False),
    ("http://a", "http://a:81/x", "http://a:81/x", False),
    ("http://a", "http://a./x", "http://a./x", False),
    ("http://[::1]:8000", "/x", "http://[::1]:8000/x", True),
    ("http://[0::1]:8000", "http://[::1]:8000/x", "http://[::1]:8000/x", True),
    ("http://b\u00fccher.example", "/x", "http://xn--bcher-kva.example/x", True),
    ("unix:///run/a.sock", "/x", "http://localhost/x", True),
    ("unix:///run/a.sock", "http://localhost:8000/x", "http://localhost:8000/x", False),
    ("", "http://a/x", "http://a/x", True),
]


@pytest.mark.parametrize(("base", "given", "url", "home"), PLACES)
def test_places(base: str, given: str, url: str, home: bool) -> None:
    """Paths are below the base, and whole URLs are what they are; remembered or not, and as a URL."""
    found = BaseURL(base)
    for _ in range(2):
        place = found.find(given)
        assert (str(place.url), place.home, place.user) == (url, home, None)
    assert found.find(place.url)[::2] == place[::2]


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("a:1", "must be like http://"),
        ("ftp://a", "must be like http://"),
        ("http://a/?b", "without a query"),
        ("http://a/#b", "without a query and a fragment"),
        ("http://ann:secret@a/?b", "base 'http://a/"),
        ("unix://", "has no path"),
        ("unix://run/a.sock", "relative path"),
    ],
)
def test_what_is_no_base(base: str, said: str) -> None:
    """Is refused with what would be one, and without passwords."""
    with pytest.raises(ValueError, match=said) as caught:
        BaseURL(base)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("given", [b"/x", None, 5])
def test_what_is_no_url(given: Any) -> None:
    """Is refused by its type."""
    with pytest.raises(TypeError, match=f"URL of type {type(given).__name__}: must be text"):
        BaseURL("http://a").find(given)


def test_a_path_without_a_base() -> None:
    """Leads nowhere."""
    with pytest.raises(ValueError, match="must be a whole one"):
        BaseURL("").find("/x")


def test_users_in_urls() -> None:
    """Are told apart from where the URL leads, and from what is said of it."""
    base = BaseURL("https://ann:pw@a/v1")
    assert (base.user, str(base), str(base.find("x").url)) == (("ann", "pw"), "https://a/v1", "https://a/v1/x")
    place = base.find("https://bob:p%40w@b/x")
    assert (place.user, str(place.url), place.home) == (("bob", "p@w"), "https://b/x", False)
    assert str(BaseURL("unix:///run/a.sock")) == "unix:///run/a.sock"


def test_urls_that_are_many_or_long() -> None:
    """Are not kept for ever."""
    base = BaseURL("http://a")
    first = base.find("/first")
    for number in range(2000):
        base.find(f"/{number}")
    assert base.find("/first") is not first
    long = "/" + "x" * 2000
    assert base.find(long) is not base.find(long)


def test_moved_to_this_origin() -> None:
    """Path, query and fragment stay."""
    assert BaseURL("https://a/v1").moved(parse_url("http://b:81/x?y#z")) == parse_url("https://a/x?y#z")
