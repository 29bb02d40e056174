"""Addresses: what is read, and what is said about what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.engine import Address, parse_address

ALL = ("tcp", "tls", "udp", "http", "https", "unix", "fd")


@pytest.mark.parametrize(
    ("url", "expected", "text"),
    [
        ("tcp://127.0.0.1:9000", Address("tcp", "127.0.0.1", 9000), "tcp://127.0.0.1:9000"),
        ("tcp://[::1]:0", Address("tcp", "::1", 0), "tcp://[::1]:0"),
        ("TCP://LocalHost:65535/", Address("tcp", "localhost", 65535), "tcp://localhost:65535"),
        ("http://users.internal", Address("http", "users.internal", 80), "http://users.internal:80"),
        ("https://[2001:db8::1]", Address("https", "2001:db8::1", 443), "https://[2001:db8::1]:443"),
        ("tls://[fe80::1%eth0]:1", Address("tls", "fe80::1%eth0", 1), "tls://[fe80::1%eth0]:1"),
        ("udp://0.0.0.0:53", Address("udp", "0.0.0.0", 53), "udp://0.0.0.0:53"),
        ("tcp://*:9000", Address("tcp", "*", 9000), "tcp://*:9000"),
        ("unix:///run/Chat App.sock", Address("unix", "/run/Chat App.sock", 0), "unix:///run/Chat App.sock"),
        ("UNIX:///run/50%25.sock", Address("unix", "/run/50%25.sock", 0), "unix:///run/50%25.sock"),
        ("unix://@chat/one", Address("unix", "@chat/one", 0), "unix://@chat/one"),
        ("fd://3", Address("fd", "3", 0), "fd://3"),
        ("fd://007", Address("fd", "7", 0), "fd://7"),
        ("fd://Web-1.socket", Address("fd", "Web-1.socket", 0), "fd://Web-1.socket"),
    ],
)
def test_valid(url: str, expected: Address, text: str) -> None:
    """It is read, and its URL comes back."""
    address = parse_address(url, schemes=ALL)
    assert address == expected
    assert str(address) == text
    assert parse_address(text, schemes=ALL) == address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:9000", "no scheme; expected something like tcp://127.0.0.1:8000"),
        ("", "no scheme"),
        ("http://127.0.0.1:9000", "expected tcp"),
        ("tcp://127.0.0.1", "no port"),
        ("tcp://127.0.0.1:", "no port"),
        ("tcp://:9000", "no host"),
        ("tcp://*.example.com:9000", "no valid host"),
        ("unix://run/app.sock", "relative path 'run/app.sock'; expected something like unix:///run/app.sock"),
        ("unix://", "has no path"),
        ("unix://@", "names no socket"),
        ("unix:///", "names no socket"),
        ("unix:///run/", "names no socket"),
        ("unix:///run/a\0b", "characters in its path"),
        ("unix:///run/a\nb", "characters in its path"),
        ("unix:///run/a?mode=1", "characters in its path"),
        ("unix:///run/a\udc80", "not Unicode"),
        ("unix:///" + "x" * 107, "108 bytes; the system allows 107"),
        ("unix:///" + "é" * 54, "109 bytes; the system allows 107"),
        ("fd://", "names no descriptor"),
        ("fd://2", "from 3 on"),
        ("fd://99999999999", "no valid descriptor number"),
        ("fd://2147483648", "no valid descriptor number"),
        ("fd://3/", "names no descriptor"),
        ("fd://a b", "names no descriptor"),
        ("tcp://127.0.0.1:99999", "from 0 to 65535"),
        ("tcp://127.0.0.1:" + "9" * 5000, "from 0 to 65535"),
        ("tcp://127.0.0.1:-1", "from 0 to 65535"),
        ("tcp://127.0.0.1:²", "from 0 to 65535"),
        ("tcp://::1:9000", "in brackets"),
        ("tcp://[::1:9000", "unfinished IPv6"),
        ("tcp://[::1]9000", "unfinished IPv6"),
        ("tcp://[nonsense]:1", "no valid IPv6"),
        ("tcp://host name:1", "no valid host"),
        ("tcp://-host:1", "no valid host"),
        ("tcp://host:1/path", "scheme, a host and a port only"),
        ("tcp://user@host:1", "scheme, a host and a port only"),
        ("tcp://host:1?x=1", "scheme, a host and a port only"),
    ],
)
def test_invalid(url: str, message: str) -> None:
    """The error says what is wrong and what would be right, in one line."""
    schemes = ("tcp",) if url.partition("://")[0] not in ("unix", "fd") else ("unix", "fd")
    with pytest.raises(ValueError, match=message) as caught:
        parse_address(url, schemes=schemes)
    assert "\n" not in str(caught.value)


def test_the_example_is_of_a_scheme_that_is_expected() -> None:
    """What would be valid is valid there."""
    with pytest.raises(ValueError, match=r"expected something like unix:///run/app\.sock$"):
        parse_address("nonsense", schemes=("unix",))


def test_the_longest_path_is_accepted() -> None:
    """107 bytes, in the file system and beside it."""
    for path in ("/" + "x" * 106, "@" + "x" * 106):
        assert parse_address(f"unix://{path}", schemes=("unix",)).host == path


def test_kinds_and_ports() -> None:
    """What is spoken on it does not change the socket; an address without ports is given none."""
    kinds = [parse_address(f"{scheme}://a:1", schemes=ALL).kind for scheme in ("tcp", "tls", "http", "https", "udp")]
    assert kinds == ["tcp", "tcp", "tcp", "tcp", "udp"]
    for url in ("unix:///a", "fd://3"):
        address = parse_address(url, schemes=ALL)
        assert address.with_port(7) is address
        assert address.kind == address.scheme
    assert str(parse_address("udp://[::1]:0", schemes=ALL).with_port(7)) == "udp://[::1]:7"


_NAMES = st.from_regex(r"[A-Za-z0-9_]{1,20}(\.[A-Za-z0-9_]{1,20}){0,3}", fullmatch=True)
_HOSTS = st.one_of(_NAMES, st.just("*"), st.ip_addresses().map(lambda ip: f"[{ip}]" if ip.version == 6 else str(ip)))
_PATHS = st.builds("{}{}".format, st.sampled_from("/@"), st.text(min_size=1, max_size=120))
_URLS = st.one_of(
    st.builds("{}://{}:{}".format, st.sampled_from(ALL), _HOSTS, st.integers(0, 70_000)),
    st.builds("unix://{}".format, _PATHS),
    st.builds("fd://{}".format, st.one_of(st.integers(0, 2**33), _NAMES)),
    st.text(max_size=60).map(lambda rest: f"unix://{rest}"),
    st.text(max_size=60),
)


@given(_URLS)
def test_every_url_is_read_or_refused(url: str) -> None:
    """One that is read gives a URL that is read as the same address; one that is not gives a line that says why."""
    said: ValueError | None = None
    try:
        address = parse_address(url, schemes=ALL)
    except ValueError as error:
        said = error
    if said is not None:
        assert type(said) is ValueError
        assert len(str(said).splitlines()) == 1
    else:
        assert parse_address(str(address), schemes=ALL) == address
        assert str(parse_address(str(address), schemes=ALL)) == str(address)
