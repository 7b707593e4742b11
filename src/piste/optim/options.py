"""The arguments of an optimizer: each declared once with its default, its range and what it is.

A rule lists its options; the constructor's signature, the check of the constructor and of every param group, the
text of the docstring and the letters that the formula sees are all read off that list.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue


@dataclass(frozen=True)
class Number:
    """A real number in [low, high), in (low, high) when `above`, or in [low, high] when `closed`."""

    default: float
    doc: str = ""
    letter: str = ""  # the name in the formula, where it differs from the argument's
    low: float = 0.0
    high: float = math.inf
    above: bool = False
    closed: bool = False

    @property
    def range(self) -> str:
        return f"{'(' if self.above else '['}{self.low:g}, {self.high:g}{']' if self.closed else ')'}"

    def check(self, name: str, value: Any) -> None:
        number = as_float(name, value, f"a number in {self.range}")
        inside = (number > self.low if self.above else number >= self.low) and (
            number <= self.high if self.closed else number < self.high
        )
        if not inside:  # NaN is never inside
            raise InvalidValue(f"`{name}` must be in {self.range}; received {name}={number!r}.")

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        yield self.letter or name, value


@dataclass(frozen=True)
class Pair:
    """Two numbers, each with its own letter and range, given as a tuple or list."""

    first: Number
    second: Number
    doc: str = ""
    ordered: bool = False  # the first may not exceed the second

    @property
    def default(self) -> tuple[float, float]:
        return self.first.default, self.second.default

    @property
    def range(self) -> str:
        if self.first.range == self.second.range:
            return f"two numbers in {self.first.range}"
        return f"two numbers, in {self.first.range} and {self.second.range}"

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise InvalidType(
                f"`{name}` must be {self.range}; received {name}={value!r}. "
                f"Write {name}=({self.first.default:g}, {self.second.default:g})."
            )
        self.first.check(f"{name}[0]", value[0])
        self.second.check(f"{name}[1]", value[1])
        if self.ordered and not float(value[0]) <= float(value[1]):
            raise InvalidValue(f"`{name}[0]` must not exceed `{name}[1]`; received {name}={value!r}.")

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        yield self.first.letter, value[0]
        yield self.second.letter, value[1]


@dataclass(frozen=True)
class Flag:
    """True or False (or None, where that is the default: Piste decides)."""

    default: bool | None = False
    doc: str = ""

    @property
    def range(self) -> str:
        return "True or False" if self.default is not None else "True, False or None"

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, bool) and not (value is None and self.default is None):
            raise InvalidType(f"`{name}` must be {self.range}; received {name}={value!r}.")

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        return iter(())


Option = Number | Pair | Flag


def as_float(name: str, value: Any, wanted: str) -> float:
    """The value as a float; a tensor of one element counts, a string or a bool does not."""
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise InvalidValue(
                f"`{name}` must be {wanted}; received a tensor of shape {tuple(value.shape)}. "
                "Tensor lr must be 1-element, and so must any other option given as a tensor."
            )
        return float(value.detach())
    if isinstance(value, str):
        raise InvalidType(
            f"`{name}` must be {wanted}; received the string {value!r}. "
            f'YAML reads 1e-3 as a string: write 1.0e-3 there, or convert it with float("{value}").'
        )
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidType(f"`{name}` must be {wanted}; received {name}={value!r} of type {type(value).__name__}.")
    return float(value)


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
