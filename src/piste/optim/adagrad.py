from typing import Any

from ..formula.words import sqrt
from .conventions import CONVENTIONS
from .optimizer import Optimizer
from .options import Number, eps, rate, weight_decay
from .state import Buffer


class Adagrad(Optimizer):
    """Adagrad: adaptive subgradient methods (Duchi, Hazan, Singer 2011, https://jmlr.org/papers/v12/duchi11a.html).

    s <- s + g^2;  the step is g / (sqrt(s) + eps). The sum s never falls, so the rate of a weight never rises.
    `lr_decay` also divides the learning rate by 1 + (t - 1) lr_decay.

    As in torch.optim, the state exists from construction, not from the first step.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.Adagrad([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.9000], requires_grad=True)
    """

    options = {
        "lr": rate(1e-2),
        "lr_decay": Number(0.0, "how fast the learning rate falls with the number of steps"),
        "weight_decay": weight_decay(),
        "initial_accumulator_value": Number(0.0, "the initial value of the sum of squares"),
        "eps": eps(1e-10),
    }
    conventions = CONVENTIONS["Adagrad"]
    buffers = {"sum": Buffer("s", start="initial_accumulator_value")}
    per_step = {"lr": lambda lr, lr_decay, t: lr / (1 + (t - 1) * lr_decay)}
    sparse_safe = True
    state_from_start = True

    def update(g: Any, s: Any, *, eps: Any) -> Any:
        s = s + g * g
        return g / (sqrt(s) + eps), s
