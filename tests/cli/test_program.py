from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest

from forebay.cli import main
from tests.engine.connecting import tls_files
from tests.support import free_port

APP = """
from forebay import App, ConnectionHandler, TCPServer
app = App()
@app.get("/")
def hello() -> str:
    return "hello"
class Echo(ConnectionHandler):
    def on_message(self, conn, data):
        conn.write(data)
server = TCPServer(Echo, bind="tcp://127.0.0.1:0")
async def asgi(scope, receive, send): ...
"""

GATEWAY = """
[gateway]
bind = ["http://127.0.0.1:{port}"]
[upstreams.a]
targets = [{{ url = "http://127.0.0.1:1" }}]
[[routes]]
name = "a"
upstream = "a"
"""

COMMANDS = ["run", "gateway", "up", "check", "routes", "new", "version"]


def forebay(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        [sys.executable, "-m", "forebay", *arguments],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )


def called(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program in this process, which is faster, as far as it starts nothing."""
    monkeypatch.chdir(folder)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return subprocess.CompletedProcess(arguments, ended.value.code, out.getvalue(), err.getvalue())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an application in it."""
    (tmp_path / "things.py").write_text(APP)
    (tmp_path / "gateway.toml").write_text(GATEWAY.format(port=free_port()))
    return tmp_path


def failed(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line on standard error of a command that failed with ``code``."""
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """And the example is of that command."""
    done = called(tmp_path, monkeypatch, command, "--help")
    assert done.returncode == 0
    assert re.search(rf"Example:\n +forebay {command}", done.stdout)


def test_the_commands_are_listed(tmp_path: Path) -> None:
    """With an example of the main one."""
    done = forebay(tmp_path, "--help")
    assert done.returncode == 0
    assert all(re.search(rf"^  {command}  +\S", done.stdout, re.MULTILINE) for command in COMMANDS)
    assert "Example:" in done.stdout


def test_the_version(tmp_path: Path) -> None:
    """With what matters of the environment."""
    done = forebay(tmp_path, "version")
    assert done.returncode == 0
    assert re.fullmatch(r"forebay \S+ \(Python 3\.\d+.*uvloop.*\)\n", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing command"),
        (["bogus"], "No such command 'bogus'"),
        (["run"], "Missing argument 'MODULE:NAME'"),
        (["run", "things"], "'things' is not MODULE:NAME"),
        (["run", "things:app", "--bogus"], "No such option"),
        (["run", "things:app", "--workers", "0"], "--workers"),
        (["run", "things:app", "--bind", "127.0.0.1:8000"], "has no scheme"),
        (["run", "things:app", "--bind", "ftp://127.0.0.1:21"], "expected http or https or tcp"),
        (["run", "things:app", "--admin", "everywhere"], "--admin: cannot be"),
        (["run", "things:app", "--admin", "0.0.0.0:9900"], "needs a token"),
        (["run", "things:app", "--drain-timeout", "5"], 'as in "5s"'),
        (["run", "things:app", "--root-path", "api"], "as in /api"),
        (["run", "things:app", "--certificate", "things.py"], "--certificate needs --key as well"),
        (["run", "things:app", "--key", "things.py"], "--key needs --certificate as well"),
        (["run", "things:app", "--certificate", "nosuch.pem", "--key", "things.py"], "'nosuch.pem' does not exist"),
        (["run", "things:app", "--certificate", ".", "--key", "things.py"], "is a directory"),
        (["run", "things:app", "--certificate", "things.py", "--key", "things.py"], "without --bind https://"),
        (["run", "things:app", "--access-log", "nosuch/log"], "there is no folder nosuch"),
        (["run", "things:app", "--access-log", "."], "'.' is a folder"),
        (["run", "things:app", "--access-log-format", "json"], "needs --access-log"),
        (["run", "things:app", "--access-log", "-", "--access-log-format", "apache"], "common, combined, json"),
        (["run", "things:app", "--access-log", "-", "--access-log-format", "{clint}"], "did you mean"),
        (["up"], "forebay.toml: no such file"),
        (["gateway"], "Missing argument 'FILE'"),
        (["check"], "Missing argument 'FILE'"),
        (["check", "nosuch.toml"], "nosuch.toml: no such file"),
        (["check", "things.py"], "unknown kind of file"),
    ],
)
def test_usage_errors_exit_with_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    """In one line that says what is wrong."""
    assert said in failed(called(folder, monkeypatch, *arguments), 2)


def test_a_variable_that_is_wrong_exits_with_2(folder: Path) -> None:
    """And is named."""
    done = forebay(folder, "run", "things:app", FOREBAY_SYSTEM_LOG_LEVEL="loud")
    assert "FOREBAY_SYSTEM_LOG_LEVEL" in failed(done, 2)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nosuch:app", "cannot import 'nosuch': No module named 'nosuch'"),
        ("things:nosuch", "module things has no attribute 'nosuch'; it has: app, asgi, server"),
        ("things:Echo", "is a class"),
    ],
)
def test_what_cannot_be_started_exits_with_3(folder: Path, target: str, said: str) -> None:
    """In one readable line."""
    assert said in failed(forebay(folder, "run", target, "--admin", f"127.0.0.1:{free_port()}"), 3)


def test_a_taken_address_exits_with_3(folder: Path) -> None:
    """And is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        line = failed(forebay(folder, "run", "things:app", "--bind", url, "--admin", "off"), 3)
        assert f"cannot listen on tcp://{url.removeprefix('http://')}" in line
        assert "in use" in line
        admin = url.removeprefix("http://")
        line = failed(forebay(folder, "gateway", "gateway.toml", "--admin", admin), 3)
        assert admin in line


def test_check_says_what_is_good(folder: Path) -> None:
    """And exits with 0."""
    done = forebay(folder, "check", "gateway.toml")
    assert (done.returncode, done.stdout, done.stderr) == (0, "gateway.toml: good (1 upstream, 1 route)\n", "")


def test_check_lists_all_that_is_wrong(folder: Path) -> None:
    """Each with its line, key and remedy; and exits with 2."""
    path = folder / "gateway.toml"
    path.write_text(path.read_text().replace("targets", "target").replace('name = "a"', "name = 1"))
    done = forebay(folder, "check", "gateway.toml")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        'gateway.toml: line 5: upstreams.a.target: unknown key (did you mean "targets"?)',
        "gateway.toml: line 7: routes[0].name: must be text, is 1 (put it in quotes)",
    ]


def test_a_gateway_file_with_services_is_refused(folder: Path) -> None:
    """With the command that takes it."""
    path = folder / "gateway.toml"
    path.write_text('[services.x]\napp = "things:app"\nbind = ["http://127.0.0.1:7001"]\n' + path.read_text())
    assert "forebay up" in failed(forebay(folder, "gateway", "gateway.toml"), 2)


class Running:
    """The program while it runs."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "forebay", *arguments, "--log-format", "logfmt"]
        self.process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines: list[str] = []

    def until(self, words: str) -> str:
        """Read its log up to a line with ``words``; the test's timeout is the deadline."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if words in line:
                return line
        raise AssertionError(f"{words!r} was not logged:\n{''.join(self.lines)}")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=20)
        self.lines.append(rest)
        return self.process.returncode

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        self.process.wait(20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_serves_an_app_until_a_signal(folder: Path, number: int) -> None:
    """And exits with 0."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with Running(folder, "run", "things:app", "--bind", url, "--workers", "2", "--admin", "off") as program:
        program.until("event=ready")
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
        connection.close()
        assert program.end(number) == 0
    log = "".join(program.lines)
    assert "process=things#0" in log
    assert "process=things#1" in log


def test_run_serves_https_and_logs_requests(folder: Path) -> None:
    """With the certificate it was given, in every worker; the access log is whole once it has ended."""
    port = free_port()
    certificate, authority = tls_files()
    chain, key = certificate.files
    arguments = ["--certificate", chain, "--key", key, "--access-log", "requests.log", "--access-log-format", "json"]
    url = f"https://127.0.0.1:{port}"
    with Running(folder, "run", "things:app", "--bind", url, "--workers", "2", "--admin", "off", *arguments) as program:
        program.until("event=ready")
        for _ in range(4):
            context = ssl.create_default_context(cafile=authority)
            connection = HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
            connection.request("GET", "/?secret=1")
            assert connection.getresponse().read() == b"hello"
            connection.close()
        assert program.end() == 0
    lines = [json.loads(line) for line in (folder / "requests.log").read_text().splitlines()]
    assert [(line["path"], line["status"], line["scheme"]) for line in lines] == [("/", 200, "https")] * 4


def test_run_writes_the_access_log_to_standard_output(folder: Path) -> None:
    """In the format that is usual, and nothing else stands there."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with Running(folder, "run", "things:app", "--bind", url, "--admin", "off", "--access-log", "-") as program:
        program.until("event=ready")
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/", headers={"User-Agent": "tester"})
        assert connection.getresponse().read() == b"hello"
        connection.close()
        assert program.process.stdout is not None
        line = program.process.stdout.readline()
        assert re.fullmatch(r'127\.0\.0\.1 - - \[.+\] "GET / HTTP/1\.1" 200 5 "-" "tester"\n', line)
        assert program.end() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["things:app"], "https://127.0.0.1:{port} without a certificate: give it one with --certificate and --key"),
        (["things:server", "--access-log", "-"], "things:server is a Service: give it its access log in the code"),
    ],
)
def test_what_cannot_be_served_so_exits_with_3(folder: Path, arguments: list[str], said: str) -> None:
    """In one line, with what to do about it."""
    port = free_port()
    scheme = "https" if "things:app" in arguments else "tcp"
    url = f"{scheme}://127.0.0.1:{port}"
    done = forebay(folder, "run", *arguments, "--bind", url, "--admin", "off")
    assert said.format(port=port) in failed(done, 3)


def test_run_without_standard_streams(folder: Path) -> None:
    """As some supervisors start programs: it serves, and takes no socket for its standard output."""
    port = free_port()
    arguments = f"run things:app --bind http://127.0.0.1:{port} --admin off"
    program = subprocess.Popen(["sh", "-c", f"exec {sys.executable} -m forebay {arguments} <&- >&- 2>&-"], cwd=folder)
    try:
        deadline = time.monotonic() + 15
        while True:
            connection = HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", "/")
                assert connection.getresponse().read() == b"hello"
                break
            except ConnectionRefusedError:
                assert program.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            finally:
                connection.close()
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == 0
    finally:
        program.kill()
        program.wait(20)


def test_a_full_disk_is_told_in_one_line(folder: Path) -> None:
    """And exits with 1: what was asked for could not be said."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "forebay", "check", "gateway.toml"]
        done = subprocess.run(command, cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert "No space left" in failed(done, 1)


def test_run_gives_a_service_another_address(folder: Path) -> None:
    """Over the one in the code."""
    port = free_port()
    with Running(folder, "run", "things:server", "--bind", f"tcp://127.0.0.1:{port}", "--admin", "off") as program:
        program.until("event=ready")
        with socket.create_connection(("127.0.0.1", port), 5) as client:
            client.sendall(b"hi")
            assert client.recv(2) == b"hi"
        assert program.end() == 0


def _take(sock: socket.socket, port: int) -> None:
    """Listen on ``port``; where somebody else has it and keeps it, it is taken as well."""
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            time.sleep(0.05)
        else:
            sock.listen()
            return


def test_run_goes_on_without_an_admin_nobody_asked_for(folder: Path) -> None:
    """When the default address is taken it warns; a second one on a machine must run."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _take(taken, 9900)
        with Running(folder, "run", "things:app", "--bind", f"http://127.0.0.1:{free_port()}") as program:
            assert "9900" in program.until("going on without admin")
            program.until("event=ready")
            assert program.end() == 0
        line = failed(forebay(folder, "run", "things:app", "--admin", "127.0.0.1:9900"), 3)
        assert "9900" in line


def test_up_runs_though_nobody_reads_what_it_prints(folder: Path) -> None:
    """Its reader may be gone before everything is ready."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "forebay", "up", "gateway.toml", "--admin", "off"]
    with subprocess.Popen(command, cwd=folder, stdout=write, stderr=subprocess.PIPE, text=True) as program:
        os.close(write)
        try:
            assert program.stderr is not None
            assert any("event=ready" in line for line in program.stderr)
            program.send_signal(signal.SIGTERM)
            _, log = program.communicate(timeout=20)
            assert program.returncode == 0, log
        finally:
            program.kill()


def test_up_prints_what_listens_where_and_what_to_try(folder: Path) -> None:
    """On standard output, once everything is ready."""
    path = folder / "forebay.toml"
    tcp, admin = free_port(), free_port()
    services = f'[services.echo]\napp = "things:server"\nbind = ["tcp://127.0.0.1:{tcp}"]\n'
    path.write_text(services + (folder / "gateway.toml").read_text())
    gateway = re.findall(r"bind = \[\"(http://.*)\"\]", path.read_text())[0]
    with Running(folder, "up", "--admin", f"127.0.0.1:{admin}") as program:
        assert program.process.stdout is not None
        text = ""
        while "Ctrl-C" not in text:
            text += program.process.stdout.readline()
        assert program.end() == 0
    for shown in (f"tcp://127.0.0.1:{tcp}", gateway, f"http://127.0.0.1:{admin}/"):
        assert shown in text
    tried = text.partition("Try:\n")[2].splitlines()[:3]
    assert [line.strip() for line in tried] == [
        f"curl -s {gateway}/",
        f"nc 127.0.0.1 {tcp}",
        f"curl -s http://127.0.0.1:{admin}/readyz",
    ]
