"""The options of optimizers, with the defaults and the sentences that several rules share."""

from __future__ import annotations

from ..options import Choice, Flag, Function, Integer, Number, Option, Pair, TensorOption, as_float

__all__ = [
    "SHARED",
    "Choice",
    "Flag",
    "Function",
    "Integer",
    "Number",
    "Option",
    "Pair",
    "TensorOption",
    "as_float",
    "betas",
    "decay",
    "eps",
    "rate",
    "weight_decay",
]


def rate(default: float, doc: str = "the learning rate: how far one step goes") -> Number:
    return Number(default, doc)


def eps(default: float, doc: str = "added to the denominator, against division by zero") -> Number:
    return Number(default, doc)


def decay(default: float, letter: str, doc: str) -> Number:
    """A coefficient of an exponential average."""
    return Number(default, doc, letter, high=1.0)


def betas(first: float = 0.9, second: float = 0.999) -> Pair:
    return Pair(
        decay(first, "beta1", ""),
        decay(second, "beta2", ""),
        "how much of the averages of the gradient and of its square (or size) each step keeps",
    )


def weight_decay(default: float = 0.0) -> Number:
    return Number(default, "how strongly the weights are pulled towards 0")


SHARED: dict[str, Option] = {
    "maximize": Flag(False, "climb the objective instead of descending it"),
    "foreach": Flag(None, "accepted as in torch.optim; every engine takes all tensors of a group at once"),
    "capturable": Flag(False, "keep the step count on the device, so that a CUDA graph can capture the step"),
    "differentiable": Flag(False, "let autograd record the step"),
    "fused": Flag(None, "True: only the fused kernel will do; False: never use it; None: where it serves"),
}
"""The options that every optimizer takes, by keyword."""
