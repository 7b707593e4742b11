"""Binary cross entropy of probabilities and of logits."""

from __future__ import annotations

import math

import torch

from ..engine import BoundKind
from ..formula.words import exp, log, log1p, maximum, where
from ..options import TensorOption
from .elementwise import WEIGHT, ElementwiseLoss
from .loss import TorchWeightedLoss
from .value_checks import Check

__all__ = ["BCELoss", "BCEWithLogitsLoss"]

SLACK = 0.01  # a mixed or resized target may be rounded a little beyond its range
GUARD: tuple[BoundKind, float] = "from 0 to", 1 + SLACK
LABEL = Check(
    "target",
    lambda x, y, p=None: (y < -SLACK) | (y > 1 + SLACK),
    "in [0, 1]",
    "a target is a 0/1 label or a probability; divide pixel values by 255, and use CrossEntropyLoss for class indices",
    GUARD,
    {-1: "(target + 1) / 2 makes 0/1 labels of labels -1 and 1"},
    exchanged=lambda x, y, p=None: ((x == 0) | (x == 1)) & (y % 1 != 0),
)
MAX_WEIGHT = float(torch.finfo(torch.float32).max)


class BCELoss(ElementwiseLoss, TorchWeightedLoss):
    """Binary cross entropy of a probability x: -(y log x + (1 - y) log(1 - x)), with logarithms of at least -100.

    Shape:
        input: Any, floating, in [0, 1]. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`, in [0, 1]; 0/1 labels of integers or bool are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: `input` or `target` is outside [0, 1] (unless check="off"), `weight` can't be broadcast to
            `input`, or the shapes or the devices differ.

    Differs from torch: torch.nn.BCELoss takes any target, and rejects targets of integers and bool. The gradient by the
    target at an input of exactly 0 or 1 is that of the bounded logarithm.

    Example:
        >>> import torch, piste
        >>> piste.losses.BCELoss()(torch.tensor([0.9, 0.2]), torch.tensor([1., 0.]))
        tensor(0.1643)
    """

    name, functional_name, aliases = "bce", "binary_cross_entropy", ("log_loss",)
    options = {"weight": WEIGHT}
    signature = "weight, size_average, reduce, reduction"
    expects = "probabilities in [0, 1] and 0/1 labels (or probabilities) of the same shape"
    example = "torch.sigmoid(torch.randn(4)), torch.tensor([0.0, 1.0, 1.0, 0.0])"
    value_checks = (
        Check(
            "input",
            lambda x, y: (x < 0) | (x > 1),
            "in [0, 1]",
            "apply torch.sigmoid first, or give the logits to BCEWithLogitsLoss, which is more exact",
            ("from 0 to", 1),
        ),
        LABEL,
    )

    def formula(x, y):
        return -(y * maximum(log(x), -100) + (1 - y) * maximum(log1p(-x), -100))

    def derivatives(x, y):
        # The derivative by x is that of the unclamped logarithms, and finite at 0 and 1, as in torch.
        return (x - y) / maximum((1 - x) * x, 1e-12), maximum(log1p(-x), -100) - maximum(log(x), -100)


class BCEWithLogitsLoss(ElementwiseLoss):
    """Binary cross entropy of a logit x: y p softplus(-x) + (1 - y) softplus(x), with softplus(z) = log(1 + e^z).

    Shape:
        input: Any, floating. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`, in [0, 1]; 0/1 labels of integers or bool are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: `target` is outside [0, 1] or `pos_weight` outside [0, inf) (both unless check="off"), a weight
            can't be broadcast to `input`, or the shapes or the devices differ.

    Differs from torch: torch.nn.BCEWithLogitsLoss takes any target, rejects those of integers and bool, and gives NaN
    for an infinite logit with its own label, which costs 0 here.

    Example:
        >>> import torch, piste
        >>> piste.losses.BCEWithLogitsLoss()(torch.tensor([0., 2.]), torch.tensor([1., 1.]))
        tensor(0.4100)
    """

    name, functional_name = "bce_with_logits", "binary_cross_entropy_with_logits"
    options = {
        "weight": WEIGHT,
        "pos_weight": TensorOption("the factor p of positive targets, in [0, inf), broadcast to the shape of `input`"),
    }
    signature = "weight, size_average, reduce, reduction, pos_weight"
    expects = "logits and 0/1 labels (or probabilities) of the same shape"
    example = "torch.randn(4), torch.tensor([0.0, 1.0, 1.0, 0.0])"
    extras = ("pos_weight",)
    value_checks = (
        LABEL,
        Check(
            "pos_weight",
            lambda x, y, p=1: (p < 0) | (p == math.inf) | (p != p),
            "in [0, inf)",
            "it is usually negatives / positives",
            ("from 0 to", MAX_WEIGHT),
        ),
    )

    def formula(x, y, p=None):
        # log1p(exp(-|x|)) never overflows. An infinite logit with its own label costs 0, and 0 * inf would be NaN.
        s = log1p(exp(-abs(x)))
        miss = y * where(y == 0, 0, s + maximum(-x, 0))
        false_alarm = (1 - y) * where(y == 1, 0, s + maximum(x, 0))
        return (miss if p is None else p * miss) + false_alarm

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
