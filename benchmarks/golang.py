"""Building the peers that are written in Go, as far as this machine can."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import ROOT, BenchError

__all__ = ["GNET", "GO", "Built", "build", "find_go", "gnet_version"]

GO = "go"
GNET = "gnet"
"""Names of the programs: what peers say they need, and the folders they are built in."""


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


def build(folder: Path) -> Built:
    """Build all of them into ``folder``. gnet has to be downloaded for that, which not every machine can.

    :raises BenchError: what needs no download does not build either.
    """
    go = find_go()
    if go is None:
        return Built({}, ["no Go toolchain: its peers are left out"])
    programs = {GO: folder / GO}
    if failure := _build(go, GO, programs[GO]):
        raise BenchError(f"the Go peers do not build: {failure}")
    if failure := _build(go, GNET, folder / GNET):
        return Built(programs, [f"gnet is left out, it does not build: {failure.splitlines()[-1]}"])
    return Built({**programs, GNET: folder / GNET})


def _build(go: str, name: str, binary: Path) -> str:
    """Why it could not be built; empty when it was."""
    try:
        built = subprocess.run(
            [go, "build", "-o", str(binary), "."],
            cwd=ROOT / "benchmarks" / name,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
    except subprocess.TimeoutExpired:
        return "it took longer than 180 s"
    return (built.stderr.strip() or f"exit code {built.returncode}") if built.returncode else ""
