from typing import Any

from ..formula.words import maximum, where
from .optimizer import Optimizer
from .options import Number, rate, weight_decay
from .state import Buffer


class ASGD(Optimizer):
    """ASGD: averaged stochastic gradient descent (Polyak, Juditsky 1992, https://doi.org/10.1137/0330046).

    The parameter is multiplied by 1 - eta lambd and takes the step g at the rate eta. The average a of the parameter
    since step t0 is the result of the training: read it from `optimizer.state[p]["ax"]`. After each step
    eta <- lr / (1 + lambd lr t)^alpha and mu <- 1 / max(1, t - t0), the weight of the next parameter in the average.
    The schedule is that of Bottou's sgd.

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
        "lambd": Number(1e-4, "the decay of the weights, and how fast the learning rate falls"),
        "alpha": Number(0.75, "the exponent of the decay of the learning rate"),
        "t0": Number(1e6, "the step after which averaging starts"),
        "weight_decay": weight_decay(),
    }
    buffers = {"ax": "a"}
    counters = {"eta": Buffer("eta", start="lr"), "mu": Buffer("mu", start=1.0)}
    per_step = {
        "rate": lambda eta: eta,  # of this step; eta and mu below are for the next step
        "weight": lambda mu: mu,
        "eta": lambda lr, lambd, alpha, t: lr / (1 + lambd * lr * t) ** alpha,
        "mu": lambda t, t0: 1 / maximum(1.0, t - t0),
        "lr": lambda rate: rate,
    }
    decay_option = "lambd"
    refused = {"cautious": "its average takes the whole step"}

    def update(p: Any, g: Any, a: Any, *, lr: Any, weight: Any) -> Any:
        p = p - lr * g
        return g, where(weight == 1, p, a + weight * (p - a))
