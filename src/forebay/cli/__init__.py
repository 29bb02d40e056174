"""The ``forebay`` program."""

from forebay.cli.program import main

__all__ = ["main"]
