from typing import Any

from ..formula.words import maximum, minimum, sign, where
from .conventions import CONVENTIONS
from .optimizer import Optimizer
from .options import Number, Numbers, rate
from .state import Buffer


class Rprop(Optimizer):
    """Rprop: resilient backpropagation (Riedmiller, Braun 1993, https://doi.org/10.1109/ICNN.1993.298623).

    Each weight has a step size s, which is multiplied by eta+ while the gradient keeps its sign and by eta- when the
    sign changes. The step is sign(g) s, or 0 after a change of sign. Rprop is meant for full batches, because it
    reads only the sign of the gradient.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = piste.optim.Rprop([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([0.9000], requires_grad=True)
    """

    options = {
        "lr": rate(1e-2, "the initial step size of every weight"),
        "etas": Numbers(
            (Number(0.5, "", "eta_minus", high=1.0, above=True), Number(1.2, "", "eta_plus", low=1.0, above=True)),
            "the factors by which the step size shrinks and grows",
        ),
        "step_sizes": Numbers(
            (Number(1e-6, "", "s_min"), Number(50, "", "s_max")),
            "the smallest and the largest step size",
            ordered=True,
        ),
    }
    buffers = {"prev": "q", "step_size": Buffer("s", start="lr")}
    conventions = CONVENTIONS["Rprop"]
    per_step = {"lr": lambda: 1.0}  # the step is final: its size is s

    def update(g: Any, q: Any, s: Any, *, eta_minus: Any, eta_plus: Any, s_min: Any, s_max: Any) -> Any:
        turn = g * q
        s = where(turn > 0, s * eta_plus, where(turn < 0, s * eta_minus, s))
        s = minimum(maximum(s, s_min), s_max)
        g = where(turn < 0, 0.0, g)
        return sign(g) * s, g, s
