"""A GPU backend for tensors on the CPU that records its launches and computes nothing; it needs no Triton."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from piste.engine import backend as registry
from piste.engine.gpu.backend import GpuBackend, layout_of
from piste.engine.gpu.device import PinnedTable
from piste.engine.gpu.launch import GpuStepKernel
from piste.engine.gpu.line_kernel import make_step_kernel


class Event:
    def query(self) -> bool:
        return True


class RecordingDevice:
    """A device of CUDA by its index, as `engine.gpu.device.Cuda`; each launch adds an entry to `launches`."""

    def __init__(self) -> None:
        self.launches: list[tuple[str, int, int, tuple[Any, ...]]] = []  # entry, blocks, stream, arguments
        self.current_stream, self.capturing = 0, False

    def upload(self, values: Any) -> torch.Tensor:
        return torch.tensor(list(values) or [0], dtype=torch.int64)

    def doubles(self, count: int) -> torch.Tensor:
        return torch.zeros(count, dtype=torch.float64)

    def local(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def keep(self, tables: Sequence[torch.Tensor], stream: int) -> None:
        pass

    def pinned(self, words: int) -> PinnedTable:
        return PinnedTable(words, pin=False)

    def stream(self) -> int:
        return self.current_stream

    def is_capturing(self) -> bool:
        return self.capturing

    def record(self, stream: int) -> Event:
        return Event()

    def run(self, function: Any, *arguments: Any) -> None:
        function(*arguments)

    def launcher(self, source: Any) -> Any:
        return lambda blocks, stream, arguments: self.launches.append((source.entry, blocks, stream, arguments))

    def gradients(self, launch: int = -1) -> list[int]:
        """Return the addresses of the gradients that a launch was given."""
        arguments = self.launches[launch][3]
        return list((ctypes.c_int64 * arguments[4]).from_address(arguments[3]))


class RecordingBackend(GpuBackend):
    """The GPU backend on a recording device."""

    devices = frozenset({"cpu"})

    def __init__(self) -> None:
        self.device = RecordingDevice()

    def why_unavailable(self) -> None:
        return None

    def step_layout(self, spec: Any, state: Any) -> Any:
        return 0, layout_of(spec, state)

    def compile_step(self, spec: Any, layout: Any, states: Any) -> GpuStepKernel:
        return make_step_kernel(spec, layout[1], states, self.device)


@contextmanager
def recording() -> Iterator[RecordingBackend]:
    """Let tensors on the CPU be stepped by a backend that records its launches."""
    backend = RecordingBackend()
    registry.BACKENDS.insert(0, backend)
    try:
        yield backend
    finally:
        registry.BACKENDS.remove(backend)
