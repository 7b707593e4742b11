from typing import Any

from ..formula.words import sign
from .conventions import CONVENTIONS
from .optimizer import Optimizer
from .options import betas, rate, weight_decay


class Lion(Optimizer):
    """Lion: symbolic discovery of optimization algorithms (Chen et al. 2023, https://arxiv.org/abs/2302.06675).

    The step is sign(beta1 m + (1 - beta1) g);  m <- beta2 m + (1 - beta2) g. The weight decay is decoupled.
    Every weight moves by lr. Usual learning rates are 3 to 10 times smaller than those of AdamW, and weight decays
    larger by the same factor.

    torch.optim has no Lion. The state key is `exp_avg`, as in Adam.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.Lion([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.9000], requires_grad=True)
    """

    options = {"lr": rate(1e-4), "betas": betas(0.9, 0.99), "weight_decay": weight_decay()}
    conventions = CONVENTIONS["Lion"]
    buffers = {"exp_avg": "m"}
    group_constants = {"decoupled_weight_decay": True}

    def update(g: Any, m: Any, *, beta1: Any, beta2: Any) -> Any:
        return sign(beta1 * m + (1 - beta1) * g), beta2 * m + (1 - beta2) * g
