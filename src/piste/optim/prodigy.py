import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import InvalidValue
from ..formula.words import maximum, minimum, sqrt, where
from .optimizer import Optimizer
from .options import Flag, Limit, Number, betas, eps, rate, weight_decay
from .shared_formulas import RATED
from .state import Buffer

LEAST, MOST = 2.0**-126, 2.0**126
"""What stands for a sum of 0, before the first gradient other than 0; and for no limit, as 0 * inf is NaN."""


@dataclass(frozen=True)
class _DecayOfSums(Limit):
    """A decay rate that may be None, for the root of beta2: -1 in formulas."""

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        yield name, -1.0 if value is None else value


def _rate(lr: Any, d: Any, k: Any, beta1: Any, beta2: Any, use_bias_correction: bool) -> Any:
    correction = sqrt(1 - beta2 ** (k + 1)) / (1 - beta1 ** (k + 1)) if use_bias_correction else 1
    return d * lr * correction


def _added(s: Any, g: Any, d: Any, d0: Any, lr: Any, beta3: Any, safeguard_warmup: bool) -> Any:
    return beta3 * s + d / d0 * (d if safeguard_warmup else lr) * g


class Prodigy(Optimizer):
    """Prodigy: AdamW that finds its learning rate (Mishchenko and Defazio 2023, https://arxiv.org/abs/2306.06101).

    With rate = d lr and the first parameter p0: m <- beta1 m + (1 - beta1) d g;  v <- beta2 v + (1 - beta2) d^2 g^2;
    s <- beta3 s + d / d0 rate g. Sums over all elements of all parameters give the next d:
    r <- beta3 r + d / d0 rate sum(g (p0 - p)) and d_hat = d_coef r / sum(|s|); it is the largest d_hat so far, and at
    most growth_rate d. The step is rate m / (sqrt(v) + d eps), with the next d. The weight decay is decoupled, at this
    rate.

    Leave `lr` at 1, or at a schedule from 1 to 0; `d_coef` scales the result. `d`, `d_max`, `d_numerator` and the step
    count `k` are in each param group, the same in all: a 0-d tensor each, so `float(optimizer.param_groups[0]["d"])` is
    the distance so far. Parameters of bfloat16 need `precision="master"`, because steps begin at the size of d0.

    torch.optim has no Prodigy. The values are those of the authors' implementation, whose `decouple` is
    `decoupled_weight_decay` here. Steps before the first gradient other than 0 decay the weights and count here.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.Prodigy([w])
        >>> for _ in range(60):
        ...     optimizer.zero_grad()
        ...     (w * w).sum().backward()
        ...     optimizer.step()
        >>> bool(w.abs() < 0.2)
        True
        >>> float(optimizer.param_groups[0]["d"]) > 0.05
        True
    """

    options = {
        "lr": rate(1.0, "the factor of the learning rate that is found"),
        "betas": betas(),
        "beta3": _DecayOfSums(
            None, "the decay rate of the sums; None for the square root of the second of betas", high=1.0
        ),
        "eps": eps(1e-8),
        "weight_decay": weight_decay(),
        "decoupled_weight_decay": Flag(True, "decay the weights apart from the gradient, as AdamW"),
        "use_bias_correction": Flag(False, "multiply the rate by sqrt(1 - beta2^t) / (1 - beta1^t), as Adam"),
        "safeguard_warmup": Flag(False, "leave lr out of s, for schedules that begin near 0"),
        "d0": Number(1e-6, "the first estimate of the distance", above=True),
        "d_coef": Number(1.0, "the factor of the estimate", above=True),
        "growth_rate": Number(math.inf, "the largest growth of the estimate in a step", low=1.0, closed=True),
    }
    buffers = {"exp_avg": "m", "exp_avg_sq": "v", "s": "s", "p0": Buffer("p0", start="p", is_weight=True)}
    group_state = {"d": "d0", "d_max": "d0", "d_numerator": 0.0, "k": 0.0}
    same_in_groups = (
        "lr", "betas", "beta3", "use_bias_correction", "safeguard_warmup", "d0", "d_coef", "growth_rate",
    )  # fmt: skip
    per_step: ClassVar[Mapping[str, Callable[..., Any]]] = {
        "beta3": lambda beta3, beta2: where(beta3 < 0, sqrt(beta2), beta3),
        "lr": _rate,
    }
    elementwise = False

    @classmethod
    def validate_options(cls, values: Mapping[str, Any]) -> None:
        if values.get("decoupled_decay") in RATED:
            raise InvalidValue(
                '`decoupled_decay` must be None or "lr" for Prodigy, whose learning rate is found in the training; '
                f'received decoupled_decay="{values["decoupled_decay"]}".'
            )

    def reduce(
        p: Any, g: Any, m: Any, v: Any, s: Any, p0: Any, *, d: Any, d0: Any, lr: Any, beta3: Any, safeguard_warmup: bool
    ) -> Any:
        return d / d0 * lr * g * (p0 - p), abs(_added(s, g, d, d0, lr, beta3, safeguard_warmup))

    def finish(  # type: ignore[misc]
        travelled: Any, size: Any, *, d: Any, d_max: Any, d_numerator: Any, k: Any, d0: Any, beta3: Any, d_coef: Any,
        growth_rate: Any,
    ) -> Any:  # fmt: skip
        r = beta3 * d_numerator + travelled
        d_hat = d_coef * r / maximum(size, LEAST)
        d_max = maximum(d_max, d_hat)
        d = minimum(d_max, where(d > d0, d, maximum(d, d_hat)) * minimum(growth_rate, MOST))
        return d, d_max, r, k + 1

    def update(
        p: Any, g: Any, m: Any, v: Any, s: Any, p0: Any, *, d: Any, new_d: Any, d0: Any, lr: Any, beta1: Any,
        beta2: Any, beta3: Any, eps: Any, safeguard_warmup: bool,
    ) -> Any:  # fmt: skip
        m = beta1 * m + (1 - beta1) * d * g
        v = beta2 * v + (1 - beta2) * d * d * g * g
        return m / (sqrt(v) + new_d * eps), m, v, _added(s, g, d, d0, lr, beta3, safeguard_warmup), p0
