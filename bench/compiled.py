"""A training step under torch.compile: a linear layer or a product, the loss, and the backward pass.

`operator` calls Piste's loss as the operator piste::loss, and `traced` fuses its formula with the operations next to
it. `eager` is the step without torch.compile, and `torch` the compiled step with torch's loss.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import piste
from piste.losses.loss import Loss
from piste.losses.pairs import PairLoss
from piste.losses.rowwise import RowwiseLoss

from .losses import ELEMENTS, OF_ROWS
from .timing import in_turns, keep_memory, listed, machine, numbers

PAIRS: dict[str, Callable[[tuple[int, ...]], tuple[Tensor, ...]]] = {
    "clip": lambda s: (torch.randn(s), torch.randn(s), torch.tensor(10.0)),
    "nt_xent": lambda s: (torch.randn(s), torch.randn(s)),
}
SHAPES = ("128x10", "256x1000", "8192x1000")
WIDTH = 64


def contenders(name: str, shape: tuple[int, ...], by_layer: bool) -> dict[str, Callable[[], object]]:
    """One step each: forward to the loss and backward to the leaf, or to the weights of a layer of width 64."""
    x, *rest = (ELEMENTS | OF_ROWS | PAIRS)[name](shape)
    cls = piste.losses.named(name)
    theirs = getattr(torch.nn, cls.__name__, None)
    leaves = [torch.randn(shape[0], WIDTH), torch.randn(WIDTH, shape[-1]) / 8] if by_layer else [x]
    for leaf in leaves:
        leaf.requires_grad_()

    def step_of(loss: Callable[..., Tensor], is_operator: bool | None) -> Callable[[], None]:
        def value() -> Tensor:
            return loss(leaves[0] @ leaves[1] if by_layer else leaves[0] * 0.9, *rest)

        torch._dynamo.reset()
        compiled = value if is_operator is None else torch.compile(value, fullgraph=True)

        def step() -> None:
            for leaf in leaves:
                leaf.grad = None
            compiled().backward()

        with patching(is_operator):
            step()
        return step

    steps = {
        "eager": step_of(cls(), None),
        "operator": step_of(cls(), True),
        "traced": step_of(cls(), False),
    }
    return steps if theirs is None else steps | {"torch": step_of(theirs(), False)}


def patching(is_operator: bool | None) -> Any:
    """Return a context in which every loss is compiled as an operator, or none is."""
    answer = None if is_operator else "the bench traces it"
    return _All(
        [patch.object(c, "why_no_operator", classmethod(lambda *a, **k: answer)) for c in (Loss, RowwiseLoss, PairLoss)]
    )


class _All(list[Any]):
    def __enter__(self) -> None:
        for context in self:
            context.__enter__()

    def __exit__(self, *error: object) -> None:
        for context in self:
            context.__exit__(*error)


def table(arguments: argparse.Namespace) -> Iterator[str]:
    yield "| loss | shape | threads | before | eager | operator | traced | torch | traced / operator |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in arguments.losses:
        for text in arguments.shapes:
            shape = tuple(map(int, text.split("x")))
            for by_layer in (False, True) if len(shape) == 2 and name not in PAIRS else (False,):
                torch.manual_seed(0)
                steps = contenders(name, shape, by_layer)
                timed = in_turns(
                    {(threads, side): step for threads in arguments.threads for side, step in steps.items()},
                    before=lambda of: torch.set_num_threads(of[0]),
                    rounds=arguments.rounds,
                    budget=arguments.budget,
                )
                for threads in arguments.threads:
                    t = {side: timed[threads, side] for side in steps}
                    shown = [f"{t[k] * 1e6:.1f} us" if k in t else "" for k in ("eager", "operator", "traced", "torch")]
                    before = "linear layer" if by_layer else "product"
                    ratio = f"{t['traced'] / t['operator']:.2f}"
                    yield f"| {name} | {text} | {threads} | {before} | {' | '.join(shown)} | {ratio} |"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench compiled", description=__doc__)
    parser.add_argument("--losses", type=listed, default=["mse", "cross_entropy", "clip"], help="names, with commas")
    parser.add_argument("--shapes", type=listed, default=list(SHAPES), help="such as 128x10, with commas")
    parser.add_argument("--threads", type=numbers, default=[torch.get_num_threads()])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, default=8.0, help="seconds for a row of the table")
    arguments = parser.parse_args(argv)
    keep_memory()
    print(f"Measured on {time.strftime('%Y-%m-%d')}: {machine()}.", flush=True)
    for line in table(arguments):
        print(line, flush=True)
