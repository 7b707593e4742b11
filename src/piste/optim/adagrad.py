from typing import Any

from ..formula.expression import sqrt
from .optimizer import Optimizer
from .options import Number, eps, rate, weight_decay
from .state import Buffer


class Adagrad(Optimizer):
    """Adagrad: adaptive subgradient methods (Duchi, Hazan, Singer 2011, https://jmlr.org/papers/v12/duchi11a.html).

    s <- s + g^2; the step is g / (sqrt(s) + eps). s only grows, so the rate of every weight only falls.
    `lr_decay` divides the learning rate by 1 + (t - 1) lr_decay besides.

    As in torch.optim the state is there from the start, not from the first step.

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
        "lr_decay": Number(0.0, "how fast the learning rate falls with the steps"),
        "weight_decay": weight_decay(),
        "initial_accumulator_value": Number(0.0, "what the sum of squares starts at"),
        "eps": eps(1e-10),
    }
    buffers = {"sum": Buffer("s", start="initial_accumulator_value")}
    per_step = {"lr": lambda lr, lr_decay, t: lr / (1 + (t - 1) * lr_decay)}
    zero_stays = True
    state_from_start = True

    def update(g: Any, s: Any, *, eps: Any) -> Any:
        s = s + g * g
        return g / (sqrt(s) + eps), s
