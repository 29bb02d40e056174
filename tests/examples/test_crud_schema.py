"""The CRUD example does what its OpenAPI document says, whatever it is sent: schemathesis makes requests of the
document, fitting ones and others, and checks every answer.

With ``FOREBAY_SOAK_ROUNDS`` set it does so for five minutes, and otherwise every time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.examples.processes import ROOT, forebay_run
from tests.support import free_port

SOAK = bool(os.environ.get("FOREBAY_SOAK_ROUNDS"))
SECONDS = 300 if SOAK else 12
PROGRAM = Path(sys.executable).parent / "schemathesis"

# 412: an ``if-match`` that is well-formed and is not the note's. 413: what does not fit because it is too long.
SETTINGS = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", 401, 404, 409, 412]
negative_data_rejection.expected-statuses = [400, 401, 404, 405, 413, 415, 422]
"""


def ask(url: str, content: Any = None) -> Any:
    """One request, and its answer."""
    data = None if content is None else json.dumps(content).encode()
    with urlopen(Request(url, data, {"content-type": "application/json"}), timeout=10) as answer:
        return json.load(answer)


@pytest.mark.timeout(SECONDS * 4 + 60)
async def test_no_answer_is_undocumented(tmp_path: Path) -> None:
    """No error of the server, no status, content type, header or content that the document does not have, nothing that
    fits and is refused, nothing that does not fit and is taken, and nothing without a token."""
    port, log, found = free_port(), tmp_path / "log", tmp_path / "found.txt"
    url = f"http://127.0.0.1:{port}"
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    command = [str(PROGRAM), "run", f"{url}/openapi.json", "--checks", "all", "--max-time", str(SECONDS)]
    command += ["--no-color", "--continue-on-failure", "--generation-database", "none"]
    if not SOAK:
        command += ["--seed", "1843"]
    environment = {"NOTES_DB": str(tmp_path / "notes.db"), "NOTES_RATE": "1000000/s"}
    async with forebay_run("examples.crud.app:app", log, "--bind", url, **environment):
        ada = {"name": "ada", "password": "engines of 1843"}
        ask(f"{url}/users", ada)
        token = ask(f"{url}/tokens", ada)["token"]
        with found.open("wb") as output:
            done = subprocess.run(
                [*command, "--header", f"Authorization: Bearer {token}"],
                cwd=tmp_path,
                env={
                    **os.environ,
                    "SCHEMATHESIS_HOOKS": "tests.examples.schema_hooks",
                    "PYTHONPATH": str(ROOT),
                    "COLUMNS": "120",
                },
                stdout=output,
                stderr=output,
                timeout=SECONDS * 3 + 60,
                check=False,
            )
    told = "\n".join(line[:400] for line in found.read_text(errors="replace").splitlines())
    assert done.returncode == 0, told
    assert "Tested: 7" in told
    assert '"handler failed"' not in log.read_text()
