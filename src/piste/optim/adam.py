from typing import Any

from ..formula.expression import maximum, sqrt
from .optimizer import Optimizer
from .options import Flag, betas, eps, rate, weight_decay
from .state import Buffer

_DECOUPLED = Flag(False, "take the weight decay off the weights, as AdamW does, not into the gradient")


class Adam(Optimizer):
    """Adam: a method for stochastic optimization (Kingma, Ba 2015, https://arxiv.org/abs/1412.6980).

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;
    the step is m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps).
    With `amsgrad` (Reddi, Kale, Kumar 2018) the largest v so far stands in the root.

    Keras adds epsilon before the bias correction, so equal arguments give slightly other steps there.

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
        "amsgrad": Flag(False, "never let the average of squared gradients fall"),
        "decoupled_weight_decay": _DECOUPLED,
    }
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

    The step is Adam's; the weights shrink by the factor 1 - lr weight_decay besides, before it.

    Keras' default weight_decay is 0.004, and optax's 0.0001.

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
    fixed = {"decoupled_weight_decay": True}
