from typing import Any

from ..formula.expression import sqrt
from .optimizer import Optimizer
from .options import Flag, decay, eps, rate, weight_decay
from .state import Buffer


class RMSprop(Optimizer):
    """RMSprop (Hinton, lecture 6e of Neural Networks for Machine Learning, 2012; centered as in Graves 2013).

    v <- alpha v + (1 - alpha) g^2; the step is g / (sqrt(v) + eps).
    With `centered` the mean m of the gradient is taken off first: sqrt(v - m^2). With momentum, b <- mu b + step.

    Keras' `rho` is `alpha` here. Keras puts epsilon inside the root and the learning rate inside b, and its default
    rates differ, so equal arguments don't mean equal steps.

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
        "alpha": decay(0.99, "alpha", "how much of the average of squared gradients each step keeps"),
        "eps": eps(1e-8),
        "weight_decay": weight_decay(),
        "momentum": decay(0.0, "mu", "how much of the last step goes on"),
        "centered": Flag(False, "divide by the standard deviation of the gradient, not by its root mean square"),
    }
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
