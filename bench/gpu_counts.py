"""`python -m bench gpu-counts`: count the launches, bytes and host time of GPU steps and losses without a device.

Tensors lie on the CPU, and a launch is counted and calls a function that does nothing, as it would call the driver, so
neither a GPU nor Triton is needed. "bytes" are read and written by the kernels for each element; the floor is their
time at the bandwidth given. "host" is the median wall time of a step in microseconds, next to the budget of 50 us and
25 ns for each tensor; that of a loss includes its backward and the graph around it. "tables" is the memory of a step on
the device beyond parameters, gradients and state. With `--clipped`, steps have `max_norm=1.0` and `nonfinite="skip"`,
and step counts are on the device; the few operations of torch that follow from the norm are part of "host", and are not
counted as launches.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from piste import losses, optim
from piste.engine import backend as registry
from piste.engine import loss_dispatch
from piste.engine.gpu.backend import GpuBackend, layout_of
from piste.engine.gpu.device import PinnedTable
from piste.engine.gpu.driver import launch_of
from piste.engine.gpu.launch import GpuStepKernel
from piste.engine.gpu.line_kernel import make_step_kernel
from piste.engine.gpu.loss_kernel import GpuLossKernel
from piste.engine.gpu.step_kernel import KernelSource
from piste.errors import InvalidValue
from piste.losses import call
from piste.optim import clipping

from .gpu import KINDS, MODELS, add_own_options, own_options

REDUCING = ("LAMB", "LARS", "StableAdamW", "Adafactor")
SMALL_MODELS = [name for name in MODELS if sum(torch.Size(s).numel() for s in MODELS[name]) < 30_000_000]
LOSSES = ("MSELoss", "HuberLoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "NLLLoss", "FocalLoss")
OF_CLASSES = ("CrossEntropyLoss", "NLLLoss", "FocalLoss")
SIZES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


def bytes_of(source: KernelSource) -> int:
    """Return the bytes that a kernel of a step reads and writes for each element, read off its text."""
    body = source.text.partition("def element(")[2].partition("@triton.jit")[0].partition("\n")[2]
    used = set(re.findall(r"\w+", body))
    kinds = re.findall(r"a_(\w+) = at_\w+\.to\(tl\.pointer_type\(tl\.(\w+)\)\)", source.text)
    writes = re.findall(r"tl\.store\(to_(\w+), ", source.text)
    read = sum(SIZES[kind] for name, kind in kinds if f"{name}_" in used)
    return read + sum(SIZES[kind] for name, kind in kinds if name in writes)


class CountingDevice:
    """A device of CUDA by its index, as `piste.engine.gpu.device.Cuda`, whose launches are counted."""

    index = -1  # that of the CPU

    def __init__(self) -> None:
        self.launches: list[tuple[KernelSource, int]] = []
        self.tables = 0  # bytes

    def _kept(self, table: torch.Tensor) -> torch.Tensor:
        self.tables += table.nbytes
        return table

    def local(self, value: Any) -> Any:
        return value

    def upload(self, values: Any) -> torch.Tensor:
        return self._kept(torch.tensor(list(values) or [0], dtype=torch.int64))

    def doubles(self, count: int) -> torch.Tensor:
        return self._kept(torch.zeros(count, dtype=torch.float64))

    def zeros(self, count: int) -> torch.Tensor:
        return self._kept(torch.zeros(count, dtype=torch.int64))

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
        return False

    def record(self, stream: int) -> Any:
        return _Done()

    def run(self, function: Callable[..., object], *arguments: Any) -> None:
        function(*arguments)

    def launcher(self, source: KernelSource) -> Callable[..., None]:
        start = launch_of(_NOTHING, _HANDLE, 32 * source.warps, 0, [kind for _, kind in source.signature], 0)

        def launch(blocks: int, stream: int, arguments: Sequence[Any]) -> None:
            self.launches.append((source, blocks))
            start(blocks, stream, arguments)

        return launch


_NOTHING, _HANDLE = ctypes.CDLL(None).abs, ctypes.c_void_p(1 << 32)
"""A function of C in place of cuLaunchKernel: it returns the low half of the kernel's handle, 0, which is success."""


class _Done:
    def query(self) -> bool:
        return True


class CountingBackend(GpuBackend):
    """The GPU backend on a counting device."""

    devices = frozenset({"cpu"})

    def __init__(self, on_device: bool) -> None:
        self.device, self._on_device = CountingDevice(), on_device

    def why_unavailable(self) -> None:
        return None

    def step_layout(self, spec: Any, state: Any) -> Any:
        found = layout_of(spec, state)
        return 0, replace(found, counts_on_device=self._on_device or found.counts_on_device)

    def compile_step(self, spec: Any, layout: Any, states: Any) -> GpuStepKernel:
        return make_step_kernel(spec, layout[1], states, self.device)

    def compile_loss(self, spec: Any, operands: Any) -> GpuLossKernel:
        return GpuLossKernel(spec, self.device)  # type: ignore[arg-type]


@contextmanager
def counting(on_device: bool = False) -> Iterator[CountingDevice]:
    """Let tensors on the CPU be taken for those of a GPU whose launches are counted.

    Args:
        on_device: whether step counts are on the device, as where it decides about a step.
    """
    backend = CountingBackend(on_device)
    registry.BACKENDS.insert(0, backend)
    forget_kernels()
    try:
        with patch.object(clipping.GradientSquares, "of", lambda params: None):
            yield backend.device
    finally:
        registry.BACKENDS.remove(backend)
        forget_kernels()


def forget_kernels() -> None:
    """Let every loss choose its backend again."""
    loss_dispatch._dispatcher.cache_clear()
    call._cached_settings.clear()


def host_time(step: Callable[[], object], device: CountingDevice, rounds: int) -> tuple[float, list[Any]]:
    """Return the median microseconds of a step, and the launches of the last one."""
    times = []
    for _ in range(rounds + 3):
        device.launches.clear()
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:]) * 1e6, list(device.launches)


def step_row(model: str, kind: str, dtype: torch.dtype, speed: float, rounds: int, own: dict[str, Any]) -> str:
    """Count the steps of an optimizer on a model; return a line.

    Args:
        model: the name of the model.
        kind: the name of the optimizer.
        dtype: the dtype of its parameters.
        speed: the bandwidth in GB/s.
        rounds: the number of steps that are timed.
        own: options of Piste.
    """
    params = [torch.zeros(shape, dtype=dtype).requires_grad_() for shape in MODELS[model]]
    for p in params:
        p.grad = torch.zeros_like(p)
    options: dict[str, Any] = {"lr": 1e-3, **({"momentum": 0.9} if kind in ("SGD", "LARS") else {})}
    options |= own
    with counting(on_device="max_norm" in own) as device:
        optimizer = getattr(optim, kind)(params, **options)
        host, launches = host_time(optimizer.step, device, rounds)
    each = sum(bytes_of(source) for source, _ in launches if source.entry.startswith(("reduce", "step")))
    floor = sum(p.numel() for p in params) * each / speed / 1e6
    return (
        f"{model:14s} {kind:11s} launches {len(launches)}  bytes {each:3d}  floor {floor:8.4f} ms  "
        f"host {host:6.1f} us of {50 + 0.025 * len(params):5.1f}  tables {device.tables / 1024:8.1f} KiB"
    )


def reads_of(text: str) -> int:
    """Return how often a kernel of a loss reads the rows of its first operand: once, or in each loop over a long row.

    A loop stands twice in the text, for whole tiles and for the rest of a row.
    """
    loop, found = "", {""}
    for line in text.splitlines():
        if match := re.search(r"for (start_\d+) in", line):
            loop = match[1]
        if "x_row = tl.load(" in line:
            found.add(loop)
    return max(1, len(found) - 1)


def loss_row(name: str, rows: int, classes: int, rounds: int) -> str:
    """Count the launches of a loss with its backward; return a line."""
    x = torch.randn(rows, classes).log_softmax(1).requires_grad_()
    y = torch.randint(classes, (rows,)) if name in OF_CLASSES else torch.rand(rows, classes)
    with counting() as device:
        loss = getattr(losses, name)()
        host, launches = host_time(lambda: loss(x * 1, y).backward(), device, rounds)
    reads = reads_of(next(source.text for source, _ in launches if source.entry == "loss"))
    entries = ", ".join(source.entry for source, _ in launches)
    return (
        f"{name:17s} {rows:3d} x {classes:5d}  launches {len(launches)} ({entries})  reads {reads}  host {host:6.1f} us"
    )


def main(arguments: list[str]) -> None:
    """Print a row for each model and optimizer, then one for each loss."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu-counts", description=__doc__)
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=SMALL_MODELS)
    parser.add_argument("--optimizers", nargs="*", choices=[*KINDS, *REDUCING], default=[*KINDS, *REDUCING])
    parser.add_argument("--losses", nargs="*", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--dtype", choices=["float64", "float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--bandwidth", type=float, default=3000.0, help="GB/s of the floor (3000)")
    parser.add_argument("--rounds", type=int, default=51)
    add_own_options(parser)
    chosen = parser.parse_args(arguments)
    for model in chosen.models:
        for kind in chosen.optimizers:
            given = getattr(torch, chosen.dtype), chosen.bandwidth, chosen.rounds
            try:
                text = step_row(model, kind, *given, own_options(chosen))
            except InvalidValue as error:  # a rule that refuses an option
                text = f"{model:14s} {kind:11s} {error}"
            print(text, flush=True)
    for name in chosen.losses:
        for rows, classes in ((256, 10), (64, 32000)) if name in OF_CLASSES else ((256, 10),):
            print(loss_row(name, rows, classes, chosen.rounds), flush=True)
