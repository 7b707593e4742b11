"""Losses of a difference that bound the pull of outliers, and those of quantiles and expectiles."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..engine import BoundKind
from ..errors import InvalidValue
from ..formula.words import exp, expm1, log, log1p, maximum, sign, sqrt, where
from ..options import Number, TensorOption
from .call import PreparedCall
from .elementwise import WEIGHT, ElementwiseLoss
from .value_checks import Check

__all__ = ["CharbonnierLoss", "ExpectileLoss", "GeneralRobustLoss", "LogCoshLoss", "QuantileLoss"]

GUARD: tuple[BoundKind, float] = "from 0 to", 1


class LogCoshLoss(ElementwiseLoss):
    """The logarithm of the hyperbolic cosine of the difference, log cosh(x - y).

    It is near (x - y)^2 / 2 for small differences, and near |x - y| - log 2 for large ones. Its slope is tanh(x - y).
    The mean divides by the number of elements, or by the sum of the weights where `weight` is given.

    Shape:
        input: Any, floating. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`; integers are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: The shapes or the devices differ.
        InvalidType: An operand is no tensor of real numbers.

    Differs from torch: torch has no such loss. keras.losses.LogCosh has the same values, and broadcasts.

    Example:
        >>> import torch, piste
        >>> piste.losses.LogCoshLoss()(torch.tensor([1., 1.]), torch.tensor([1., 3.]))
        tensor(0.6625)
    """

    name, functional_name, aliases = "log_cosh", "log_cosh_loss", ("logcosh",)
    options = {"weight": WEIGHT}
    signature = "reduction, weight"
    denominator = "weights"
    branches = ("near 0", "far")

    def formula(x, y):
        d = abs(x - y)
        e = exp(-2 * d)
        t = (1 - e) / (1 + e)
        return where(d < 1, -0.5 * log1p(-t * t), d + log1p(e) - math.log(2))  # the first has no cancellation near 0

    def derivatives(x, y):
        d = x - y
        e = exp(where(d > 0, -2 * d, 2 * d))  # never overflows, and its own derivative at 0 is right
        t = where(d > 0, 1 - e, e - 1) / (1 + e)
        return t, -t


class CharbonnierLoss(ElementwiseLoss):
    """A smooth absolute difference, sqrt((x - y)^2 + eps^2) (Charbonnier et al. 1994).

    From https://doi.org/10.1109/ICIP.1994.413553, in the form of https://arxiv.org/abs/1710.01992, whose eps is 0.001.
    It is at least eps. Subtract eps, or use GeneralRobustLoss(alpha=1, scale=eps) times eps, for a minimum of 0.
    The mean divides by the number of elements, or by the sum of the weights where `weight` is given.

    Shape:
        input: Any, floating. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`; integers are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: The shapes or the devices differ.
        InvalidType: An operand is no tensor of real numbers.

    Differs from torch: torch has no such loss. Some ports take `eps` as the number that is added, eps^2 here.

    Example:
        >>> import torch, piste
        >>> piste.losses.CharbonnierLoss(eps=4.0)(torch.tensor([1., 1.]), torch.tensor([4., 1.]))
        tensor(4.5000)
    """

    name, functional_name = "charbonnier", "charbonnier_loss"
    options = {
        "eps": Number(1e-3, "the difference below which the loss is near a parabola", above=True),
        "weight": WEIGHT,
    }
    signature = "reduction, eps, weight"
    denominator = "weights"

    def formula(x, y, *, eps):
        d = x - y
        unit, e = unit_of(eps)
        r = d / unit
        u = r * r + e * e
        return where(u == math.inf, abs(d), unit * sqrt(u))

    def derivatives(x, y, *, eps):
        d = x - y
        unit, e = unit_of(eps)
        r = d / unit
        u = r * r + e * e
        s = where(u == math.inf, sign(d), 1 / sqrt(u) * r)
        return s, -s


def unit_of(eps: float) -> tuple[float, float]:
    """Return a unit of differences, and eps in that unit: its square is a number in single precision too."""
    return (1.0, eps) if 1e-15 < eps < 1e15 else (eps, 1.0)


LIMIT, STEEP = 1e24, 8.0
"""The size of alpha from which the loss has the bits of its limit, and that of 0 below one over it; the size from which
powers of alpha are exponentials."""


class GeneralRobustLoss(ElementwiseLoss):
    """With z = ((x - y) / scale)^2 and b = |alpha - 2|: b / alpha ((z / b + 1)^(alpha / 2) - 1) (Barron 2019).

    From https://arxiv.org/abs/1701.03077. alpha = 2 is z / 2, alpha = 1 Charbonnier's sqrt(z + 1) - 1, alpha = 0
    Cauchy's log(z / 2 + 1), alpha = -2 Geman and McClure's 2 z / (z + 4), alpha = -inf Welsch's (Leclerc's)
    1 - exp(-z / 2), and alpha = inf the other limit, exp(z / 2) - 1. Values and slopes near these alphas and near
    z = 0 are computed without cancellation.
    The mean divides by the number of elements, or by the sum of the weights where `weight` is given.

    Shape:
        input: Any, floating. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`; integers are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: The shapes or the devices differ, or `scale` is not above 0.
        InvalidType: An operand is no tensor of real numbers.

    Differs from torch: torch has no such loss. `lossfun` of the author's robust_loss_pytorch takes the difference, and
    its `approximate=True` moves alpha away from 0 and 2. With alpha=inf it bounds z / 2 by 87.5, the slope too.

    Example:
        >>> import torch, piste
        >>> piste.losses.GeneralRobustLoss(alpha=-2.0)(torch.tensor([1., 1.]), torch.tensor([3., 1.]))
        tensor(0.5000)
    """

    name, functional_name, aliases = "general_robust", "general_robust_loss", ("barron",)
    options = {
        "alpha": Number(1.0, "the shape: the smaller, the less an outlier counts", low=-math.inf, closed=True),
        "scale": Number(1.0, "the difference at which the parabola ends", above=True),
        "weight": WEIGHT,
    }
    signature = "reduction, alpha, scale, weight"
    denominator = "weights"

    @classmethod
    def prepare(cls, operands: tuple[Any, ...], check: str, **options: Any) -> PreparedCall:
        """Validate the operands of a call, with a graph for each alpha under torch.compile."""
        if torch.compiler.is_compiling():  # which may have made alpha a symbol, and traces no logarithm of one
            options["alpha"] = float.fromhex(float(options["alpha"]).hex())
        return super().prepare(operands, check, **options)

    def formula(x, y, *, alpha, scale):
        d = (x - y) / scale
        z = d * d
        if alpha == 2:
            return 0.5 * z
        if abs(alpha) > LIMIT:
            factor = 1 if alpha > 0 else -1
            u = 0.5 * factor * z
        else:
            b = abs(alpha - 2)
            q = z / b
            far = q == math.inf  # the square is above the largest number
            s = log1p(where(far, abs(d), q))
            s = where(far, 2 * s - log(b), s)
            if abs(alpha) < 1 / LIMIT:
                return s
            factor = b / alpha
            u = 0.5 * alpha * s
            if abs(alpha) > STEEP:
                u = where(z < 1e-18, 0.5 * alpha / b * z, u)  # z / b may be below the smallest number
        loss = factor * expm1(u)
        if 1.99 < alpha < 2.01:  # b e^u is (z + b) e^(u - s), without the rounding of a large u
            large = ((z + b) * exp((0.5 * alpha - 1) * s) - b) / alpha
            loss = where(abs(u) < 0.5, loss, where(z == math.inf, z, large))
        return loss

    def derivatives(x, y, *, alpha, scale):
        d = (x - y) / scale
        s = d / scale
        if abs(alpha) > LIMIT:
            s = s * exp(0.5 * d * d if alpha > 0 else -0.5 * d * d)
        elif abs(alpha) > STEEP:  # a power of z / b + 1 would have the rounding of this sum, alpha / 2 times
            s = s * exp((0.5 * alpha - 1) * log1p(d * d / abs(alpha - 2)))
        elif alpha != 2:
            b = abs(alpha - 2)
            q = d * d / b
            far = q == math.inf  # the square is above the largest number: two factors |d|^e take its place
            e = 0.5 * alpha - 1
            p = where(far, abs(d), q + 1) ** e
            s = where(far, d * p * b**-e, s) * where(far, p / scale, p)
        limit = 0 if alpha < 1 else sign(d) / scale if alpha == 1 else d
        s = where(abs(d) == math.inf, limit, s)
        return s, -s


def _help_with_quantile(value: Any) -> str | None:
    if isinstance(value, (int, float)):
        return f"quantile={value / 100:g}, if it is a percentage" if 1 < value <= 100 else None
    if isinstance(value, Tensor):
        return "`quantiles` takes a tensor, for an input with a prediction for each quantile"
    if isinstance(value, (list, tuple)) or hasattr(value, "tolist"):
        numbers = value.tolist() if hasattr(value, "tolist") else [*value]
        return f"quantiles=torch.tensor({numbers}), for an input with a prediction for each quantile"
    return None


class QuantileLoss(ElementwiseLoss):
    """The pinball loss, max(q d, (q - 1) d) with d = y - x: its minimum is the quantile q (Koenker and Bassett 1978).

    From https://doi.org/10.2307/1913643. q is `quantile`, or `quantiles`: several at once, one for each element. With
    an input of (N, Q), give `quantiles` of shape (Q,) and `target[:, None].expand(-1, Q)`. q = 0.5 is half of L1Loss.
    The mean divides by the number of elements, or by the sum of the weights where `weight` is given.

    Shape:
        input: Any, floating. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`; integers are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: `quantile` or `quantiles` is outside [0, 1] (the tensor is not checked with check="off"),
            `quantiles` can't be broadcast to `input`, or the shapes or the devices differ.
        InvalidType: An operand is no tensor of real numbers.

    Differs from torch: torch has no such loss. sklearn.metrics.mean_pinball_loss has the same values, with the target
    first.

    Example:
        >>> import torch, piste
        >>> piste.losses.QuantileLoss(quantile=0.75)(torch.tensor([1., 3.]), torch.tensor([3., 1.]))
        tensor(1.)
    """

    name, functional_name, aliases = "quantile", "quantile_loss", ("pinball",)
    options = {
        "quantile": Number(0.5, "the quantile q", high=1.0, closed=True, help=_help_with_quantile),
        "quantiles": TensorOption("the quantile of each element, in [0, 1], broadcast to the shape of `input`"),
        "weight": WEIGHT,
    }
    signature = "reduction, quantile, quantiles, weight"
    denominator = "weights"
    extras = ("quantiles",)
    value_checks = (
        Check(
            "quantiles",
            lambda x, y, q=0.5: (q < 0) | (q > 1) | (q != q),
            "in [0, 1]",
            "divide percentages by 100",
            GUARD,
        ),
    )

    @classmethod
    def validate(cls, **options: Any) -> None:
        """Raise for an option outside its range, and for `quantile` next to `quantiles`."""
        super().validate(**options)
        if options["quantiles"] is not None and options["quantile"] != cls.options["quantile"].default:
            raise InvalidValue(
                f"{cls.__name__}: `quantile` and `quantiles` cannot both be given; received "
                f"quantile={options['quantile']!r} and a tensor. Help: leave one out."
            )

    def formula(x, y, q=None, *, quantile):
        if q is None:
            q = quantile
        d = y - x
        return maximum(q * d, (q - 1) * d)


class ExpectileLoss(ElementwiseLoss):
    """An asymmetric square, tau d^2 where d = y - x >= 0, and (1 - tau) d^2 elsewhere (Newey, Powell 1987).

    From https://doi.org/10.2307/1911031. Its minimum is the expectile tau; tau = 0.5 is half of MSELoss. The mean
    divides by the number of elements, or by the sum of the weights where `weight` is given.

    Shape:
        input: Any, floating. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`; integers are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: `expectile` is outside [0, 1], or the shapes or the devices differ.
        InvalidType: An operand is no tensor of real numbers.

    Differs from torch: torch has no such loss. Implicit Q-learning's `asymmetric_l2_loss` takes d.

    Example:
        >>> import torch, piste
        >>> piste.losses.ExpectileLoss(expectile=0.75)(torch.tensor([1., 3.]), torch.tensor([3., 1.]))
        tensor(2.)
    """

    name, functional_name = "expectile", "expectile_loss"
    options = {"expectile": Number(0.5, "the expectile tau", high=1.0, closed=True), "weight": WEIGHT}
    signature = "reduction, expectile, weight"
    denominator = "weights"
    branches = ("target above", "target below")

    def formula(x, y, *, expectile):
        d = y - x
        return where(d >= 0, expectile * d, (1 - expectile) * d) * d
