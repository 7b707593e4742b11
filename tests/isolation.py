"""The end of each test compares the state of the process that changes results with that at its start."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


def process_state() -> dict[str, Any]:
    """Return what changes the result, the speed or the words of tests that follow, by name."""
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": default_device(),
        "number of threads": torch.get_num_threads(),
        "grad mode": torch.is_grad_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "autocast on the CPU": torch.is_autocast_enabled("cpu"),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "deterministic algorithms warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "warnings repeat": torch.is_warn_always_enabled(),
        "denormal numbers": not flushes_half(sys.float_info.min),
        "torch.optim.Adam": torch.optim.Adam,
        "variables of Piste": {name: value for name, value in os.environ.items() if name.startswith("PISTE_")},
    }


def default_device() -> str:
    """Return the default device."""
    try:
        return str(torch.get_default_device())
    except AttributeError:  # of torch 2.9, after set_default_device(None)
        return "cpu"


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make a dtype the default one of the process meanwhile."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def flushes_half(smallest: float) -> bool:
    """Return whether the processor takes the half of the smallest normal number for 0."""
    return smallest / 2 == 0


@pytest.fixture(autouse=True)
def unchanged_process() -> Iterator[None]:
    """Fail a test that leaves the state of the process changed."""
    before = process_state()
    yield
    after = process_state()
    changed = [f"{name}: {before[name]} before, {after[name]} after" for name in before if before[name] != after[name]]
    if changed:
        pytest.fail("The test left the state of the process changed. " + "; ".join(changed), pytrace=False)
