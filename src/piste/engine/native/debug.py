"""`PISTE_DEBUG=source` prints each kernel to stderr when a process first loads it, from disk or compiled."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping

__all__ = ["file_comments", "is_source_wanted", "print_source"]


def is_source_wanted() -> bool:
    """Return whether `PISTE_DEBUG` asks for the source of kernels."""
    return os.environ.get("PISTE_DEBUG") == "source"


def print_source(key: str, source: str, comments: Iterable[str]) -> None:
    """Print a kernel, with its formula and its cache key as comments above it."""
    lines = [f"# kernel {key}", *(f"# {line}" for line in comments), *source.splitlines()]
    print("\n".join(lines).rstrip(), end="\n\n", file=sys.stderr, flush=True)


def file_comments(name: str, constants: Mapping[str, int | str]) -> list[str]:
    """Write the name of a file of kernels and the values of its constants."""
    return [f"{name}.py", *(f"{constant} = {value}" for constant, value in sorted(constants.items()))]
