from typing import Any

from ..formula.words import sqrt
from .conventions import CONVENTIONS
from .optimizer import Optimizer
from .options import Flag, decay, eps, rate, weight_decay
from .state import Buffer


class RMSprop(Optimizer):
    """RMSprop: divide the gradient by a running average of its magnitude (Hinton 2012, lecture 6e).

    v <- alpha v + (1 - alpha) g^2;  the step is g / (sqrt(v) + eps).
    `centered` (Graves 2013, https://arxiv.org/abs/1308.0850) divides by sqrt(v - m^2) + eps, where m is the average
    of g. With `momentum`, b <- mu b + step, and the step is b.

    Differs from Keras: Keras calls `alpha` `rho`, adds epsilon under the root, multiplies by the learning rate inside
    b, and has other defaults, so the same arguments give different steps.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.RMSprop([w], lr=0.01, alpha=0.9)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.9684], requires_grad=True)
    """

    options = {
        "lr": rate(1e-2),
        "alpha": decay(0.99, "alpha", "the decay rate of the average of squared gradients"),
        "eps": eps(1e-8),
        "weight_decay": weight_decay(),
        "momentum": decay(0.0, "mu", "the decay rate of the momentum"),
        "centered": Flag(False, "divide by the standard deviation of the gradient instead of its root mean square"),
    }
    conventions = CONVENTIONS["RMSprop"]
    buffers = {
        "square_avg": "v",
        "momentum_buffer": Buffer("b", when="momentum"),
        "grad_avg": Buffer("m", when="centered"),
    }

    def update(g: Any, v: Any, b: Any, m: Any, *, alpha: Any, eps: Any, mu: Any) -> Any:
        v = alpha * v + (1 - alpha) * g * g
        if m is None:
            d = g / (sqrt(v) + eps)
        else:
            m = alpha * m + (1 - alpha) * g
            d = g / (sqrt(v - m * m) + eps)
        if b is None:
            return d, v, b, m
        b = mu * b + d
        return b, v, b, m
