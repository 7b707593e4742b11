"""`python -m bench gpu-tiles`: time losses with other tiles than their kernels take on a CUDA device.

The tiles of `loss_rows.row_layout` and the blocks of `loss_elements` are compromises between GPUs. A line has the time
on the device, its ratio to the time of reading the operands and writing the gradient once at the copy bandwidth of the
same run, and the tile: rows or runs, classes of a run, and warps. "now" is the tile that the library takes.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

from piste.engine.gpu import loss_elements, loss_kernel
from piste.engine.gpu.loss_rows import RowLayout, row_layout
from piste.losses import functional

from .gpu import bandwidth, device_time, wall_time
from .gpu_counts import forget_kernels

ROWS = (
    (8192, 128256, torch.bfloat16),
    (8192, 32000, torch.bfloat16),
    (4096, 50257, torch.float32),
    (8192, 8000, torch.bfloat16),
    (8192, 1000, torch.float32),
)
ELEMENTS = ("mse_loss", "binary_cross_entropy_with_logits", "poisson_nll_loss")
_COUNT = 25_000_000


def long_tiles(unit: int) -> Iterator[RowLayout]:
    """Make the tiles of long rows: runs in which each thread has an access of 16 bytes, and several runs."""
    for warps in (4, 8, 16, 32):
        for runs in (1, 2, 4, 8):
            yield RowLayout(1, 32 * warps * max(4, unit), False, unit, True, warps, runs)


def whole_tiles(classes: int, unit: int) -> Iterator[RowLayout]:
    """Make the tiles of one or more whole rows that leave a thread at most 64 classes."""
    power = 1 << (classes - 1).bit_length()
    for rows in (1, 2, 4):
        for warps in (2, 4, 8, 16, 32):
            if 4 <= rows * power // (32 * warps) <= 64:
                yield RowLayout(rows, power, True, unit, True, warps)


def timed(step: Callable[[], object], rounds: int) -> float:
    """Return the milliseconds of a step on the device, the median of several."""
    forget_kernels()
    step()
    wall = wall_time(step)
    return statistics.median(device_time(step, wall) for _ in range(rounds))


def shown(step: Callable[[], object], floor: float, rounds: int) -> str:
    """Return the time of a step and its ratio to the floor, or the error: the other tiles are measured all the same."""
    try:
        time = timed(step, rounds)
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[-1]}"
    return f"{time:.4f} ms  {time / floor:5.2f}"


def rows(speed: float, rounds: int, only: str) -> None:
    """Print the times of cross entropies by their tiles."""
    for n, classes, dtype in ROWS:
        name = f"cross entropy {n} x {classes} {str(dtype)[6:]}"
        if only not in name:
            continue
        x = torch.randn(n, classes, device="cuda", dtype=dtype, requires_grad=True)
        target = torch.randint(classes, (n,), device="cuda")
        floor = 2 * x.nbytes / speed / 1e6
        unit = 16 // dtype.itemsize if classes % (16 // dtype.itemsize) == 0 else 1
        print(f"{name}, floor {floor:.4f} ms", flush=True)
        chosen: Any = row_layout(classes, unit, True)
        for layout in (chosen, *whole_tiles(classes, unit), *(long_tiles(unit) if classes > 4096 else ())):

            def layout_of(*_: Any, layout: RowLayout = layout) -> RowLayout:
                return layout

            with mock.patch.object(loss_kernel, "row_layout", layout_of):
                time = shown(lambda x=x, target=target: functional.cross_entropy(x, target), floor, rounds)  # type: ignore[misc]
            mark = "now" if layout is chosen else ""
            print(f"  {time}  {layout.shape}, {layout.warps} warps {mark}", flush=True)
    forget_kernels()


def elements(speed: float, rounds: int, only: str) -> None:
    """Print the times of losses of elements by their blocks."""
    x, y = torch.randn(_COUNT, device="cuda", requires_grad=True), torch.rand(_COUNT, device="cuda")
    floor = 3 * x.nbytes / speed / 1e6
    now = loss_elements.BLOCK, loss_elements.ITERATIONS
    for name in (name for name in ELEMENTS if only in name):
        loss = getattr(functional, name)
        print(f"{name} {_COUNT:,}, floor {floor:.4f} ms", flush=True)
        for block, iterations in (now, (512, 8), (1024, 1), (1024, 2), (1024, 8), (1024, 16), (2048, 2), (2048, 8)):
            sizes = {"BLOCK": block, "ITERATIONS": iterations}
            # The source of a kernel is kept by its loss, and has the size of a block in its text.
            source = mock.patch.object(loss_kernel, "elements_source", loss_elements.elements_source.__wrapped__)
            with mock.patch.multiple(loss_kernel, **sizes), mock.patch.multiple(loss_elements, **sizes), source:
                time = shown(lambda loss=loss: loss(x, y), floor, rounds)  # type: ignore[misc]
            mark = "now" if (block, iterations) == now else ""
            print(f"  {time}  {iterations} x {block} {mark}", flush=True)
    forget_kernels()


def main(arguments: list[str]) -> None:
    """Print a line for each loss, shape and tile."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu-tiles", description=__doc__)
    parser.add_argument("--only", default="", help="losses whose name contains this text; all compile for minutes")
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("bench gpu-tiles needs a CUDA device.")
    speed = bandwidth()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {speed:.0f} GB/s; medians")
    rows(speed, chosen.rounds, chosen.only)
    elements(speed, chosen.rounds, chosen.only)
