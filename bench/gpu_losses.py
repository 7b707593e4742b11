"""`python -m bench gpu-losses`: time losses with their backward on a CUDA device next to PyTorch.

A row is a loss and a shape; the contenders alternate within it. Times are those of the device, without the host, as
`bench gpu` measures them; the time of the graph around the loss, a multiplication with its backward, is measured in the
same turns and subtracted. "wall" includes the host and the graph. Ratios above 1: Piste is faster. "floor" is the time
of reading the operands and writing the gradient once at the copy bandwidth of the same run. The peak is the memory that
a call with its backward takes beyond its operands and the gradient of the graph, in multiples of the input's size; "in
place" is cross entropy with `inplace=True`. Liger Kernel's cross entropy takes part where it is installed.
"""

from __future__ import annotations

import argparse
import gc
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

import piste.losses.functional as piste_functional

from .gpu import DEVICE, alternate, bandwidth, first_times

Case = tuple[str, Callable[[], tuple[torch.Tensor, ...]], dict[str, Any]]
OTHERS = ("torch", "compile", "liger", "in place")
_SMALL = 1e-4  # milliseconds: the shortest time that a ratio is of


def classes(n: int, c: int, dtype: torch.dtype, *dims: int) -> Callable[[], tuple[torch.Tensor, ...]]:
    """Return a function that makes logits and class indices."""

    def make() -> tuple[torch.Tensor, ...]:
        target = torch.randint(c, (n, *dims), device=DEVICE)
        return torch.randn(n, c, *dims, device=DEVICE, dtype=dtype), target

    return make


def pairs(n: int) -> Callable[[], tuple[torch.Tensor, ...]]:
    """Return a function that makes numbers and probabilities."""
    return lambda: (torch.randn(n, device=DEVICE), torch.rand(n, device=DEVICE))


def cases() -> dict[str, Case]:
    """Return the rows by name: the function, its operands and its options."""
    found: dict[str, Case] = {}
    shapes = ((8192, 32000, torch.bfloat16), (8192, 128256, torch.bfloat16), (4096, 50257, torch.float32))
    for n, c, dtype in (*shapes, (8192, 1000, torch.float32), (256, 10, torch.float32)):
        found[f"cross entropy {n} x {c} {str(dtype)[6:]}"] = "cross_entropy", classes(n, c, dtype), {}
    smooth = {"label_smoothing": 0.1}
    found["smoothed 8192 x 32000 bfloat16"] = "cross_entropy", classes(8192, 32000, torch.bfloat16), smooth
    found["images 8 x 21 x 512 x 512"] = "cross_entropy", classes(8, 21, torch.float32, 512, 512), {}
    names = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy_with_logits")
    for n in (25_000_000, 1_000_000, 1000):
        for name in (*names, "poisson_nll_loss") if n > 1000 else names[:1]:
            found[f"{name} {n:,}"] = name, pairs(n), {}
    return found


def measure(case: Case, speed: float, rounds: int, compiled: bool) -> str:
    """Measure one row; return its text after the name."""
    name, make, options = case
    x, *others = make()
    x.requires_grad_()
    seed = torch.ones_like(x)

    def graph() -> None:
        x.grad = None
        (x * 1).backward(seed)

    def step(loss: Callable[..., torch.Tensor], **more: Any) -> Callable[[], None]:
        def run() -> None:
            x.grad = None
            loss(x * 1, *others, **options, **more).backward()

        return run

    theirs, ours = getattr(functional, name), getattr(piste_functional, name)
    steps = {"graph": graph, "torch": step(theirs), "piste": step(ours), "unchecked": step(ours, check="off")}
    if name == "cross_entropy":
        steps["in place"] = step(ours, inplace=True)
        if x.dim() == 2 and (liger := liger_cross_entropy()) is not None:
            steps["liger"] = step(liger)
    if compiled:
        torch.compiler.reset()  # it would compile the second shape of a loss for all shapes
        steps["compile"] = step(torch.compile(theirs))
    _, failed = first_times(steps, (), ("compile", "liger"))
    peaks = {who: peak(steps[who], x) for who in ("torch", "piste", "in place") if who in steps}
    times = alternate(steps, rounds)
    base = times["graph"][1]
    net = {who: max(device - base, _SMALL) for who, (_, device) in times.items()}
    floor = (2 * x.nbytes + sum(y.nbytes for y in others)) / speed / 1e6
    rest = "  ".join(f"{who} {net[who]:.3f} ({net[who] / net['piste']:.2f}x)" for who in OTHERS if who in net)
    own_peaks = ", ".join(f"{who} {size:.2f}" for who, size in peaks.items() if who != "piste")
    return (
        f"piste {net['piste']:.3f}  {rest}  "
        f"floor {floor:.3f}  wall {times['torch'][0] / times['piste'][0]:.2f}x of {times['piste'][0]:.3f}  "
        f"checks {net['piste'] / net['unchecked'] - 1:+.1%}  peak {peaks['piste']:.2f} ({own_peaks}){failed}"
    )


def liger_cross_entropy() -> Callable[..., torch.Tensor] | None:
    """Return Liger Kernel's cross entropy, or None where it is not installed."""
    try:
        module = importlib.import_module("liger_kernel.transformers.functional")
    except ImportError:
        return None
    found: Callable[..., torch.Tensor] = module.liger_cross_entropy
    return found


def peak(step: Callable[[], None], x: torch.Tensor) -> float:
    """Return the memory that a call takes at most, beyond the gradient that it leaves, in sizes of the input."""
    step()
    x.grad = None
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    # `x * 1` takes one size.
    return (torch.cuda.max_memory_allocated() - before) / x.nbytes - 1


def main(arguments: list[str]) -> None:
    """Print a row for each loss and shape."""
    known = cases()
    parser = argparse.ArgumentParser(prog="python -m bench gpu-losses", description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name contains this text")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="also time torch.compile of PyTorch's loss")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("bench gpu-losses needs a CUDA device.")
    speed = bandwidth()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {speed:.0f} GB/s; milliseconds, medians")
    for name, case in known.items():
        if chosen.only in name:
            try:
                text = measure(case, speed, chosen.rounds, chosen.compile)
            except Exception as error:  # the other rows are measured all the same
                text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[-1]}"
            print(f"{name:38s} {text}", flush=True)
            gc.collect()
            torch.cuda.empty_cache()
