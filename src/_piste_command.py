"""The script `piste`, outside of the package so that Ctrl-C is handled while the package is imported."""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""


def main() -> None:
    """Run the command line; Ctrl-C during the imports ends it in a sentence."""
    try:
        from piste.__main__ import main as run

        run()
    except KeyboardInterrupt:
        print("piste: interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
