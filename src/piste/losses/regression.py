"""Losses of a difference: L1, SmoothL1, Huber and MSE."""

from __future__ import annotations

from typing import Any

from ..formula.words import sign, where
from ..options import Number
from .elementwise import WEIGHT, ElementwiseLoss

__all__ = ["HuberLoss", "L1Loss", "MSELoss", "SmoothL1Loss"]


class L1Loss(ElementwiseLoss):
    """The absolute difference, |x - y|.

    The function form takes `weight` too; its mean divides by the sum of the weights, as in torch.

    Shape:
        input: Any, floating or complex. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`; integers are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: The shapes or the devices differ.
        InvalidType: An operand is no tensor of numbers.

    Differs from torch: torch.nn.L1Loss broadcasts operands of different shapes.

    Example:
        >>> import torch, piste
        >>> piste.losses.L1Loss()(torch.tensor([[1., 1.], [1., 1.]]), torch.tensor([[0., 1.], [2., 3.]]))
        tensor(1.)
    """

    name, functional_name, aliases = "l1", "l1_loss", ("mae", "mean_absolute_error")
    options = {"weight": WEIGHT}
    function_signature = "size_average, reduce, reduction, weight"
    denominator = "weights"
    is_complex_allowed = True

    def formula(x, y):
        return abs(x - y)


class MSELoss(ElementwiseLoss):
    """The squared difference, (x - y)^2.

    The function form takes `weight` too; its mean divides by the sum of the weights, as in torch.

    Shape:
        input: Any, floating. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`; integers are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: The shapes or the devices differ.
        InvalidType: An operand is no tensor of real numbers.

    Differs from torch: torch.nn.MSELoss broadcasts operands of different shapes.

    Example:
        >>> import torch, piste
        >>> piste.losses.MSELoss()(torch.tensor([[1., 1.], [1., 1.]]), torch.tensor([[0., 1.], [2., 3.]]))
        tensor(1.5000)
    """

    name, functional_name, aliases = "mse", "mse_loss", ("l2", "mean_squared_error")
    options = {"weight": WEIGHT}
    function_signature = "size_average, reduce, reduction, weight"
    denominator = "weights"

    def formula(x, y):
        d = x - y
        return d * d


class SmoothL1Loss(ElementwiseLoss):
    """With d = |x - y|: d^2 / (2 beta) where d < beta, and d - beta / 2 elsewhere (Girshick 2015).

    From Fast R-CNN, https://arxiv.org/abs/1504.08083. It is HuberLoss with delta = beta, divided by beta, and L1Loss
    where beta = 0.

    Shape:
        input: Any, floating. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`; integers are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: The shapes or the devices differ.
        InvalidType: An operand is no tensor of real numbers.

    Differs from torch: torch.nn.SmoothL1Loss broadcasts operands of different shapes.

    Example:
        >>> import torch, piste
        >>> piste.losses.SmoothL1Loss()(torch.tensor([[1., 1.], [1., 1.]]), torch.tensor([[0., 1.], [2., 3.]]))
        tensor(0.6250)
    """

    name, functional_name = "smooth_l1", "smooth_l1_loss"
    options = {"beta": Number(1.0, "the difference at which the quadratic part ends")}
    signature = "size_average, reduce, reduction, beta"
    branches = ("quadratic", "linear")

    def formula(x, y, *, beta):
        d = abs(x - y)
        if beta == 0:
            return d
        return where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta)

    def derivatives(x, y, *, beta):
        d = x - y
        s = sign(d) if beta == 0 else where(abs(d) >= beta, sign(d), d / beta)  # in this order NaN stays NaN
        return s, -s

    @classmethod
    def notes(cls, *, beta: float = 1.0, **options: Any) -> list[str]:
        """Return the relation to Huber."""
        if beta == 0:
            return ["SmoothL1Loss with beta = 0 is L1Loss."]
        return [
            f"HuberLoss(delta={beta:g}) has the same branches and is beta = {beta:g} times this loss: its linear part "
            "has the slope delta, where that of SmoothL1Loss always has slope 1."
        ]


class HuberLoss(ElementwiseLoss):
    """With d = |x - y|: d^2 / 2 where d <= delta, and delta (d - delta / 2) elsewhere (Huber 1964).

    From https://doi.org/10.1214/aoms/1177703732. It is SmoothL1Loss with beta = delta, times delta. The function form
    takes `weight` too; its mean divides by the number of elements, as in torch.

    Shape:
        input: Any, floating. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`; integers are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: The shapes or the devices differ.
        InvalidType: An operand is no tensor of real numbers.

    Differs from torch: torch.nn.HuberLoss broadcasts operands of different shapes.

    Example:
        >>> import torch, piste
        >>> piste.losses.HuberLoss(delta=0.5)(torch.tensor([1., 1.]), torch.tensor([1.25, 3.]))
        tensor(0.4531)
    """

    name, functional_name = "huber", "huber_loss"
    options = {"delta": Number(1.0, "the difference at which the quadratic part ends", above=True), "weight": WEIGHT}
    signature = "reduction, delta"
    function_signature = "reduction, delta, weight"
    branches = ("quadratic", "linear")

    def formula(x, y, *, delta):
        d = abs(x - y)
        return where(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta))

    def derivatives(x, y, *, delta):
        d = x - y
        s = where(abs(d) >= delta, delta * sign(d), d)  # NaN stays NaN; the border curves as the line does, as in torch
        return s, -s

    @classmethod
    def notes(cls, *, delta: float = 1.0, **options: Any) -> list[str]:
        """Return the relation to SmoothL1."""
        return [
            f"SmoothL1Loss(beta={delta:g}) has the same branches and is this loss divided by delta = {delta:g}: its "
            "linear part always has slope 1, where that of HuberLoss has the slope delta."
        ]
