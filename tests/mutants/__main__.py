"""`python -m tests.mutants [NAME ...]`: change every formula, one piece at a time, and see the tests notice.

Exits with 1 if a change goes unnoticed, with the list. Names pick modules by their last part (`adam`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from . import losses, optim, parts, storage
from .subject import Subject, examine


def subjects() -> list[Subject]:
    return [*optim.subjects(), *storage.subjects(), *parts.subjects(), *losses.subjects()]


def main(names: list[str], known: Iterable[Subject]) -> int:
    chosen = [s for s in known if not names or s.module.rpartition(".")[2] in names]
    killed = equivalent = wrong = 0
    for subject in chosen:
        start = time.perf_counter()
        outcome = examine(subject)
        killed, equivalent = killed + outcome.killed, equivalent + outcome.equivalent
        survived = len(outcome.survivors)
        print(
            f"{subject.module:28} {outcome.killed:5} killed {outcome.equivalent:3} equivalent {survived:3} survived "
            f"({time.perf_counter() - start:.1f} s)",
            flush=True,
        )
        if outcome.broken is not None:
            print(f"  without any change: {outcome.broken}")
        for mutant in outcome.survivors:
            print(f"  survived: {mutant}   (line {mutant.line})")
        for text in outcome.stale:
            print(f"  listed as equivalent, but killed or gone: {text}")
        wrong += survived + len(outcome.stale) + (outcome.broken is not None)
    if not chosen:
        print(f"No subject is called {' or '.join(names)}.")
        return 2
    print(f"{killed} mutants killed, {equivalent} equivalent; {wrong or 'nothing'} to mend.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], subjects()))
