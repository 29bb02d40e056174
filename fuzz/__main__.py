"""Each target by each engine, one after the other: ``python -m fuzz``."""

from __future__ import annotations

import sys

import click

from fuzz import frames, parts, requests, responses
from fuzz.command import ENGINES, run, seconds_option


@click.command()
@seconds_option
def main(seconds: float) -> None:
    """Run each target by each engine. All are run, whatever one of them finds."""
    met = [
        run(target, engine, seconds)
        for target in (requests.TARGET, responses.TARGET, frames.TARGET, parts.TARGET)
        for engine in ENGINES
    ]
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
