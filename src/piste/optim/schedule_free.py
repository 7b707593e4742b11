from collections.abc import Callable, Mapping
from typing import Any

from ..formula.words import maximum, minimum, sqrt, where
from .averaging import AveragedWeights
from .optimizer import Optimizer
from .options import Number, betas, decay, eps, rate, weight_decay
from .state import Buffer

_POWERS = {
    "r": Number(0.0, "the power of the step count in the weight of a step"),
    "weight_lr_power": Number(2.0, "the power of the learning rate in the weight of a step", "power"),
    "warmup_steps": Number(0.0, "the number of steps of a linear warmup of the learning rate", "T"),
}


_COUNTERS: Mapping[str, Any] = {"weight_sum": "W", "lr_max": "L"}
_PER_STEP: Mapping[str, Callable[..., Any]] = {
    "lr": lambda lr, T, t: lr * minimum(t / maximum(T, 1), 1),
    "L": lambda L, lr: maximum(L, lr),
    "w": lambda L, r, power, t: t**r * L**power,
    "W": lambda W, w: W + w,
    "c": lambda w, W: where(W > 0, w / where(W > 0, W, 1), 0),
}


def _moved(p: Any, z: Any, d: Any, lr: Any, c: Any, beta: Any) -> Any:
    """Return the step of p, which moves towards the average, and z after its step along d."""
    return c * (p - z) + lr * (1 - beta * (1 - c)) * d, z - lr * d


class ScheduleFreeSGD(AveragedWeights, Optimizer):
    """Schedule-Free SGD: an average of weights in place of a schedule (Defazio et al. 2024, arXiv 2405.15682).

    z <- z - lr g, at the gradient of p = (1 - momentum) z + momentum x; x is the average of all z, weighted by
    t^r lr^weight_lr_power. Evaluate and save x: `with optimizer.averaged():`. The weight decay is part of the gradient.

    torch.optim has none. The values are those of the authors' implementation, which has step, weight_sum and lr_max in
    the param group; here they are in the state.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.ScheduleFreeSGD([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.8000], requires_grad=True)
    """

    options = {
        "lr": rate(1.0),
        "momentum": decay(0.9, "beta", "the weight of the average in the weights that are trained"),
        "weight_decay": weight_decay(),
        **_POWERS,
    }
    buffers = {"z": Buffer("z", start="p")}
    counters = _COUNTERS
    per_step = _PER_STEP
    double_counters = True
    has_rate = True

    def update(p: Any, g: Any, z: Any, *, lr: Any, c: Any, beta: Any) -> Any:
        return _moved(p, z, g, lr, c, beta)

    @staticmethod
    def _beta_of_average(group: Mapping[str, Any]) -> float:
        return float(group["momentum"])


class ScheduleFreeAdamW(AveragedWeights, Optimizer):
    """Schedule-Free AdamW: an average of weights in place of a schedule (Defazio et al. 2024, arXiv 2405.15682).

    v <- beta2 v + (1 - beta2) g^2;  d = g / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p;  z <- z - lr d, at the
    gradient of p = (1 - beta1) z + beta1 x; x is the average of all z, weighted by t^r lr^weight_lr_power. Evaluate and
    save x: `with optimizer.averaged():`.

    torch.optim has none. The values are those of the authors' implementation, which has step, weight_sum and lr_max in
    the param group; here they are in the state.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.ScheduleFreeAdamW([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.9000], requires_grad=True)
    """

    options = {
        "lr": rate(2.5e-3),
        "betas": betas(doc="the weight of the average in the trained weights, and the decay rate of the squares"),
        "eps": eps(1e-8),
        "weight_decay": weight_decay(),
        **_POWERS,
    }
    buffers = {"z": Buffer("z", start="p"), "exp_avg_sq": "v"}
    counters = _COUNTERS
    per_step = _PER_STEP
    double_counters = True
    has_rate = True

    def update(
        p: Any, g: Any, z: Any, v: Any, *, lr: Any, c: Any, t: Any, beta1: Any, beta2: Any, eps: Any, weight_decay: Any
    ) -> Any:
        v = beta2 * v + (1 - beta2) * g * g
        d = g / (sqrt(v / (1 - beta2**t)) + eps) + weight_decay * p
        return *_moved(p, z, d, lr, c, beta1), v

    @staticmethod
    def _beta_of_average(group: Mapping[str, Any]) -> float:
        return float(group["betas"][0])
