"""Losses of a label -1 or 1 and a margin: HingeEmbedding, SoftMargin, MarginRanking."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from ..formula.expression import exp, log1p, where
from .elementwise import ElementwiseLoss
from .loss import explained
from .reduction import Settings
from .value_checks import Check

__all__ = [
    "HingeEmbeddingLoss",
    "MarginRankingLoss",
    "SoftMarginLoss",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "soft_margin_loss",
]

SIGN = ("-1 or 1", "2 * target - 1 makes such targets of 0/1 labels")


class HingeEmbeddingLoss(ElementwiseLoss):
    """Of a distance x: x itself where y = 1 (alike), max(0, margin - x) where y = -1 (not alike).

    Shapes: `input` and `target` the same, any. Dtypes: floating; whole targets are converted.
    Raises: InvalidValue for a target other than -1 and 1 (unless check="off"), shapes or devices that differ.
    Settings: `piste.losses.reduction`. Differs from torch.nn.HingeEmbeddingLoss: nothing is broadcast.

    >>> import torch, piste
    >>> piste.losses.HingeEmbeddingLoss()(torch.tensor([0.5, 0.25]), torch.tensor([1, -1]))
    tensor(0.6250)
    """

    name, function = "hinge_embedding", "hinge_embedding_loss"
    ranges = {"margin": "(-inf, inf)"}
    expects = "distances and labels -1 or 1 of the same shape"
    example = "torch.rand(4), torch.tensor([1, -1, -1, 1])"
    checks = (Check("target", lambda x, y: (y != 1) & (y != -1) & (y == y), *SIGN, ("of size", 1)),)

    @staticmethod
    def value(x, y, *, margin):
        far = where(y == 1, 0, where(margin - x < 0, 0, margin - x))
        near = where(y == -1, 0, x)
        return far + near

    @staticmethod
    def derivatives(x, y, *, margin):
        one = 0 * y + 1  # in the dtype of the operands, where a constant would have its own
        far = where((y == 1) | (margin - x < 0), 0, -one)
        near = where(y == -1, 0, one)
        return far + near, None

    def __init__(
        self,
        margin: float = 1.0,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(size_average, reduce, reduction, margin=margin, **settings)


class SoftMarginLoss(ElementwiseLoss):
    """The logistic loss of a label -1 or 1: log(1 + e^(-y x)).

    Shapes: `input` and `target` the same, any. Dtypes: floating; whole targets are converted.
    Raises: InvalidValue for a target other than -1 and 1 (unless check="off"), shapes or devices that differ.
    Settings: `piste.losses.reduction`. Differs from torch.nn.SoftMarginLoss, which is infinite for large -y x.

    >>> import torch, piste
    >>> piste.losses.SoftMarginLoss()(torch.tensor([0., 2.]), torch.tensor([1, -1]))
    tensor(1.4100)
    """

    name, function = "soft_margin", "soft_margin_loss"
    expects = "scores and labels -1 or 1 of the same shape"
    example = "torch.randn(4), torch.tensor([1, -1, -1, 1])"
    checks = (Check("target", lambda x, y: (y != 1) & (y != -1) & (y == y), *SIGN, ("of size", 1)),)

    @staticmethod
    def value(x, y):
        z = -y * x
        return where(z > 0, z, 0) + log1p(exp(-abs(z)))

    @staticmethod
    def derivatives(x, y):
        z = -y * x
        e = exp(where(z > 0, -z, z))  # so written that its own derivative at 0 is right for the second backward
        s = where(z > 0, 1, e) / (1 + e)
        return -y * s, -x * s

    def __init__(
        self, size_average: Any = None, reduce: Any = None, reduction: str = "mean", **settings: Unpack[Settings]
    ) -> None:
        super().__init__(size_average, reduce, reduction, **settings)


class MarginRankingLoss(ElementwiseLoss):
    """max(0, margin - y (x1 - x2)): x1 should be above x2 by the margin where y = 1, and below it where y = -1.

    Shapes: `input1`, `input2` and `target` the same, any. Dtypes: floating; whole targets are converted.
    Raises: InvalidValue for a target other than -1 and 1 (unless check="off"), shapes or devices that differ.
    Settings: `piste.losses.reduction`. Differs from torch.nn.MarginRankingLoss: nothing is broadcast.

    >>> import torch, piste
    >>> x1, x2, y = torch.tensor([1., 0.]), torch.tensor([0., 1.]), torch.tensor([1, 1])
    >>> piste.losses.MarginRankingLoss(margin=0.5)(x1, x2, y)
    tensor(0.7500)
    """

    name, function = "margin_ranking", "margin_ranking_loss"
    arguments = ("input1", "input2", "target")
    ranges = {"margin": "(-inf, inf)"}
    expects = "two tensors of scores and one of labels -1 or 1, all of the same shape"
    example = "torch.randn(3), torch.randn(3), torch.tensor([1, -1, 1])"
    checks = (Check("target", lambda a, b, y: (y != 1) & (y != -1) & (y == y), *SIGN, ("of size", 1)),)

    @staticmethod
    def value(a, b, y, *, margin):
        z = margin - y * (a - b)
        return where(z < 0, 0, z)

    @staticmethod
    def derivatives(a, b, y, *, margin):
        is_wrong = margin - y * (a - b) >= 0
        return where(is_wrong, -y, 0), where(is_wrong, y, 0), where(is_wrong, b - a, 0)

    def __init__(
        self,
        margin: float = 0.0,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(size_average, reduce, reduction, margin=margin, **settings)


@explained(HingeEmbeddingLoss)
def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `HingeEmbeddingLoss`."""
    return HingeEmbeddingLoss.run(
        input, target, size_average=size_average, reduce=reduce, reduction=reduction, margin=margin, **settings
    )


@explained(SoftMarginLoss)
def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `SoftMarginLoss`."""
    return SoftMarginLoss.run(input, target, size_average=size_average, reduce=reduce, reduction=reduction, **settings)


@explained(MarginRankingLoss)
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `MarginRankingLoss`."""
    return MarginRankingLoss.run(
        input1,
        input2,
        target,
        size_average=size_average,
        reduce=reduce,
        reduction=reduction,
        margin=margin,
        **settings,
    )
