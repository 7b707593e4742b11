"""The memory of a training step, measured."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch


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
    # The profiler's public face starts its GPU library, which takes seconds and writes to the terminal.
    from torch._C._profiler import _ExperimentalConfig
    from torch.autograd import ProfilerConfig, ProfilerState, _disable_profiler_legacy, _enable_profiler_legacy

    settings = ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig())
    collecting = gc.isenabled()
    gc.disable()  # garbage of others, freed meanwhile, would be counted
    _enable_profiler_legacy(settings)
    try:
        action()
    finally:
        records = _disable_profiler_legacy()
        if collecting:
            gc.enable()
    held = peak = 0
    for thread in records:
        for record in thread:
            if record.kind() == "memory_alloc":
                held += record.cpu_memory_usage()
                peak = max(peak, held)
    return peak
