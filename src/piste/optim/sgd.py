from typing import Any

from ..errors import InvalidValue
from ..formula.words import where
from .conventions import CONVENTIONS
from .optimizer import Optimizer
from .options import Flag, Number, decay, rate, weight_decay
from .state import Buffer


class SGD(Optimizer):
    """SGD: stochastic gradient descent, optionally with momentum (Polyak 1964) or Nesterov momentum.

    The step is g. With `momentum`, b <- mu b + (1 - dampening) g, where the first b is g, and the step is b. With
    `nesterov` (Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html) it is g + mu b.

    As in torch.optim, the learning rate is not part of b, so a change of `lr` applies to the whole next step.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.SGD([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.8000], requires_grad=True)
    """

    options = {
        "lr": rate(1e-3),
        "momentum": decay(0.0, "mu", "the decay rate of the momentum"),
        "dampening": Number(0.0, "the share of the gradient that is left out of the momentum", high=1.0, closed=True),
        "weight_decay": weight_decay(),
        "nesterov": Flag(False, "use Nesterov momentum"),
    }
    conventions = CONVENTIONS["SGD"]
    buffers = {"momentum_buffer": Buffer("b", when="momentum")}
    counts_steps = False
    sparse_safe = True

    def update(g: Any, b: Any, *, t: Any, mu: Any, dampening: Any, nesterov: bool) -> Any:
        if b is None:
            return g, None
        b = mu * b + where(t == 1, 1.0, 1 - dampening) * g
        return (g + mu * b if nesterov else b), b

    @classmethod
    def validate_options(cls, values: Any) -> None:
        if values["nesterov"] and not (values["momentum"] and values["dampening"] == 0):
            raise InvalidValue(
                "Nesterov momentum requires a momentum and zero dampening; received "
                f"momentum={values['momentum']}, dampening={values['dampening']}."
            )
