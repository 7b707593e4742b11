from typing import Any

from ..formula.words import maximum
from .conventions import CONVENTIONS
from .optimizer import Optimizer
from .options import betas, eps, rate, weight_decay


class Adamax(Optimizer):
    """Adamax: Adam with the infinity norm (Kingma, Ba 2015, section 7.1, https://arxiv.org/abs/1412.6980).

    m <- beta1 m + (1 - beta1) g;  u <- max(beta2 u, |g| + eps);  the step is m / (1 - beta1^t) / u.

    Differs from Keras: Keras adds epsilon to u at the division, not inside the maximum.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.Adamax([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.9000], requires_grad=True)
    """

    options = {"lr": rate(2e-3), "betas": betas(), "eps": eps(1e-8), "weight_decay": weight_decay()}
    conventions = CONVENTIONS["Adamax"]
    buffers = {"exp_avg": "m", "exp_inf": "u"}

    def update(g: Any, m: Any, u: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
        m = beta1 * m + (1 - beta1) * g
        u = maximum(beta2 * u, abs(g) + eps)
        return m / (1 - beta1**t) / u, m, u
