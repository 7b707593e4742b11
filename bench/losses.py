"""Losses, forward and backward inside a small graph: Piste against torch, with the graph around the loss taken off.

A ratio is torch's time over Piste's: above 1, Piste is faster. `net` leaves out the time of the graph with no loss.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import piste

from .timing import in_turns, listed, machine, numbers

ELEMENTWISE = ("l1", "smooth_l1", "huber", "mse", "bce", "bce_with_logits", "kl_div", "poisson_nll", "soft_margin")
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 25_000_000)
ROWS = ((128, 10), (256, 1000), (4096, 32000), (8, 21, 512, 512))


def operands(name: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A leaf to make the input of, and the target."""
    if name == "cross_entropy":
        return torch.randn(shape), torch.randint(shape[1], shape[:1] + shape[2:])
    x = torch.rand(shape) * 0.9 + 0.05
    x = x.log() if name == "kl_div" else x
    return x, (2 * torch.randint(2, shape) - 1).float() if name == "soft_margin" else torch.rand(shape)


def contenders(name: str, shape: tuple[int, ...], others: bool) -> dict[str, Callable[[], object]]:
    """One step each: input = leaf * 1, the loss, its backward down to the leaf."""
    leaf, target = operands(name, shape)
    leaf.requires_grad_()
    cls = piste.losses.named(name)
    theirs = getattr(torch.nn, cls.__name__)()
    upstream = torch.ones(shape)

    def step_of(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def step() -> None:
            leaf.grad = None
            loss(leaf * 1.0, target).backward()

        return step

    def graph() -> None:
        leaf.grad = None
        (leaf * 1.0).backward(upstream)

    steps: dict[str, Callable[[], object]] = {
        "piste": step_of(cls()),
        "unchecked": step_of(cls(check="off")),
        "torch": step_of(theirs),
        "graph": graph,
    }
    if others:
        torch._dynamo.reset()
        steps["compile"] = step_of(torch.compile(theirs))
    return steps


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name in arguments.losses:
        shapes = [s for s in ROWS if s[0] != 4096 or arguments.large] if name == "cross_entropy" else None
        for shape in shapes or [(n,) for n in arguments.sizes]:
            steps = contenders(name, shape, arguments.others)
            timed = in_turns(
                {(threads, side): step for threads in arguments.threads for side, step in steps.items()},
                before=lambda of: torch.set_num_threads(of[0]),
                rounds=arguments.rounds,
                budget=arguments.budget,
            )
            for threads in arguments.threads:
                seconds = {side: timed[threads, side] for side in steps}
                yield {"loss": name, "shape": shape, "threads": threads, "seconds": seconds}


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
    parser.add_argument("--losses", type=listed, default=[*ELEMENTWISE, "cross_entropy"], help="names, with commas")
    parser.add_argument("--sizes", type=numbers, default=list(SIZES), help="elements, with commas")
    parser.add_argument("--threads", type=numbers, default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, default=4.0, help="seconds for a row of the table")
    parser.add_argument("--others", action="store_true", help="torch.compile too")
    parser.add_argument("--large", action="store_true", help="cross entropy at (4096, 32000) too, which takes 2 GB")
    parser.add_argument("--out", type=Path, help="write the times as JSON")
    arguments = parser.parse_args(argv)
    print(machine(), flush=True)
    found = []
    for row in rows(arguments):
        lines = list(table([row]))
        print("\n".join(lines[2 if found else 0 :]), flush=True)
        found.append(row)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))
