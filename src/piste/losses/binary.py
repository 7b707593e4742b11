"""Losses of a yes or no: binary cross entropy of probabilities and of logits."""

from __future__ import annotations

import math
from typing import Any, Unpack

from torch import Tensor

from ..engine.range_guards import Sure
from ..formula.expression import exp, log, log1p, maximum, where
from .elementwise import ElementwiseLoss
from .loss import explained
from .reduction import Settings
from .value_checks import Check

__all__ = ["BCELoss", "BCEWithLogitsLoss", "binary_cross_entropy", "binary_cross_entropy_with_logits"]

SLACK = 0.01  # a mixed or resized target may be rounded a little beyond its range
SURE: Sure = "from 0 to", 1 + SLACK
TARGET_HELP = (
    "a target is a 0/1 label or a probability; divide pixel values by 255, and use CrossEntropyLoss for class indices"
)


class BCELoss(ElementwiseLoss):
    """Binary cross entropy, -(y log x + (1 - y) log(1 - x)), of a probability x; both logarithms are at least
    -100.

    Shapes: `input` and `target` the same, any; `weight` that shape or one that spreads to it.
    Dtypes: floating; 0/1 targets of integers or bool are converted; 16-bit floats are computed in float32.
    Raises: InvalidValue for `input` or `target` outside [0, 1] (unless check="off"), shapes or devices that
    differ.
    Settings: `piste.losses.reduction`. Differs from torch.nn.BCELoss, which takes any target.

    >>> import torch, piste
    >>> piste.losses.BCELoss()(torch.tensor([0.9, 0.2]), torch.tensor([1., 0.]))
    tensor(0.1643)
    """

    name, function = "bce", "binary_cross_entropy"
    expects = "probabilities in [0, 1] and 0/1 labels (or probabilities) of the same shape"
    example = "torch.sigmoid(torch.randn(4)), torch.tensor([0.0, 1.0, 1.0, 0.0])"
    checks = (
        Check(
            "input",
            lambda x, y: (x < 0) | (x > 1),
            "in [0, 1]",
            "apply torch.sigmoid first, or give the logits to BCEWithLogitsLoss, which is more exact",
            ("from 0 to", 1),
        ),
        Check("target", lambda x, y: (y < -SLACK) | (y > 1 + SLACK), "in [0, 1]", TARGET_HELP, SURE),
    )

    @staticmethod
    def value(x, y):
        return -(y * maximum(log(x), -100) + (1 - y) * maximum(log1p(-x), -100))

    @staticmethod
    def derivatives(x, y):
        return (x - y) / maximum((1 - x) * x, 1e-12), maximum(log1p(-x), -100) - maximum(log(x), -100)

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(size_average, reduce, reduction, weight=weight, **settings)


class BCEWithLogitsLoss(ElementwiseLoss):
    """Binary cross entropy of a logit x: y p softplus(-x) + (1 - y) softplus(x), softplus(z) = log(1 + e^z).

    `pos_weight` p multiplies the loss of the positive targets; it is at least 0 and spreads to the shape of
    `input`.
    Shapes, dtypes, errors and settings are those of `BCELoss`, but that any logit is allowed.
    Differs from torch.nn.BCEWithLogitsLoss, which takes any target, refuses those of integers and bool, and
    gives NaN for infinite logits.

    >>> import torch, piste
    >>> piste.losses.BCEWithLogitsLoss()(torch.tensor([0., 2.]), torch.tensor([1., 1.]))
    tensor(0.4100)
    """

    name, function = "bce_with_logits", "binary_cross_entropy_with_logits"
    expects = "logits and 0/1 labels (or probabilities) of the same shape"
    example = "torch.randn(4), torch.tensor([0.0, 1.0, 1.0, 0.0])"
    extras = ("pos_weight",)
    checks = (
        Check("target", lambda x, y, p=None: (y < -SLACK) | (y > 1 + SLACK), "in [0, 1]", TARGET_HELP, SURE),
        Check(
            "pos_weight",
            lambda x, y, p=1: p < 0,
            "at least 0",
            "it is usually negatives / positives",
            ("from 0 to", math.inf),
        ),
    )

    @staticmethod
    def value(x, y, p=None):
        # log1p(exp(-|x|)) never overflows. A logit of infinity with its own label is no loss at all, and 0 *
        # inf would say NaN.
        s = log1p(exp(-abs(x)))
        miss = y * where(y == 0, 0, s + maximum(-x, 0))
        false_alarm = (1 - y) * where(y == 1, 0, s + maximum(x, 0))
        return (miss if p is None else p * miss) + false_alarm

    @staticmethod
    def derivatives(x, y, p=None):
        # e = exp(-|x|), written so that its own derivative at 0 is right for the second backward.
        e = exp(where(x > 0, -x, x))
        r = 1 / (1 + e)
        yes, no = where(x > 0, 1, e) * r, where(x > 0, e, 1) * r
        s = log1p(e)
        miss, false_alarm = s + where(x > 0, 0, -x), s + where(x > 0, x, 0)
        if p is None:
            return (1 - y) * yes - y * no, miss - false_alarm
        return (1 - y) * yes - p * y * no, p * miss - false_alarm, y * miss

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(size_average, reduce, reduction, weight=weight, pos_weight=pos_weight, **settings)


@explained(BCELoss)
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `BCELoss`."""
    return BCELoss.run(
        input,
        target,
        size_average=size_average,
        reduce=reduce,
        reduction=reduction,
        weight=weight,
        **settings,
    )


@explained(BCEWithLogitsLoss)
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `BCEWithLogitsLoss`."""
    return BCEWithLogitsLoss.run(
        input,
        target,
        size_average=size_average,
        reduce=reduce,
        reduction=reduction,
        weight=weight,
        pos_weight=pos_weight,
        **settings,
    )
