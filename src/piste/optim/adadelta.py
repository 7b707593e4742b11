from typing import Any

from ..formula.words import sqrt
from .conventions import CONVENTIONS
from .optimizer import Optimizer
from .options import decay, eps, rate, weight_decay


class Adadelta(Optimizer):
    """Adadelta: an adaptive learning rate method (Zeiler 2012, https://arxiv.org/abs/1212.5701).

    v <- rho v + (1 - rho) g^2;  d = sqrt(u + eps) / sqrt(v + eps) g;  u <- rho u + (1 - rho) d^2;  the step is d.
    The step d has the unit of the parameter, because u has its unit squared. The paper's method is lr = 1.

    Differs from Keras: its defaults are rho = 0.95 and a learning rate of 0.001.

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
        "lr": rate(1.0, "the learning rate: a factor on the step, whose size comes from the rule"),
        "rho": decay(0.9, "rho", "the decay rate of both averages"),
        "eps": eps(1e-6),
        "weight_decay": weight_decay(),
    }
    conventions = CONVENTIONS["Adadelta"]
    buffers = {"square_avg": "v", "acc_delta": "u"}

    def update(g: Any, v: Any, u: Any, *, rho: Any, eps: Any) -> Any:
        v = rho * v + (1 - rho) * g * g
        d = sqrt(u + eps) / sqrt(v + eps) * g
        u = rho * u + (1 - rho) * d * d
        return d, v, u
