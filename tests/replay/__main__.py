"""`python -m tests.replay COMMIT`: compare every kernel's source with that of another commit, as text.

A refactoring that changes no kernel leaves no difference. With `--write FOLDER` the sources are only written.
"""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .sources import kernel_sources

ROOT = Path(__file__).parents[2]


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--write"] and len(arguments) == 2:
        write(Path(arguments[1]))
        return 0
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before"), Path(folder, "after")
        write_of_commit(arguments[0], Path(folder, "checkout"), before)
        write(after)
        return compare(before, after)


def write(folder: Path) -> None:
    """Write each kernel source of this checkout to a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in kernel_sources().items():
        (folder / f"{name}.py").write_text(text)


def write_of_commit(commit: str, checkout: Path, folder: Path) -> None:
    """Write the kernel sources of another commit, by the replay of that commit."""
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", checkout, commit], check=True, cwd=ROOT)
    try:
        environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
        command = [sys.executable, "-m", "tests.replay", "--write", folder]
        subprocess.run(command, check=True, cwd=checkout, env=environment)
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", checkout], check=True, cwd=ROOT)


def compare(before: Path, after: Path) -> int:
    """Print the differences between two folders of sources; 1 if there are any.

    Sources are matched by text first, so a kernel that another case makes earlier is no difference.
    """
    old, new = ({path.name: path.read_text() for path in sorted(folder.iterdir())} for folder in (before, after))
    gone = {name: text for name, text in old.items() if text not in new.values()}
    came = {name: text for name, text in new.items() if text not in old.values()}
    for name in sorted(gone.keys() | came.keys()):
        lines = gone.get(name, "").splitlines(), came.get(name, "").splitlines()
        print("\n".join(difflib.unified_diff(*lines, f"before/{name}", f"after/{name}", lineterm="")))
    print(f"{len(old)} kernels before, {len(new)} after: {len(gone)} changed or gone, {len(came)} changed or new")
    return 1 if gone or came else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
