from typing import Any

from ..formula.words import sqrt
from .conventions import CONVENTIONS
from .optimizer import Optimizer
from .options import betas, eps, rate, weight_decay


class AdaBelief(Optimizer):
    """AdaBelief: adapting stepsizes by the belief in observed gradients (Zhuang et al. 2020).

    https://arxiv.org/abs/2010.07468. m <- beta1 m + (1 - beta1) g;  s <- beta2 s + (1 - beta2) (g - m)^2 + eps;
    the step is m / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + eps). The step is long where the gradient is as its
    average predicts, and short where it differs. The weight decay is decoupled.

    torch.optim has no AdaBelief. State keys and defaults are those of the authors' package; its rectification, on by
    default there, is off here.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.AdaBelief([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.8889], requires_grad=True)
    """

    options = {
        "lr": rate(1e-3),
        "betas": betas(doc="the decay rates of the averages of the gradient and of its squared deviation"),
        "eps": eps(1e-16, "added to the average of squares and to the denominator"),
        "weight_decay": weight_decay(),
    }
    buffers = {"exp_avg": "m", "exp_avg_var": "s"}
    conventions = CONVENTIONS["AdaBelief"]
    group_constants = {"decoupled_weight_decay": True}

    def update(g: Any, m: Any, s: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
        m = beta1 * m + (1 - beta1) * g
        d = g - m
        s = beta2 * s + (1 - beta2) * d * d + eps
        return m / (1 - beta1**t) / (sqrt(s / (1 - beta2**t)) + eps), m, s
