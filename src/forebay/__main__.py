"""``python -m forebay`` is the ``forebay`` program."""

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the program and exit; see :func:`forebay.cli.main`."""
    # First of all: a reload that is asked for while the program is still being imported would by default end it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from forebay.cli import main as run_program

    run_program()


if __name__ == "__main__":
    main()
