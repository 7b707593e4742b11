from typing import Any

from ..formula.words import exp, log, maximum, minimum, sqrt, where
from .optimizer import Optimizer
from .options import Number, betas, eps, rate, weight_decay

LEAST = 2.0**-126
"""What stands for a sum of 0, of decay rates of 0."""


class AdEMAMix(Optimizer):
    """AdEMAMix: Adam with a second, slow average of gradients (Pagliardini et al. 2024).

    https://arxiv.org/abs/2409.03137. m <- beta1 m + (1 - beta1) g;  s <- beta3 s + (1 - beta3) g;
    v <- beta2 v + (1 - beta2) g^2;  the step is (m / (1 - beta1^t) + alpha s) / (sqrt(v / (1 - beta2^t)) + eps).
    With `warmup` T > 0, alpha rises linearly over T steps, and beta3 from beta1 so that the half-life of the slow
    average grows linearly (equation 4 of the paper). The weight decay is decoupled.

    torch.optim has no AdEMAMix. State keys and defaults are those of the authors' implementation.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.AdEMAMix([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.9000], requires_grad=True)
    """

    options = {
        "lr": rate(1e-3),
        "betas": betas(
            0.9, 0.999, 0.9999, doc="the decay rates of the fast average, the average of squares, and the slow average"
        ),
        "eps": eps(1e-8),
        "weight_decay": weight_decay(),
        "alpha": Number(5.0, "the weight of the slow average"),
        "warmup": Number(0.0, "the steps T over which alpha and beta3 rise; 0: from the first step", "T"),
    }
    buffers = {"exp_avg_fast": "m", "exp_avg_sq": "v", "exp_avg_slow": "s"}
    group_constants = {"decoupled_weight_decay": True}
    per_step = {
        "risen": lambda T, t: minimum(t / maximum(T, 1), 1),
        "alpha": lambda alpha, risen: alpha * risen,
        "beta3": lambda beta1, beta3, risen: where(risen < 1, _rise(beta1, beta3, risen), beta3),
    }

    def update(
        g: Any, m: Any, v: Any, s: Any, *, t: Any, beta1: Any, beta2: Any, beta3: Any, alpha: Any, eps: Any
    ) -> Any:
        m = beta1 * m + (1 - beta1) * g
        s = beta3 * s + (1 - beta3) * g
        v = beta2 * v + (1 - beta2) * g * g
        return (m / (1 - beta1**t) + alpha * s) / (sqrt(v / (1 - beta2**t)) + eps), m, v, s


def _rise(start: Any, end: Any, share: Any) -> Any:
    """Return the decay rate whose half-life is a share of the way between those of two others; that of 0 is 0."""
    return exp(1 / minimum((1 - share) / log(start) + share / log(end), -LEAST))
