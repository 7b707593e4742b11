from typing import Any

from ..formula.words import sqrt, where
from .conventions import CONVENTIONS
from .optimizer import Optimizer
from .options import betas, eps, rate, weight_decay


class Adan(Optimizer):
    """Adan: adaptive Nesterov momentum (Xie et al. 2022, https://arxiv.org/abs/2208.06677).

    With the change of the gradient d = g - g' since the last step (0 at the first):
    m <- beta1 m + (1 - beta1) g;  n <- beta2 n + (1 - beta2) d;  v <- beta3 v + (1 - beta3) (g + beta2 d)^2;
    the step is (m / (1 - beta1^t) + beta2 n / (1 - beta2^t)) / (sqrt(v / (1 - beta3^t)) + eps).
    The weight decay is decoupled.

    torch.optim has no Adan. The betas are 1 minus those of the paper. State keys and defaults are those of the
    authors' implementation, whose `no_prox=True` is the weight decay here.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.Adan([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.9000], requires_grad=True)
    """

    options = {
        "lr": rate(1e-3),
        "betas": betas(
            0.98, 0.92, 0.99, doc="the decay rates of the averages of the gradient, its change, and the square"
        ),
        "eps": eps(1e-8),
        "weight_decay": weight_decay(),
    }
    buffers = {"exp_avg": "m", "exp_avg_sq": "v", "exp_avg_diff": "n", "neg_pre_grad": "q"}
    conventions = CONVENTIONS["Adan"]
    group_constants = {"decoupled_weight_decay": True}

    def update(g: Any, m: Any, v: Any, n: Any, q: Any, *, t: Any, beta1: Any, beta2: Any, beta3: Any, eps: Any) -> Any:
        d = where(t == 1, 0, g + q)  # q is the last gradient, negated
        u = g + beta2 * d
        m = beta1 * m + (1 - beta1) * g
        n = beta2 * n + (1 - beta2) * d
        v = beta3 * v + (1 - beta3) * u * u
        ahead = m / (1 - beta1**t) + beta2 * n / (1 - beta2**t)
        return ahead / (sqrt(v / (1 - beta3**t)) + eps), m, v, n, -g
