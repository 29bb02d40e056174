"""``forebay new``: a project that passes its own tests at once."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

from forebay.admin.process import package_version
from forebay.cli import main
from forebay.cli.new import package_of, project_files, write_project
from forebay.config import load_system

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
LONG = "a-" * 24 + "zz"

# Stands for the interpreter a project is given. It makes an environment of what is installed where the tests run, and
# writes down what pip is asked for, so that this test needs no network. All else is the real one.
PYTHON = """#!/bin/sh
case "$1 $2" in
"-m venv")
    mkdir -p .venv/bin
    for tool in ruff mypy forebay pip; do ln -s {bin}/$tool .venv/bin/; done
    cp "$0" .venv/bin/python ;;
"-m pip") for word; do echo "$word"; done >> pip.log ;;
*) exec {python} "$@" ;;
esac
"""


def new(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``forebay new`` in a folder."""
    monkeypatch.chdir(folder)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(["new", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code, out.getvalue(), err.getvalue()


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in a project, without what the tests' own make has set."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "FOREBAY_", "PYTHON"))}
    environ["PYTHONPATH"] = "src"  # where an editable install would point
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environ, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.timeout(120)
def test_it_passes_its_own_tests_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``forebay new demo && cd demo && make test``: ruff, mypy --strict and pytest have nothing to complain of."""
    code, out, err = new(tmp_path, monkeypatch, "demo")
    assert (code, err) == (0, "")
    assert out.splitlines()[1:] == ["Next:", "  cd demo", "  make test", "  make run"]
    python = tmp_path / "python"
    python.write_text(PYTHON.format(bin=shlex.quote(str(BIN)), python=shlex.quote(sys.executable)))
    python.chmod(0o755)
    project = tmp_path / "demo"
    done = make(project, "test", f"PYTHON={python}", f"FOREBAY_SOURCE={ROOT}")
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("All checks passed!", "already formatted", "Success: no issues found", "passed in"):
        assert said in done.stdout
    words = (project / "pip.log").read_text().splitlines()
    assert words[:3] == ["-m", "pip", "install"]
    assert words[-4:] == ["--editable", str(ROOT), "--editable", ".[dev]"]
    assert make(project, "--question", "setup").returncode == 0, "it would be set up again each time"


def test_its_system_is_a_valid_configuration(tmp_path: Path) -> None:
    """With a service behind a gateway, for each kind of name."""
    for name in ("demo", "My.Own_App", LONG):
        write_project(tmp_path / name, project_files(name, "0.1.0", None))
        config = load_system(tmp_path / name / "forebay.toml")
        assert config.system.name == name
        (service,) = config.services.values()
        assert service.app == f"{package_of(name)}.app:app"
        assert config.gateway is not None
        assert len(config.routes) == 1
    text = (tmp_path / "demo" / "Dockerfile").read_text()
    environ = dict(re.findall(r"(FOREBAY_\w+)=(\S+)", text))
    config = load_system(tmp_path / "demo" / "forebay.toml", environ=environ)
    assert config.gateway is not None
    assert config.gateway.bind == ["http://0.0.0.0:8080"]


def test_the_image_runs_as_a_plain_user_and_is_probed(tmp_path: Path) -> None:
    """Commands are lists, so that signals reach Forebay; and the image is given only what it needs."""
    write_project(tmp_path / "demo", project_files("demo", "0.1.0", None))
    lines = (tmp_path / "demo" / "Dockerfile").read_text().splitlines()
    assert 'CMD ["forebay", "up", "forebay.toml"]' in lines
    assert lines.index("USER service") < lines.index('CMD ["forebay", "up", "forebay.toml"]')
    probe = lines[next(n for n, line in enumerate(lines) if line.startswith("HEALTHCHECK")) + 1]
    assert probe.strip().startswith('CMD ["python", "-c",')
    assert "http://127.0.0.1:9900/livez" in probe
    taken = {line.removeprefix("!") for line in (tmp_path / "demo" / ".dockerignore").read_text().splitlines()}
    assert {"*", "pyproject.toml", "README.md", "forebay.toml", "src"} < taken


@pytest.mark.parametrize("name", ["x", "My.Own-App", LONG])
def test_it_is_clean_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    """No line becomes too long, or is to be formatted in another way."""
    made = project_files(name, "0.1.0", None)
    write_project(tmp_path / "project", made)
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [BIN / "ruff", *command, "--no-cache", "."], cwd=tmp_path / "project", capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
    left = [f"{path}: {found}" for path, text in made.items() for found in re.findall("@[A-Z]+@", path + text)]
    assert left == []


def test_what_it_depends_on() -> None:
    """On this Forebay or a newer one, and on what its own tests need."""
    made = project_files("Demo.App", "1.2.3", None)
    project = tomllib.loads(made["pyproject.toml"])["project"]
    assert project["name"] == "Demo.App"
    assert project["dependencies"] == ["forebay>=1.2.3"]
    tools = {re.split("[><=]", one)[0] for one in project["optional-dependencies"]["dev"]}
    assert tools == {"pytest", "pytest-asyncio", "ruff", "mypy"}
    unknown = tomllib.loads(project_files("demo", "unknown", None)["pyproject.toml"])
    assert unknown["project"]["dependencies"] == ["forebay"]
    local = tomllib.loads(project_files("demo", "1.2.3+g12ab", None)["pyproject.toml"])
    assert local["project"]["dependencies"] == ["forebay>=1.2.3"]


def test_it_is_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte; and it has all that was promised."""
    new(tmp_path, monkeypatch, "demo", "--dir", "one")
    new(tmp_path, monkeypatch, "demo", "--dir", "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")
    promised = {"pyproject.toml", "src/demo/app.py", "forebay.toml", "tests/test_app.py", "Dockerfile", ".dockerignore"}
    assert promised | {".gitignore", "Makefile", "README.md"} < set(content(tmp_path / "one"))
    dependency = f"forebay>={package_version()}".encode()
    assert dependency in content(tmp_path / "one")["pyproject.toml"]


def test_where_forebay_comes_from(tmp_path: Path) -> None:
    """PyPI; or what FOREBAY_SOURCE says, by make, or by the file for this machine, which git does not see."""
    write_project(tmp_path / "pypi", project_files("demo", "0.1.0", None))
    write_project(tmp_path / "local", project_files("demo", "0.1.0", str(ROOT)))
    assert not (tmp_path / "pypi" / "local.mk").exists()
    assert "/local.mk" in (tmp_path / "local" / ".gitignore").read_text().splitlines()

    def installed(project: str, *arguments: str) -> str:
        done = make(tmp_path / project, "--dry-run", "setup", "PYTHON=python3", *arguments)
        (line,) = [line for line in done.stdout.splitlines() if "pip install" in line]
        return line.partition("--disable-pip-version-check ")[2]

    assert installed("pypi").strip() == "--editable '.[dev]'"
    assert installed("local") == f"--editable '{ROOT}' --editable '.[dev]'"
    assert installed("local", "FOREBAY_SOURCE=a.whl").strip() == "'a.whl' --editable '.[dev]'"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "'' is no name for a project"),
        ("-demo-", "'-demo-' is no name for a project"),
        ("a/b", "at most 50 letters, digits, '-', '_' and '.'"),
        ("..", "is no name for a project"),
        ("dömo", "is no name for a project"),
        ("demo\n", "is no name for a project"),
        ("x" * 51, "is no name for a project"),
        ("1demo", "begins with a digit, and its package cannot; take another one, as in app-1demo"),
        ("class", "class is a keyword of Python"),
        ("Json", "'Json' would hide the module json, which is Python's own"),
        ("forebay", "would hide the module forebay, which is another one which the project needs"),
        ("Prometheus-Client", "would hide the module prometheus_client"),
        ("tests", "would hide the module tests"),
    ],
)
def test_what_is_no_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    """With 2, and a sentence; nothing is made."""
    code, out, err = new(tmp_path, monkeypatch, "--", name)
    assert (code, out) == (2, "")
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_what_the_project_needs_is_no_name_for_it() -> None:
    """Neither of the distributions that are installed with it, whose requirements pip could not meet then, nor of the
    packages in them."""
    (pyproject,) = [text for path, text in project_files("demo", "1.0", None).items() if path == "pyproject.toml"]
    project = tomllib.loads(pyproject)["project"]
    needed, found = [*project["dependencies"], *project["optional-dependencies"]["dev"]], set()
    while needed:
        requirement = needed.pop()
        name = re.sub(r"[-_.]+", "_", re.split(r"[^\w.-]", requirement)[0]).lower()
        if name not in found and "extra ==" not in requirement:
            with suppress(PackageNotFoundError):  # of another platform or Python
                needed += requires(name) or []
                found.add(name)
    packages = {package for package, names in packages_distributions().items()
                if {re.sub(r"[-_.]+", "_", name).lower() for name in names} & found}  # fmt: skip
    assert {"pyyaml", "markdown_it_py", "pytest"} <= found
    names = found | {package.lower() for package in packages if package.isidentifier() and package[0] != "_"}
    assert [name for name in sorted(names) if is_taken(name)] == sorted(names)


def is_taken(name: str) -> bool:
    """Is it refused, as something else is called so?"""
    try:
        return not package_of(name)
    except ValueError:
        return True


@pytest.mark.parametrize(
    ("name", "package"), [("demo", "demo"), ("My.Own--App_2", "my_own_app_2"), ("match", "match"), ("x1", "x1")]
)
def test_the_package_is_called_like_the_project(name: str, package: str) -> None:
    """In lower case, with one underscore where there is anything else."""
    assert package_of(name) == package


def test_what_is_there_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is not empty, a file, a place that is not there: exit code 2, and all stays as it was."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / ".mine").write_text("kept")
    (tmp_path / "file").write_text("kept")
    before = content(tmp_path)
    for arguments, said in (
        (["demo"], "demo is not empty: nothing was changed"),
        (["other", "--dir", "demo"], "demo is not empty"),
        (["demo", "--dir", "file"], "file is no directory"),
        (["demo", "--dir", "no/such"], f"there is no directory {tmp_path}/no to make such in"),
    ):
        code, out, err = new(tmp_path, monkeypatch, *arguments)
        assert (code, out) == (2, "")
        assert said in err
    assert content(tmp_path) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["demo", "file"]


def test_an_empty_directory_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays the same one, since somebody's shell stands in it."""
    here = tmp_path / "here"
    here.mkdir()
    inode = here.stat().st_ino
    code, out, _ = new(here, monkeypatch, "demo", "--dir", ".")
    assert code == 0
    assert "cd " not in out
    assert (here / "src" / "demo" / "app.py").exists()
    assert here.stat().st_ino == inode
    assert [one.name for one in tmp_path.iterdir()] == ["here"]


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one file cannot be written, or moved, there is none."""
    made = {"a.txt": "a", "x" * 300: "longer than a name of a file can be"}
    with pytest.raises(OSError, match="too long"):
        write_project(tmp_path / "demo", made)
    assert list(tmp_path.iterdir()) == []

    empty = tmp_path / "empty"
    empty.mkdir()
    rename = Path.rename

    def fails_at_c(path: Path, target: Path) -> Path:
        if target == empty / "c.txt":
            raise OSError("the disk is full")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_at_c)
    with pytest.raises(OSError, match="full"):
        write_project(empty, {"a.txt": "a", "b.txt": "b", "c.txt": "c"})
    assert list(empty.iterdir()) == []
    assert list(tmp_path.iterdir()) == [empty]


def test_its_files_have_the_permissions_that_are_usual(tmp_path: Path) -> None:
    """Those of the umask, not those of a temporary directory."""
    (tmp_path / "usual").mkdir()
    write_project(tmp_path / "demo", {"a.txt": "a"})
    assert (tmp_path / "demo").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_help_has_an_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this command."""
    code, out, _ = new(tmp_path, monkeypatch, "--help")
    assert code == 0
    assert re.search(r"Example:\n +forebay new", out)
