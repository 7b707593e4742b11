from typing import Any

from ..formula.expression import sqrt
from .optimizer import Optimizer
from .options import decay, eps, rate, weight_decay


class Adadelta(Optimizer):
    """Adadelta: an adaptive learning rate method (Zeiler 2012, https://arxiv.org/abs/1212.5701).

    v <- rho v + (1 - rho) g^2; d = sqrt(u + eps) / sqrt(v + eps) g; u <- rho u + (1 - rho) d^2; the step is d.
    u has the unit of the parameter squared, so d has the unit of the parameter: lr = 1 is the paper's method.

    Keras' default rho is 0.95, and its default learning rate 0.001.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.Adadelta([w])
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.9968], requires_grad=True)
    """

    options = {
        "lr": rate(1.0, "a factor on the step, which has its size already"),
        "rho": decay(0.9, "rho", "how much of both averages each step keeps"),
        "eps": eps(1e-6),
        "weight_decay": weight_decay(),
    }
    buffers = {"square_avg": "v", "acc_delta": "u"}

    def update(g: Any, v: Any, u: Any, *, rho: Any, eps: Any) -> Any:
        v = rho * v + (1 - rho) * g * g
        d = sqrt(u + eps) / sqrt(v + eps) * g
        u = rho * u + (1 - rho) * d * d
        return d, v, u
