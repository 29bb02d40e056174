from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.config import SystemConfig, load_settings, load_system
from forebay.errors import ConfigError, Problem

SHOP = """\
[system]
name  = "shop"
admin = "127.0.0.1:9900"

[services.users]
app      = "examples.shop.users:app"
bind     = ["http://127.0.0.1:7001", "http://127.0.0.1:7002"]
[services.chat]
app      = "examples.shop.chat:server"
bind     = ["tcp://127.0.0.1:7100"]

[gateway]
bind    = ["http://127.0.0.1:8080"]
workers = 1

[upstreams.users]
balance = "weighted-round-robin"
targets = [
  { url = "http://127.0.0.1:7001", weight = 3, max_fails = 2, fail_timeout = "30s" },
  { url = "http://127.0.0.1:7002", weight = 2 },
  { url = "http://127.0.0.1:7003", backup = true },
]
[upstreams.users.health]
path = "/livez"
interval = "2s"

[[routes]]
name     = "users"
match    = { path = "/api/users/*", methods = ["GET", "POST"] }
upstream = "users"
strip_prefix = "/api"
timeout  = "5s"
retry    = { attempts = 3 }
filters  = [ { rate_limit = { rate = "100/s", burst = 200, key = "client-ip" } } ]
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A file that is right."""
    path = tmp_path / "forebay.toml"
    path.write_text(SHOP)
    return path


def problems_of(path: Path, *changes: tuple[str, str]) -> tuple[Problem, ...]:
    """What is wrong with the shop's file after ``changes`` of its text."""
    text = SHOP
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_system(path)
    assert str(path) in str(caught.value)
    return caught.value.problems


def test_the_file_of_the_design_loads(shop: Path) -> None:
    """Units are converted, defaults are there, and it survives the way to another process."""
    config = load_system(shop)
    assert config.system.name == "shop"
    assert config.services["users"].bind == ["http://127.0.0.1:7001", "http://127.0.0.1:7002"]
    target = config.upstreams["users"].targets[0]
    assert (target.weight, target.max_fails, target.fail_timeout, target.backup) == (3, 2, 30.0, False)
    (route,) = config.routes
    assert (route.timeout, route.retry.attempts) == (5.0, 3)
    assert route.filters[0].rate_limit is not None
    assert route.filters[0].rate_limit.rate == 100.0
    assert msgspec.convert(msgspec.to_builtins(config), SystemConfig) == config


# -- ten broken configurations: each names the key, the line and the remedy


def test_broken_1_an_unknown_key(shop: Path) -> None:
    """The nearest key is offered."""
    (problem,) = problems_of(shop, ("weight = 3", "wieght = 3"))
    assert problem == Problem("unknown key", "upstreams.users.targets[0].wieght", 19, 'did you mean "weight"?')


def test_broken_2_an_unknown_section(shop: Path) -> None:
    """Where nothing is near, the keys there are are listed."""
    (problem,) = problems_of(shop, ("[system]", "[observability]\nx = 1\n[system]"))
    assert (problem.key, problem.line) == ("observability", 1)
    assert problem.remedy.startswith("there is: ")


def test_broken_3_a_duration_without_a_unit(shop: Path) -> None:
    """Seconds are not guessed."""
    (problem,) = problems_of(shop, ('timeout  = "5s"', "timeout  = 5"))
    assert (problem.key, problem.line) == ("routes[0].timeout", 32)
    assert 'as in "5s"' in problem.remedy


def test_broken_4_a_value_of_the_wrong_type(shop: Path) -> None:
    """A list is shown how to be one."""
    (problem,) = problems_of(shop, ('bind    = ["http://127.0.0.1:8080"]', 'bind    = "http://127.0.0.1:8080"'))
    assert (problem.key, problem.line) == ("gateway.bind", 13)
    assert "must be a list" in problem.message
    assert problem.remedy == 'write ["http://127.0.0.1:8080"]'


def test_broken_5_a_missing_key(shop: Path) -> None:
    """The line is that of the table it is missing from."""
    (problem,) = problems_of(shop, ('upstream = "users"\n', ""))
    assert (problem.key, problem.line, problem.message) == ("routes[0].upstream", 27, "missing")
    assert "add upstream" in problem.remedy


def test_broken_6_an_upstream_that_does_not_exist(shop: Path) -> None:
    """The nearest one that does is offered."""
    (problem,) = problems_of(shop, ('upstream = "users"', 'upstream = "user"'))
    assert (problem.key, problem.line) == ("routes[0].upstream", 30)
    assert problem.remedy == 'did you mean "users"?'


def test_broken_7_an_address_that_is_taken(shop: Path) -> None:
    """Who has it is said."""
    (problem,) = problems_of(shop, ("127.0.0.1:8080", "127.0.0.1:7100"))
    assert (problem.key, problem.line) == ("gateway.bind[0]", 13)
    assert "services.chat" in problem.message
    assert problem.remedy == "choose another port"


def test_a_key_for_a_balance_that_has_none(shop: Path) -> None:
    """Else its owner would think that clients keep their target."""
    (problem,) = problems_of(shop, ('"weighted-round-robin"', '"weighted-round-robin"\nhash_key = "path"'))
    assert (problem.key, problem.line) == ("upstreams.users.hash_key", 18)
    assert "consistent-hash" in problem.remedy


def test_broken_8_a_balance_that_does_not_exist(shop: Path) -> None:
    """The nearest one is offered."""
    (problem,) = problems_of(shop, ('"weighted-round-robin"', '"least-connection"'))
    assert (problem.key, problem.line) == ("upstreams.users.balance", 17)
    assert problem.remedy == 'did you mean "least-connections"?'


def test_broken_9_only_backups(shop: Path) -> None:
    """Somebody has to do the work while nothing is broken."""
    (problem,) = problems_of(shop, (", weight = 3, max", ", backup = true, max"), (", weight = 2", ", backup = true"))
    assert (problem.key, problem.line) == ("upstreams.users.targets", 18)
    assert "remove its backup" in problem.remedy


def test_broken_10_not_toml(shop: Path) -> None:
    """The parser's line is kept, and what is usually wrong is added."""
    (problem,) = problems_of(shop, ('name  = "shop"', "name  = shop"))
    assert problem.line == 2
    assert "quotes" in problem.remedy


# -- the rest


@pytest.mark.parametrize(
    ("old", "new", "key", "line", "remedy"),
    [
        ("weight = 3", "weight = 0", "upstreams.users.targets[0].weight", 19, "at least 1"),
        ("weight = 3", 'weight = "3"', "upstreams.users.targets[0].weight", 19, ""),
        ("weight = 3", "weight = true", "upstreams.users.targets[0].weight", 19, ""),
        ("backup = true", "backup = 1", "upstreams.users.targets[2].backup", 21, ""),
        ('"shop"', '"my shop"', "system.name", 2, "letters"),
        ('"shop"', "7", "system.name", 2, "quotes"),
        ('"127.0.0.1:9900"', '"9900"', "system.admin", 3, "HOST:PORT"),
        ('"127.0.0.1:9900"', '"0.0.0.0:9900"', "system.admin", 3, "token"),
        ('"examples.shop.users:app"', '"examples/shop/users.py"', "services.users.app", 6, "MODULE:NAME"),
        ('["tcp://127.0.0.1:7100"]', "[]", "services.chat.bind", 10, "at least one"),
        ('["tcp://127.0.0.1:7100"]', '["127.0.0.1:7100"]', "services.chat.bind[0]", 10, "http://127.0.0.1"),
        ('["tcp://127.0.0.1:7100"]', '["ftp://127.0.0.1:7100"]', "services.chat.bind[0]", 10, ""),
        ('"http://127.0.0.1:8080"', '"tcp://127.0.0.1:8080"', "gateway.bind[0]", 13, ""),
        ("workers = 1", "workers = 1000", "gateway.workers", 14, "at most 64"),
        ("workers = 1", 'workers = "two"', "gateway.workers", 14, 'or "auto"'),
        ("workers = 1", 'trusted_proxies = ["10.0.0.1/8"]', "gateway.trusted_proxies[0]", 14, "10.0.0.0/8"),
        ("workers = 1", 'limits = { body = "64" }', "gateway.limits.body", 14, "64KiB"),
        (
            '"http://127.0.0.1:7002", weight',
            '"http://127.0.0.1:7001", weight',
            "upstreams.users.targets[1].url",
            20,
            "",
        ),
        ('"http://127.0.0.1:7003"', '"http://127.0.0.1:8080"', "upstreams.users.targets[2].url", 21, "behind"),
        ('"http://127.0.0.1:7003"', '"http://127.0.0.1:0"', "upstreams.users.targets[2].url", 21, "port"),
        ('"http://127.0.0.1:7003"', '"http://*:7003"', "upstreams.users.targets[2].url", 21, "name a host"),
        ('["tcp://127.0.0.1:7100"]', '["unix://run/x"]', "services.chat.bind[0]", 10, "unix:///run/app.sock"),
        ('["tcp://127.0.0.1:7100"]', '["fd://3", "fd://3"]', "services.chat.bind[1]", 10, "another address"),
        ('["tcp://127.0.0.1:7100"]', '["udp://*:1", "udp://[::]:1"]', "services.chat.bind[1]", 10, "another port"),
        ('["tcp://127.0.0.1:7100"]', '["tcp://*:8080"]', "gateway.bind[0]", 13, "another port"),
        ('"http://127.0.0.1:7003"', '"http://a/b?c"', "upstreams.users.targets[2].url", 21, ""),
        ('interval = "2s"', 'interval = "500ms"', "upstreams.users.health.timeout", 23, "at most"),
        ('path = "/livez"', 'path = "livez"', "upstreams.users.health.path", 24, "begins"),
        ('path = "/api/users/*"', 'path = "api"', "routes[0].match.path", 29, "begins"),
        ('path = "/api/users/*"', 'path = "/api/*/x"', "routes[0].match.path", 29, "ends in"),
        ('path = "/api/users/*"', 'path = "/api/../x"', "routes[0].match.path", 29, "exact"),
        ('methods = ["GET"', 'host = "a b", methods = ["GET"', "routes[0].match.host", 29, "example.com"),
        ('"POST"', '"post"', "routes[0].match.methods[1]", 29, "capitals"),
        ('"/api"', '"/v1"', "routes[0].strip_prefix", 31, "agree"),
        ("attempts = 3", "attempts = 11", "routes[0].retry.attempts", 33, "at most 10"),
        ("rate_limit", "rate_limits", "routes[0].filters[0].rate_limits", 34, "rate_limit"),
        ("{ rate_limit = { rate", "{}, { rate_limit = { rate", "routes[0].filters[0]", 34, "as in"),
        ('"100/s"', '"100"', "routes[0].filters[0].rate_limit.rate", 34, "100/s"),
        ('"100/s"', '"0/s"', "routes[0].filters[0].rate_limit.rate", 34, "more than 0"),
        ('"client-ip"', '"header:x"', "routes[0].filters[0].rate_limit.key", 34, "client-ip"),
        ("[[routes]]", "[[route]]", "route", 27, "routes"),
        ('"http://127.0.0.1:8080"', '"https://127.0.0.1:8443"', "gateway.bind[0]", 13, "add tls ="),
        ("workers = 1", 'tls = { certificate = "x", key = "x" }', "gateway.tls", 14, "https://"),
        ("workers = 1", 'tls = { certificate = "x", key = "x" }', "gateway.tls.key", 14, "PEM file"),
        ("workers = 1", 'tls = { certificate = "x" }', "gateway.tls.key", 14, "add key"),
        ("workers = 1", 'tls = { cert = "x", key = "x" }', "gateway.tls.cert", 14, "certificate"),
        ("workers = 1", 'access_log = { path = "nosuch/log" }', "gateway.access_log.path", 14, "standard output"),
        ("workers = 1", 'access_log = { path = "/" }', "gateway.access_log.path", 14, "standard output"),
        ("workers = 1", 'access_log = { path = "" }', "gateway.access_log.path", 14, ""),
        ("workers = 1", 'access_log = "-"', "gateway.access_log", 14, ""),
        (
            "workers = 1",
            'access_log = { path = "-", format = "{clint}" }',
            "gateway.access_log.format",
            14,
            "{client}",
        ),
        (
            '["tcp://127.0.0.1:7100"]',
            '["tcp://127.0.0.1:7100"]\ntls = { certificate = "x", key = "x" }',
            "services.chat.tls",
            11,
            "https://",
        ),
        (
            '["tcp://127.0.0.1:7100"]',
            '["tcp://127.0.0.1:7100"]\naccess_log = { path = "nosuch/log" }',
            "services.chat.access_log.path",
            11,
            "standard output",
        ),
    ],
)
def test_a_mistake_is_named(shop: Path, old: str, new: str, key: str, line: int, remedy: str) -> None:
    """Key, line and remedy of whatever can be wrong."""
    found = problems_of(shop, (old, new))
    (problem,) = [problem for problem in found if problem.key == key]
    assert problem.line == line
    assert remedy in problem.remedy


@pytest.mark.parametrize("urls", ['"udp://127.0.0.1:8080"', '"unix:///a", "unix:///b"', '"fd://3", "fd://4"'])
def test_services_listen_on_whatever_there_is(shop: Path, urls: str) -> None:
    """Datagrams and connections have ports of their own; sockets without ports differ by name."""
    shop.write_text(SHOP.replace('["tcp://127.0.0.1:7100"]', f"[{urls}]", 1))
    assert ", ".join(f'"{url}"' for url in load_system(shop).services["chat"].bind) == urls


def test_services_and_the_gateway_have_certificates_and_access_logs(shop: Path) -> None:
    """On addresses of all kinds; a service that brings its own certificate needs none here."""
    pem = shop.parent / "any.pem"
    pem.write_text("")
    tls = f'tls = {{ certificate = "{pem}", key = "{pem}" }}'
    log = f'access_log = {{ path = "{shop.parent}/access.log", format = "{{client}} {{status}}" }}'
    text = SHOP.replace('["http://127.0.0.1:8080"]', f'["https://*:8443", "unix:///run/g", "fd://3"]\n{tls}\n{log}')
    text = text.replace('"http://127.0.0.1:7002"]', f'"https://127.0.0.1:7002"]\n{tls}\naccess_log = {{ path = "-" }}')
    shop.write_text(text.replace("tcp://127.0.0.1:7100", "https://127.0.0.1:7100"))
    config = load_system(shop)
    gateway, users = config.gateway, config.services["users"]
    assert gateway is not None
    assert gateway.tls is not None
    assert gateway.access_log is not None
    assert (gateway.tls.certificate, gateway.access_log.format) == (str(pem), "{client} {status}")
    assert users.access_log is not None
    assert (users.access_log.path, users.access_log.format) == ("-", "combined")
    assert config.services["chat"].tls is None
    assert msgspec.convert(msgspec.to_builtins(config), SystemConfig) == config


def test_a_certificate_may_come_from_variables(shop: Path) -> None:
    """One that is half given is reported with the variable."""
    pem = shop.parent / "any.pem"
    pem.write_text("")
    environ = {"FOREBAY_GATEWAY_BIND": "https://127.0.0.1:8443", "FOREBAY_GATEWAY_TLS_CERTIFICATE": str(pem)}
    with pytest.raises(ConfigError, match=r"gateway\.tls\.key: missing"):
        load_system(shop, environ=environ)
    config = load_system(shop, environ={**environ, "FOREBAY_GATEWAY_TLS_KEY": str(pem)})
    assert config.gateway is not None
    assert config.gateway.tls is not None
    with pytest.raises(ConfigError, match=r'FOREBAY_GATEWAY_TLS_KEY: "nosuch" does not exist'):
        load_system(shop, environ={**environ, "FOREBAY_GATEWAY_TLS_KEY": "nosuch"})


def test_all_problems_are_listed_at_once(shop: Path) -> None:
    """In the order of the file."""
    found = problems_of(shop, ("weight = 3", "wieght = 3"), ('"shop"', "1"), ("attempts = 3", 'attempts = "3"'))
    assert [problem.line for problem in found] == [2, 19, 33]


def test_routes_that_can_never_match_are_refused(shop: Path) -> None:
    """The first of two that match the same would always win."""
    again = '\n[[routes]]\nname = "users"\nupstream = "users"\nmatch = { path = "/api/users/*", methods = ["POST"] }\n'
    path = shop
    path.write_text(SHOP + again)
    with pytest.raises(ConfigError) as caught:
        load_system(path)
    assert [problem.key for problem in caught.value.problems] == ["routes[1].name"]
    path.write_text(SHOP + again.replace('"users"', '"more"', 1))
    with pytest.raises(ConfigError, match=r'"users" already matches POST /api/users/\*') as caught:
        load_system(path)
    assert caught.value.problems[0].line == 39


def test_a_file_that_describes_nothing_is_refused(shop: Path) -> None:
    """What is usually meant is said."""
    shop.write_text("")
    with pytest.raises(ConfigError, match=r"nothing to run .*\[gateway\]"):
        load_system(shop)


def test_routes_without_a_gateway_are_refused(shop: Path) -> None:
    """Nobody would use them."""
    found = problems_of(shop, ('[gateway]\nbind    = ["http://127.0.0.1:8080"]\nworkers = 1\n', ""))
    assert [problem.key for problem in found] == ["upstreams", "routes"]


def test_a_gateway_file_has_no_services(shop: Path) -> None:
    """They need the other command, and the remedy says which."""
    with pytest.raises(ConfigError) as caught:
        load_system(shop, gateway_only=True)
    (problem,) = caught.value.problems
    assert (problem.key, problem.line) == ("services", 5)
    assert "forebay up" in problem.remedy


def test_variables_override_the_file_and_flags_override_both(shop: Path) -> None:
    """Of every type: text, numbers, durations, sizes, lists."""
    environ = {
        "FOREBAY_SYSTEM_ADMIN": "127.0.0.1:9901",
        "FOREBAY_SYSTEM_DRAIN_TIMEOUT": "5s",
        "FOREBAY_GATEWAY_WORKERS": "2",
        "FOREBAY_GATEWAY_BIND": "http://127.0.0.1:8081, http://127.0.0.1:8082",
        "FOREBAY_GATEWAY_LIMITS_BODY": "1MiB",
        "FOREBAY_LOOP": "asyncio",
        "HOME": "/",
    }
    config = load_system(shop, environ=environ, flags={"system.drain_timeout": "6s"})
    assert config.system.admin == "127.0.0.1:9901"
    assert config.system.drain_timeout == 6.0
    assert config.gateway is not None
    assert config.gateway.workers == 2
    assert config.gateway.bind == ["http://127.0.0.1:8081", "http://127.0.0.1:8082"]
    assert config.gateway.limits.body == 2**20


def test_a_mistake_in_a_variable_or_a_flag_names_it(shop: Path) -> None:
    """Not the key in a file where it does not stand."""
    environ = {"FOREBAY_GATEWAY_WORKERS": "two", "FOREBAY_GATEWAY_WORKRES": "2"}
    with pytest.raises(ConfigError) as caught:
        load_system(shop, environ=environ, flags={"system.admin": "here"})
    by_key = {problem.key: problem for problem in caught.value.problems}
    assert "whole number" in by_key["FOREBAY_GATEWAY_WORKERS"].message
    assert by_key["FOREBAY_GATEWAY_WORKRES"].remedy == 'did you mean "FOREBAY_GATEWAY_WORKERS"?'
    with pytest.raises(ConfigError, match="--admin: cannot be"):
        load_system(shop, flags={"system.admin": "here"})


def test_a_variable_for_a_gateway_that_is_not_there_is_refused(shop: Path) -> None:
    """Silently ignored, it would be missed."""
    shop.write_text('[services.a]\napp = "a:b"\nbind = ["http://127.0.0.1:0"]\n')
    with pytest.raises(ConfigError, match="FOREBAY_GATEWAY_WORKERS: there is no gateway"):
        load_system(shop, environ={"FOREBAY_GATEWAY_WORKERS": "2"})


def test_settings_come_from_variables_and_flags_alone() -> None:
    """Where there is no file; what concerns a gateway is none of theirs."""
    environ = {"FOREBAY_SYSTEM_LOG_LEVEL": "debug", "FOREBAY_GATEWAY_WORKERS": "2"}
    settings = load_settings(environ, {"system.admin": "off"})
    assert (settings.log_level, settings.admin) == ("debug", "off")
    with pytest.raises(ConfigError, match="--admin"):
        load_settings({}, {"system.admin": "0.0.0.0:9900"})


_NAMES = """\
system services gateway upstreams routes name admin app bind workers targets url weight health path interval match
upstream host methods filters rate_limit rate burst key retry attempts timeout limits body backup strip_prefix other
"""
_names = st.sampled_from(_NAMES.split())
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["5s", "1KiB", "1/s", "http://127.0.0.1:80", "tcp://[::1]:1", "/a/*", "a:b", "off", "GET", "a"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to write over and over."""
    return tmp_path_factory.mktemp("load") / "forebay.json"


@given(data=st.dictionaries(_names, _values, max_size=4))
def test_whatever_a_file_says_it_is_loaded_or_refused(scratch: Path, data: dict[str, Any]) -> None:
    """Nothing but a ConfigError comes out, and its problems say where."""
    scratch.write_text(json.dumps(data))
    problems: tuple[Problem, ...] = ()
    try:
        load_system(scratch)
    except ConfigError as error:
        problems = error.problems
    assert all(problem.message and problem.line >= 0 for problem in problems)
    assert problems or data


@pytest.mark.parametrize(
    ("old", "new", "remedy"),
    [
        ("[[routes]]", "[routes]", "write [[routes]]"),
        ("[gateway]", "[[gateway]]", "write [gateway]"),
        ('timeout  = "5s"', 'timeout  = "48h"', 'at most "86400s"'),
        ('interval = "2s"', 'interval = "0s"', "more than 0"),
    ],
)
def test_remedies_can_be_written_as_they_stand(shop: Path, old: str, new: str, remedy: str) -> None:
    """Tables and lists with their brackets, bounds with their units."""
    assert remedy in [problem.remedy for problem in problems_of(shop, (old, new))]


def test_an_empty_section_of_yaml_has_a_remedy(tmp_path: Path) -> None:
    """All of it is commented out, as a rule."""
    path = tmp_path / "x.yaml"
    path.write_text("system:\n# name: shop\n")
    with pytest.raises(ConfigError) as caught:
        load_system(path)
    (problem,) = caught.value.problems
    assert (problem.line, problem.remedy) == (1, "give it keys, or remove it")


@pytest.mark.parametrize("text", ['name  = "shop\\n"', 'name  = "shop"\nadmin_token = ""'])
def test_names_are_checked_to_their_end(shop: Path, text: str) -> None:
    """A line feed at the end is a character as well."""
    (problem,) = problems_of(shop, ('name  = "shop"', text))
    assert problem.key.startswith("system.")
