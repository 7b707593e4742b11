from typing import Any

from ..formula.words import sqrt, where
from .adam import _DECOUPLED
from .conventions import CONVENTIONS
from .optimizer import Optimizer
from .options import betas, eps, rate, weight_decay


class RAdam(Optimizer):
    """RAdam: on the variance of the adaptive learning rate and beyond (Liu et al. 2020, https://arxiv.org/abs/1908.03265).

    m and v are those of Adam. The step is m / (1 - beta1^t) while the length rho_t of the average of squares is at
    most 5. From then on it is Adam's step multiplied by the rectification term r_t.

    As in torch.optim, eps is added before the bias correction of v.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.RAdam([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.8000], requires_grad=True)
    """

    options = {
        "lr": rate(1e-3),
        "betas": betas(),
        "eps": eps(1e-8),
        "weight_decay": weight_decay(),
        "decoupled_weight_decay": _DECOUPLED,
    }
    buffers = {"exp_avg": "m", "exp_avg_sq": "v"}
    conventions = CONVENTIONS["RAdam"]

    def update(g: Any, m: Any, v: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        m_hat = m / (1 - beta1**t)
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        long = rho > 5
        rho, rho_inf = where(long, rho, 6.0), where(long, rho_inf, 6.0)  # any values for which r is defined
        r = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        return where(long, r * sqrt(1 - beta2**t) * m_hat / (sqrt(v) + eps), m_hat), m, v
