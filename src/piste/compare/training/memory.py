"""The memory of a training step, measured."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import torch

from ...torch_internals import record_allocations


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """The bytes an optimizer keeps between steps, counted over the tensors of its state."""
    tensors: dict[int, torch.Tensor] = {}

    def collect(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            tensors[id(value)] = value
        elif isinstance(value, dict):
            for item in value.values():
                collect(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                collect(item)

    collect(dict(optimizer.state))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def allocated_during(action: Callable[[], Any]) -> int:
    """The most memory that `action` held at once of what it allocated, in bytes, as PyTorch's allocators report it.

    On the CPU every allocation is recorded by PyTorch's profiler; on a GPU its allocator keeps the peak itself.
    """
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        peak = _recorded(action)
        return peak + torch.cuda.max_memory_allocated() - before
    return _recorded(action)


def _recorded(action: Callable[[], Any]) -> int:
    is_collecting = gc.isenabled()
    gc.disable()  # the garbage of others, freed meanwhile, would be counted
    try:
        allocations = record_allocations(action)
    finally:
        if is_collecting:
            gc.enable()
    return max(0, *itertools.accumulate(allocations, initial=0))
