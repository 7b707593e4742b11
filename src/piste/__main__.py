"""The command `piste`, also as `python -m piste`."""

from __future__ import annotations

import sys

from .compare.requirements import require
from .errors import MissingPackage


def main() -> None:
    """Run the command line, or say which package it lacks and exit with status 2."""
    try:
        require("The command `piste`", ("typer",))
    except MissingPackage as error:
        print(f"piste: {error}", file=sys.stderr)
        sys.exit(2)
    from .cli import main as run

    run()


if __name__ == "__main__":
    main()
