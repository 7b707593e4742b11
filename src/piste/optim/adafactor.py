from collections.abc import Iterator
from typing import Any

from ..formula.reductions import mean
from ..formula.words import maximum, minimum, sqrt, where
from .optimizer import Optimizer
from .options import Limit, Number, Numbers, rate, weight_decay
from .state import Buffer


class _Epsilons(Numbers):
    """Two numbers, the first of which may be None; the formula gets -1 for it."""

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        for letter, number in super().letters(name, value):
            yield letter, -1.0 if number is None else number


class Adafactor(Optimizer):
    """Adafactor: adaptive rates with sublinear memory (Shazeer, Stern 2018, https://arxiv.org/abs/1804.04235).

    With share = t^beta2_decay, a matrix keeps the averages of its squared gradient over each row and column:
    r <- r + share (row mean of g^2 - r);  c <- c + share (column mean of g^2 - c);
    s = r c / max(eps1, mean of r). A vector keeps s <- s + share (g^2 - s) itself.
    u = g / max(sqrt(s), eps1);  rho = min(lr, 1 / sqrt(t));
    p <- (1 - lr weight_decay) p - rho max(eps2, rms(p)) u / max(1, rms(u) / d), where rms is the root of the mean
    square.

    Matrices are the last two dimensions. `eps=(None, ...)` takes the machine epsilon of the parameter's dtype. The
    arguments, state and values are those of torch.optim.Adafactor.

    Differs from PyTorch: the kernel of the CPU steps the parameters of fewer than two dimensions; the eager backend
    steps the others.

    Example:
        >>> import torch, piste
        >>> w = torch.ones(2, 2, requires_grad=True)
        >>> optimizer = piste.optim.Adafactor([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([[0.9000, 0.9000],
                [0.9000, 0.9000]], requires_grad=True)
    """

    options = {
        "lr": rate(1e-2, "the largest rate, relative to the size of the weights"),
        "beta2_decay": Number(
            -0.8, "the power of the step count in the averages", "tau", low=-float("inf"), high=0.0, closed=True
        ),
        "eps": _Epsilons(
            (Limit(None, letter="eps1"), Number(1e-3, letter="eps2")),
            "lower bounds of the root of the averages, and of the size of the weights",
        ),
        "d": Number(1.0, "the largest root mean square of an update", low=1.0),
        "weight_decay": weight_decay(),
    }
    buffers = {
        "row_var": Buffer("r", shape="rows"),
        "col_var": Buffer("c", shape="columns"),
        "variance": Buffer("v", shape="vectors"),
    }
    per_step = {
        "share": lambda t, tau: t**tau,
        "rho": lambda t, lr: minimum(lr, 1 / sqrt(t)),
        "eps1": lambda eps1, epsilon: where(eps1 < 0, epsilon, eps1),
    }
    has_rate = True
    elementwise = False

    def update(
        p: Any, g: Any, r: Any, c: Any, v: Any, *, lr: Any, share: Any, rho: Any, eps1: Any, eps2: Any, d: Any,
        weight_decay: Any,
    ) -> Any:  # fmt: skip
        if v is None:
            r = r + share * (mean(g * g, over="row") - r)
            c = c + share * (mean(g * g, over="column") - c)
            s = r * c / maximum(mean(r, over="column"), eps1)
        else:
            s = v = v + share * (g * g - v)
        u = g / sqrt(maximum(s, eps1 * eps1))
        size = maximum(sqrt(mean(p * p)), eps2)
        return rho * size / maximum(sqrt(mean(u * u)) / d, 1) * u + lr * weight_decay * p, r, c, v
