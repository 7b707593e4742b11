"""Losses of a difference: L1, SmoothL1, Huber and MSE."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from ..formula.expression import sign, where
from .elementwise import ElementwiseLoss
from .loss import explained
from .reduction import Settings

__all__ = [
    "HuberLoss",
    "L1Loss",
    "MSELoss",
    "SmoothL1Loss",
    "huber_loss",
    "l1_loss",
    "mse_loss",
    "smooth_l1_loss",
]


class L1Loss(ElementwiseLoss):
    """The absolute difference, |x - y|.

    Shapes: `input` and `target` the same, any; the result is 0-dimensional, or of that shape with
    reduction="none".
    Dtypes: floating or complex; integers on one side are converted; 16-bit floats are computed in float32.
    Raises: InvalidValue for shapes or devices that differ, InvalidType for what is no tensor of numbers.
    Settings: `piste.losses.reduction`. Differs from torch.nn.L1Loss: nothing is broadcast.

    >>> import torch, piste
    >>> piste.losses.L1Loss()(torch.tensor([[1., 1.], [1., 1.]]), torch.tensor([[0., 1.], [2., 3.]]))
    tensor(1.)
    """

    name, function = "l1", "l1_loss"
    mean_by = "weights"
    is_complex_allowed = True

    @staticmethod
    def value(x, y):
        return abs(x - y)

    @staticmethod
    def derivatives(x, y):
        s = sign(x - y)
        return s, -s

    def __init__(
        self,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(size_average, reduce, reduction, **settings)


class MSELoss(ElementwiseLoss):
    """The squared difference, (x - y)^2.

    Shapes, dtypes, errors, settings and the difference to torch are those of `L1Loss`, without complex
    numbers.

    >>> import torch, piste
    >>> piste.losses.MSELoss()(torch.tensor([[1., 1.], [1., 1.]]), torch.tensor([[0., 1.], [2., 3.]]))
    tensor(1.5000)
    """

    name, function = "mse", "mse_loss"
    mean_by = "weights"

    @staticmethod
    def value(x, y):
        d = x - y
        return d * d

    @staticmethod
    def derivatives(x, y):
        d = 2 * (x - y)
        return d, -d

    def __init__(
        self,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(size_average, reduce, reduction, **settings)


class SmoothL1Loss(ElementwiseLoss):
    """With d = |x - y|: d^2 / (2 beta) where d < beta, and d - beta / 2 elsewhere (Girshick 2015, Fast
    R-CNN).

    `beta` is in [0, inf); 0 is L1Loss. It is HuberLoss with delta = beta, divided by beta.
    Shapes, dtypes, errors, settings and the difference to torch are those of `L1Loss`, without complex
    numbers.

    >>> import torch, piste
    >>> piste.losses.SmoothL1Loss()(torch.tensor([[1., 1.], [1., 1.]]), torch.tensor([[0., 1.], [2., 3.]]))
    tensor(0.6250)
    """

    name, function = "smooth_l1", "smooth_l1_loss"
    ranges = {"beta": "[0, inf)"}
    branches = ("quadratic", "linear")

    @staticmethod
    def value(x, y, *, beta):
        d = abs(x - y)
        if beta == 0:
            return d
        return where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta)

    @staticmethod
    def derivatives(x, y, *, beta):
        d = x - y
        s = sign(d) if beta == 0 else where(abs(d) >= beta, sign(d), d / beta)  # NaN stays NaN
        return s, -s

    @classmethod
    def remarks(cls, *, beta: float = 1.0, **options: Any) -> list[str]:
        """How Huber differs."""
        if beta == 0:
            return ["SmoothL1Loss with beta = 0 is L1Loss."]
        return [
            f"HuberLoss(delta={beta:g}) has the same branches and is beta = {beta:g} times this loss: its linear part "
            "has "
            "the slope delta, where that of SmoothL1Loss always has slope 1."
        ]

    def __init__(
        self,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        beta: float = 1.0,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(size_average, reduce, reduction, beta=beta, **settings)


class HuberLoss(ElementwiseLoss):
    """With d = |x - y|: d^2 / 2 where d <= delta, and delta (d - delta / 2) elsewhere (Huber 1964).

    `delta` is in (0, inf). It is SmoothL1Loss with beta = delta, times delta.
    Shapes, dtypes, errors, settings and the difference to torch are those of `L1Loss`, without complex
    numbers.

    >>> import torch, piste
    >>> piste.losses.HuberLoss(delta=0.5)(torch.tensor([1., 1.]), torch.tensor([1.25, 3.]))
    tensor(0.4531)
    """

    name, function = "huber", "huber_loss"
    ranges = {"delta": "(0, inf)"}
    branches = ("quadratic", "linear")

    @staticmethod
    def value(x, y, *, delta):
        d = abs(x - y)
        return where(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta))

    @staticmethod
    def derivatives(x, y, *, delta):
        d = x - y
        s = where(abs(d) >= delta, delta * sign(d), d)  # NaN stays NaN; the border curves as the line does, as in torch
        return s, -s

    @classmethod
    def remarks(cls, *, delta: float = 1.0, **options: Any) -> list[str]:
        """How SmoothL1 differs."""
        return [
            f"SmoothL1Loss(beta={delta:g}) has the same branches and is this loss divided by delta = {delta:g}: its "
            "linear "
            "part always has slope 1, where that of HuberLoss has the slope delta."
        ]

    def __init__(self, reduction: str = "mean", delta: float = 1.0, **settings: Unpack[Settings]) -> None:
        super().__init__(reduction=reduction, delta=delta, **settings)


@explained(L1Loss)
def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `L1Loss`; a mean with `weight` divides by the sum of the weights, as in torch."""
    return L1Loss.run(
        input,
        target,
        size_average=size_average,
        reduce=reduce,
        reduction=reduction,
        weight=weight,
        **settings,
    )


@explained(MSELoss)
def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `MSELoss`; a mean with `weight` divides by the sum of the weights, as in torch."""
    return MSELoss.run(
        input,
        target,
        size_average=size_average,
        reduce=reduce,
        reduction=reduction,
        weight=weight,
        **settings,
    )


@explained(SmoothL1Loss)
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `SmoothL1Loss`."""
    return SmoothL1Loss.run(
        input, target, size_average=size_average, reduce=reduce, reduction=reduction, beta=beta, **settings
    )


@explained(HuberLoss)
def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `HuberLoss`; a mean with `weight` divides by the number of elements, as in torch."""
    return HuberLoss.run(input, target, reduction=reduction, delta=delta, weight=weight, **settings)
