"""The number of threads that a run uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

SINGLE_THREAD_MAX_PARAMETERS = 1_000_000
"""Smaller models run on one thread: several threads would spend their time waiting for each other."""


@contextlib.contextmanager
def one_thread(enabled: bool = True) -> Iterator[None]:
    """Run PyTorch on one thread inside `with`, if `enabled`, and restore the number of threads afterwards."""
    before = torch.get_num_threads()
    if enabled:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
