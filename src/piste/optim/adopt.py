from typing import Any

from ..formula.words import maximum, minimum, sqrt, where
from .adam import _DECOUPLED
from .optimizer import Optimizer
from .options import Flag, betas, eps, rate, weight_decay


class ADOPT(Optimizer):
    """ADOPT: modified Adam that converges with any beta2 (Taniguchi et al. 2024, https://arxiv.org/abs/2411.02853).

    The gradient is divided by the average of squares before it enters that average, and then averaged:
    u = g / max(sqrt(v), eps), limited to [-c, c] with c = (t - 1)^(1/4) if `clip`;  m <- beta1 m + (1 - beta1) u;
    v <- beta2 v + (1 - beta2) g^2;  the step is m. The first step only starts v as g^2 and moves nothing.

    torch.optim has no ADOPT. State keys and defaults are those of the authors' implementation.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.ADOPT([w], lr=0.1)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     (w * w).sum().backward()
        ...     optimizer.step()
        >>> w
        tensor([0.9900], requires_grad=True)
    """

    options = {
        "lr": rate(1e-3),
        "betas": betas(0.9, 0.9999),
        "eps": eps(1e-6, "the least denominator"),
        "weight_decay": weight_decay(),
        "clip": Flag(True, "limit the divided gradient to (t - 1)^(1/4) at step t"),
        "decoupled_weight_decay": _DECOUPLED,
    }
    buffers = {"exp_avg": "m", "exp_avg_sq": "v"}
    per_step = {"lr": lambda lr, t: where(t == 1, 0.0, lr)}

    def update(g: Any, m: Any, v: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any, clip: bool) -> Any:
        u = where(t == 1, 0, g / maximum(sqrt(v), eps))
        if clip:
            c = (t - 1) ** 0.25
            u = minimum(maximum(u, -c), c)
        m = beta1 * m + (1 - beta1) * u
        return m, m, where(t == 1, g * g, beta2 * v + (1 - beta2) * g * g)
