"""Losses, forward and backward inside a small graph: Piste against torch, with the graph around the loss taken off.

A ratio is torch's time over Piste's: above 1, Piste is faster. `net` leaves out the time of the graph with no loss.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import piste

from .peak import peaks
from .timing import in_turns, keep_memory, listed, machine, numbers

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 25_000_000)
ROWS = ((128, 10), (256, 1000), (4096, 1000))
CROSS_ENTROPY = ((128, 10), (256, 1000), (4096, 32000), (8, 21, 512, 512))


def labels(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(shape[1], shape[:1] + shape[2:])


def signs(shape: tuple[int, ...]) -> Tensor:
    return 2.0 * torch.randint(2, shape) - 1


def between(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape) * 0.9 + 0.05


def three_labels(shape: tuple[int, ...]) -> Tensor:
    lists = torch.full(shape, -1)
    lists[:, :3] = torch.rand(shape).argsort(1)[:, :3]
    return lists


ELEMENTS: dict[str, Callable[[tuple[int, ...]], tuple[Tensor, ...]]] = {
    "l1": lambda s: (torch.randn(s), torch.randn(s)),
    "smooth_l1": lambda s: (torch.randn(s), torch.randn(s)),
    "huber": lambda s: (torch.randn(s), torch.randn(s)),
    "mse": lambda s: (torch.randn(s), torch.randn(s)),
    "bce": lambda s: (between(s), torch.rand(s)),
    "bce_with_logits": lambda s: (torch.randn(s), torch.rand(s)),
    "kl_div": lambda s: (between(s).log(), torch.rand(s).softmax(-1)),
    "poisson_nll": lambda s: (torch.randn(s), torch.rand(s)),
    "gaussian_nll": lambda s: (torch.randn(s), torch.randn(s), between(s)),
    "hinge_embedding": lambda s: (torch.randn(s), signs(s)),
    "soft_margin": lambda s: (torch.randn(s), signs(s)),
    "margin_ranking": lambda s: (torch.randn(s), torch.randn(s), signs(s)),
}
OF_ROWS: dict[str, Callable[[tuple[int, ...]], tuple[Tensor, ...]]] = {
    "cross_entropy": lambda s: (torch.randn(s), labels(s)),
    "nll": lambda s: (torch.randn(s).log_softmax(1), labels(s)),
    "multi_margin": lambda s: (torch.randn(s), labels(s)),
    "multilabel_margin": lambda s: (torch.randn(s), three_labels(s)),
    "multilabel_soft_margin": lambda s: (torch.randn(s), torch.randint(2, s).float()),
    "cosine_embedding": lambda s: (torch.randn(s), torch.randn(s), signs(s[:1])),
    "triplet_margin": lambda s: (torch.randn(s), torch.randn(s), torch.randn(s)),
}
VARIANTS: dict[str, Callable[[tuple[int, ...]], tuple[tuple[Tensor, ...], dict[str, Any]]]] = {
    "weights": lambda s: ((torch.randn(s), labels(s)), {"weight": torch.rand(s[1]) + 0.5}),
    "smoothing": lambda s: ((torch.randn(s), labels(s)), {"label_smoothing": 0.1}),
    "probabilities": lambda s: ((torch.randn(s), torch.randn(s).softmax(1)), {}),
    "bfloat16": lambda s: ((torch.randn(s).bfloat16(), labels(s)), {}),
    "none": lambda s: ((torch.randn(s), labels(s)), {"reduction": "none"}),
}
"""Of cross entropy."""


def contenders(
    name: str, operands: tuple[Tensor, ...], options: dict[str, Any], others: bool
) -> dict[str, Callable[[], object]]:
    """One step each: input = leaf * 1, the loss, its backward down to the leaf."""
    leaf, *rest = operands
    leaf.requires_grad_()
    cls = piste.losses.named(name)
    theirs = getattr(torch.nn, cls.__name__)(**options)
    upstream = torch.ones_like(leaf)

    def step_of(loss: Callable[..., Tensor]) -> Callable[[], None]:
        def step() -> None:
            leaf.grad = None
            value = loss(leaf * 1.0, *rest)
            (value if value.dim() == 0 else value.sum()).backward()

        return step

    def graph() -> None:
        leaf.grad = None
        (leaf * 1.0).backward(upstream)

    steps: dict[str, Callable[[], object]] = {
        "piste": step_of(cls(**options)),
        "unchecked": step_of(cls(check="off", **options)),
        "torch": step_of(theirs),
        "graph": graph,
    }
    if others:
        torch._dynamo.reset()
        steps["compile"] = step_of(torch.compile(theirs))
    return steps


def subjects(arguments: argparse.Namespace) -> Iterator[tuple[str, str, tuple[int, ...], tuple[Any, ...]]]:
    """The name to show, the loss, its shape, and its operands and options."""
    for name in arguments.losses:
        if name in ELEMENTS:
            for size in arguments.sizes:
                yield name, name, (size,), (ELEMENTS[name]((size,)), {})
            continue
        for shape in CROSS_ENTROPY if name == "cross_entropy" else ROWS:
            if shape[1] < 32000 or arguments.large:
                yield name, name, shape, (OF_ROWS[name](shape), {})
        for variant in arguments.variants if name == "cross_entropy" else ():
            for shape in ROWS:
                yield f"{name}, {variant}", name, shape, VARIANTS[variant](shape)


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for shown, name, shape, (operands, options) in subjects(arguments):
        steps = contenders(name, operands, options, arguments.others)
        timed = in_turns(
            {(threads, side): step for threads in arguments.threads for side, step in steps.items()},
            before=lambda of: torch.set_num_threads(of[0]),
            rounds=arguments.rounds,
            budget=arguments.budget,
        )
        for threads in arguments.threads:
            seconds = {side: timed[threads, side] for side in steps}
            yield {"loss": shown, "shape": shape, "threads": threads, "seconds": seconds}


def table(found: list[dict[str, Any]]) -> Iterator[str]:
    yield "| loss | shape | threads | Piste | torch | whole | net | checks cost | torch.compile |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in found:
        s = row["seconds"]
        ours = s["piste"] - s["graph"]  # where the graph takes nearly all of it, the rest is noise
        net = f"{(s['torch'] - s['graph']) / ours:.2f}" if ours > 0.03 * s["piste"] else ""
        cost = f"{(s['piste'] - s['unchecked']) * 1e6:+.1f} us, {s['piste'] / s['unchecked'] - 1:+.1%}"
        compiled = f"{s['compile'] / s['piste']:.2f}" if "compile" in s else ""
        whole = f"{s['torch'] / s['piste']:.2f}"
        times = f"{s['piste'] * 1e6:.1f} us | {s['torch'] * 1e6:.1f} us"
        shape = "x".join(map(str, row["shape"]))
        yield f"| {row['loss']} | {shape} | {row['threads']} | {times} | {whole} | {net} | {cost} | {compiled} |"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench losses", description=__doc__)
    parser.add_argument("--losses", type=listed, default=[*ELEMENTS, *OF_ROWS], help="names, with commas")
    parser.add_argument("--variants", type=listed, default=list(VARIANTS), help="of cross entropy, with commas")
    parser.add_argument("--sizes", type=numbers, default=list(SIZES), help="elements, with commas")
    parser.add_argument("--threads", type=numbers, default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, default=4.0, help="seconds for a row of the table")
    parser.add_argument("--others", action="store_true", help="torch.compile too")
    parser.add_argument("--large", action="store_true", help="cross entropy at (4096, 32000) too, which takes 2 GB")
    parser.add_argument("--memory", action="store_true", help="only the peak memory of cross entropy at (4096, 32000)")
    parser.add_argument("--json", type=Path, help="write every measurement here")
    arguments = parser.parse_args(argv)
    keep_memory()
    head = f"Measured on {time.strftime('%Y-%m-%d')}: {machine()}."
    print(head, flush=True)
    if arguments.memory:
        print("\n".join(peaks()))
        return
    found = []
    for row in rows(arguments):
        lines = list(table([row]))
        print("\n".join(lines[2 if found else 0 :]), flush=True)
        found.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": head, "rows": found}, indent=1))
