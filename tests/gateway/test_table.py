"""Which route a request takes."""

from __future__ import annotations

import time

import pytest

from forebay.gateway.table import Pattern, Table, host_name


def table(*entries: tuple[str, Pattern]) -> Table[str]:
    return Table([(pattern, name) for name, pattern in entries])


def test_exact_before_the_longest_prefix() -> None:
    """The most specific path wins, whatever the order in the file."""
    routes = table(
        ("all", Pattern("/*")),
        ("api", Pattern("/api/*")),
        ("users", Pattern("/api/users/*")),
        ("me", Pattern("/api/users/me")),
    )
    for path, name in {
        "/": "all",
        "/index.html": "all",
        "/api": "api",
        "/api/": "api",
        "/api/orders/7": "api",
        "/apix": "all",
        "/api/users": "users",
        "/api/users/1/posts/2": "users",
        "/api/usersx": "api",
        "/api/users/me": "me",
        "/api/users/me/": "users",
        "/api//users": "api",
    }.items():
        assert routes.find(b"any", path, "GET") == name, path


def test_a_path_no_route_has_is_not_found() -> None:
    """Neither exact nor below a prefix."""
    routes = table(("a", Pattern("/a")), ("b", Pattern("/b/c/*")))
    for path in ("/", "/a/", "/a/b", "/b", "/b/", "/b/cc", "/c"):
        assert routes.find(b"any", path, "GET") is None, path
    assert routes.find(b"any", "/b/c", "GET") == "b"


def test_hosts_from_exact_to_any() -> None:
    """The exact host, the longest wildcard, then routes for any host; paths fall through from one to the next."""
    routes = table(
        ("any", Pattern("/*")),
        ("wild", Pattern("/*", "*.example.com")),
        ("deeper", Pattern("/*", "*.eu.example.com")),
        ("exact", Pattern("/shop/*", "www.example.com")),
    )
    for host, path, name in [
        (b"www.example.com", "/shop/1", "exact"),
        (b"WWW.Example.COM.:8080", "/shop", "exact"),
        (b"www.example.com", "/other", "wild"),
        (b"a.b.example.com", "/", "wild"),
        (b"a.eu.example.com", "/", "deeper"),
        (b"example.com", "/", "any"),
        (b"badexample.com", "/", "any"),
        (b"", "/shop", "any"),
    ]:
        assert routes.find(host, path, "GET") == name, (host, path)


def test_methods_fall_through_to_a_less_specific_route() -> None:
    """A route that does not take the method leaves the request to the next one that does."""
    routes = table(
        ("read", Pattern("/api/users/*", methods=("GET", "HEAD"))),
        ("write", Pattern("/api/users/*", methods=("POST",))),
        ("rest", Pattern("/api/*")),
    )
    assert routes.find(b"", "/api/users/1", "GET") == "read"
    assert routes.find(b"", "/api/users/1", "POST") == "write"
    assert routes.find(b"", "/api/users/1", "DELETE") == "rest"


def test_get_brings_head_with_it() -> None:
    """A route that lists GET answers HEAD, unless another one lists HEAD."""
    routes = table(("a", Pattern("/a", methods=("GET",))), ("b", Pattern("/*")))
    assert routes.find(b"", "/a", "HEAD") == "a"
    routes = table(("a", Pattern("/a", methods=("GET",))), ("b", Pattern("/a", methods=("HEAD",))))
    assert routes.find(b"", "/a", "HEAD") == "b"


def test_allowed_lists_what_a_path_takes() -> None:
    """For 405: all methods at the path and above; nothing for a path that is not there."""
    routes = table(
        ("a", Pattern("/a/*", methods=("POST", "GET"))),
        ("b", Pattern("/a/b", methods=("DELETE",))),
        ("c", Pattern("/a/b", "x.org", methods=("PUT",))),
    )
    assert routes.find(b"", "/a/b", "PATCH") is None
    assert routes.allowed(b"", "/a/b") == ["DELETE", "GET", "HEAD", "POST"]
    assert routes.allowed(b"x.org", "/a/b") == ["DELETE", "GET", "HEAD", "POST", "PUT"]
    assert routes.allowed(b"", "/nope") == []


def test_the_same_pattern_twice_is_refused() -> None:
    """One of them could never be found."""
    with pytest.raises(ValueError, match=r"two routes take GET /a/\*"):
        table(("one", Pattern("/a/*", methods=("GET",))), ("two", Pattern("/a/*", methods=("POST", "GET"))))
    with pytest.raises(ValueError, match=r"two routes take X.org/a"):
        table(("one", Pattern("/a", "x.org")), ("two", Pattern("/a", "X.org")))


def test_the_cost_does_not_follow_the_client() -> None:
    """A path of millions of segments is looked at no further than the longest pattern goes."""
    routes = table(("deep", Pattern("/a/b/*")))
    path = "/a/b" + "/x" * 3_000_000
    began = time.process_time()
    for _ in range(10):
        assert routes.find(b"", path, "GET") == "deep"
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"Example.com", "example.com"),
        (b"example.com:8080", "example.com"),
        (b"example.com:", "example.com"),
        (b"example.com.", "example.com"),
        (b"[::1]:80", "[::1]"),
        (b"[::1]", "[::1]"),
        (b"", ""),
    ],
)
def test_host_names(host: bytes, name: str) -> None:
    """Without port, trailing dot and case; an IPv6 address keeps its colons."""
    assert host_name(host) == name
