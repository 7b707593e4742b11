"""`python -m bench gpu`: time the steps of optimizers on a CUDA device next to those of PyTorch.

A row is a model and an optimizer; the contenders alternate within it: Piste and PyTorch's loop over the parameters, its
`foreach` and its `fused`, of which the best one counts. With `--compile` the step under torch.compile is one more, with
ratios of its own. "wall" includes the host and waits for the device. "device" is the time between two events on a
device that is kept busy until the host has launched the step: the host is no part of it, as in a training loop that
runs ahead of its device (for at most 1,000 launches, which a queue holds). Ratios above 1: Piste is faster. The share
of the copy bandwidth counts each tensor that a step reads or writes once; the bandwidth is measured in the same run.
"first" is the first step, with all that is compiled for it. With `--clipped`, Piste steps with `max_norm=1.0` and
`nonfinite="skip"`, and PyTorch after `clip_grad_norm_`; with `--eight-bits` Piste alone keeps its state in 8 bits.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from piste import optim

Step = Callable[[], object]
STREAMS = {
    "AdamW": 7, "SGD": 5, "Adagrad": 5, "RMSprop": 5, "Adadelta": 7, "Adamax": 7, "NAdam": 7, "RAdam": 7, "Lion": 5,
    "LAMB": 10, "LARS": 7, "StableAdamW": 9, "Adafactor": 6,
}  # fmt: skip
"""The tensors that the kernels of a step read and write."""
EIGHT_BIT_STREAMS = {"LAMB": 6.5, "LARS": 5.5, "StableAdamW": 5.25}
"""Those of steps in several passes with state in 8 bits, in tensors of 32 bits."""
KINDS = tuple(STREAMS)[:9]
FURTHER = (*tuple(STREAMS)[9:], "Prodigy")
MATRICES = ("Muon", "NorMuon")
"""Optimizers of matrices, which step the model of hidden matrices alone."""
DEVICE = "cuda"
CLIPPED: dict[str, Any] = {"max_norm": 1.0, "nonfinite": "skip"}
_CYCLES = 2e6  # of the device in a millisecond, at most
_FEW = 0.05  # milliseconds: below this floor a step is limited by launches, not by memory


def gpt2(layers: int, width: int) -> list[tuple[int, ...]]:
    """Return the shapes of the parameters of GPT-2 with these many layers."""
    block = [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,), (width,), (width,)]
    block += [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [(50257, width), (1024, width), *block * layers, (width,), (width,)]


def hidden(layers: int, width: int) -> list[tuple[int, ...]]:
    """Return the shapes of the four matrices of each layer of a transformer."""
    return [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)] * layers


def resnet50() -> list[tuple[int, ...]]:
    """Return the shapes of the parameters of ResNet-50."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            for conv in ((width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)):
                shapes += [conv, (conv[0],), (conv[0],)]
            if block == 0:
                shapes += [(4 * width, inputs, 1, 1), (4 * width,), (4 * width,)]
            inputs = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


MODELS: dict[str, list[tuple[int, ...]]] = {
    "1 x 100M": [(100_000_000,)],
    "1 x 250M": [(250_000_000,)],
    "GPT-2 small": gpt2(12, 768),
    "ResNet-50": resnet50(),
    "1B transformer": gpt2(24, 1792),
    "100 x (64,64)": [(64, 64)] * 100,
    "2000 x 32": [(32,)] * 2000,
    "6 small": [(64, 64), (64,)] * 3,
    "48 matrices": hidden(12, 768),
}
OF_MATRICES = "48 matrices"


def wall_time(step: Step) -> float:
    """Return the milliseconds of one call and of its work on the device."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def device_time(step: Step, wall: float) -> float:
    """Return the milliseconds of the work of one call on the device, which waits until the host has launched it.

    Args:
        step: launches the work.
        wall: about how many milliseconds the host takes at most.
    """
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    torch.cuda._sleep(int(_CYCLES * (1.5 * wall + 0.2)))
    first.record()
    step()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last)


def alternate(steps: dict[str, Step], rounds: int) -> dict[str, tuple[float, float]]:
    """Return (wall, device) medians of contenders that take turns."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in steps}
    for _ in range(3):
        for step in steps.values():
            step()
    for _ in range(rounds):
        for name, step in steps.items():
            walls, devices = times[name]
            walls.append(wall_time(step))
            devices.append(device_time(step, walls[-1]))
    return {name: (statistics.median(walls), statistics.median(devices)) for name, (walls, devices) in times.items()}


def bandwidth() -> float:
    """Return the bytes read and written by a large copy, in GB/s."""
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_(0, 255)
    b = torch.empty_like(a)
    _, device = alternate({"copy": lambda: b.copy_(a)}, 15)["copy"]
    return 2 * a.numel() / device / 1e6


def parameters(shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """Make parameters with gradients on the device."""
    params = [torch.randn(shape, device=DEVICE, requires_grad=True) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def contenders(
    kind: str, params: list[torch.Tensor], own: dict[str, Any], is_compiled: bool = False
) -> dict[str, Step]:
    """Return the steps of Piste, with options of its own, and of PyTorch's implementations, on the same parameters."""
    options: dict[str, Any] = {"lr": 1e-3, **({"momentum": 0.9} if kind in ("SGD", "LARS") else {})}
    steps: dict[str, Step] = {"piste": getattr(optim, kind)(params, **options, **own).step}
    theirs = getattr(torch.optim, kind, None)
    if theirs is None:
        return steps
    ways = [way for way in ("foreach", "fused") if way in inspect.signature(theirs).parameters]
    for name in ("loop", *ways):
        try:
            step = theirs(params, **options, **{way: way == name for way in ways}).step
            step()
        except RuntimeError:  # this optimizer has no such implementation for these parameters
            continue
        steps[name] = step
    if is_compiled:
        steps["compile"] = torch.compile(theirs(params, **options).step)
    if "max_norm" in own:
        steps |= {name: partial(_clip_and, step, params) for name, step in steps.items() if name != "piste"}
    return steps


def _clip_and(step: Step, params: list[torch.Tensor]) -> None:
    torch.nn.utils.clip_grad_norm_(params, CLIPPED["max_norm"])
    step()


def row(
    model: str,
    kind: str,
    params: list[torch.Tensor],
    speed: float,
    rounds: int,
    own: dict[str, Any],
    is_compiled: bool = False,
) -> str:
    """Measure an optimizer on a model; return its line.

    Args:
        model: the name of the model.
        kind: the name of the optimizer.
        params: the parameters of the model.
        speed: the copy bandwidth in GB/s.
        rounds: the number of measurements.
        own: options of Piste.
        is_compiled: whether PyTorch's step under torch.compile is timed too.
    """
    steps = contenders(kind, params, own, is_compiled)
    first, failed = first_times(steps, ("piste",), ("compile",))
    times = alternate(steps, rounds)
    wall, device = times.pop("piste")
    share = ""
    if kind in STREAMS:
        floor = sum(p.numel() for p in params) * 4 * streams(kind, own) / speed / 1e6
        share = f"{floor / device:4.0%} of copy" if floor > _FEW else ""
    compiled = times.pop("compile", None)
    walls, devices = ([each[k] for each in times.values()] for k in (0, 1))
    rest = "  ".join(f"{how} {w:.3f} / {d:.3f}" for how, (w, d) in times.items())
    if compiled is not None:
        rest += (
            f"  compile {compiled[0]:.3f} / {compiled[1]:.3f} ({_ratio([compiled[0]], wall)}, "
            f"{_ratio([compiled[1]], device)}), first {first['compile']:.1f} s"
        )
    return (
        f"{model:14s} {kind:11s} wall {wall:7.3f} ({_ratio(walls, wall)})  device {device:7.3f} "
        f"({_ratio(devices, device)})  {share:12s} first {first['piste']:4.1f} s  {rest}{failed}"
    )


def streams(kind: str, own: dict[str, Any]) -> float:
    """Return the tensors of 32 bits that the kernels of a step read and write, with options of Piste."""
    found: float = STREAMS[kind]
    if "state_dtype" in own:  # a step of one pass reads the parameter and the gradient, and writes the parameter
        found = EIGHT_BIT_STREAMS.get(kind, 3 + (found - 3) / 4)
    return found + ("max_norm" in own)


def first_times(steps: dict[str, Step], needed: Sequence[str], others: Sequence[str]) -> tuple[dict[str, float], str]:
    """Return the seconds of first calls; others that fail are taken away, with the reason as text."""
    seconds, failed = {}, ""
    for name in (*needed, *others):
        if name not in steps:
            continue
        start = time.perf_counter()
        try:
            steps[name]()
        except Exception as error:  # such as a missing C compiler
            if name in needed:
                raise
            del steps[name]
            failed += f"  {name} {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            continue
        torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - start
    return seconds, failed


def _ratio(theirs: list[float], own: float) -> str:
    """Return the time of the best of PyTorch's implementations over that of Piste; PyTorch may have none."""
    return f"{min(theirs) / own:5.2f}x" if theirs else "   -  "


def add_own_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of options that PyTorch lacks."""
    parser.add_argument("--clipped", action="store_true", help="clip the norm of the gradients, leave out bad steps")
    parser.add_argument("--eight-bits", action="store_true", help="keep the state of Piste in 8 bits")


def own_options(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the options of Piste for the flags that are set."""
    return {**(CLIPPED if chosen.clipped else {}), **({"state_dtype": "int8"} if chosen.eight_bits else {})}


def main(arguments: list[str]) -> None:
    """Print a row for each model and optimizer."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__)
    kinds = (*KINDS, *FURTHER, *MATRICES)
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--optimizers", nargs="*", choices=kinds, default=[*KINDS, *MATRICES])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="also time PyTorch's step under torch.compile")
    add_own_options(parser)
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("bench gpu needs a CUDA device.")
    speed = bandwidth()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {speed:.0f} GB/s; milliseconds, medians")
    for model in chosen.models:
        params = parameters(MODELS[model])
        for kind in chosen.optimizers:
            if (kind in MATRICES) != (model == OF_MATRICES):
                continue
            try:
                print(row(model, kind, params, speed, chosen.rounds, own_options(chosen), chosen.compile), flush=True)
            except Exception as error:  # the other rows are measured all the same
                print(
                    f"{model:14s} {kind:11s} {type(error).__name__}: {(str(error).splitlines() or [''])[-1]}",
                    flush=True,
                )
            gc.collect()
            torch.cuda.empty_cache()
