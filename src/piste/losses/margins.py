"""Losses of a label -1 or 1 and a margin: HingeEmbedding, SoftMargin, MarginRanking."""

from __future__ import annotations

import math

from ..formula.words import exp, log1p, where
from ..options import Number
from .corners import above, below
from .elementwise import ElementwiseLoss
from .value_checks import Check

__all__ = ["HingeEmbeddingLoss", "MarginRankingLoss", "SoftMarginLoss"]

SIGN = Check(
    "target",
    lambda *operands: (operands[-1] != 1) & (operands[-1] != -1) & (operands[-1] == operands[-1]),
    "-1 or 1",
    "2 * target - 1 makes such targets of 0/1 labels",
    ("of size", 1),
    exchanged=lambda *operands: ((operands[0] == 1) | (operands[0] == -1)) & (operands[-1] % 1 != 0),
)


class HingeEmbeddingLoss(ElementwiseLoss):
    """The distance x of a similar pair (y = 1), and max(0, margin - x) of a dissimilar pair (y = -1).

    Shape:
        input: Any, floating. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`, -1 or 1; integers are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: A target is neither -1 nor 1 (unless check="off"), or the shapes or the devices differ.

    Differs from torch: torch.nn.HingeEmbeddingLoss broadcasts, and takes any target.

    Example:
        >>> import torch, piste
        >>> piste.losses.HingeEmbeddingLoss()(torch.tensor([0.5, 0.25]), torch.tensor([1, -1]))
        tensor(0.6250)
    """

    name, functional_name = "hinge_embedding", "hinge_embedding_loss"
    options = {"margin": Number(1.0, "the distance beyond which a dissimilar pair costs nothing", low=-math.inf)}
    signature = "margin, size_average, reduce, reduction"
    expects = "distances and labels -1 or 1 of the same shape"
    example = "torch.rand(4), torch.tensor([1, -1, -1, 1])"
    value_checks = (SIGN,)

    def formula(x, y, *, margin):
        far = where(y == 1, 0, where(below(margin - x, 0), 0, margin - x))
        near = where(y == -1, 0, x)
        return far + near

    def derivatives(x, y, *, margin):
        one = 0 * y + 1  # in the dtype of the operands, where a constant would have its own
        far = where((y == 1) | below(margin - x, 0), 0, -one)
        near = where(y == -1, 0, one)
        return far + near, None


class SoftMarginLoss(ElementwiseLoss):
    """The logistic loss of a label -1 or 1: log(1 + e^(-y x)).

    Shape:
        input: Any, floating. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`, -1 or 1; integers are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: A target is neither -1 nor 1 (unless check="off"), or the shapes or the devices differ.

    Differs from torch: torch.nn.SoftMarginLoss is infinite for large -y x, and takes any target.

    Example:
        >>> import torch, piste
        >>> piste.losses.SoftMarginLoss()(torch.tensor([0., 2.]), torch.tensor([1, -1]))
        tensor(1.4100)
    """

    name, functional_name = "soft_margin", "soft_margin_loss"
    expects = "scores and labels -1 or 1 of the same shape"
    example = "torch.randn(4), torch.tensor([1, -1, -1, 1])"
    value_checks = (SIGN,)

    def formula(x, y):
        z = -y * x
        return where(z > 0, z, 0) + log1p(exp(-abs(z)))

    def derivatives(x, y):
        z = -y * x
        e = exp(where(z > 0, -z, z))  # written so that its own derivative at 0 is right for the second backward
        s = where(z > 0, 1, e) / (1 + e)
        return -y * s, -x * s


class MarginRankingLoss(ElementwiseLoss):
    """max(0, margin - y (x1 - x2)): x1 should exceed x2 by the margin where y = 1, and fall below it where y = -1.

    Shape:
        input1, input2: Any, the same, floating. 16-bit floats are computed in float32 and rounded once.
        target: That of the inputs, -1 or 1; integers are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: A target is neither -1 nor 1 (unless check="off"), or the shapes or the devices differ.

    Differs from torch: torch.nn.MarginRankingLoss broadcasts, and takes any target.

    Example:
        >>> import torch, piste
        >>> x1, x2, y = torch.tensor([1., 0.]), torch.tensor([0., 1.]), torch.tensor([1, 1])
        >>> piste.losses.MarginRankingLoss(margin=0.5)(x1, x2, y)
        tensor(0.7500)
    """

    name, functional_name = "margin_ranking", "margin_ranking_loss"
    arguments = ("input1", "input2", "target")
    options = {"margin": Number(0.0, "the difference between the scores that costs nothing", low=-math.inf)}
    signature = "margin, size_average, reduce, reduction"
    expects = "two tensors of scores and one of labels -1 or 1, all of the same shape"
    example = "torch.randn(3), torch.randn(3), torch.tensor([1, -1, 1])"
    value_checks = (SIGN,)

    def formula(a, b, y, *, margin):
        z = margin - y * (a - b)
        return where(below(z, 0), 0, z)

    def derivatives(a, b, y, *, margin):
        is_wrong = above(margin - y * (a - b), 0)  # at the corner as torch's clamp
        return where(is_wrong, -y, 0), where(is_wrong, y, 0), where(is_wrong, b - a, 0)
