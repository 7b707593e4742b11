"""Processes of their own, for what can only be seen in a fresh one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import Any


def python(code: str, **env: Any) -> str:
    """What a new Python prints that runs the code, with these environment variables besides; it has to end well."""
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
