"""From the losses of the elements to one number: the settings that every loss takes, and what they do.

Settings that every loss takes, beyond those of torch.nn:

`check`
    "raise" (default) refuses values the loss is not defined for, naming the first; "nan" also refuses NaN
    anywhere; "off" computes as torch does. Shapes, dtypes, devices and options are checked always. Values are
    not looked at where they can't be: under vmap, in torch.compile and torch.export, and on the meta device.
`normalizer`
    What the mean divides by: None is torch's denominator; a positive number (or 0-dimensional tensor) is the
    right choice under gradient accumulation, where each part must be divided by the size of the whole;
    "weights" is the sum of the weights used, and "count" the number of elements (rows) that are not ignored.
`empty`
    What the mean of nothing is: "nan" as in torch, "zero", or "raise".
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from ..errors import InvalidValue
from .value_checks import choice, is_readable

__all__ = ["Reduction", "Settings", "legacy", "settings"]


class Settings(TypedDict, total=False):
    """The keyword arguments that every loss takes; `piste.losses.reduction` documents them."""

    check: str
    normalizer: float | Tensor | str | None
    empty: str


class Reduction(NamedTuple):
    """How the losses of the elements become one number."""

    mode: str
    normalizer: Any
    empty: str

    def of(self, loss: str, values: Tensor, call: Any) -> Tensor:
        """`values` are weighted already; the call tells what a mean may divide by."""
        if self.mode == "none":
            return values
        total = values.sum()
        if self.mode == "sum":
            return total
        divisor = self.divisor(call)
        if isinstance(divisor, Tensor):
            divisor = divisor.to(total.dtype)
            if self.empty == "nan":
                return total / divisor
            nothing = divisor == 0
            if self.empty == "raise":
                if is_readable((divisor,)) and bool(nothing):
                    self._refuse_nothing(loss)
                return total / divisor
            return total / torch.where(nothing, 1, divisor)
        if divisor:
            return total / divisor
        if self.empty == "raise":
            self._refuse_nothing(loss)
        return total if self.empty == "zero" else total * math.nan

    def divisor(self, call: Any) -> Any:
        """What the mean divides by: the number asked for, or one of those that the call knows."""
        if self.mode == "batchmean":
            return call.batch
        by = call.mean_by if self.normalizer is None else self.normalizer
        if not isinstance(by, str):
            return by
        return call.count() if by == "count" else call.weights()

    @staticmethod
    def _refuse_nothing(loss: str) -> None:
        raise InvalidValue(
            f"{loss}: there is nothing to take the mean of: every element is ignored, has weight 0, or the batch is "
            'empty. Help: skip such a batch, or empty="zero" counts it as 0.'
        )


def settings(
    loss: str, reductions: tuple[str, ...], reduction: Any, check: Any, normalizer: Any, empty: Any
) -> Reduction:
    choice(loss, "reduction", reduction, reductions)
    choice(loss, "check", check, ("raise", "nan", "off"))
    choice(loss, "empty", empty, ("nan", "zero", "raise"))
    if normalizer is not None:
        if reduction != "mean":
            raise InvalidValue(
                f'{loss}: `normalizer` is what a mean divides by; received it with reduction="{reduction}". '
                'Help: reduction="mean".'
            )
        is_number = isinstance(normalizer, (int, float)) and not isinstance(normalizer, bool)
        if not (
            (is_number and 0 < normalizer < math.inf)
            or (isinstance(normalizer, Tensor) and normalizer.dim() == 0)
            or (isinstance(normalizer, str) and normalizer in ("weights", "count"))
        ):
            raise InvalidValue(
                f'{loss}: `normalizer` must be a number above 0, a 0-dimensional tensor, "weights" or '
                '"count"; '
                f"received {normalizer!r}."
            )
    return Reduction(reduction, normalizer, empty)


def legacy(size_average: Any, reduce: Any, reduction: Any) -> Any:
    """torch's old pair of flags, as the reduction it stands for."""
    if size_average is None and reduce is None:
        return reduction
    mode = "none" if reduce is False else "sum" if size_average is False else "mean"
    warnings.warn(f'size_average and reduce are deprecated in torch; write reduction="{mode}"', stacklevel=5)
    return mode
