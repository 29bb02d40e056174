from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from forebay.config import System, SystemConfig, TLSConfig
from forebay.engine.cores import worker_count
from forebay.errors import ConfigError
from forebay.runtime.plan import FileSource, app_plan, system_plan

FILE = """\
[system]
name = "shop"
[services.users]
app = "shop.users:app"
bind = ["http://127.0.0.1:7001", "http://127.0.0.1:7002"]
workers = 2
[services.chat]
app = "shop.chat:server"
bind = ["tcp://127.0.0.1:7100"]
[gateway]
bind = ["http://127.0.0.1:8080"]
workers = 3
[upstreams.users]
targets = [{ url = "http://127.0.0.1:7001" }]
[[routes]]
name = "users"
upstream = "users"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A system's file."""
    path = tmp_path / "forebay.toml"
    path.write_text(FILE)
    return path


def test_every_address_is_an_instance_and_the_gateway_is_last(file: Path) -> None:
    """Services are started first, in the order of the file."""
    plan = FileSource(file).first()
    assert [(spec.name, spec.count) for spec in plan.specs] == [
        ("users@7001", 2),
        ("users@7002", 2),
        ("chat@7100", 1),
        ("gateway", 3),
    ]
    assert plan.services[1].args["bind"] == ["http://127.0.0.1:7002"]


def test_what_workers_are_given_can_be_sent_to_them(file: Path) -> None:
    """MessagePack carries it, and the gateway gets its configuration back."""
    plan = FileSource(file).first()
    for spec in plan.specs:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec.args)) == spec.args
    assert plan.gateway is not None
    assert plan.config is not None
    config = msgspec.convert(plan.gateway.args["config"], SystemConfig)
    assert config.routes == plan.config.routes
    assert config.services == {}


@pytest.mark.parametrize(
    ("bind", "names"),
    [
        (["http://127.0.0.1:1", "http://127.0.0.2:1"], ["a@127.0.0.1:1", "a@127.0.0.2:1"]),
        (["http://127.0.0.1:0", "http://127.0.0.1:0"], ["a@127.0.0.1:0#0", "a@127.0.0.1:0#1"]),
        (["unix:///run/a.sock", "fd://web", "tcp://*:1"], ["a@/run/a.sock", "a@web", "a@1"]),
    ],
)
def test_names_of_instances_differ(bind: list[str], names: list[str]) -> None:
    """Also where their ports do not."""
    config = msgspec.convert({"services": {"a": {"app": "a:b", "bind": bind}}}, SystemConfig)
    assert [spec.name for spec in system_plan(config).specs] == names


def test_an_app_is_one_spec_with_all_its_addresses() -> None:
    """Workers share them; without an address it is the worker that knows it."""
    plan = app_plan("a:b", ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"], 2, System(name="a"))
    (spec,) = plan.specs
    assert (spec.name, spec.count) == ("a", 2)
    assert spec.args["bind"] == ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]
    assert app_plan("a:b", (), 1, System()).specs[0].args["bind"] is None


def test_as_many_workers_as_cores_can_be_asked_for(file: Path) -> None:
    """In a file and for one app."""
    file.write_text(FILE.replace("workers = 3", 'workers = "auto"'))
    gateway = FileSource(file).first().gateway
    (app,) = app_plan("a:b", None, "auto", System()).specs
    for spec in (gateway, app):
        assert spec is not None
        assert (spec.count, spec.size) == ("auto", worker_count())


def test_a_file_is_read_again(file: Path) -> None:
    """What it says now is what comes."""
    source = FileSource(file)
    plan = source.first()
    file.write_text(FILE.replace("workers = 2", "workers = 1"))
    assert source.again(plan).services[0].count == 1


@pytest.mark.parametrize(
    ("addition", "key"), [('admin = "127.0.0.1:1"', "admin"), ('log_level = "debug"', "log_level")]
)
def test_what_needs_a_restart_says_so(file: Path, addition: str, key: str) -> None:
    """The whole file is refused, with the line."""
    source = FileSource(file)
    plan = source.first()
    file.write_text(FILE.replace('name = "shop"', f'name = "shop"\n{addition}'))
    with pytest.raises(ConfigError) as caught:
        source.again(plan)
    (problem,) = caught.value.problems
    assert (problem.key, problem.line) == (f"system.{key}", 3)
    assert "restart" in problem.remedy


def test_what_a_file_is_overridden_with_stays(file: Path) -> None:
    """A plan is made by whatever loads the configuration, flags and all."""
    config: Any = msgspec.convert({"services": {"a": {"app": "a:b", "bind": ["http://127.0.0.1:1"]}}}, SystemConfig)
    assert [spec.name for spec in FileSource(file, lambda: config).first().specs] == ["a@1"]


def test_workers_are_told_of_their_certificate_and_access_log() -> None:
    """Of a certificate only where they are to show one; and of what is not given, nothing."""
    files = {"certificate": "c.pem", "key": "k.pem"}
    both = {"app": "a:b", "bind": ["http://127.0.0.1:1", "https://127.0.0.1:2"], "tls": files}
    config = msgspec.convert({"services": {"a": {**both, "access_log": {"path": "-"}}}}, SystemConfig)
    plain, encrypted = (spec.args for spec in system_plan(config).specs)
    assert "tls" not in plain
    assert encrypted["tls"] == files
    assert plain["access_log"] == encrypted["access_log"] == {"path": "-"}
    (spec,) = app_plan("a:b", None, 1, System(), tls=msgspec.convert(files, TLSConfig)).specs
    assert (spec.args["tls"], "access_log" in spec.args) == (files, False)
