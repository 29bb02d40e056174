"""The process of the coverage-guided engine: ``python -m fuzz.guided MODULE FOUND TALLY FLAG...``.

It imports what it watches only here, as that is when atheris puts its counters into the code; and libFuzzer ends it
without a word to Python, so what is to be known of it afterwards is in files.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any

_WATCHED = ("forebay", "h11", "websockets", "python_multipart")  # whose branches lead the way
_PAUSE = 0.5  # seconds between two notes of the tally


class _Run:
    def __init__(self, target: Any, found: Path, tally: Path) -> None:
        self._record = importlib.import_module("fuzz.engines").record
        self._target = target
        self._found = found
        self._tally = tally
        self._permitted: Counter[str] = Counter()
        self._noted = 0.0

    def __call__(self, data: bytes) -> None:
        try:
            self._permitted.update(self._target.check(data))
        except BaseException as error:
            print(self._record(self._target, data, error, self._found), file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        if monotonic() - self._noted >= _PAUSE:
            self._noted = monotonic()
            self._tally.write_text(json.dumps(self._permitted))


def main() -> None:
    """Fuzz until the process ends: by libFuzzer, with 0, when its time is over; with 1 when something is found."""
    module, found, tally, *flags = sys.argv[1:]
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=list(_WATCHED)):
        target = importlib.import_module(module).TARGET
    atheris.Setup([sys.argv[0], *flags], _Run(target, Path(found), Path(tally)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
