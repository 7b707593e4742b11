from typing import Any

from ..formula.words import maximum, sqrt
from .conventions import CONVENTIONS
from .optimizer import Optimizer
from .options import Flag, betas, eps, rate, weight_decay
from .state import Buffer

_DECOUPLED = Flag(False, "subtract the weight decay from the weights, as AdamW does, not from the gradient")


class Adam(Optimizer):
    """Adam: a method for stochastic optimization (Kingma, Ba 2015, https://arxiv.org/abs/1412.6980).

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;
    the step is m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps).
    `amsgrad` (Reddi, Kale, Kumar 2018, https://arxiv.org/abs/1904.09237) takes the largest v so far in place of v.

    Differs from Keras: Keras adds epsilon before the bias correction, so the same arguments give slightly different
    steps.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.Adam([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.9000], requires_grad=True)
    """

    options = {
        "lr": rate(1e-3),
        "betas": betas(),
        "eps": eps(1e-8),
        "weight_decay": weight_decay(),
        "amsgrad": Flag(False, "divide by the largest average of squared gradients so far"),
        "decoupled_weight_decay": _DECOUPLED,
    }
    conventions = CONVENTIONS["Adam"]
    buffers = {"exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": Buffer("w", when="amsgrad")}

    def update(g: Any, m: Any, v: Any, w: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        w = None if w is None else maximum(w, v)
        m_hat = m / (1 - beta1**t)
        v_hat = (v if w is None else w) / (1 - beta2**t)
        return m_hat / (sqrt(v_hat) + eps), m, v, w


class AdamW(Adam):
    """AdamW: Adam with decoupled weight decay (Loshchilov, Hutter 2019, https://arxiv.org/abs/1711.05101).

    The weights are first multiplied by 1 - lr weight_decay; the step is then Adam's.

    Differs from other libraries: the default weight_decay of Keras is 0.004, and that of optax is 0.0001.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.AdamW([w], lr=0.1, weight_decay=0.5)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.8500], requires_grad=True)
    """

    options = {k: o for k, o in Adam.options.items() if k != "decoupled_weight_decay"}
    options["weight_decay"] = weight_decay(1e-2)
    conventions = CONVENTIONS["AdamW"]
    group_constants = {"decoupled_weight_decay": True}
