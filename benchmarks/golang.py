"""Building the peers that are written in Go, as far as this machine can."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import ROOT, BenchError

__all__ = ["GIN", "GNET", "GO", "Built", "build", "debian_go", "find_go", "gin_version", "gnet_version"]

GO = "go"
GNET = "gnet"
GIN = "gin"
"""Names of the programs: what peers say they need, and the folders they are built in."""

DEBIAN_SOURCES = Path("/usr/share/gocode")
"""Where Debian's packages put the sources of Go's libraries."""


@dataclass(frozen=True, slots=True)
class Built:
    """The programs by name, and one sentence for each that there is not."""

    programs: Mapping[str, Path]
    notes: list[str] = field(default_factory=list)


def find_go() -> str | None:
    """Where the Go toolchain is; its archive unpacks to a place that is on no path."""
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")


def gnet_version() -> str:
    """The one that ``go.mod`` asks for."""
    text = (ROOT / "benchmarks" / GNET / "go.mod").read_text()
    found = re.search(r"panjf2000/gnet/v2 v([\d.]+)", text)
    return found[1] if found else "unknown"


def debian_go() -> str | None:
    """Where Debian's own Go toolchain is, which may be another one than :func:`find_go` finds."""
    return shutil.which("go", path="/usr/lib/go/bin")


def gin_version() -> str:
    """The one Debian has packaged."""
    try:
        text = (DEBIAN_SOURCES / "src/github.com/gin-gonic/gin/version.go").read_text()
    except FileNotFoundError:
        return "none"
    found = re.search(r'Version = "v([\d.]+)', text)
    return found[1] if found else "unknown"


def build(folder: Path) -> Built:
    """Build all of them into ``folder``. gnet has to be downloaded for that, and Gin comes with Debian's packages: not
    every machine can.

    :raises BenchError: what needs nothing but Go does not build either.
    """
    programs, notes = {}, []
    go = find_go()
    if go is None:
        notes.append("no Go toolchain: its peers are left out")
    else:
        if failure := _build(go, GO, folder / GO):
            raise BenchError(f"the Go peers do not build: {failure}")
        programs[GO] = folder / GO
        if failure := _build(go, GNET, folder / GNET):
            notes.append(f"gnet is left out, it does not build: {failure.splitlines()[-1]}")
        else:
            programs[GNET] = folder / GNET
    if failure := build_gin(folder / GIN):
        notes.append(f"Gin is left out, it does not build: {failure.splitlines()[-1]}")
    else:
        programs[GIN] = folder / GIN
    return Built(programs, notes)


def build_gin(binary: Path) -> str:
    """Build Debian's Gin with Debian's Go, which knows its libraries by their folder and not by modules.

    :return: why it could not be built; empty when it was.
    """
    go = debian_go()
    if go is None or not (DEBIAN_SOURCES / "src/github.com/gin-gonic/gin").is_dir():
        return "it needs Debian's packages golang-go and golang-github-gin-gonic-gin-dev"
    env = {"GO111MODULE": "off", "GOPATH": str(DEBIAN_SOURCES), "GOFLAGS": "", "GOROOT": "", "CGO_ENABLED": "0"}
    return _build(go, GIN, binary, env)  # and without a C compiler


def _build(go: str, name: str, binary: Path, env: Mapping[str, str] | None = None) -> str:
    """Why it could not be built; empty when it was."""
    try:
        built = subprocess.run(
            [go, "build", "-o", str(binary), "."],
            cwd=ROOT / "benchmarks" / name,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
    except subprocess.TimeoutExpired:
        return "it took longer than 180 s"
    return (built.stderr.strip() or f"exit code {built.returncode}") if built.returncode else ""
