"""Losses that are the negative log-likelihood, or the divergence, of a distribution: KLDiv, PoissonNLL, GaussianNLL."""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor

from ..engine.range_guards import Sure
from ..errors import InvalidType, InvalidValue
from ..formula.expression import exp, log, maximum, where
from .binary import SLACK, SURE
from .elementwise import ElementwiseLoss
from .loss import Call, explained
from .reduction import Settings
from .value_checks import Check, shape_of

__all__ = ["GaussianNLLLoss", "KLDivLoss", "PoissonNLLLoss", "gaussian_nll_loss", "kl_div", "poisson_nll_loss"]

_LOG = "a log-probability, which is never above 0"
_LOG_HELP = "torch.log_softmax(logits, dim=-1), or probabilities.log()"
_NEGATIVE: Sure = "up to", 0.05
_POSITIVE: Sure = "from 0 to", math.inf


class KLDivLoss(ElementwiseLoss):
    """The Kullback-Leibler divergence, y (log y - x), of log-probabilities x from probabilities y.

    With `log_target` the target holds log-probabilities too: e^y (y - x).
    Shapes: `input` and `target` the same, any. Dtypes: floating; 16-bit floats are computed in float32.
    The reduction "batchmean" divides by the first dimension, and is the divergence of the definition; "mean" divides
    by the number of elements, as in torch, which warns of it.
    Raises: InvalidValue for an input above 0 or a target outside [0, 1] (unless check="off"), shapes or devices that
    differ. Rows need not sum to 1: a part of a distribution, or a masked one, is allowed.
    Settings: `piste.losses.reduction`.

    >>> import torch, piste
    >>> x = torch.log_softmax(torch.tensor([[0., 0.]]), dim=1)
    >>> piste.losses.KLDivLoss(reduction="batchmean")(x, torch.tensor([[0.9, 0.1]]))
    tensor(0.3681)
    """

    name, function = "kl_div", "kl_div"
    reductions = ("mean", "sum", "none", "batchmean")
    ranges = {"log_target": "bool"}
    expects = "log-probabilities and probabilities of the same shape"
    example = "torch.log_softmax(torch.randn(3, 5), dim=1), torch.softmax(torch.randn(3, 5), dim=1)"

    @staticmethod
    def value(x, y, *, log_target):
        if log_target:
            q = exp(y)
            return where(q == 0, 0, q * (y - x))  # what can't be costs nothing: not 0 * inf
        return where(y == 0, 0, y * (log(y) - x))

    @staticmethod
    def derivatives(x, y, *, log_target):
        if log_target:
            q = exp(y)
            return -q, where(q == 0, 0, q * (y - x + 1))
        return -y, log(y) + 1 - x

    @classmethod
    def domains(cls, *, log_target: bool = False, **options: Any) -> tuple[Check, ...]:
        """An input, and a target, that can be what they are said to be."""
        above = Check("input", lambda x, y: x > 0.05, _LOG, _LOG_HELP, _NEGATIVE)
        if log_target:
            return above, Check(
                "target", lambda x, y: y > 0.05, _LOG, "log_target=False takes probabilities", _NEGATIVE
            )
        how = "log_target=True takes log-probabilities; scores become probabilities by torch.softmax"
        return above, Check("target", lambda x, y: (y < 0) | (y > 1 + SLACK), "in [0, 1]", how, SURE)

    def __init__(
        self,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        log_target: bool = False,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(size_average, reduce, reduction, log_target=log_target, **settings)


class PoissonNLLLoss(ElementwiseLoss):
    """The negative log-likelihood of counts y under a Poisson distribution of rate e^x: e^x - y x.

    With log_input=False the input is the rate itself: x - y log(x + eps). With `full`, Stirling's approximation
    of log y! is added where y > 1: y log y - y + log(2 pi y) / 2.
    Shapes: `input` and `target` the same, any. Dtypes: floating; counts of integers are converted.
    Raises: InvalidValue for a target below 0, or a rate below 0 (unless check="off"), shapes or devices that differ.
    Settings: `piste.losses.reduction`. Differs from torch.nn.PoissonNLLLoss: nothing is broadcast.

    >>> import torch, piste
    >>> piste.losses.PoissonNLLLoss()(torch.tensor([0., 1.]), torch.tensor([2., 3.]))
    tensor(0.3591)
    """

    name, function = "poisson_nll", "poisson_nll_loss"
    ranges = {"log_input": "bool", "full": "bool", "eps": "[0, inf)"}
    expects = "the logarithm of rates and counts of the same shape"
    example = "torch.randn(4), torch.tensor([0.0, 2.0, 1.0, 5.0])"

    @staticmethod
    def value(x, y, *, log_input, full, eps):
        seen = where(y == 0, 0, y * (x if log_input else log(x + eps)))  # nothing of nothing, not 0 * inf
        loss = (exp(x) if log_input else x) - seen
        if not full:
            return loss
        return loss + where(y > 1, y * log(y) - y + 0.5 * log(2 * math.pi * y), 0)

    @staticmethod
    def derivatives(x, y, *, log_input, full, eps):
        dx = exp(x) - y if log_input else 1 - where(y == 0, 0, y / (x + eps))
        dy = -x if log_input else -log(x + eps)
        if full:
            n = where(y > 1, y, 1)  # so that the second derivative where nothing is added is 0, not 0 * inf
            dy = dy + where(y > 1, log(n) + 0.5 / n, 0)
        return dx, dy

    @classmethod
    def domains(cls, *, log_input: bool = True, **options: Any) -> tuple[Check, ...]:
        """Counts, and rates, are not negative."""
        count = Check("target", lambda x, y, **_: y < 0, "at least 0", "a target is a count", _POSITIVE)
        rate = Check(
            "input", lambda x, y, **_: x < 0, "at least 0", "log_input=True takes the logarithm of the rate", _POSITIVE
        )
        return (count,) if log_input else (rate, count)

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        size_average: Any = None,
        eps: float = 1e-8,
        reduce: Any = None,
        reduction: str = "mean",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(size_average, reduce, reduction, log_input=log_input, full=full, eps=eps, **settings)


class GaussianNLLLoss(ElementwiseLoss):
    """The negative log-likelihood of y under a normal distribution of mean x and variance v: (log v + (x - y)^2 / v) /
    2.

    v is `var`, at least `eps`; the (first) gradient passes that bound, as in torch (Nix and Weigend 1994). With `full`,
    log(2 pi) / 2 is added.
    Shapes: `input` and `target` the same; `var` that shape, or with a last (or one) dimension of 1, or without the
    last dimension, or a number: one variance for several elements.
    Raises: InvalidValue for a variance below 0 (unless check="off"), shapes or devices that differ.
    Settings: `piste.losses.reduction`. Differs from torch.nn.GaussianNLLLoss: `target` is not broadcast.

    >>> import torch, piste
    >>> x, y, var = torch.tensor([0., 1.]), torch.tensor([1., 1.]), torch.tensor([1., 4.])
    >>> piste.losses.GaussianNLLLoss()(x, y, var)
    tensor(0.5966)
    """

    name, function = "gaussian_nll", "gaussian_nll_loss"
    arguments = ("input", "target", "var")
    ranges = {"full": "bool", "eps": "(0, inf)"}
    expects = "means, observations and variances of the same shape"
    example = "torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.5]), torch.tensor([1.0, 2.0])"
    checks = (
        Check(
            "var",
            lambda x, y, v: v < 0,
            "at least 0",
            "let the model give its logarithm, and pass .exp(); or torch.nn.functional.softplus",
            _POSITIVE,
        ),
    )

    @staticmethod
    def value(x, y, v, *, full, eps):
        v = maximum(v, eps)
        d = x - y
        loss = 0.5 * (log(v) + d * d / v)
        return loss + 0.5 * math.log(2 * math.pi) if full else loss

    @staticmethod
    def derivatives(x, y, v, *, full, eps):
        v = where(v < eps, eps, v)
        d = x - y
        s = d / v
        return s, -s, 0.5 * (1 - d * s) / v

    @classmethod
    def prepare(cls, operands: tuple[Any, ...], check: str, **options: Any) -> Call:
        """With a variance for each element."""
        x, y, var = operands
        if isinstance(x, Tensor):
            var = cls._spread_variance(x, var)
        return super().prepare((x, y, var), check, **options)

    @classmethod
    def _spread_variance(cls, x: Tensor, var: Any) -> Tensor:
        if isinstance(var, (int, float)) and not isinstance(var, bool):
            return torch.full_like(x, var)
        if not isinstance(var, Tensor):
            raise InvalidType(f"GaussianNLLLoss: `var` must be a torch.Tensor or a number; received {var!r}.")
        if var.shape == x.shape:
            return var
        wide = var.unsqueeze(-1) if var.shape == x.shape[:-1] else var
        differing = [a for a, b in zip(wide.shape, x.shape, strict=False) if a != b]
        if wide.dim() != x.dim() or differing != [1]:
            raise InvalidValue(
                f"GaussianNLLLoss: `var` must have the shape of `input`, or one dimension of size 1 in place of one of "
                f"them, or no last dimension; received {shape_of(var)} for {shape_of(x)}. Help: one variance for each "
                "row has shape (N, 1)."
            )
        return wide.expand(x.shape)

    def __init__(
        self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean", **settings: Unpack[Settings]
    ) -> None:
        super().__init__(reduction=reduction, full=full, eps=eps, **settings)


@explained(KLDivLoss)
def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `KLDivLoss`."""
    return KLDivLoss.run(
        input,
        target,
        size_average=size_average,
        reduce=reduce,
        reduction=reduction,
        log_target=log_target,
        **settings,
    )


@explained(PoissonNLLLoss)
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `PoissonNLLLoss`."""
    return PoissonNLLLoss.run(
        input,
        target,
        size_average=size_average,
        reduce=reduce,
        reduction=reduction,
        log_input=log_input,
        full=full,
        eps=eps,
        **settings,
    )


@explained(GaussianNLLLoss)
def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `GaussianNLLLoss`."""
    return GaussianNLLLoss.run(input, target, var, reduction=reduction, full=full, eps=eps, **settings)
