from collections.abc import Mapping
from typing import Any

from ..errors import InvalidValue
from ..formula.reductions import norm
from ..formula.words import minimum, sqrt, where
from .conventions import CONVENTIONS
from .optimizer import Optimizer
from .options import Flag, betas, eps, rate, weight_decay


class LAMB(Optimizer):
    """LAMB: layer-wise adaptive moments for large batches (You et al. 2020, https://arxiv.org/abs/1904.00962).

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;
    u = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p;
    the step is |p| / |u| u, with the 2-norms of the whole tensors; it is u where either norm is 0.

    torch.optim has no LAMB. The version of the paper's first preprint has no bias correction, which is
    `bias_correction=False`. Clip the norm of all gradients with `max_norm=1.0`, as most trainings with LAMB do.
    `convention="timm"`, "pytorch_optimizer", "optax" or "keras" has the formula, the defaults and the argument names of
    that library.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> optimizer = piste.optim.LAMB([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([2.6464, 3.6464], requires_grad=True)
    """

    options = {
        "lr": rate(1e-3),
        "betas": betas(),
        "eps": eps(1e-6),
        "weight_decay": weight_decay(),
        "bias_correction": Flag(True, "divide the averages by 1 - beta^t"),
        "trust_clip": Flag(False, "limit the ratio |p| / |u| to 1"),
        "always_adapt": Flag(True, "adapt the step where weight_decay is 0 too; False takes the ratio 1 there"),
    }
    buffers = {"exp_avg": "m", "exp_avg_sq": "v"}
    conventions = CONVENTIONS["LAMB"]

    def update(
        p: Any, g: Any, m: Any, v: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any, weight_decay: Any,
        bias_correction: bool, trust_clip: bool, always_adapt: bool,
    ) -> Any:  # fmt: skip
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        m_hat, v_hat = (m / (1 - beta1**t), v / (1 - beta2**t)) if bias_correction else (m, v)
        u = m_hat / (sqrt(v_hat) + eps) + weight_decay * p
        size, length = norm(p), norm(u)
        ratio = where((size > 0) & (length > 0), size / length, 1)
        if trust_clip:
            ratio = minimum(ratio, 1)
        if not always_adapt:
            ratio = where(weight_decay > 0, ratio, 1)
        return ratio * u, m, v

    @classmethod
    def validate_options(cls, values: Mapping[str, Any]) -> None:
        if not values["always_adapt"] and values["decoupled_decay"] is not None:
            raise InvalidValue(
                "always_adapt=False asks for the weight decay of the update, which decoupled_decay replaces; received "
                f'decoupled_decay="{values["decoupled_decay"]}". Help: set always_adapt=True, and give parameters that '
                "are not to be adapted to AdamW."
            )
