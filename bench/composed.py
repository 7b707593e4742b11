"""Losses that torch lacks, forward and backward: Piste against the torch operations that compose them.

A ratio is the time of the operations over Piste's: above 1, Piste is faster. The step computes the gradient of a leaf.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import piste

from .losses import labels
from .timing import in_turns, keep_memory, listed, machine, numbers, shown

Composed = Callable[[Tensor, Tensor], Tensor]


def sigmoid_focal(x: Tensor, y: Tensor, gamma: float = 2.0) -> Tensor:
    p = torch.sigmoid(x)
    q = p * y + (1 - p) * (1 - y)
    loss = functional.binary_cross_entropy_with_logits(x, y, reduction="none") * (1 - q) ** gamma
    return ((0.25 * y + 0.75 * (1 - y)) * loss).mean()


def asymmetric(x: Tensor, y: Tensor) -> Tensor:
    p = torch.sigmoid(x)
    q = (1 - p + 0.05).clamp(max=1)
    loss = y * p.clamp(min=1e-8).log() + (1 - y) * q.clamp(min=1e-8).log()
    rest = 1 - p * y - q * (1 - y)
    return -(loss * rest ** (y + 4 * (1 - y))).mean()


def focal(x: Tensor, k: Tensor, gamma: float = 2.0) -> Tensor:
    loss = functional.cross_entropy(x, k, reduction="none")
    return ((1 - torch.exp(-loss)) ** gamma * loss).mean()


def general_robust(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    b = abs(alpha - 2)
    return (b / alpha * (((x - y) ** 2 / b + 1) ** (alpha / 2) - 1)).mean()


def probabilities(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the softmax and the labels of class indices, or the sigmoid and the labels as they are."""
    if y.dim() == x.dim():
        return x.sigmoid(), y
    return x.softmax(1), functional.one_hot(y, x.shape[1]).movedim(-1, 1).to(x.dtype)


def sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    p, y = probabilities(x, y)
    over = tuple(range(2, x.dim()))
    return (p * y).sum(over), p.sum(over), y.sum(over)


def dice(x: Tensor, y: Tensor) -> Tensor:
    both, ours, theirs = sums(x, y)
    return (1 - (2 * both + 1) / (ours + theirs + 1)).mean()


def jaccard(x: Tensor, y: Tensor) -> Tensor:
    both, ours, theirs = sums(x, y)
    return (1 - (both + 1) / (ours + theirs - both + 1)).mean()


def tversky(x: Tensor, y: Tensor) -> Tensor:
    both, ours, theirs = sums(x, y)
    return (1 - (both + 1) / (both + 0.3 * (ours - both) + 0.7 * (theirs - both) + 1)).mean()


ELEMENTS, ROWS, IMAGES, MASKS = (1 << 20,), (1 << 16, 16), (8, 16, 128, 64), (16, 1, 256, 256)
LABELS = {"asymmetric": asymmetric, "sigmoid_focal": sigmoid_focal}
GAMMA = 1.7  # a power that is no product or root
SHAPES_OF_ROBUST = (1.0, 0.3)
REGIONS: dict[str, tuple[Composed, dict[str, Any]]] = {
    "dice": (dice, {}),
    "jaccard": (jaccard, {}),
    "tversky": (tversky, {"alpha": 0.3, "beta": 0.7}),
}


def subjects() -> Iterator[tuple[str, str, Composed, dict[str, Any], Tensor, Tensor]]:
    """Yield the name to show, the loss, the composed operations, options, input and target: 2^20 numbers."""
    for name, composed in LABELS.items():
        yield name, name, composed, {}, torch.randn(ELEMENTS), torch.randint(2, ELEMENTS).float()
    mask = torch.randint(2, ELEMENTS).float()
    own = {"gamma": GAMMA}
    yield (
        f"sigmoid_focal, gamma={GAMMA}",
        "sigmoid_focal",
        partial(sigmoid_focal, **own),
        own,
        torch.randn(ELEMENTS),
        mask,
    )
    for alpha in SHAPES_OF_ROBUST:
        robust, given = partial(general_robust, alpha=alpha), {"alpha": alpha}
        yield (
            f"general_robust, alpha={alpha}",
            "general_robust",
            robust,
            given,
            torch.randn(ELEMENTS),
            torch.randn(ELEMENTS),
        )
    for shape in (ROWS, IMAGES):
        yield "focal", "focal", focal, {}, torch.randn(shape), labels(shape)
        yield f"focal, gamma={GAMMA}", "focal", partial(focal, **own), own, torch.randn(shape), labels(shape)
    for name, (composed, options) in REGIONS.items():
        mask = torch.randint(2, MASKS).float()
        yield f"{name}, sigmoid", name, composed, {**options, "activation": "sigmoid"}, torch.randn(MASKS), mask
        images = torch.randn(IMAGES)
        yield f"{name}, softmax", name, composed, {**options, "activation": "softmax"}, images, labels(IMAGES)


def step(loss: Composed, leaf: Tensor, target: Tensor) -> None:
    leaf.grad = None
    loss(leaf, target).backward()


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for label, name, composed, options, x, y in subjects():
        if arguments.losses and name not in arguments.losses:
            continue
        leaf = x.requires_grad_()
        ours = piste.losses.named(name)(**options)
        torch.testing.assert_close(ours(leaf, y), composed(leaf, y))
        sides = {"piste": partial(step, ours, leaf, y), "torch": partial(step, composed, leaf, y)}
        if arguments.others:
            torch._dynamo.reset()
            sides["compile"] = partial(step, torch.compile(composed), leaf, y)
        timed = in_turns(
            {(threads, side): run for threads in arguments.threads for side, run in sides.items()},
            before=lambda of: torch.set_num_threads(of[0]),
            rounds=arguments.rounds,
            budget=arguments.budget,
            clock=time.process_time if arguments.cpu_time else time.perf_counter,
        )
        for threads in arguments.threads:
            seconds = {side: timed[threads, side] for side in sides}
            yield {"loss": label, "shape": list(x.shape), "threads": threads, "seconds": seconds}


def table(found: list[dict[str, Any]]) -> Iterator[str]:
    yield "| loss, forward and backward | shape | threads | Piste | torch operations | ratio | torch.compile |"
    yield "|---|---|---|---|---|---|---|"
    for row in found:
        s = row["seconds"]
        compiled = f"{s['compile'] / s['piste']:.2f}" if "compile" in s else ""
        times = f"{shown(s['piste'])} | {shown(s['torch'])} | {s['torch'] / s['piste']:.2f}"
        yield f"| {row['loss']} | {'x'.join(map(str, row['shape']))} | {row['threads']} | {times} | {compiled} |"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench composed", description=__doc__)
    parser.add_argument("--losses", type=listed, default=[], help="names, with commas; by default all")
    parser.add_argument("--threads", type=numbers, default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, default=4.0, help="seconds for a row of the table")
    parser.add_argument("--cpu-time", action="store_true", help="the time of the processor, with one thread")
    parser.add_argument("--others", action="store_true", help="torch.compile too")
    parser.add_argument("--json", type=Path, help="write every measurement here")
    arguments = parser.parse_args(argv)
    keep_memory()
    if arguments.cpu_time:
        arguments.threads = [1]
        torch.set_num_threads(1)
    head = f"Measured on {time.strftime('%Y-%m-%d')}: {machine()}."
    print(head, flush=True)
    found = []
    for row in rows(arguments):
        print("\n".join(list(table([row]))[2 if found else 0 :]), flush=True)
        found.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": head, "rows": found}, indent=1), encoding="utf-8")
