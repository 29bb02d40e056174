"""Addresses: what is read, and what is said about what is not."""

from __future__ import annotations

import pytest

from forebay.engine import Address, parse_address


@pytest.mark.parametrize(
    ("url", "expected", "text"),
    [
        ("tcp://127.0.0.1:9000", Address("tcp", "127.0.0.1", 9000), "tcp://127.0.0.1:9000"),
        ("tcp://[::1]:0", Address("tcp", "::1", 0), "tcp://[::1]:0"),
        ("TCP://LocalHost:65535/", Address("tcp", "localhost", 65535), "tcp://localhost:65535"),
        ("http://users.internal", Address("http", "users.internal", 80), "http://users.internal:80"),
        ("https://[2001:db8::1]", Address("https", "2001:db8::1", 443), "https://[2001:db8::1]:443"),
    ],
)
def test_valid(url: str, expected: Address, text: str) -> None:
    """It is read, and its URL comes back."""
    address = parse_address(url, schemes=("tcp", "http", "https"))
    assert address == expected
    assert str(address) == text
    assert parse_address(text, schemes=("tcp", "http", "https")) == address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:9000", "no scheme; expected something like tcp://127.0.0.1:8000"),
        ("", "no scheme"),
        ("http://127.0.0.1:9000", "expected tcp"),
        ("tcp://127.0.0.1", "no port"),
        ("tcp://127.0.0.1:", "no port"),
        ("tcp://:9000", "no host"),
        ("tcp://*:9000", r"0\.0\.0\.0"),
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
    with pytest.raises(ValueError, match=message) as caught:
        parse_address(url)
    assert "\n" not in str(caught.value)
