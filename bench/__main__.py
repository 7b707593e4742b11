"""`python -m bench optim`: time Piste against PyTorch and print the ratios."""

from __future__ import annotations

import importlib
import pkgutil
import sys


def main() -> None:
    subjects = sorted(
        m.name.replace("_", "-")
        for m in pkgutil.iter_modules(__import__("bench").__path__)
        if not m.name.startswith("_")
    )
    for helper in ("peak", "timing"):
        subjects.remove(helper)
    if len(sys.argv) < 2 or sys.argv[1] not in subjects:
        raise SystemExit(f"usage: python -m bench {{{','.join(subjects)}}} [--help]")
    importlib.import_module(f"bench.{sys.argv[1].replace('-', '_')}").main(sys.argv[2:])


main()
