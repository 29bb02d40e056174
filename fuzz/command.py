"""The command line of every target."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from fuzz.engines import ROOT, Outcome, by_coverage, by_hypothesis
from fuzz.target import Target

FOUND = ROOT / "var" / "fuzz"
"""Where inputs are kept that show something."""

ENGINES: dict[str, Callable[[Target, float, Path, Callable[[str], None]], Outcome]] = {
    "coverage": by_coverage,
    "hypothesis": by_hypothesis,
}


seconds_option = click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=600.0,
    show_default=True,
    envvar="FOREBAY_FUZZ_SECONDS",
    show_envvar=True,
    help="How long each run takes.",
)


def run(target: Target, engine: str, seconds: float, found: Path = FOUND) -> bool:
    """Fuzz one target by one engine, saying how it goes. Whether nothing was found."""
    outcome = ENGINES[engine](target, seconds, found, lambda line: click.echo(line, err=True))
    extent = f", corpus {outcome.corpus}, coverage {outcome.coverage}" if engine == "coverage" else ""
    permitted = ", ".join(f"{name} {count}" for name, count in sorted(outcome.permitted.items())) or "nothing"
    failed = outcome.failed or not outcome.executions
    click.echo(
        f"{target.module} by {engine}: {'FAILED' if failed else 'ok'}: {outcome.executions} executions in "
        f"{outcome.seconds:.0f} s{extent}; permitted: {permitted}"
    )
    return not failed


def command(target: Target) -> None:
    """Read the command line, run, and exit: 0 when nothing was found, 1 otherwise."""

    @click.command(help=(sys.modules["__main__"].__doc__ or "").split("\n")[0])
    @click.option("--engine", type=click.Choice(list(ENGINES)), default="coverage", show_default=True)
    @seconds_option
    @click.option("--found", type=click.Path(path_type=Path), default=FOUND, help="Where to keep inputs that fail.")
    @click.option("--again", type=click.Path(exists=True, path_type=Path), help="Only read this input again.")
    def main(engine: str, seconds: float, found: Path, again: Path | None) -> None:
        if again is not None:
            click.echo(f"permitted: {', '.join(target.check(again.read_bytes())) or 'nothing'}")
        elif not run(target, engine, seconds, found):
            sys.exit(1)

    main()
