"""What a launch needs of a CUDA device: tables, streams, capture and kernels."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ...torch_internals import current_device, raw_stream
from .compiler import launcher
from .driver import Launch, permitted_in_captures
from .step_kernel import KernelSource


class PinnedTable:
    """64-bit words of host memory that kernels of the device read."""

    def __init__(self, words: int, *, pin: bool = True) -> None:
        self._memory = torch.empty(max(words, 1), dtype=torch.int64, device="cpu", pin_memory=pin)
        self.address = self._memory.data_ptr()
        self.content = b""
        self.is_in_graphs = False  # whether a CUDA graph holds its address
        self.streams: set[int] = set()  # streams of the launches that read it since it was written
        self.events: list[Any] = []

    def write(self, values: array[Any]) -> None:
        """Replace the content."""
        self.content = values.tobytes()
        ctypes.memmove(self.address, self.content, len(self.content))


class Cuda:
    """A device of CUDA or ROCm, by its index."""

    def __init__(self, index: int) -> None:
        self.index = index
        self._device = torch.device("cuda", index)

    def local(self, value: Any) -> Any:
        """Return a tensor of another GPU on this one, without waiting; other values as they are."""
        is_elsewhere = isinstance(value, Tensor) and value.is_cuda and value.get_device() != self.index
        return value.to(self._device, non_blocking=True) if is_elsewhere else value

    def upload(self, values: array[int]) -> Tensor:
        """Copy words to the device, without waiting for it."""
        host = torch.frombuffer(values or array("q", [0]), dtype=torch.int64)
        return host.pin_memory().to(self._device, non_blocking=True)

    def doubles(self, count: int) -> Tensor:
        """Allocate doubles on the device."""
        return torch.empty(count, dtype=torch.float64, device=self._device)

    def zeros(self, count: int) -> Tensor:
        """Allocate words of 0 on the device."""
        return torch.zeros(count, dtype=torch.int64, device=self._device)

    def lasting_zeros(self, count: int) -> Tensor:
        """Allocate words of 0 for the work of the current stream, to be kept after the call.

        A thread may allocate in a pool of its own: torch.compile(mode="reduce-overhead") does so before it captures a
        CUDA graph, and rejects memory of the pool that is no result of the compiled function. So another thread
        allocates.
        """
        event = torch.cuda.Event()

        def allocate() -> Tensor:
            made = self.zeros(count)
            event.record(torch.cuda.current_stream(self._device))
            return made

        with ThreadPoolExecutor(1) as thread:
            made = thread.submit(allocate).result()
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(event)
        made.record_stream(stream)
        return made

    def synchronize(self) -> None:
        """Wait for everything that the device has been given."""
        torch.cuda.synchronize(self._device)

    def keep(self, tables: Sequence[Tensor], stream: int) -> None:
        """Let tables live until a stream has done what it has been given, also where they are freed before."""
        for table in tables:
            table.record_stream(self._stream_of(stream))

    def pinned(self, words: int) -> PinnedTable:
        """Allocate a table in pinned memory."""
        with permitted_in_captures():
            return PinnedTable(words)

    def stream(self) -> int:
        """Return the handle of the current stream."""
        if raw_stream is not None:
            return int(raw_stream(self.index))
        return torch.cuda.current_stream(self._device).cuda_stream

    def is_capturing(self) -> bool:
        """Return whether the current stream is being captured in a CUDA graph."""
        return torch.cuda.is_current_stream_capturing()

    def record(self, stream: int) -> Any:
        """Return an event after everything that a stream has been given."""
        event = torch.cuda.Event()
        event.record(self._stream_of(stream))
        return event

    def _stream_of(self, handle: int) -> Any:
        """Return the stream of a handle. `ExternalStream` makes a new one for 0, the handle of the default stream."""
        return torch.cuda.get_stream_from_external(handle, self._device)

    def run(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function while this device is the current one."""
        if current_device() == self.index:
            function(*arguments)
        else:
            with torch.cuda.device(self.index):
                function(*arguments)

    def launcher(self, source: KernelSource) -> Launch:
        """Return the function that launches a kernel, compiled now where it has not been; see `run`."""
        return launcher(source, self.index)
