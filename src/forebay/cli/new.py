"""``forebay new``: a project that passes its own tests at once.

Its files are in ``skeleton/``, as ``NAME.in``. What stands in them between two ``@`` is filled in, and nothing else.
"""

from __future__ import annotations

import json
import keyword
import re
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click

from forebay.admin.process import package_version

__all__ = ["new_command", "package_of", "project_files", "write_project"]

_LONGEST = 50  # characters of a name: lines of the skeleton that have it stay below 120
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_TAKEN = frozenset({
    "forebay", "click", "httptools", "msgspec", "opentelemetry", "prometheus_client",
    "rich", "structlog", "uvloop", "watchfiles", "yaml",
    "mypy", "pip", "pytest", "pytest_asyncio", "ruff", "setuptools", "test", "tests",
    "anyio", "ast_serialize", "idna", "iniconfig", "librt", "markdown_it", "mdurl", "mypy_extensions", "mypyc",
    "packaging", "pathspec", "pluggy", "py", "pygments", "typing_extensions",
    "markdown_it_py", "opentelemetry_api", "pyyaml",
})  # fmt: skip
"""What a project would hide, besides the standard library: what is installed with it, and its tests. The last line are
names of distributions that are called otherwise than their packages: pip could not install both."""

_FILES = {
    ".dockerignore": "dockerignore.in",
    ".gitignore": "gitignore.in",
    "Dockerfile": "Dockerfile.in",
    "Makefile": "Makefile.in",
    "README.md": "README.md.in",
    "forebay.toml": "forebay.toml.in",
    "pyproject.toml": "pyproject.toml.in",
    "src/@PACKAGE@/__init__.py": "package.py.in",
    "src/@PACKAGE@/app.py": "app.py.in",
    "src/@PACKAGE@/py.typed": "",
    "tests/test_app.py": "test_app.py.in",
}
_OF_THIS_MACHINE = {"local.mk": "local.mk.in"}


@click.command("new", short_help="Make a project: an application with tests.")
@click.argument("name", metavar="NAME")
@click.option("--dir", "directory", metavar="DIR", help="Where to; it must be new or empty. [NAME]")
def new_command(name: str, directory: str | None) -> int:
    """Make a project: a typed application, its tests, a system for forebay up, and what builds a container of it.

    Its package is called like NAME, in lower case and with underscores. All files are made, or none.

    \b
    Example:
      forebay new demo
      cd demo && make test
    """
    try:
        package = package_of(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    target = Path(directory or name)
    made = project_files(name, package_version(), forebay_source())
    try:
        write_project(target, made)
    except FileExistsError as error:
        raise click.UsageError(str(error)) from None
    except FileNotFoundError:
        raise click.UsageError(f"there is no directory {target.absolute().parent} to make {target.name} in") from None
    click.echo(f"{target}: made {len(made)} files; the application is in src/{package}/app.py\nNext:")
    if target.resolve() != Path.cwd():
        click.echo(f"  cd {target}")
    click.echo("  make test\n  make run")
    return 0


def package_of(name: str) -> str:
    """The package of the project ``name``.

    :raises ValueError: that is no name for a project, or its package could not be imported; says what could.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        valid = f"at most {_LONGEST} letters, digits, '-', '_' and '.', with a letter or a digit at both ends"
        raise ValueError(f"'{name}' is no name for a project: that is {valid}")
    package = _joined(name, "_")
    if package[0].isdigit():
        raise ValueError(f"'{name}' begins with a digit, and its package cannot; take another one, as in app-{name}")
    if keyword.iskeyword(package):
        raise ValueError(f"'{name}' cannot be imported: {package} is a keyword of Python; take another one")
    if package in sys.stdlib_module_names or package in _TAKEN:
        whose = "Python's own" if package in sys.stdlib_module_names else "another one which the project needs"
        raise ValueError(f"'{name}' would hide the module {package}, which is {whose}; take another name")
    return package


def _joined(name: str, by: str) -> str:
    return re.sub(r"[-_.]+", by, name).lower()


def project_files(name: str, version: str, source: str | None) -> dict[str, str]:
    """The content of each file of the project, by its path in it.

    :param version: of Forebay, the least that the project asks for; one that does not begin with a digit asks for any.
    :param source: where pip takes Forebay from; None: PyPI.
    :raises ValueError: as :func:`package_of`.
    """
    package = package_of(name)
    values = {
        "ENV": package.upper(),
        "FOREBAY": f"forebay>={version.partition('+')[0]}" if version[:1].isdigit() else "forebay",
        "NAME": name,
        "PACKAGE": package,
        "SLUG": _joined(name, "-"),
        "SOURCE": source or "",
    }
    skeleton = files("forebay.cli") / "skeleton"
    made = {}
    for path, template in {**_FILES, **(_OF_THIS_MACHINE if source else {})}.items():
        text = (skeleton / template).read_text(encoding="utf-8") if template else ""
        made[_filled(path, values)] = _filled(text, values)
    return made


def _filled(text: str, values: dict[str, str]) -> str:
    return re.sub("@([A-Z]+)@", lambda match: values[match[1]], text)


def forebay_source() -> str | None:
    """Where the Forebay that runs was installed from, if not from an index: a directory, a file, or a URL (PEP 610)."""
    try:
        text = distribution("forebay").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    if text is None:
        return None
    origin = json.loads(text)
    url = str(origin["url"])
    if "vcs_info" in origin:
        return f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    if not url.startswith("file:"):
        return url
    path = unquote(urlsplit(url).path)
    usable = Path(path).exists() and not re.search(r"[\s'$#]", path)  # a wheel in a folder for a while, or not for make
    return path if usable else None


def write_project(target: Path, made: dict[str, str]) -> None:
    """Write all files or none: into a directory beside ``target`` first.

    :param made: content by path.
    :raises FileExistsError: ``target`` is there and is no empty directory.
    :raises FileNotFoundError: what it is to be made in is not there.
    :raises OSError: it cannot be written.
    """
    path = target.resolve()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        what = "is not empty" if path.is_dir() else "is no directory"
        raise FileExistsError(f"{target} {what}: nothing was changed; give another directory with --dir")
    beside = Path(tempfile.mkdtemp(prefix=".forebay-new-", dir=path.parent))
    try:
        whole = beside / "project"
        for name, text in made.items():
            file = whole / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        if path.exists():
            _move_into(path, whole)
        else:
            whole.rename(path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _move_into(directory: Path, whole: Path) -> None:
    """Fill an empty directory that shall stay the one it is: somebody's shell may stand in it."""
    moved = []
    try:
        for one in sorted(whole.iterdir()):
            moved.append(directory / one.name)
            one.rename(moved[-1])
    except BaseException:
        for left in moved:
            if left.exists():
                left.rename(whole / left.name)
        raise
