import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import InvalidValue
from ..formula.reductions import mean
from ..formula.words import maximum, minimum, sqrt, where
from .conventions import CONVENTIONS
from .optimizer import Optimizer
from .options import Flag, Integer, Limit, Number, Numbers, decay, rate, weight_decay
from .state import Buffer


class _Epsilons(Numbers):
    """Two numbers, the first of which may be None; the formula gets -1 for it."""

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        for letter, number in super().letters(name, value):
            yield letter, -1.0 if number is None else number


class _Threshold(Limit):
    """A limit that is infinity in the formula where it is None."""

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        yield self.letter or name, math.inf if value is None else value


class Adafactor(Optimizer):
    """Adafactor: adaptive rates with sublinear memory (Shazeer, Stern 2018, https://arxiv.org/abs/1804.04235).

    With share = max(t^beta2_decay, 1 - beta2_cap), a matrix keeps the averages of its squared gradient over each row
    and column:
    r <- r + share (row mean of g^2 - r);  c <- c + share (column mean of g^2 - c);
    s = r c / max(eps1, mean of r). A vector keeps s <- s + share (g^2 - s) itself.
    u = g / max(sqrt(s), eps1);  rho = min(lr, 1 / sqrt(t));
    p <- (1 - lr weight_decay) p - rho max(eps2, rms(p)) u / max(1, rms(u) / d), where rms is the root of the mean
    square.

    With `beta1`, p moves by the average m <- beta1 m + (1 - beta1) times what follows rho. Matrices are the last two
    dimensions. `eps=(None, ...)` takes the machine epsilon of the parameter's dtype.

    `convention="transformers"` (which is fairseq's), "optax" or "keras" has the formula, the defaults and the argument
    names of that library.

    The options from `beta1` on are Piste's; with their defaults, arguments, state and values are those of
    torch.optim.Adafactor. On a GPU the eager backend steps matrices that are not contiguous.

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
        "d": _Threshold(1.0, "the largest root mean square of an update, None for no limit", low=1.0),
        "weight_decay": weight_decay(),
        "beta1": decay(0.0, "beta1", "the decay rate of the average of steps; 0 keeps none"),
        "beta2_cap": Number(1.0, "the largest decay rate of the averages of squares", closed=True, high=1.0),
        "scale_parameter": Flag(True, "multiply the step by max(eps2, rms(p))"),
        "relative_step": Flag(True, "limit the rate to 1 / sqrt(t); False takes lr"),
        "warmup_init": Flag(False, "limit the rate to 1e-6 t too"),
        "min_dim_size_to_factor": Integer(
            0, "keep the whole average for a parameter with a smaller one among its last two dimensions", low=0
        ),
    }
    buffers = {
        "row_var": Buffer("r", shape="rows"),
        "col_var": Buffer("c", shape="columns"),
        "variance": Buffer("v", shape="vectors"),
        "exp_avg": Buffer("m", when="beta1"),
    }
    conventions = CONVENTIONS["Adafactor"]
    extensions = ("beta1", "beta2_cap", "scale_parameter", "relative_step", "warmup_init", "min_dim_size_to_factor")
    per_step = {
        "share": lambda t, tau, beta2_cap: maximum(t**tau, 1 - beta2_cap),
        "rho": lambda t, lr: minimum(lr, 1 / sqrt(t)),
        "eps1": lambda eps1, epsilon: where(eps1 < 0, epsilon, eps1),
    }
    has_rate = True
    elementwise = False

    def update(
        p: Any, g: Any, r: Any, c: Any, v: Any, m: Any, *, t: Any, lr: Any, share: Any, rho: Any, eps1: Any, eps2: Any,
        d: Any, beta1: Any, weight_decay: Any, scale_parameter: bool, relative_step: bool, warmup_init: bool,
    ) -> Any:  # fmt: skip
        if v is None:
            r = r + share * (mean(g * g, over="row") - r)
            c = c + share * (mean(g * g, over="column") - c)
            s = r * c / maximum(mean(r, over="column"), eps1)
        else:
            s = v = v + share * (g * g - v)
        u = g / sqrt(maximum(s, eps1 * eps1))
        rate = rho if relative_step else lr
        rate = minimum(rate, 1e-6 * t) if warmup_init else rate
        rate = rate * maximum(sqrt(mean(p * p)), eps2) if scale_parameter else rate
        step = rate / maximum(sqrt(mean(u * u)) / d, 1) * u
        if m is not None:
            step = m = beta1 * m + (1 - beta1) * step
        return step + lr * weight_decay * p, r, c, v, m

    @classmethod
    def validate_options(cls, values: Mapping[str, Any]) -> None:
        if values["warmup_init"] and not values["relative_step"]:
            raise InvalidValue(
                "warmup_init=True requires relative_step=True; received relative_step=False. Help: warm up the rate "
                "with a schedule, such as piste.optim.lr_scheduler.WarmupConstantLR."
            )
        if values["convention"] == "transformers" and values["relative_step"] and values["lr"] != 1e-2:
            raise InvalidValue(
                f'`lr` must be None with relative_step=True and convention="transformers", whose rate is then '
                f"min(1e-2, 1 / sqrt(t)); received lr={values['lr']}. Help: set relative_step=False."
            )
