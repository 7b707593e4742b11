"""Runs code in a new process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import Any


def python(code: str, **env: Any) -> str:
    """Run code in a new Python with additional environment variables, expect exit status 0, and return its output."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, **{name: str(value) for name, value in env.items()}},
            capture_output=True,
            text=True,
            timeout=180,
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"it hangs:\n{error.stdout}\n{error.stderr}") from None
    assert done.returncode == 0, f"it ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()
