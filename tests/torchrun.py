"""Runs a script in two processes.

A thread of gloo releases the tensors of a collective operation after the operation. If Python ends in between, PyTorch
aborts the process (its issue 190489), so scripts sleep for a moment before they destroy the process group.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def torchrun(script: Path, *arguments: object, seconds: int = 300) -> str:
    """Run a script in two processes of one thread each, and return its output."""
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script,
            *map(str, arguments),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
