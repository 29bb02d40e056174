"""CookieJar: RFC 6265 section 5 as tables, what 6265bis adds, the bounds, and keeping it in a file."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.http.client.cookie_date import parse_cookie_date
from forebay.http.client.cookie_jar import CookieJar, default_path, domain_matches, path_matches
from forebay.http.client.url import parse_url

X = "http://x.example/"
XS = "https://x.example/"
CASES = [
    # Set-Cookie, of the answer to, asked for: what is sent
    # Domains (5.1.3, 5.2.3, 5.3)
    ("a=1", X, X, "a=1"),
    ("a=1", X, "http://y.x.example/", ""),
    ("a=1", X, "http://x.example:8080/", "a=1"),
    ("a=1", X, "http://X.EXAMPLE/", "a=1"),
    ("a=1", X, XS, "a=1"),
    ("a=1; Domain=example.com", "http://x.example.com/", "http://y.example.com/", "a=1"),
    ("a=1; Domain=example.com", "http://x.example.com/", "http://example.com/", "a=1"),
    ("a=1; domain=.EXAMPLE.com", "http://x.example.com/", "http://example.com/", "a=1"),
    ("a=1; Domain=..example.com", "http://x.example.com/", "http://x.example.com/", ""),
    ("a=1; Domain=example.com", "http://x.example.com/", "http://badexample.com/", ""),
    ("a=1; Domain=other.com", "http://x.example.com/", "http://other.com/", ""),
    ("a=1; Domain=other.com", "http://x.example.com/", "http://x.example.com/", ""),
    ("a=1; Domain=y.example.com", "http://example.com/", "http://y.example.com/", ""),
    ("a=1; Domain=ple.com", "http://example.com/", "http://example.com/", ""),
    ("a=1; Domain=com", "http://example.com/", "http://other.com/", ""),
    ("a=1; Domain=com", "http://example.com/", "http://example.com/", ""),
    ("a=1; Domain=com.", "http://example.com./", "http://other.com./", ""),
    ("a=1; Domain=testserver", "http://testserver/", "http://testserver/", "a=1"),
    ("a=1; Domain=testserver", "http://testserver/", "http://x.testserver/", ""),
    ("a=1; Domain=0.0.1", "http://127.0.0.1/", "http://127.0.0.1/", ""),
    ("a=1; Domain=127.0.0.1", "http://127.0.0.1/", "http://127.0.0.1/", "a=1"),
    ("a=1; Domain=::1", "http://[::1]/", "http://[::1]/", "a=1"),
    ("a=1", "http://[::1]/", "http://[0:0::1]/", "a=1"),
    ("a=1; Domain=", X, X, "a=1"),
    ("a=1; Domain=", X, "http://y.x.example/", ""),
    ("a=1; Domain=.", X, X, "a=1"),
    ("a=1; Domain=example.com; Domain=x.example.com", "http://x.example.com/", "http://y.example.com/", ""),
    ("a=1; Domain=xn--bcher-kva.example", "http://bücher.example/", "http://y.bücher.example/", "a=1"),
    # Paths (5.1.4, 5.2.4)
    ("a=1", "http://x.example/dir/page", "http://x.example/dir/other", "a=1"),
    ("a=1", "http://x.example/dir/page", "http://x.example/dir", "a=1"),
    ("a=1", "http://x.example/dir/page", "http://x.example/directory", ""),
    ("a=1", "http://x.example/dir/page", "http://x.example/", ""),
    ("a=1", "http://x.example/dir/", "http://x.example/dir/x", "a=1"),
    ("a=1", "http://x.example/dir/page?/q/r", "http://x.example/dir/x", "a=1"),
    ("a=1", "http://x.example/page", X, "a=1"),
    ("a=1; Path=/a", X, "http://x.example/a", "a=1"),
    ("a=1; Path=/a", X, "http://x.example/a/b", "a=1"),
    ("a=1; Path=/a", X, "http://x.example/a?b", "a=1"),
    ("a=1; Path=/a", X, "http://x.example/ab", ""),
    ("a=1; Path=/a", X, "http://x.example/A", ""),
    ("a=1; Path=/a/", X, "http://x.example/a/b", "a=1"),
    ("a=1; Path=/a/", X, "http://x.example/a", ""),
    ("a=1; Path=nonsense", "http://x.example/d/e", "http://x.example/d", "a=1"),
    ("a=1; Path=", "http://x.example/d/e", "http://x.example/", ""),
    ("a=1; Path=/a; Path=/b", X, "http://x.example/b", "a=1"),
    ("a=1; Path=/a; Path", X, X, "a=1"),
    # Expiry (5.2.1, 5.2.2); it is 00:16:40 on the first of January 1970
    ("a=1; Max-Age=60", X, X, "a=1"),
    ("a=1; Max-Age=0", X, X, ""),
    ("a=1; Max-Age=-1", X, X, ""),
    ("a=1; Max-Age=-", X, X, "a=1"),
    ("a=1; Max-Age=+0", X, X, "a=1"),
    ("a=1; Max-Age=x", X, X, "a=1"),
    ("a=1; Max-Age=0x", X, X, "a=1"),
    ("a=1; Max-Age=", X, X, "a=1"),
    ("a=1; Max-Age=99999999999999999999999999", X, X, "a=1"),
    ("a=1; Max-Age=0; Max-Age=5", X, X, "a=1"),
    ("a=1; Expires=Thu, 01 Jan 1970 00:00:10 GMT", X, X, ""),
    ("a=1; Expires=Thu, 01 Jan 1970 01:00:10 GMT", X, X, "a=1"),
    ("a=1; Expires=Thu, 01 Jan 1970 00:00:10 GMT; Max-Age=60", X, X, "a=1"),
    ("a=1; Max-Age=0; Expires=Thu, 01 Jan 2970 00:00:10 GMT", X, X, ""),
    ("a=1; Expires=never", X, X, "a=1"),
    ("a=1; Expires=Thu, 01 Jan 1970 00:00:10 GMT; Expires=never", X, X, ""),
    # What is before the attributes (5.2)
    (' a = "1" ;x', X, X, 'a="1"'),
    ("a=b=c", X, X, "a=b=c"),
    ("a=", X, X, "a="),
    ("a= 1 2 ", X, X, "a=1 2"),
    ("nonsense", X, X, ""),
    ("=1", X, X, ""),
    (" =1", X, X, ""),
    ("", X, X, ""),
    (";a=1", X, X, ""),
    ("a=1;;; ;Path=/;", X, X, "a=1"),
    ("a=1; HttpOnly; SameSite=Strict; Partitioned; Priority=High", X, X, "a=1"),
    ("a=\xc3\xbc", X, X, "a=\xc3\xbc"),
    # Controls, sizes (6265bis 5.6)
    ("a=1\x00", X, X, ""),
    ("a=1\r\nset-cookie: b=2", X, X, ""),
    ("a=1\x7f", X, X, ""),
    ("a=1; Path=/\x01", X, X, ""),
    ("a=1\t; Path=\t/", X, X, "a=1"),
    ("a=" + "x" * 4095, X, X, "a=" + "x" * 4095),
    ("a=" + "x" * 4096, X, X, ""),
    ("a=1; Path=/" + "x" * 1024, X, X, "a=1"),
    ("a=1; Domain=" + "x" * 1025, X, X, "a=1"),
    # Secure (5.2.5, 6265bis 5.7)
    ("a=1; Secure", XS, XS, "a=1"),
    ("a=1; SECURE=no", XS, X, ""),
    ("a=1; Secure", XS, X, ""),
    ("a=1; Secure", X, XS, ""),
    ("a=1; Secure", X, X, ""),
    # Prefixes (6265bis 4.1.3)
    ("__Secure-a=1; Secure", XS, XS, "__Secure-a=1"),
    ("__Secure-a=1", XS, XS, ""),
    ("__Secure-a=1; Secure", X, XS, ""),
    ("__secure-a=1", XS, XS, ""),
    ("__Secure-a=1; Secure; Domain=x.example", XS, "https://y.x.example/", "__Secure-a=1"),
    ("__Host-a=1; Secure; Path=/", XS, XS, "__Host-a=1"),
    ("__Host-a=1; Secure", XS, XS, ""),
    ("__Host-a=1; Path=/", XS, XS, ""),
    ("__Host-a=1; Secure; Path=/b", XS, "https://x.example/b", ""),
    ("__Host-a=1; Secure; Path=/; Domain=x.example", XS, XS, ""),
    ("__HOST-a=1; Secure; Path=/; Domain=x.example", XS, XS, ""),
    ("__Hosta=1", X, X, "__Hosta=1"),
]


@pytest.mark.parametrize(("line", "of", "to", "sent"), CASES)
def test_where_a_cookie_goes(line: str, of: str, to: str, sent: str) -> None:
    """RFC 6265 section 5: domains, paths, expiry, and what is no cookie at all."""
    jar = CookieJar(clock=lambda: 1000.0)
    jar.receive(line, parse_url(of))
    assert jar.header(parse_url(to)) == sent


def test_there_are_enough_cases() -> None:
    """The table is that of the whole section."""
    assert len(CASES) >= 100


DATES = [
    # RFC 6265 section 5.1.1
    ("Sun, 06 Nov 1994 08:49:37 GMT", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
    ("Sunday, 06-Nov-94 08:49:37 GMT", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
    ("Sun Nov  6 08:49:37 1994", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
    ("06 nov 1994 08:49:37", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
    ("08:49:37 1994 November 6th", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
    ("6 Nov 94 8:49:37", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
    ("6-NOV-1994-8:9:7", datetime(1994, 11, 6, 8, 9, 7, tzinfo=UTC)),
    ("Sun, 06 Nov 1994 08:49:37 +0500", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
    ("1 Jan 70 00:00:00", datetime(1970, 1, 1, tzinfo=UTC)),
    ("1 Jan 69 00:00:00", datetime(2069, 1, 1, tzinfo=UTC)),
    ("1 Jan 00 00:00:00", datetime(2000, 1, 1, tzinfo=UTC)),
    ("1 Jan 99 00:00:00", datetime(1999, 1, 1, tzinfo=UTC)),
    ("1 Jan 1601 00:00:00", datetime(1601, 1, 1, tzinfo=UTC)),
    ("29 Feb 2024 23:59:59", datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)),
    ("1 2 Jan 2024 00:00:00", datetime(2024, 1, 1, tzinfo=UTC)),  # the 2 is no year
    ("1 20 Jan 2024 00:00:00", datetime(2020, 1, 1, tzinfo=UTC)),
    ("1 Jan 1600 00:00:00", None),
    ("1 Jan 20240 00:00:00", None),
    ("31 Feb 2024 00:00:00", None),
    ("0 Jan 2024 00:00:00", None),
    ("32 Jan 2024 00:00:00", None),
    ("1 Jan 2024 24:00:00", None),
    ("1 Jan 2024 23:60:00", None),
    ("1 Jan 2024 23:59:60", None),
    ("1 Jan 2024 23:59", None),
    ("1 Jan 2024", None),
    ("1 Jan 00:00:00", None),
    ("Jan 2024 00:00:00", None),
    ("1 2024 00:00:00", None),
    ("1 Jam 2024 00:00:00", None),
    ("١ Jan 2024 00:00:00", None),
    ("", None),
    ("0", None),
]


@pytest.mark.parametrize(("text", "expected"), DATES)
def test_dates(text: str, expected: datetime | None) -> None:
    """In the formats of all times, in any order, and none that does not exist."""
    assert parse_cookie_date(text) == (None if expected is None else expected.timestamp())


@given(st.integers(-11644473600, 253402300799), st.sampled_from(["%a, %d %b %Y %T GMT", "%T %d-%b-%Y"]))
def test_any_date_is_read(seconds: int, form: str) -> None:
    """From 1601 to 9999, as it was written."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    assert parse_cookie_date(moment.strftime(form)) == seconds


@given(st.text(), st.text(max_size=5))
def test_nothing_crashes_the_jar(line: str, more: str) -> None:
    """Whatever a server sends is a cookie or none, and what is sent on is one line."""
    jar = CookieJar(clock=lambda: 1000.0)
    url = parse_url("https://a.example/b/c")
    jar.receive(line, url)
    jar.receive(f"a=1; Expires={line}; Domain={more}; Path={more}; Max-Age={more}", url)
    assert not {"\r", "\n", "\0"} & set(jar.header(url))
    assert len(CookieJar.from_json(jar.to_json(), clock=lambda: 1000.0)) == len(jar)


@pytest.mark.parametrize(
    ("host", "domain", "does"),
    [
        ("a.b", "a.b", True),
        ("x.a.b", "a.b", True),
        ("xa.b", "a.b", False),
        ("a.b", "x.a.b", False),
        ("1.2.3.4", "3.4", False),
        ("1.2.3.4", "1.2.3.4", True),
        ("::1", ":1", False),
        ("::ffff:1.2.3.4", "4", False),
    ],
)
def test_domain_matching(host: str, domain: str, does: bool) -> None:
    """RFC 6265 section 5.1.3."""
    assert domain_matches(host, domain) is does


@pytest.mark.parametrize(
    ("path", "default"), [("", "/"), ("*", "/"), ("/", "/"), ("/a", "/"), ("/a/", "/a"), ("/a/b", "/a"), ("a/b", "/")]
)
def test_the_default_path(path: str, default: str) -> None:
    """RFC 6265 section 5.1.4."""
    assert default_path(path) == default
    assert path_matches(path, default) or not path.startswith("/")


def test_their_order() -> None:
    """Longer paths first, then the one that was made first; a new value keeps the place of the old one."""
    jar = CookieJar(clock=lambda: 1000.0)
    url = parse_url("http://a.example/d/e")
    for line in (
        "a=1; Path=/",
        "b=2; Path=/",
        "c=3; Path=/d",
        "a=4; Path=/",
        "e=5; Path=/d/e",
        "f=6; Domain=a.example",
    ):
        jar.receive(line, url)
    assert jar.header(url) == "e=5; c=3; f=6; a=4; b=2"
    jar.receive("a=; Max-Age=0; Path=/", url)
    jar.receive("a=7; Path=/", url)
    assert jar.header(url) == "e=5; c=3; f=6; b=2; a=7"


def test_one_of_a_name_domain_and_path() -> None:
    """Those that differ in any of the three are others. So is one that is not for one host alone: a subdomain cannot
    replace, or remove, what its parent keeps to itself."""
    jar = CookieJar(clock=lambda: 1000.0)
    url = parse_url("http://a.example/")
    jar.receive("a=1", url)
    jar.receive("a=2", url)
    assert jar.pairs(url) == [("a", "2")]
    jar.receive("a=3; Path=/b", url)
    jar.receive("A=4", url)
    assert jar.pairs(parse_url("http://a.example/b")) == [("a", "3"), ("a", "2"), ("A", "4")]
    assert jar["a"] == "3"
    assert len(jar) == 3
    jar.receive("a=5; Domain=a.example; Path=/", parse_url("http://evil.a.example/"))
    assert jar.pairs(url) == [("a", "2"), ("A", "4"), ("a", "5")]
    jar.receive("a=; Domain=a.example; Path=/; Max-Age=0", parse_url("http://evil.a.example/"))
    assert jar.pairs(url) == [("a", "2"), ("A", "4")]


def test_they_expire() -> None:
    """By the clock, and are not there any more in any way."""
    at = 1000.0
    jar = CookieJar(clock=lambda: at)
    url = parse_url("http://x/")
    jar.receive("a=1; Max-Age=10", url)
    jar.receive("b=1", url)
    assert list(jar) == ["a", "b"]
    at = 1009.9
    assert jar.header(url) == "a=1; b=1"
    at = 1010.0
    assert jar.header(url) == "b=1"
    assert (len(jar), "a" in jar, jar.get("a"), repr(jar)) == (1, False, None, "<CookieJar b>")
    with pytest.raises(KeyError):
        _ = jar["a"]
    jar.receive("b=; Expires=Thu, 01 Jan 1970 00:00:00 GMT", url)
    assert len(jar) == 0


def test_secure_cookies_are_left_alone() -> None:
    """Whoever is between a client and a server without TLS cannot replace, hide or remove those of the one with it."""
    jar = CookieJar(clock=lambda: 1000.0)
    open_, secure = parse_url("http://x.example/a/b"), parse_url("https://x.example/a/b")
    jar.receive("a=1; Secure; Path=/a", secure)
    for line in ("a=2; Path=/a", "a=2; Path=/a/b", "a=; Max-Age=0; Path=/a", "a=2; Domain=x.example; Path=/a"):
        jar.receive(line, open_)
    jar.receive("a=2; Path=/a; Domain=x.example", parse_url("http://y.x.example/"))
    assert jar.header(secure) == "a=1"
    jar.receive("a=3; Path=/", open_)  # which hides nothing: it comes behind
    jar.receive("b=4; Path=/a", open_)
    assert jar.header(secure) == "a=1; b=4; a=3"
    jar.receive("a=5; Path=/a", secure)
    assert jar.header(open_) == "a=5; b=4; a=3"


def test_bounds() -> None:
    """50 of a domain and 3,000 in all: what expired goes first, then what was not sent for the longest."""
    at = 1000.0
    jar = CookieJar(clock=lambda: at)
    url = parse_url("http://a.example/")
    for number in range(50):
        jar.receive(f"n{number}=1; Path=/{number}" + ("; Max-Age=5" if number == 30 else ""), url)
    assert jar.header(parse_url("http://a.example/0")) == "n0=1"
    jar.receive("m=1", url)
    assert ("n0" in jar, "n1" in jar, len(jar)) == (True, False, 50)
    at = 1005.0
    jar.receive("o=1", url)
    assert ("n2" in jar, "n30" in jar, len(jar)) == (True, False, 50)
    for number in range(3100):
        jar.receive("a=1", parse_url(f"http://h{number}.example/"))
    assert len(jar) == 3000
    assert jar.header(parse_url("http://h3099.example/")) == "a=1"
    assert [jar.header(parse_url(f"http://h{number}.example/")) for number in (99, 100)] == ["", "a=1"]
    assert "n0" not in jar
    for number in range(3001):
        jar.set(f"n{number}", "")
    assert len(jar) == 3000
    jar.clear()
    assert len(jar) == 0


def test_secure_cookies_stay_longest() -> None:
    """Whoever is between a client and a server without TLS cannot push out those of the one with it."""
    jar = CookieJar()
    secure, open_ = parse_url("https://x.example/"), parse_url("http://x.example/")
    jar.receive("session=1; Secure; Path=/", secure)
    for number in range(200):
        jar.receive(f"n{number}=1", open_)
    assert (jar.get("session"), len(jar)) == ("1", 50)
    for number in range(5000):
        jar.receive(f"n{number}=1", parse_url(f"http://h{number % 100}.example/"))
    assert (jar.get("session"), len(jar)) == ("1", 3000)


def test_a_flood_is_read_quickly() -> None:
    """One line of a mebibyte, and many lines when the jar is full."""
    jar = CookieJar()
    for number in range(3000):
        jar.receive(f"n{number}=v; Max-Age=100", parse_url(f"http://h{number % 60}.example/"))
    url = parse_url("http://evil.example/")
    before = time.process_time()
    for line in ("a=" + "x" * 2**20, "a=b" + ";" * 2**20, "a=b; Expires=" + "9" * 2**20, "=" * 2**20):
        jar.receive(line, url)
    for number in range(200):
        jar.receive(f"e{number}=v", url)
    assert time.process_time() - before < 2.0
    assert len(jar) == 3000


def test_leading_zeros_of_an_age() -> None:
    """Are digits like others."""
    jar = CookieJar(clock=lambda: 1000.0)
    jar.receive(f"a=1; Max-Age={'0' * 20}5", parse_url("http://x/"))
    assert "a" in jar


def test_by_hand() -> None:
    """For every host, or one; deleted by name; without what would become another cookie."""
    jar = CookieJar()
    jar.set("a", "1")
    jar.set("b", "2", domain="A.example", path="/p", secure=True)
    assert jar.header(parse_url("http://anything/")) == "a=1"
    assert jar.header(parse_url("https://a.example/p/q")) == "b=2; a=1"
    assert jar.header(parse_url("https://x.a.example/p/q")) == "a=1"
    jar.delete("a")
    assert list(jar) == ["b"]
    for name in ("", "a=b", "a;b", "a\r\n", " a", "a ", "€"):
        with pytest.raises(ValueError, match="cookie name"):
            jar.set(name, "1")
    for value in ("a;b", "a\r\nb", "\0", "€"):
        with pytest.raises(ValueError, match="value of cookie 'a'"):
            jar.set("a", value)
    with pytest.raises(ValueError, match="path 'p' of cookie 'a': must begin with /"):
        jar.set("a", "1", path="p")


def test_kept_in_a_file() -> None:
    """All of it comes back, in its order; what has expired does not, nor what is none."""
    at = 1000.0
    jar = CookieJar(clock=lambda: at)
    url, secure = parse_url("http://x.example/"), parse_url("https://y.x.example/p/q")
    jar.set("by-hand", "\xfc")
    jar.receive("a=1; Max-Age=10", url)
    jar.receive("b=2; Max-Age=100; Domain=x.example", url)
    jar.receive("c=3; Secure; Path=/p", secure)
    at = 1010.0
    again = CookieJar.from_json(jar.to_json(), clock=lambda: at)
    assert again.header(url) == jar.header(url) == "by-hand=\xfc; b=2"
    assert again.header(secure) == "c=3; by-hand=\xfc; b=2"
    assert again.to_json() == jar.to_json()
    for data in (b"", b"{}", b"[1]", b'[{"name": "a"}]', b"\xff"):
        with pytest.raises(ValueError, match="must be JSON of CookieJar"):
            CookieJar.from_json(data)
    with pytest.raises(ValueError, match="value of cookie"):
        CookieJar.from_json(jar.to_json().replace(b'"2"', b'"2\\r\\n"'))
