"""Run PyTorch's own tests with Piste's classes in PyTorch's place: python -m tests.pytorch CHECKOUT [ARGUMENTS]

CHECKOUT is a clone of PyTorch at the tag of the installed version, ARGUMENTS are pytest's. Each file in `FILES` runs
twice, in processes of its own: with PyTorch's classes, and under `piste.patch()`. A test that fails under the patch
alone is a difference. One that `differences.py` names is meant; every other one, and every entry that matches no
difference any more, ends the run with status 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .differences import DIFFERENCES, Difference

IN_TEST_OPTIM = ("TestLRScheduler", "TestSWAUtils", "TestDifferentiableOptimizer")
"""Classes that test_optim.py imports from the files next to it."""
FILES = {
    "test_optim.py": " and ".join(f"not {name}" for name in IN_TEST_OPTIM),
    "optim/test_optim.py": "",
    "optim/test_lrscheduler.py": "",
    "optim/test_swa_utils.py": "",
    "test_nn.py": "loss or Loss or cross_entropy or nll",
}
"""Files in the folder `test` of the checkout, with the tests chosen from each; a missing file is named and left out."""
SECONDS = 300
"""The time limit of a test; one that takes twice as long without returning to Python ends its file."""

Outcomes = dict[str, tuple[str, str]]
"""The outcome of each test and its error."""


def run(checkout: Path, file: str, chosen: str, extra: Sequence[str], patched: bool) -> tuple[Outcomes, str]:
    """Run one file of PyTorch's tests from its own folder; returns the outcomes and the output."""
    command = [sys.executable, "-m", "pytest", "-p", "recorder", "-p", "no:cacheprovider", "-q", "--tb=short"]
    command += [*(["-k", chosen] if chosen else []), *extra, file]
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder, "outcomes.jsonl")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
            "RECORDER_FILE": str(records),
            "RECORDER_SECONDS": str(SECONDS),
            "RECORDER_PATCH": str(int(patched)),
        }
        done = subprocess.run(
            command, cwd=checkout / "test", env=environment, capture_output=True, text=True, check=False
        )
        lines = records.read_text(encoding="utf-8").splitlines() if records.exists() else []
    found = (json.loads(line) for line in lines)
    return {r["test"]: (r["outcome"], r["reason"]) for r in found}, done.stdout + done.stderr


def differing(plain: Outcomes, patched: Outcomes) -> dict[str, str]:
    """The tests that pass with PyTorch's classes and not under the patch, with the error."""
    return {
        test: " ".join([outcome, reason]).strip()
        for test, (before, _) in plain.items()
        for outcome, reason in [patched.get(test, ("did not run", ""))]
        if before == "passed" and outcome != "passed"
    }


def judge(found: dict[str, str], differences: Sequence[Difference]) -> tuple[list[str], list[Difference]]:
    """Return the tests whose difference no entry names, and the entries that name none."""
    named = {entry: [test for test, error in found.items() if entry.matches(test, error)] for entry in differences}
    meant = {test for tests in named.values() for test in tests}
    return [test for test in found if test not in meant], [entry for entry, tests in named.items() if not tests]


def collect(checkout: Path, extra: Sequence[str]) -> dict[str, str]:
    """Run every file with and without the patch; returns the tests that differ, with the error.

    Raises:
        RuntimeError: If a file runs no test.
    """
    found: dict[str, str] = {}
    for file, chosen in FILES.items():
        if not (checkout / "test" / file).is_file():
            print(f"{file}: not in this checkout")
            continue
        outcomes = []
        for patched in (False, True):
            results, output = run(checkout, file, chosen, extra, patched)
            if not results:
                place = "under the patch" if patched else "with PyTorch"
                raise RuntimeError(f"{file} did not run {place}:\n{output[-3000:]}")
            outcomes.append(results)
        differs = differing(*outcomes)
        passed = sum(outcome == "passed" for outcome, _ in outcomes[0].values())
        print(f"{file}: {len(differs)} of {passed} passing tests differ", flush=True)
        found |= {test if test.startswith(file) else f"{file}::{test}": error for test, error in differs.items()}
    return found


def report(found: dict[str, str], differences: Sequence[Difference] = DIFFERENCES) -> int:
    """Print the differences that are not meant, and the entries that are no longer needed; returns the exit status."""
    others, unused = judge(found, differences)
    for test in others:
        print(f"differs: {test}\n    {found[test].splitlines()[0]}")
    for entry in unused:
        print(f"no test differs any more: {entry.tests} ({entry.reason})")
    print(f"{len(found) - len(others)} meant differences, {len(others)} others")
    return int(bool(others or unused))


def main(checkout: Path, extra: Sequence[str]) -> int:
    """Run every file, print what differs, and return the exit status."""
    if not (checkout / "test").is_dir():
        print(f"{checkout} has no folder `test`. Help: clone PyTorch at the tag of the installed version.")
        return 2
    try:
        return report(collect(checkout, extra))
    except RuntimeError as error:
        print(error)
        return 2


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
