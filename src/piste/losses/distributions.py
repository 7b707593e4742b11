"""Losses that are the negative log-likelihood, or the divergence, of a distribution: KLDiv, PoissonNLL, GaussianNLL."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..engine import BoundKind
from ..errors import InvalidType, InvalidValue
from ..formula.words import exp, log, maximum, where
from ..options import Flag, Number
from .binary import GUARD, SLACK
from .call import PreparedCall, ValidatedSettings
from .elementwise import ElementwiseLoss
from .value_checks import Check, is_readable, shape_of, unravel_index

__all__ = ["GaussianNLLLoss", "KLDivLoss", "PoissonNLLLoss"]

ROW_SLACK = 0.02  # how far the sum of rounded or smoothed probabilities may be from 1
_LOG = "a log-probability, which is never above 0"
_LOG_HELP = "torch.log_softmax(logits, dim=-1), or probabilities.log()"
_NOT_POSITIVE: tuple[BoundKind, float] = "up to", 0.05
_NOT_NEGATIVE: tuple[BoundKind, float] = "from 0 to", math.inf


def _are_exchanged(x, y):
    """Return where the input may be a probability and the target a log-probability."""
    return (x >= 0) & (x <= 1) & (y <= 0)


class KLDivLoss(ElementwiseLoss):
    """The Kullback-Leibler divergence of log-probabilities x from probabilities y: y (log y - x).

    With `log_target` it is e^y (y - x). The reduction "batchmean" divides the sum by the first dimension, which is the
    divergence of the definition where rows are distributions; "mean" divides by the number of elements, as in torch.

    Shape:
        input: Any, floating, log-probabilities. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`. Its sums are 1, or 0 where it is masked, along one dimension or over the last ones,
            within 2 %. With `log_target` those of its exponentials are.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: An input is above 0, a target is outside [0, 1], or its rows do not sum to 1 (all unless
            check="off"); or the shapes or the devices differ.

    Differs from torch: torch.nn.KLDivLoss checks no values. A target of 0 costs 0, also where the input is -inf. Its
    warning about "mean" is left out.

    Example:
        >>> import torch, piste
        >>> x = torch.log_softmax(torch.tensor([[0., 0.]]), dim=1)
        >>> piste.losses.KLDivLoss(reduction="batchmean")(x, torch.tensor([[0.9, 0.1]]))
        tensor(0.3681)
    """

    name, functional_name, aliases = "kl_div", "kl_div", ("kl", "kld", "kl_divergence", "kullback_leibler_divergence")
    reductions = ("mean", "sum", "none", "batchmean")
    options = {"log_target": Flag(False, "whether the target holds log-probabilities")}
    signature = "size_average, reduce, reduction, log_target"
    expects = "log-probabilities and probabilities of the same shape"
    example = "torch.log_softmax(torch.randn(3, 5), dim=1), torch.softmax(torch.randn(3, 5), dim=1)"
    value_checks = (
        Check("input", lambda x, y: x > 0.05, _LOG, _LOG_HELP, _NOT_POSITIVE, exchanged=_are_exchanged),
        Check(
            "target",
            lambda x, y: y > 0.05,
            _LOG,
            "log_target=False takes probabilities",
            _NOT_POSITIVE,
            when=("log_target", True),
        ),
        Check(
            "target",
            lambda x, y: (y < 0) | (y > 1 + SLACK),
            "in [0, 1]",
            "log_target=True takes log-probabilities; torch.softmax makes probabilities of scores, and counts / "
            "counts.sum(-1, keepdim=True) of counts",
            GUARD,
            when=("log_target", False),
        ),
    )

    def formula(x, y, *, log_target):
        if log_target:
            q = exp(y)
            return where(q == 0, 0, q * (y - x))  # an impossible event costs 0, not 0 * inf
        return where(y == 0, 0, y * (log(y) - x))

    def derivatives(x, y, *, log_target):
        if log_target:
            q = exp(y)
            return -q, where(q == 0, 0, q * (y - x + 1))
        return -y, log(y) + 1 - x  # by y also at 0, where the formula is cut off

    @classmethod
    def call(cls, operands: tuple[Any, ...], settings: ValidatedSettings, tensors: dict[str, Tensor]) -> Tensor:
        """Prepare a call as every elementwise loss does, and check that the target holds distributions."""
        result = super().call(operands, settings, tensors)
        if settings.last_hit is not None:  # a compiled graph would keep the change
            settings.last_hit = None  # the next call comes here too
        if settings.check != "off":
            _check_distributions(operands[1], settings.options["log_target"])
        return result


class PoissonNLLLoss(ElementwiseLoss):
    """The negative log-likelihood of counts y under a Poisson distribution of rate e^x: e^x - y x.

    With log_input=False the input is the rate: x - y log(x + eps). With `full`, Stirling's approximation of log y! is
    added where y > 1: y log y - y + log(2 pi y) / 2.

    Shape:
        input: Any, floating. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`, at least 0; integers are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: A target is below 0, or a rate is (both unless check="off"), or the shapes or the devices differ.

    Differs from torch: torch.nn.PoissonNLLLoss broadcasts, and gives NaN for a count of 0 at a rate of 0 with eps=0,
    which costs 0 here.

    Example:
        >>> import torch, piste
        >>> piste.losses.PoissonNLLLoss()(torch.tensor([0., 1.]), torch.tensor([2., 3.]))
        tensor(0.3591)
    """

    name, functional_name = "poisson_nll", "poisson_nll_loss"
    options = {
        "log_input": Flag(True, "whether the input is the logarithm of the rate"),
        "full": Flag(False, "whether to add Stirling's approximation of log y!"),
        "eps": Number(1e-8, "added to the rate, against log 0"),
    }
    signature = "log_input, full, size_average, eps, reduce, reduction"
    expects = "the logarithm of rates and counts of the same shape"
    example = "torch.randn(4), torch.tensor([0.0, 2.0, 1.0, 5.0])"
    value_checks = (
        Check(
            "input",
            lambda x, y, **_: x < 0,
            "at least 0",
            "log_input=True takes the logarithm of the rate",
            _NOT_NEGATIVE,
            when=("log_input", False),
        ),
        Check("target", lambda x, y, **_: y < 0, "at least 0", "a target is a count", _NOT_NEGATIVE),
    )

    def formula(x, y, *, log_input, full, eps):
        observed = where(y == 0, 0, y * (x if log_input else log(x + eps)))  # a count of 0 costs 0, not 0 * inf
        loss = (exp(x) if log_input else x) - observed
        if not full:
            return loss
        return loss + where(y > 1, y * log(y) - y + 0.5 * log(2 * math.pi * y), 0)

    def derivatives(x, y, *, log_input, full, eps):
        dx = exp(x) - y if log_input else 1 - where(y == 0, 0, y / (x + eps))
        dy = -x if log_input else -log(x + eps)  # also at 0, where the formula is cut off
        if full:
            n = where(y > 1, y, 1)  # so that the second derivative where nothing is added is 0, not 0 * inf
            dy = dy + where(y > 1, log(n) + 0.5 / n, 0)
        return dx, dy


class GaussianNLLLoss(ElementwiseLoss):
    """The negative log-likelihood of y under a normal distribution: (log v + (x - y)^2 / v) / 2.

    x is the mean and v the variance. `var` is raised to `eps` where it is less; the (first) gradient passes that bound,
    as in torch. With `full`, log(2 pi) / 2 is added (Nix and Weigend 1994, https://doi.org/10.1109/ICNN.1994.374138).

    Shape:
        input: Any, floating. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`; integers are converted.
        var: That of `input`, or with one dimension of size 1, or without the last dimension, or a number: a variance
            for several elements. At least 0.
        Returns a 0-dimensional tensor, or one of the shape of `input` with reduction="none".

    Raises:
        InvalidValue: A variance is below 0 (unless check="off"), or the shapes or the devices differ.

    Differs from torch: torch.nn.GaussianNLLLoss broadcasts `target`, and rejects negative variances in every call.

    Example:
        >>> import torch, piste
        >>> x, y, var = torch.tensor([0., 1.]), torch.tensor([1., 1.]), torch.tensor([1., 4.])
        >>> piste.losses.GaussianNLLLoss()(x, y, var)
        tensor(0.5966)
    """

    name, functional_name = "gaussian_nll", "gaussian_nll_loss"
    arguments, argument_types = ("input", "target", "var"), {"var": "float | Tensor"}
    options = {
        "full": Flag(False, "whether to add log(2 pi) / 2"),
        "eps": Number(1e-6, "the least variance", above=True),
    }
    signature = "*, full, eps, reduction"
    function_signature = "full, eps, reduction"
    expects = "means, observations and variances of the same shape"
    example = "torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.5]), torch.tensor([1.0, 2.0])"
    value_checks = (
        Check(
            "var",
            lambda x, y, v: v < 0,
            "at least 0",
            "let the model give its logarithm, and pass .exp(); or torch.nn.functional.softplus",
            _NOT_NEGATIVE,
        ),
    )

    def formula(x, y, v, *, full, eps):
        v = maximum(v, eps)
        d = x - y
        loss = 0.5 * (log(v) + d * d / v)
        return loss + 0.5 * math.log(2 * math.pi) if full else loss

    def derivatives(x, y, v, *, full, eps):
        v = where(v < eps, eps, v)  # the gradient passes the bound, as in torch
        d = x - y
        s = d / v
        return s, -s, 0.5 * (1 - d * s) / v

    @classmethod
    def prepare(cls, operands: tuple[Any, ...], check: str, **options: Any) -> PreparedCall:
        """Operands as for every loss of elements, with the variance broadcast to them."""
        x, y, var = operands
        if isinstance(x, Tensor):
            var = cls._broadcast_variance(x, var)
        return super().prepare((x, y, var), check, **options)

    @classmethod
    def _broadcast_variance(cls, x: Tensor, var: Any) -> Tensor:
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


def _check_distributions(y: Any, log_target: bool) -> None:
    """Raise unless the target of KLDivLoss holds distributions: sums of 1, or of 0 where it is masked.

    The sums are along one dimension, whichever it is, or over the last ones.
    """
    if not (isinstance(y, Tensor) and y.dim() and y.numel() and is_readable((y,))):
        return
    y = y.detach()
    p = y.exp() if log_target else y
    sums = p.sum(-1, dtype=torch.float32 if y.dtype in (torch.float16, torch.bfloat16) else None)
    low, high = sums.aminmax()
    if low.item() >= 1 - ROW_SLACK and high.item() <= 1 + ROW_SLACK:
        return
    dims = [*range(y.dim() - 1), *(tuple(range(first, y.dim())) for first in range(y.dim() - 1))]
    if _are_distributions(sums) or any(_are_distributions(p.double().sum(dim)) for dim in dims):
        return
    wrong = ((sums - 1).abs() > ROW_SLACK) & (sums != 0)
    place = int(wrong.flatten().nonzero()[0])
    row = unravel_index(place, sums.shape)
    which = f"row {row[0] if len(row) == 1 else row}" if row else "this one"
    number = f"{float(sums.flatten()[place]):g}"
    if log_target:
        raise InvalidValue(
            "KLDivLoss: `target` holds log-probabilities, so the exponentials of each row must sum to 1 (or be all 0, "
            f"where it is masked); those of {which} sum to {number}. Help: torch.log_softmax(scores, dim=-1); "
            'check="off" takes a part of a distribution.'
        )
    raise InvalidValue(
        "KLDivLoss: `target` holds probabilities, so each row must sum to 1 (or be all 0, where it is masked); "
        f"{which} sums to {number}. Help: torch.softmax(scores, dim=-1), or counts / counts.sum(-1, keepdim=True); "
        'check="off" takes a part of a distribution.'
    )


def _are_distributions(sums: Tensor) -> bool:
    return bool((((sums - 1).abs() <= ROW_SLACK) | (sums == 0) | sums.isnan()).all())
