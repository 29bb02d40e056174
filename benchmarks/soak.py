"""Everything that takes long: ``python -m benchmarks.soak [PART]...``, or ``make soak``."""

from __future__ import annotations

import os
import subprocess
import sys

import click

from benchmarks.processes import ROOT

PROPERTIES = ("-p", "tests.soak", "--hypothesis-profile=soak", "-m", "hypothesis", "--timeout=3600")

CANCELLED = ("bulkheads", "pool", "read_write_lock", "single_flight", "throttle")

PARTS = {
    "properties": ("pytest", *PROPERTIES, "-o", "console_output_style=count"),
    "idle": ("benchmarks.idle",),
    "idle-http": ("benchmarks.idle_http",),
    "broadcast": ("benchmarks.broadcast",),
    "tls": ("benchmarks.tls_churn",),
    "workers": ("benchmarks.workers",),
    "fuzz": ("fuzz",),
    "faults": ("pytest", "-s", "tests/http/test_faults.py"),
    "slowhttptest": ("pytest", "-s", "tests/http/test_slowhttptest.py"),
    "cancellation": ("pytest", "-s", *(f"tests/engine/test_{name}_cancellation.py" for name in CANCELLED)),
    "client-faults": ("pytest", "-s", "tests/http/client/test_client_faults.py"),
    "client-stale": ("pytest", "-s", "tests/http/client/test_stale.py"),
    "client-leaks": ("pytest", "-s", "tests/http/client/test_leaks.py"),
    "client-transfers": ("pytest", "-s", "tests/http/client/test_interop.py"),
}
"""What is run, as arguments of ``python -m``."""

ROUNDS = "20000"
"""How often the tests of faults do each of them, unless FOREBAY_SOAK_ROUNDS in the environment says otherwise."""

OTHER_ROUNDS = {
    "cancellation": "100000",
    "client-faults": "1000",
    "client-stale": "50000",
    "client-leaks": "10000",
}
"""The same of parts whose rounds take less time, or more."""


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
def main(parts: tuple[str, ...]) -> None:
    """Run PARTS, or all of them: the property tests with 200 times as many examples; very many idle connections
    over TCP, HTTP and WebSocket; a room of WebSockets; TLS clients that come and go; one worker beside two; fuzzing by
    hypothesis and by coverage, ten minutes of each for each target (FOREBAY_FUZZ_SECONDS); slow, silent and broken HTTP
    clients, 20,000 rounds of each (FOREBAY_SOAK_ROUNDS), and slowhttptest's; 100,000 tasks each that wait for pools,
    bulkheads, limiters and locks, and are cancelled at any moment; the HTTP client over bad networks, 1,000 rounds of
    each fault, to servers that close idle connections, 50,000 requests, with responses that are forgotten, 10,000 of
    them, and with 1 GiB each way.

    Each part but the first takes options when it is run by itself: python -m benchmarks.idle --help
    """
    failed = []
    for name in parts or PARTS:
        click.echo(f"== {name}", err=True)
        command = [sys.executable, "-m", *PARTS[name]]
        rounds = {"FOREBAY_SOAK_ROUNDS": OTHER_ROUNDS.get(name, ROUNDS)}
        if subprocess.run(command, cwd=ROOT, env=rounds | os.environ, check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"soak: failed or missed a target: {', '.join(failed)}")


if __name__ == "__main__":
    main()
