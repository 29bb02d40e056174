"""Which proxy a request goes through: all of it in tables."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.http.client.proxies import Proxies, ProxyTarget
from forebay.http.client.url import parse_url

PROXY = "http://proxy.example:3128"


def where(found: ProxyTarget | None) -> str | None:
    """The address as text."""
    return None if found is None else str(found.address)


@pytest.mark.parametrize(
    ("url", "address", "credentials"),
    [
        ("http://proxy.example:3128", "tcp://proxy.example:3128", None),
        ("http://proxy.example:3128/", "tcp://proxy.example:3128", None),
        ("http://Proxy.Example", "tcp://proxy.example:80", None),
        ("https://proxy.example", "tls://proxy.example:443", None),
        ("HTTPS://proxy.example:8443", "tls://proxy.example:8443", None),
        ("proxy.example:3128", "tcp://proxy.example:3128", None),
        ("proxy.example", "tcp://proxy.example:80", None),
        ("http://10.0.0.1:3128", "tcp://10.0.0.1:3128", None),
        ("http://[2001:db8::1]:3128", "tcp://[2001:db8::1]:3128", None),
        ("http://u:p@proxy.example:1", "tcp://proxy.example:1", b"u:p"),
        ("u:p@proxy.example:1", "tcp://proxy.example:1", b"u:p"),
        ("http://u@proxy.example:1", "tcp://proxy.example:1", b"u:"),
        ("http://:p@proxy.example:1", "tcp://proxy.example:1", b":p"),
        ("http://u:a:b@proxy.example:1", "tcp://proxy.example:1", b"u:a:b"),
        ("http://u:p%40ss%2Fw%25@proxy.example:1", "tcp://proxy.example:1", b"u:p@ss/w%"),
        ("http://u:p@ss@proxy.example:1", "tcp://proxy.example:1", b"u:p@ss"),
        ("http://J%C3%BCrgen:p@proxy.example:1", "tcp://proxy.example:1", "Jürgen:p".encode()),
    ],
)
def test_the_url_of_a_proxy(url: str, address: str, credentials: bytes | None) -> None:
    """Its scheme says how it is spoken to, its userinfo who we are (RFC 7617)."""
    found = Proxies(https=url).of(parse_url("https://example.com/"))
    assert found is not None
    assert str(found.address) == address
    assert found.authorization == ("" if credentials is None else f"Basic {b64encode(credentials).decode()}")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("socks5://proxy.example:1080", "SOCKS is not supported"),
        ("socks5h://u:secret@proxy.example:1080", "SOCKS is not supported"),
        ("socks4://proxy.example:1080", "SOCKS is not supported"),
        ("ftp://u:secret@proxy.example", "must be http or https"),
        ("http://", "has no host"),
        ("http://u:secret@", "has no host"),
        ("http://proxy.example:99999", "a port from 1 to 65535"),
        ("http://proxy.example:0", "nobody can be there"),
        ("http://*:3128", "nobody can be there"),
        ("http://proxy.example:3128/path", "host and a port only"),
        ("http://proxy.example:3128?secret", "host and a port only"),
        ("http://u:sec ret@proxy.example:3128", "host and a port only"),
        ("http://u:secret\r\nX: y@proxy.example:3128", "host and a port only"),
        ("http://u:secret%0d%0aX@proxy.example:3128", "control characters"),
        ("http://u%3A:secret@proxy.example:3128", "a colon in the user's name"),
        ("http://u:secret%@proxy.example:3128", "is written %25"),
        ("http://-", "no valid host"),
        ("http://-:1", "must have a host"),
        ("http://user:secret", "behind its credentials"),
        ("user:secret", "behind its credentials"),
        ("http://[::1]:secret", "behind its credentials"),
        ("http://[::1:3128", "must have a host"),
        ("http://[::1]3128", "IPv6"),
    ],
)
def test_what_is_no_proxy(url: str, message: str) -> None:
    """The error says what is wrong, and never what the password is."""
    with pytest.raises(ValueError, match=message) as caught:
        Proxies(http=url)
    assert "sec" not in str(caught.value)
    with pytest.raises(ValueError, match=message) as caught:
        Proxies.from_environment({"https_proxy": url})
    assert "sec" not in str(caught.value)


def test_the_password_is_in_no_repr() -> None:
    """Objects end up in logs."""
    proxies = Proxies("http://u:secret@proxy.example:3128", no_proxy=["a.example"])
    target = proxies.of(parse_url("http://b.example"))
    assert target is not None
    for text in (repr(proxies), repr(target), str(target)):
        assert "secret" not in text
        assert b64encode(b"u:secret").decode() not in text
        assert "with credentials" in text


@pytest.mark.parametrize(
    ("entry", "url", "covered"),
    [
        ("example.com", "http://example.com/", True),
        ("example.com", "http://www.example.com/", True),
        ("example.com", "http://a.b.example.com:8080/", True),
        ("example.com", "http://EXAMPLE.com./", True),
        ("EXAMPLE.COM.", "http://www.example.com/", True),
        ("example.com", "http://badexample.com/", False),
        ("example.com", "http://example.com.evil.example/", False),
        ("example.com", "http://com/", False),
        (".example.com", "http://www.example.com/", True),
        (".example.com", "http://example.com/", True),
        ("*.example.com", "http://www.example.com/", True),
        (".example.com", "http://badexample.com/", False),
        ("localhost", "http://localhost:8000/", True),
        ("localhost", "http://127.0.0.1:8000/", False),
        ("example.com:8080", "http://example.com:8080/", True),
        ("example.com:8080", "http://www.example.com:8080/", True),
        ("example.com:8080", "http://example.com/", False),
        ("example.com:80", "http://example.com/", True),
        ("example.com:443", "https://example.com/", True),
        ("example.com:443", "http://example.com/", False),
        ("10.0.0.1", "http://10.0.0.1/", True),
        ("10.0.0.1", "http://10.0.0.10/", False),
        ("10.0.0.1", "http://10.0.0.1.example/", False),
        ("10.0.0.1:8080", "http://10.0.0.1:8080/", True),
        ("10.0.0.1:8080", "http://10.0.0.1/", False),
        ("10.0.0.0/8", "https://10.255.1.2/", True),
        ("10.0.0.0/8", "https://11.0.0.1/", False),
        ("10.1.2.3/8", "https://10.0.0.1/", True),
        ("0.0.0.0/0", "http://example.com/", False),
        ("::1", "http://[::1]:8000/", True),
        ("[::1]", "http://[::1]:8000/", True),
        ("[::1]:8000", "http://[::1]:8000/", True),
        ("[::1]:8000", "http://[::1]:8001/", False),
        ("fd00::/8", "http://[fd12::1]/", True),
        ("fd00::/8", "http://[fe80::1]/", False),
        ("10.0.0.0/8", "http://[::ffff:10.1.2.3]/", True),
        ("1.1.1.1", "http://[2001:db8::1]/", False),
        ("*", "http://example.com/", True),
        ("*", "https://[::1]/", True),
    ],
)
def test_what_goes_without(entry: str, url: str, covered: bool) -> None:
    """Names with all below them, addresses, networks, ports, and everything; alone and among others."""
    for no_proxy in ([entry], ["other.example", entry, "192.0.2.0/24"]):
        found = Proxies(PROXY, PROXY, no_proxy).of(parse_url(url))
        assert (found is None) is covered
    environment = {"all_proxy": PROXY, "no_proxy": f"other.example , {entry},,192.0.2.0/24 "}
    assert (Proxies.from_environment(environment).of(parse_url(url)) is None) is covered


@pytest.mark.parametrize(
    "entry",
    ["", ".", "*.", "a*b.example", "example.com:x", "example.com:0", "example.com:99999", "[::1", "[::1]x", "a b"],
)
def test_what_is_no_exception(entry: str) -> None:
    """An entry that covers nothing is a mistake."""
    with pytest.raises(ValueError, match=r"no_proxy '.*': must be a name like"):
        Proxies(PROXY, no_proxy=[entry])


def test_no_proxy_is_a_sequence() -> None:
    """One text would be a sequence of letters."""
    with pytest.raises(ValueError, match="must be a sequence"):
        Proxies(PROXY, no_proxy="example.com")


A, B, C = "tcp://a.example:80", "tcp://b.example:80", "tcp://c.example:80"


@pytest.mark.parametrize(
    ("environment", "plain", "secure"),
    [
        ({}, None, None),
        ({"http_proxy": "a.example"}, A, None),
        ({"HTTP_PROXY": "a.example"}, A, None),
        ({"https_proxy": "a.example"}, None, A),
        ({"HTTPS_PROXY": " a.example "}, None, A),
        ({"http_proxy": "a.example", "HTTP_PROXY": "b.example"}, A, None),
        ({"https_proxy": "a.example", "HTTPS_PROXY": "b.example"}, None, A),
        ({"http_proxy": "", "HTTP_PROXY": "b.example"}, None, None),
        ({"all_proxy": "a.example"}, A, A),
        ({"ALL_PROXY": "a.example"}, A, A),
        ({"ALL_PROXY": "a.example", "http_proxy": "b.example"}, B, A),
        ({"ALL_PROXY": "a.example", "https_proxy": ""}, A, None),
        ({"ALL_PROXY": "a.example", "http_proxy": "b.example", "https_proxy": "c.example"}, B, C),
        ({"HTTP_PROXY": "a.example", "REQUEST_METHOD": "GET"}, None, None),
        ({"HTTP_PROXY": "a.example", "ALL_PROXY": "b.example", "REQUEST_METHOD": "GET"}, B, B),
        ({"http_proxy": "a.example", "REQUEST_METHOD": "GET"}, A, None),
        ({"HTTPS_PROXY": "a.example", "REQUEST_METHOD": "GET"}, None, A),
        ({"HTTP_PROXY": "a.example", "NO_PROXY": "x.example"}, None, None),
        ({"HTTP_PROXY": "a.example", "NO_PROXY": "y.example", "no_proxy": "x.example"}, None, None),
        ({"HTTP_PROXY": "a.example", "NO_PROXY": "x.example", "no_proxy": ""}, A, None),
        ({"ALL_PROXY": "a.example", "NO_PROXY": "*"}, None, None),
    ],
)
def test_the_environment(environment: dict[str, str], plain: str | None, secure: str | None) -> None:
    """Lower case counts before upper case, a variable of its own before that for all, and httpoxy is no way in."""
    proxies = Proxies.from_environment(environment)
    assert where(proxies.of(parse_url("http://x.example/"))) == plain
    assert where(proxies.of(parse_url("https://x.example/"))) == secure


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
def test_a_broken_environment(name: str) -> None:
    """The error names the variable, as it is to be looked for."""
    with pytest.raises(ValueError, match=f"^environment variable {name.lower()} proxy of scheme 'socks5'"):
        Proxies.from_environment({name: "socks5://u:secret@proxy.example"})
    with pytest.raises(ValueError, match=r"^environment variable no_proxy 'a:b:c:d'"):
        Proxies.from_environment({name: PROXY, "NO_PROXY": "a:b:c:d"})


def test_whether_there_is_any() -> None:
    """Exceptions alone are no proxies."""
    assert not Proxies(no_proxy=["*"])
    assert Proxies(PROXY)
    assert Proxies(https=PROXY)


@given(st.text(max_size=40))
def test_any_text(text: str) -> None:
    """It is a proxy with one line of credentials, or a ValueError."""
    try:
        found = Proxies(https=f"http://{text}").of(parse_url("https://example.com/"))
    except ValueError:
        return
    assert found is not None
    assert "\n" not in found.authorization
    assert "\r" not in found.authorization
    assert found.address.port > 0


@given(st.text(max_size=20))
def test_any_exception(text: str) -> None:
    """It makes sense, or is a ValueError; what it does not name goes through the proxy."""
    try:
        proxies = Proxies(PROXY, no_proxy=[text])
    except ValueError:
        return
    if text != "*":
        found = proxies.of(parse_url("http://nobody-writes-this.example/"))
        assert found is not None or "example" in text.lower()
