from typing import Any

from ..errors import InvalidValue
from ..formula.expression import where
from .optimizer import Optimizer
from .options import Flag, Number, decay, rate, weight_decay
from .state import Buffer


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum where asked (Polyak 1964; nesterov: Sutskever et al. 2013).

    b <- mu b + (1 - dampening) g, the first time b <- g; the step is b, or g + mu b with `nesterov`.
    Without momentum the step is g.

    As in torch.optim the learning rate stays outside b, so a change of `lr` acts at once on the whole step.

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
        "momentum": decay(0.0, "mu", "how much of the last step goes on"),
        "dampening": Number(0.0, "how much less of the gradient enters the momentum", high=1.0, closed=True),
        "weight_decay": weight_decay(),
        "nesterov": Flag(False, "look ahead along the momentum"),
    }
    buffers = {"momentum_buffer": Buffer("b", when="momentum")}
    counts_steps = False
    zero_stays = True

    def update(g: Any, b: Any, *, t: Any, mu: Any, dampening: Any, nesterov: bool) -> Any:
        if b is None:
            return g, None
        b = mu * b + where(t == 1, 1.0, 1 - dampening) * g
        return (g + mu * b if nesterov else b), b

    @classmethod
    def check_together(cls, values: Any) -> None:
        if values["nesterov"] and not (values["momentum"] and values["dampening"] == 0):
            raise InvalidValue(
                "Nesterov momentum requires a momentum and zero dampening; received "
                f"momentum={values['momentum']}, dampening={values['dampening']}."
            )
