from typing import Any

from ..formula.words import sqrt
from .adam import _DECOUPLED
from .conventions import CONVENTIONS
from .optimizer import Optimizer
from .options import Number, betas, eps, rate, weight_decay
from .state import Buffer


class NAdam(Optimizer):
    """NAdam: incorporating Nesterov momentum into Adam (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ).

    mu_t = beta1 (1 - 0.96^(t psi) / 2), where psi is `momentum_decay`;  P_t = mu_1 mu_2 ... mu_t;
    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;
    the step is ((1 - mu_t) / (1 - P_t) g + mu_{t+1} / (1 - P_t mu_{t+1}) m) / (sqrt(v / (1 - beta2^t)) + eps).

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.NAdam([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.8944], requires_grad=True)
    """

    options = {
        "lr": rate(2e-3),
        "betas": betas(),
        "eps": eps(1e-8),
        "weight_decay": weight_decay(),
        "momentum_decay": Number(4e-3, "how fast the momentum rises to beta1", "psi"),
        "decoupled_weight_decay": _DECOUPLED,
    }
    conventions = CONVENTIONS["NAdam"]
    buffers = {"exp_avg": "m", "exp_avg_sq": "v"}
    counters = {"mu_product": Buffer("P", start=1.0)}
    per_step = {
        "mu": lambda beta1, psi, t: beta1 * (1 - 0.5 * 0.96 ** (t * psi)),
        "mu_next": lambda beta1, psi, t: beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * psi)),
        "P": lambda P, mu: P * mu,
    }

    def update(
        g: Any, m: Any, v: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any, mu: Any, mu_next: Any, P: Any
    ) -> Any:
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        ahead = (1 - mu) / (1 - P) * g + mu_next / (1 - P * mu_next) * m
        return ahead / (sqrt(v / (1 - beta2**t)) + eps), m, v
