from typing import Any

from ..formula.reductions import mean
from ..formula.words import maximum, sqrt
from .optimizer import Optimizer
from .options import betas, eps, rate, weight_decay


class StableAdamW(Optimizer):
    """StableAdamW: AdamW with the update clipping of Adafactor (Wortsman et al. 2023, https://arxiv.org/abs/2304.13013).

    With b1 = beta1 (1 - beta1^(t-1)) / (1 - beta1^t), and b2 from beta2 alike:
    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;
    rms = sqrt(mean of g^2 / max(v, eps^2)), over the whole tensor;
    the step is (m / (sqrt(v) + eps) + weight_decay p) / max(1, rms).

    torch.optim has no StableAdamW. Defaults and state keys are those of pytorch_optimizer, whose `kahan_sum` is
    `precision="kahan"` here.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.StableAdamW([w], lr=0.1, weight_decay=0.5)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.8500], requires_grad=True)
    """

    options = {
        "lr": rate(1e-3),
        "betas": betas(0.9, 0.99),
        "eps": eps(1e-8),
        "weight_decay": weight_decay(1e-2),
    }
    buffers = {"exp_avg": "m", "exp_avg_sq": "v"}
    per_step = {
        "b1": lambda t, beta1: beta1 * (1 - beta1 ** (t - 1)) / (1 - beta1**t),
        "b2": lambda t, beta2: beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t),
    }

    def update(p: Any, g: Any, m: Any, v: Any, *, b1: Any, b2: Any, eps: Any, weight_decay: Any) -> Any:
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        rms = sqrt(mean(g * g / maximum(v, eps * eps)))
        return (m / (sqrt(v) + eps) + weight_decay * p) / maximum(rms, 1), m, v
