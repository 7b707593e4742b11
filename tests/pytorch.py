"""Run PyTorch's own tests with Piste's classes in PyTorch's place: python -m tests.pytorch CHECKOUT [ARGUMENTS]

CHECKOUT is a clone of PyTorch at the tag of the installed version, ARGUMENTS are pytest's. The files in `FILES` run
under `piste.patch()`, each in a process of its own. A failing test that `DIFFERENCES` names is meant, with the reason
given there; every other failure, and every pattern that matches no failure any more, ends the run with status 1.
"""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path

FILES = {
    "test_optim.py": "",
    "optim/test_optim.py": "",
    "optim/test_lrscheduler.py": "",
    "optim/test_swa_utils.py": "",
    "test_nn.py": "loss or Loss or cross_entropy or nll",
}
"""Files in the folder `test` of the checkout, with the tests chosen from each; a missing file is named and left out."""

DIFFERENCES: dict[str, str] = {}
"""Patterns of test names, such as `*TestOptim*::test_x*`, with the reason why Piste differs there on purpose."""

PLUGIN = """
import piste
piste.patch()
"""


def failures(output: str) -> list[str]:
    """The names of failed tests in pytest's summary."""
    return re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.M)


def judge(failed: list[str], differences: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the failures that no pattern names, and the patterns that match no failure."""
    meant = {pattern: [name for name in failed if fnmatch.fnmatchcase(name, pattern)] for pattern in differences}
    named = {name for names in meant.values() for name in names}
    return [name for name in failed if name not in named], [pattern for pattern, names in meant.items() if not names]


def run(checkout: Path, file: str, chosen: str, extra: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one file of PyTorch's tests under the patch, from its own folder."""
    (folder / "piste_in_torchs_place.py").write_text(PLUGIN)
    command = [sys.executable, "-m", "pytest", "-p", "piste_in_torchs_place", "-q", "-rfE", "--tb=line"]
    command += [*(["-k", chosen] if chosen else []), *extra, file]
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command,
        cwd=checkout / "test",
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def main(checkout: Path, extra: list[str], folder: Path, differences: dict[str, str] = DIFFERENCES) -> int:
    """Run every file, print what differs, and return the exit status."""
    if not (checkout / "test").is_dir():
        print(f"{checkout} has no folder `test`. Help: clone PyTorch at the tag of the installed version.")
        return 2
    failed: list[str] = []
    for file, chosen in FILES.items():
        if not (checkout / "test" / file).is_file():
            print(f"{file}: not in this checkout")
            continue
        done = run(checkout, file, chosen, extra, folder)
        if done.returncode not in (0, 1):  # 1: tests failed; anything else ran none
            print(f"{file} did not run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
            return 2
        failed += failures(done.stdout)
        print(f"{file}: {done.stdout.strip().splitlines()[-1]}")
    others, unused = judge(failed, differences)
    for name in others:
        print(f"differs: {name}")
    for pattern in unused:
        print(f"no test differs any more: {pattern} ({differences[pattern]})")
    print(f"{len(failed) - len(others)} meant differences, {len(others)} others")
    return int(bool(others or unused))


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:], Path(made)))
