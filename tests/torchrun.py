"""Runs a script in two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ABORTED = "terminate called without an active exception"
"""The last words of a process that gloo aborts after `destroy_process_group`, as it does now and then in any script."""


def torchrun(script: Path, *arguments: object, seconds: int = 300) -> str:
    """Run a script in two processes of one thread each, and return its output, which it must write before it ends."""
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script,
            *map(str, arguments),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    assert done.returncode == 0 or ABORTED in done.stderr, done.stderr
    return done.stdout
