"""Optimizer steps: Piste against the best of torch's for-loop, foreach and fused implementations.

An optimizer that torch lacks is timed against its reference implementation in pytorch_optimizer, where that is
installed. A ratio is the other's time over Piste's: above 1, Piste is faster.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import piste

from .timing import in_turns, keep_memory, listed, machine, numbers, shown

OPTIONS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9}}
DEEPSPEED = {  # its kernels for the CPU, written by hand in C++ and built at first use
    "Adam": ("deepspeed.ops.adam", "DeepSpeedCPUAdam"),
    "AdamW": ("deepspeed.ops.adam", "DeepSpeedCPUAdam"),
    "Adagrad": ("deepspeed.ops.adagrad", "DeepSpeedCPUAdagrad"),
    "Lion": ("deepspeed.ops.lion", "DeepSpeedCPULion"),
}
FUSED = {"SGD", "Adam", "AdamW", "Adagrad"}
REFERENCES = {  # names in pytorch_optimizer
    "LAMB": "Lamb",
    **{name: name for name in ("ADOPT", "AdaBelief", "AdEMAMix", "Adan", "LARS", "Lion", "StableAdamW")},
    **{name: name for name in ("NorMuon", "Prodigy", "SOAP")},
    **{name: name for name in ("ScheduleFreeAdamW", "ScheduleFreeSGD")},
}
RIVALS = ("for", "foreach", "fused", "compile", "DeepSpeed", "reference")
KEYS = ("workload", "optimizer", "threads", "setting")  # of a row
LR = 1e-6  # the weights hardly move, however long a row is timed


def resnet18() -> list[tuple[int, ...]]:
    """The shapes of ResNet-18's parameters (He et al. 2016)."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            first = inputs if block == 0 else width
            shapes += [(width, first, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            if block == 0 and inputs != width:
                shapes += [(width, inputs, 1, 1), (width,), (width,)]
        inputs = width
    return [*shapes, (1000, 512), (1000,)]


def gpt2() -> list[tuple[int, ...]]:
    """The shapes of GPT-2 small's parameters (Radford et al. 2019), its output layer tied to the embedding."""
    d = 768
    block = [(d,), (d,), (d, 3 * d), (3 * d,), (d, d), (d,), (d,), (d,), (d, 4 * d), (4 * d,), (4 * d, d), (d,)]
    return [(50257, d), (1024, d), *(block * 12), (d,), (d,)]


WORKLOADS: dict[str, Callable[[], list[tuple[int, ...]]]] = {
    "1 x 25M": lambda: [(25_000_000,)],
    "160 x (256,256)": lambda: [(256, 256)] * 160,
    "100 x (64,64)": lambda: [(64, 64)] * 100,
    "2000 x 32": lambda: [(32,)] * 2000,
    "6 small": lambda: [(64, 64), (64,), (64, 64), (64,), (10, 64), (10,)],
    "ResNet-18": resnet18,
    "GPT-2 small": gpt2,
}


def contenders(name: str, params: list[Tensor], others: bool) -> dict[str, Callable[[], object]]:
    """Steps over the same parameters and gradients; the state is each contender's own."""
    options = {"lr": LR, **OPTIONS.get(name, {})}
    steps: dict[str, Callable[[], object]] = {"piste": piste.optim.OPTIMIZERS[name](params, **options).step}
    theirs = getattr(torch.optim, name, None)
    if name in REFERENCES and importlib.util.find_spec("pytorch_optimizer"):
        steps["reference"] = reference(name, params).step
    if name == "Muon":  # which has one implementation
        steps["for"] = torch.optim.Muon(params, **options).step
    elif theirs is not None:
        steps["for"] = theirs(params, foreach=False, **options).step
        steps["foreach"] = theirs(params, foreach=True, **options).step
    if name in FUSED:
        steps["fused"] = theirs(params, fused=True, **options).step
    if others and theirs is not None:
        compiled = theirs(params, foreach=True, **options)
        torch._dynamo.reset()  # every optimizer is compiled anew, as in a program that has one
        steps["compile"] = torch.compile(lambda: compiled.step())
    if others and name in DEEPSPEED and importlib.util.find_spec("deepspeed"):
        module, cls = DEEPSPEED[name]
        extra = {"adamw_mode": name == "AdamW"} if "Adam" in name else {}
        steps["DeepSpeed"] = getattr(importlib.import_module(module), cls)(params, **options, **extra).step
    return steps


def reference(name: str, params: list[Tensor]) -> Any:
    """Return the reference implementation of an optimizer, in training mode where it has modes."""
    groups = [{"params": params, "use_muon": True}] if name == "NorMuon" else params
    made = getattr(importlib.import_module("pytorch_optimizer"), REFERENCES[name])(groups, lr=LR)
    if hasattr(made, "train"):
        made.train()
    return made


def first_steps(steps: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds until each contender has stepped for the first time; compilation is part of it."""
    seconds = {}
    for name, step in steps.items():
        began = time.perf_counter()
        step()
        seconds[name] = time.perf_counter() - began
    return seconds


def parameters(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    return params


def passes() -> Callable[[], object]:
    """What stands between two steps in training: a forward and a backward pass, on all of torch's threads."""
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    x = torch.randn(256, 512)

    def between() -> None:
        model(x).square().mean().backward()

    return between


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for workload in arguments.workloads:
        params = parameters(WORKLOADS[workload]())
        for name in arguments.optimizers:
            if not is_measured(name, params):
                continue
            for setting, between in (("alone", None), ("interleaved", passes())):
                if setting not in arguments.settings:
                    continue
                steps = contenders(name, params, arguments.others)
                first = first_steps(steps)
                if "25M" in workload and setting == "alone":
                    steps["in-place"] = in_place()
                timed = in_turns(
                    {(threads, side): step for threads in arguments.threads for side, step in steps.items()},
                    before=lambda of: torch.set_num_threads(of[0]),
                    between=between,
                    rounds=arguments.rounds,
                    budget=arguments.budget,
                )
                alone = timed[min(arguments.threads), "piste"]
                for threads in arguments.threads:
                    yield {
                        "workload": workload,
                        "optimizer": name,
                        "threads": threads,
                        "setting": setting,
                        "seconds": {side: timed[threads, side] for side in steps},
                        "first": first,
                        "by_threads": alone / timed[threads, "piste"],
                        "bytes": traffic(name) * 4 * sum(p.numel() for p in params),
                    }
                del steps
                gc.collect()


def is_measured(name: str, params: list[Tensor]) -> bool:
    """Return whether an optimizer takes such parameters, and a step ends in a few seconds."""
    if name == "SOAP":  # finds the eigenvectors of matrices of this many rows and columns
        return max((size for p in params if p.dim() > 1 for size in p.shape), default=0) <= 512
    cls = piste.optim.OPTIMIZERS[name]
    return cls.matrix is None or cls.any_shape or all(p.dim() == 2 for p in params)


def traffic(name: str) -> int:
    """Numbers read and written for an element: p and g read, p written, every buffer both."""
    cls = piste.optim.OPTIMIZERS[name]
    options = OPTIONS.get(name, {})
    kept = [b for b in cls.buffers.values() if b.when is None or options.get(b.when)]
    return 3 + 2 * len(kept)


def in_place() -> Callable[[], object]:
    """An operation of torch that reads and writes a gigabyte, which no cache holds: the bandwidth to compare with."""
    x = torch.ones(250_000_000)
    return lambda: x.mul_(1.0)


def training() -> Iterator[dict[str, Any]]:
    """A whole training step of a 64-64-64-10 perceptron on batches of 64."""

    def step_of(make: Callable[..., Any] | None, **options: Any) -> Callable[[], object]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        x, y = torch.randn(64, 64), torch.randint(10, (64,))
        optimizer = make(model.parameters(), lr=LR, **options) if make else None

        def step() -> None:
            nn.functional.cross_entropy(model(x), y).backward()
            if optimizer is None:
                for p in model.parameters():
                    p.grad = None
            else:
                optimizer.step()
                optimizer.zero_grad()

        return step

    for name in ("Adam", "AdamW", "SGD", "Adagrad", "Adadelta", "RMSprop"):
        sides = {"piste": step_of(getattr(piste.optim, name)), "torch": step_of(getattr(torch.optim, name))}
        if name in FUSED:
            sides["torch fused"] = step_of(getattr(torch.optim, name), fused=True)
        sides["no optimizer"] = step_of(None)
        yield {"optimizer": name, "seconds": in_turns(sides, rounds=25, block=0.02)}


HOW_TO_READ = """\
A ratio is the other's time over Piste's: above 1, Piste is faster. All contenders are timed alternately in one process,
on the same parameters and gradients; times are medians; "interleaved" has a forward and a backward pass before every
step, which is not counted. "by threads" is the speedup of Piste over one thread; these are timed alternately too.
The last column is the share of the bandwidth of an in-place operation (torch's mul_ on a gigabyte), on as many threads
and in turns with the others. The machine was shared, so differences of a few percent are noise.
"""


def best(seconds: dict[str, float]) -> tuple[str, float]:
    theirs = {name: t for name, t in seconds.items() if name in RIVALS}
    name = min(theirs, key=lambda n: theirs[n], default="")
    return name, theirs.get(name, float("nan"))


def table(found: list[dict[str, Any]]) -> Iterator[str]:
    columns = [
        "tensors",
        "optimizer",
        "threads",
        "setting",
        "Piste",
        "the best other",
        "ratio",
        *RIVALS,
        "by threads",
        "bandwidth",
    ]
    yield from (f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}")
    for row in found:
        seconds = row["seconds"]
        name, theirs = best(seconds)
        cells = [f"{seconds[n] / seconds['piste']:.2f}" if n in seconds else "" for n in RIVALS]
        share = ""
        if "in-place" in seconds:
            most = 2e9 / seconds["in-place"]
            share = f"{row['bytes'] / seconds['piste'] / most:.0%} of {most / 1e9:.0f} GB/s"
        what = " | ".join(str(row[key]) for key in KEYS)
        yield (
            f"| {what} | {shown(seconds['piste'])} "
            f"| {shown(theirs) + ' (' + name + ')' if name else 'none'} | {theirs / seconds['piste']:.2f} "
            f"| {' | '.join(cells)} | {row['by_threads']:.2f} | {share} |"
        )


def first_table(found: list[dict[str, Any]]) -> Iterator[str]:
    columns = ["tensors", "optimizer", "Piste", "compile", "DeepSpeed"]
    yield from (f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}")
    for row in found:
        times = [shown(row["first"][n]) if n in row["first"] else "" for n in ("piste", "compile", "DeepSpeed")]
        yield f"| {row['workload']} | {row['optimizer']} | {' | '.join(times)} |"


def training_table(found: list[dict[str, Any]]) -> Iterator[str]:
    yield "| optimizer | Piste | torch's default | ratio | torch fused | ratio | without an optimizer |"
    yield "|---|---|---|---|---|---|---|"
    for row in found:
        s = row["seconds"]
        fused = [shown(s["torch fused"]), f"{s['torch fused'] / s['piste']:.2f}"] if "torch fused" in s else ["", ""]
        yield (
            f"| {row['optimizer']} | {shown(s['piste'])} | {shown(s['torch'])} | {s['torch'] / s['piste']:.2f} "
            f"| {fused[0]} | {fused[1]} | {shown(s['no optimizer'])} |"
        )


def record(file: Path, head: str, new: list[dict[str, Any]], training: list[dict[str, Any]] | None = None) -> None:
    """Write rows into a file of measurements, in place of its rows of the same step; keep the others.

    Measurements of another machine or of other versions, as the head states them, are dropped.
    """
    kept: dict[str, Any] = {"rows": [], "training": []}
    if file.exists():
        old = json.loads(file.read_text(encoding="utf-8"))
        if old["machine"].partition(": ")[2] == head.partition(": ")[2]:  # the head begins with the day
            kept = old
    by_step = {tuple(row[key] for key in KEYS): row for row in [*kept["rows"], *new]}
    ordered = sorted(by_step.values(), key=lambda row: list(WORKLOADS).index(row["workload"]))
    written = {"machine": head, "rows": ordered, "training": training or kept["training"]}
    file.write_text(json.dumps(written, indent=1), encoding="utf-8")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m bench optim", description=__doc__)
    usual = [name for name, cls in piste.optim.OPTIMIZERS.items() if cls.elementwise and hasattr(torch.optim, name)]
    rules = [name for name in piste.optim.OPTIMIZERS if name in REFERENCES or name in ("Adafactor", "Muon")]
    parser.add_argument(
        "--optimizers",
        type=listed,
        default=usual,
        help="names, separated by commas; the default is the elementwise ones of torch.optim",
    )
    parser.add_argument(
        "--rules",
        dest="optimizers",
        action="store_const",
        const=rules,
        help="in place of those: Adafactor, Muon and the ones of pytorch_optimizer",
    )
    parser.add_argument(
        "--workloads", type=lambda t: [w for w in WORKLOADS if any(x in w for x in listed(t))], default=list(WORKLOADS)
    )
    parser.add_argument("--threads", type=numbers, default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--settings", type=listed, default=["alone", "interleaved"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--budget", type=float, default=8.0, help="seconds a row may take")
    parser.add_argument(
        "--others", action="store_true", help="also torch.compile(optimizer.step), and DeepSpeed if there"
    )
    parser.add_argument("--no-training", action="store_true", help="leave out the whole training steps")
    parser.add_argument("--json", type=Path, help="write every measurement here, next to the others of the file")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    arguments = parser.parse_args(argv)
    if not arguments.workloads:
        parser.error(f"no workload has such a name; there are {', '.join(WORKLOADS)}")

    keep_memory()
    all_threads = torch.get_num_threads()
    head = f"Measured on {time.strftime('%Y-%m-%d')}: {machine()}."
    lines = ["# The speed of a step", "", "Made by `python -m bench optim`.", HOW_TO_READ, head, ""]
    print("\n".join(lines), flush=True)
    found: list[dict[str, Any]] = []
    shown_head = False
    for row in rows(arguments):
        found.append(row)
        if arguments.json:
            record(arguments.json, head, [row])
        new = list(table([row]))
        print("\n".join(new if not shown_head else new[2:]), flush=True)
        shown_head = True
    lines += table(found)
    if arguments.others:
        lines += ["", "Time to the first step, compilation included:", "", *first_table(found)]
    torch.set_num_threads(all_threads)
    steps = [] if arguments.no_training else list(training())
    if steps:
        tail = [
            "",
            "A whole training step (forward, cross entropy, backward, step, zero_grad) of a 64-64-64-10 perceptron on "
            "batches of 64:",
            "",
            *training_table(steps),
        ]
        print("\n".join(tail))
        lines += tail
    if arguments.json and steps:
        record(arguments.json, head, [], steps)
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n")
