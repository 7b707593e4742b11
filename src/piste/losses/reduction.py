"""From the losses of the elements to one number: the reduction, and the settings that every loss has.

Settings of every loss, in addition to the arguments of torch.nn:

`check`
    "raise" (default) raises for values outside the domain of the loss and names the first; "nan" also raises for
    NaN anywhere; "off" computes as torch does. Shapes, dtypes, devices and options are always validated. Values
    are not inspected where they can't be read: under vmap, in torch.compile and torch.export, and on the meta device.
    A GPU kernel does not wait for its checks: the loss is NaN, the gradient of the rejected element or row is 0, and
    the next loss on that GPU, the next optimizer step or `piste.check()` raises. "sync" is "raise", but waits for the
    GPU and raises in the call itself.
`normalizer`
    The denominator of a mean. None is torch's denominator; a positive number (or 0-dimensional tensor) is the
    right choice under gradient accumulation, where each part must be divided by the size of the whole;
    "weights" is the sum of the weights, and "count" the number of elements (rows) that are not ignored.
`empty`
    The mean of no elements: "nan" as in torch, "zero", or "raise".
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InvalidValue, PisteError
from ..options import Choice, Flag, Option
from ..translation import translate
from .value_checks import is_readable

__all__ = [
    "LEGACY",
    "SETTINGS",
    "Reduction",
    "make_reduction",
    "nothing_error",
    "reduction_of_flags",
    "reduction_option",
]


@dataclass(frozen=True)
class Normalizer:
    """The denominator of a mean: a number, a 0-dimensional tensor, or the name of a count."""

    doc: str = ""
    default: None = None
    range = 'a number above 0, a 0-dimensional tensor, "weights" or "count"'
    annotation = 'float | Tensor | Literal["weights", "count"] | None'

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (
            value is None
            or (is_number and 0 < value < math.inf)
            or (isinstance(value, Tensor) and value.dim() == 0)
            or (isinstance(value, str) and value in ("weights", "count"))
        ):
            raise InvalidValue(f"`{name}` must be {self.range}; received {value!r}.")

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Return nothing: the normalizer is not part of a formula."""
        return iter(())


SETTINGS: dict[str, Option] = {
    "check": Choice("raise", ("raise", "nan", "off", "sync"), "which values are rejected, and when"),
    "normalizer": Normalizer("the denominator of a mean; None is torch's"),
    "empty": Choice("nan", ("nan", "zero", "raise"), "the mean of no elements"),
}
"""The options of every loss, by keyword."""

LEGACY: dict[str, Option] = {
    "size_average": Flag(None, "deprecated in torch; `reduction` replaces it"),
    "reduce": Flag(None, "deprecated in torch; `reduction` replaces it"),
}
"""torch's old pair of flags."""


def reduction_option(reductions: tuple[str, ...]) -> Choice:
    """Return the option `reduction` of a loss with these reductions."""
    return Choice("mean", reductions, "how the losses of the elements become one number")


class Reduction(NamedTuple):
    """The reduction of the losses of elements or rows to one number."""

    mode: str
    normalizer: Any
    empty: str

    def of(self, loss: str, values: Tensor, call: Any) -> Tensor:
        """Reduce weighted values; the call has the denominators of a mean."""
        if self.mode == "none":
            return values
        total = values.sum()
        if self.mode == "sum":
            return total
        denominator = self.denominator(call)
        if isinstance(denominator, Tensor):
            # One of the CPU is taken on every device, without a copy.
            denominator = denominator.to(total.device if denominator.device.type != "cpu" else "cpu", total.dtype)
            if self.empty == "nan":
                return total / denominator
            is_empty = denominator == 0
            if self.empty == "raise":
                if is_readable((denominator,)) and bool(is_empty):
                    raise nothing_error(loss)
                return total / denominator
            return total / torch.where(is_empty, 1, denominator)
        if denominator:
            return total / denominator
        if self.empty == "raise":
            raise nothing_error(loss)
        return total if self.empty == "zero" else total * math.nan

    def denominator(self, call: Any) -> Any:
        """Return the denominator of the mean: the number asked for, or one of the counts of the call."""
        if self.mode == "batchmean":
            return call.batch
        by = call.denominator if self.normalizer is None else self.normalizer
        if not isinstance(by, str):
            return by
        return call.count() if by == "count" else call.weights()


def nothing_error(loss: str) -> InvalidValue:
    """Return the error for a mean of nothing."""
    return InvalidValue(
        f"{loss}: there is nothing to take the mean of: every element is ignored, has weight 0, or the batch is "
        'empty. Help: skip such a batch, or empty="zero" counts it as 0.'
    )


def make_reduction(
    loss: str, reductions: tuple[str, ...], reduction: Any, check: Any, normalizer: Any, empty: Any
) -> Reduction:
    """Return the validated reduction of a loss."""
    try:
        reduction_option(reductions).check("reduction", reduction)
        SETTINGS["check"].check("check", check)
        SETTINGS["empty"].check("empty", empty)
        if normalizer is not None and reduction != "mean":
            raise InvalidValue(
                f'`normalizer` is what a mean divides by; received it with reduction="{reduction}". '
                'Help: reduction="mean".'
            )
        SETTINGS["normalizer"].check("normalizer", normalizer)
    except PisteError as error:
        raise type(error)(f"{loss}: {error}") from None
    return Reduction(reduction, normalizer, empty)


def reduction_of_flags(size_average: Any, reduce: Any, stacklevel: int) -> str:
    """Return the reduction that torch's old pair of flags stands for, with a warning at the caller's line."""
    mode = "none" if reduce is False else "sum" if size_average is False else "mean"
    message = f'size_average and reduce are deprecated in torch; write reduction="{mode}"'
    warnings.warn(translate(message), stacklevel=stacklevel)
    return mode
