"""How many threads the runs take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

SMALL = 1_000_000
"""A model with fewer weights runs on one thread: more would spend their time waiting for each other."""


@contextlib.contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """One thread for PyTorch inside `with`, if wanted, and as many as before afterwards."""
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
