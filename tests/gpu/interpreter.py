"""A GPU backend for tensors on the CPU: Triton's interpreter runs the kernels, and nothing else differs."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch

from piste.engine import backend as registry
from piste.engine import loss_dispatch
from piste.engine.gpu.backend import GpuBackend, layout_of
from piste.engine.gpu.compiler import function
from piste.engine.gpu.device import PinnedTable
from piste.engine.gpu.launch import GpuStepKernel
from piste.engine.gpu.line_kernel import make_step_kernel
from piste.engine.gpu.loss_kernel import GpuLossKernel
from piste.engine.gpu.step_kernel import Layout
from piste.losses import call


class _Language:
    """Stands for `triton.language`, with the functions of Triton's library interpreted too."""

    def __getattr__(self, name: str) -> Any:
        import triton.language as tl
        from triton.runtime.interpreter import InterpretedFunction
        from triton.runtime.jit import JITFunction

        found = getattr(tl, name)
        return InterpretedFunction(found.fn) if isinstance(found, JITFunction) else found


def _range(*bounds: Any) -> range:
    """Take tensors of one number, which NumPy 2.4 doesn't take for integers."""
    return range(*(x if isinstance(x, int) else int(x.handle.data.item()) for x in bounds))


@cache
def interpreted(source: Any) -> Any:
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction

    entry = function(source, jit=InterpretedFunction)
    scope = entry.fn.__globals__
    # The interpreter patches the modules among the globals, and restores them after a launch.
    scope["tl"], scope["language"], scope["core"] = _Language(), tl, tl.core
    scope["range"] = _range
    return entry


def argument(value: Any, kind: str) -> Any:
    """An argument as the interpreter takes it: a tensor for an address, a number of the stated precision."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    if kind.startswith("*"):
        word = ctypes.c_int64.from_address(value)
        dtype = {"*i64": torch.int64, "*fp64": torch.float64, "*fp32": torch.float32}[kind]
        return torch.frombuffer(word, dtype=dtype, count=1)
    dtype, scalar = {"fp64": (np.float64, tl.float64), "fp32": (np.float32, tl.float32), "i64": (np.int64, tl.int64)}[
        kind
    ]
    return tl.tensor(TensorHandle(np.array([value], dtype=dtype), scalar), scalar)


class InterpretedDevice:
    """Stands for a device whose memory is the host's; it keeps a list of its launches."""

    index = -1

    def __init__(self) -> None:
        self.launches: list[tuple[str, int]] = []
        self.capturing = False

    def local(self, value: Any) -> Any:
        return value

    def upload(self, values: Any) -> torch.Tensor:
        return torch.tensor(list(values) or [0], dtype=torch.int64)

    def doubles(self, count: int) -> torch.Tensor:
        return torch.full((count,), float("nan"), dtype=torch.float64)

    def zeros(self, count: int) -> torch.Tensor:
        return torch.zeros(count, dtype=torch.int64)

    lasting_zeros = zeros

    def synchronize(self) -> None:
        pass

    def keep(self, tables: Sequence[torch.Tensor], stream: int) -> None:
        pass

    def pinned(self, words: int) -> PinnedTable:
        return PinnedTable(words, pin=False)

    def stream(self) -> int:
        return 0

    def is_capturing(self) -> bool:
        return self.capturing

    def record(self, stream: int) -> Any:
        return torch.cpu.Event() if hasattr(torch.cpu, "Event") else None

    def run(self, function: Any, *arguments: Any) -> None:
        function(*arguments)

    def launcher(self, source: Any) -> Any:
        def launch(blocks: int, stream: int, arguments: Sequence[Any]) -> None:
            self.launches.append((source.entry, blocks))
            given = [argument(x, kind) for x, (_, kind) in zip(arguments, source.signature, strict=True)]
            interpreted(source)[(blocks,)](*given)

        return launch


class InterpretedBackend(GpuBackend):
    """The GPU backend on an interpreted device; `on_device` puts the step counts there."""

    devices = frozenset({"cpu"})

    def __init__(self, on_device: bool = False) -> None:
        self.device, self.on_device = InterpretedDevice(), on_device
        self.kernels: list[GpuLossKernel] = []

    def step_layout(self, spec: Any, state: Any) -> tuple[int, Layout]:
        found = layout_of(spec, state)
        return 0, replace(found, counts_on_device=self.on_device or not state.counters)

    def compile_loss(self, spec: Any, operands: Any) -> GpuLossKernel:
        self.kernels.append(GpuLossKernel(spec, self.device))
        return self.kernels[-1]

    def compile_step(self, spec: Any, layout: Any, states: Any) -> GpuStepKernel:
        return make_step_kernel(spec, layout[1], states, self.device)


@contextmanager
def interpreting(on_device: bool = False) -> Iterator[InterpretedBackend]:
    """Let the interpreter step tensors on the CPU, and compute losses of them."""
    backend = InterpretedBackend(on_device)
    registry.BACKENDS.insert(0, backend)
    forget_kernels()
    try:
        yield backend
    finally:
        registry.BACKENDS.remove(backend)
        forget_kernels()


def forget_kernels() -> None:
    """Let every loss choose its backend again."""
    loss_dispatch._dispatcher.cache_clear()
    call._cached_settings.clear()
