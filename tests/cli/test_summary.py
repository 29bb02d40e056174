from __future__ import annotations

from typing import Any

import msgspec
import pytest

from forebay.cli.summary import commands_to_try
from forebay.config import SystemConfig

GATEWAY: dict[str, Any] = {
    "gateway": {"bind": ["http://0.0.0.0:8080"]},
    "upstreams": {"u": {"targets": [{"url": "http://127.0.0.1:1"}]}},
    "routes": [
        {"name": "users", "upstream": "u", "match": {"path": "/api/users/*"}},
        {"name": "rest", "upstream": "u"},
    ],
}
HTTP = {"app": "a:b", "bind": ["http://[::]:7001"]}
TCP = {"app": "a:b", "bind": ["tcp://127.0.0.1:7100"]}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            {**GATEWAY, "services": {"u": HTTP, "c": TCP}},
            ["curl -s http://127.0.0.1:8080/api/users", "nc 127.0.0.1 7100", "curl -s http://127.0.0.1:9900/readyz"],
        ),
        (
            {**GATEWAY, "system": {"admin_token": "t"}},
            [
                "curl -s http://127.0.0.1:8080/api/users",
                "curl -s http://127.0.0.1:9900/readyz",
                "curl -s http://127.0.0.1:8080/",
            ],
        ),
        (
            {"services": {"u": HTTP}},
            [
                "curl -s http://127.0.0.1:9900/readyz",
                "curl -s http://[::1]:7001/",
                "curl -s http://127.0.0.1:9900/metrics",
            ],
        ),
        ({"services": {"c": TCP}, "system": {"admin": "off"}}, ["nc 127.0.0.1 7100"]),
        *[
            ({"gateway": {"bind": [url]}, "routes": GATEWAY["routes"][:1], "system": {"admin": "off"}}, commands)
            for url, commands in (
                ("https://*:8443", ["curl -sk https://127.0.0.1:8443/api/users"]),
                ("unix:///run/my gate.sock", ["curl -s --unix-socket '/run/my gate.sock' http://localhost/api/users"]),
                ("unix://@gate", ["curl -s --abstract-unix-socket gate http://localhost/api/users"]),
                ("fd://3", []),
            )
        ],
        *[
            ({"services": {"c": {"app": "a:b", "bind": [url]}}, "system": {"admin": "off"}}, commands)
            for url, commands in (
                ("tcp://*:7100", ["nc 127.0.0.1 7100"]),
                ("udp://[::]:7100", ["nc -u ::1 7100"]),
                ("unix:///run/my chat.sock", ["nc -U '/run/my chat.sock'"]),
                ("tls://[::]:7100", ["openssl s_client -quiet -connect [::1]:7100"]),
                ("fd://3", []),
            )
        ],
    ],
)
def test_three_commands_are_offered_where_there_are_three(data: dict[str, Any], expected: list[str]) -> None:
    """The most telling first; addresses that listen everywhere become ones to connect to."""
    assert commands_to_try(msgspec.convert(data, SystemConfig)) == expected
