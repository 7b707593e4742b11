from typing import Any

from ..formula.expression import maximum, where
from .optimizer import Optimizer
from .options import Number, rate, weight_decay
from .state import Buffer


class ASGD(Optimizer):
    """Averaged stochastic gradient descent (Polyak, Juditsky 1992; the schedule as in Bottou's sgd).

    The parameter shrinks by the factor 1 - eta lambd and takes the step g at the rate eta; a, the average of the
    parameter since t0, is what to use in the end (`optimizer.state[p]["ax"]`). After each step
    eta <- lr / (1 + lambd lr t)^alpha and mu <- 1 / max(1, t - t0), the weight of the next parameter in the average.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.ASGD([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.8000], requires_grad=True)
    """

    options = {
        "lr": rate(1e-2),
        "lambd": Number(1e-4, "the pull towards 0, and how fast the rate falls"),
        "alpha": Number(0.75, "the power with which the rate falls"),
        "t0": Number(1e6, "the step at which averaging starts"),
        "weight_decay": weight_decay(),
    }
    buffers = {"ax": "a"}
    counters = {"eta": Buffer("eta", start="lr"), "mu": Buffer("mu", start=1.0)}
    per_step = {
        "rate": lambda eta: eta,  # this step's, before eta and mu become the next step's
        "weight": lambda mu: mu,
        "eta": lambda lr, lambd, alpha, t: lr / (1 + lambd * lr * t) ** alpha,
        "mu": lambda t, t0: 1 / maximum(1.0, t - t0),
        "lr": lambda rate: rate,
    }

    pull = "lambd"

    def update(p: Any, g: Any, a: Any, *, lr: Any, weight: Any) -> Any:
        p = p - lr * g
        return g, where(weight == 1, p, a + weight * (p - a))
