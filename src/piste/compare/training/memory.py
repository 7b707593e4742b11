"""The memory of a training step, measured."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import torch

from ...torch_internals import record_allocations


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of the tensors in an optimizer's state; each tensor counts once."""
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


def peak_bytes_during(action: Callable[[], Any], device: torch.device) -> int:
    """Return the peak of the memory that `action` allocates, in bytes, as reported by PyTorch's allocators.

    On the CPU PyTorch's profiler records every allocation; on a GPU the allocator records the peak.

    Args:
        action: Allocates the memory.
        device: Where it computes: on the CPU, or on a GPU, where the peaks of all GPUs are added.
    """
    if device.type != "cuda":
        return _cpu_peak_during(action)
    gpus = range(torch.cuda.device_count())
    for gpu in gpus:
        torch.cuda.reset_peak_memory_stats(gpu)
    before = sum(map(torch.cuda.memory_allocated, gpus))
    action()
    return sum(map(torch.cuda.max_memory_allocated, gpus)) - before


def _cpu_peak_during(action: Callable[[], Any]) -> int:
    is_collecting = gc.isenabled()
    gc.disable()  # tensors of other owners, collected meanwhile, would be counted
    try:
        allocations = record_allocations(action)
    finally:
        if is_collecting:
            gc.enable()
    return max(0, *itertools.accumulate(allocations, initial=0))
