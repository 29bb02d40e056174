"""``python -m forebay`` is the ``forebay`` program."""

from forebay.cli import main

if __name__ == "__main__":
    main()
