from typing import Any

from ..errors import InvalidValue
from ..formula.reductions import norm
from ..formula.words import where
from .conventions import CONVENTIONS
from .optimizer import Optimizer
from .options import Flag, Number, decay, rate, weight_decay
from .state import Buffer


class LARS(Optimizer):
    """LARS: layer-wise adaptive rates for large batches (You, Gitman, Ginsburg 2017, https://arxiv.org/abs/1708.03888).

    ratio = trust_coefficient |p| / (|g| + weight_decay |p|), with the 2-norms of the whole tensors, and 1 where |p| or
    the denominator is 0;
    u = ratio (g + weight_decay p);  b <- momentum b + u;
    the step is b, or u + momentum b with `nesterov`.

    torch.optim has no LARS. Trainings usually leave biases and the parameters of normalization layers out: put them in
    a group with `adapt=False`, whose ratio is 1, and with weight_decay=0. The learning rate multiplies the step, not
    the buffer, as in torch.optim.SGD; the two differ while the rate changes.

    Example:
        >>> import torch, piste
        >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> optimizer = piste.optim.LARS([w], lr=0.1, trust_coefficient=1.0)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([2.7000, 3.6000], requires_grad=True)
    """

    options = {
        "lr": rate(1e-3),
        "momentum": decay(0.9, "mu", "the decay rate of the momentum"),
        "weight_decay": weight_decay(),
        "trust_coefficient": Number(1e-3, "the size of an update relative to that of the weights", "eta"),
        "nesterov": Flag(False, "use Nesterov momentum"),
        "adapt": Flag(True, "scale the update of each tensor by its ratio"),
    }
    buffers = {"momentum_buffer": Buffer("b", when="momentum")}
    conventions = CONVENTIONS["LARS"]
    counts_steps = False

    def update(p: Any, g: Any, b: Any, *, mu: Any, weight_decay: Any, eta: Any, nesterov: bool, adapt: bool) -> Any:
        u = g + weight_decay * p
        if adapt:
            size = norm(p)
            length = norm(g) + weight_decay * size
            u = where((size > 0) & (length > 0), eta * size / length, 1) * u
        if b is None:
            return u, None
        b = mu * b + u
        return (u + mu * b if nesterov else b), b

    @classmethod
    def validate_options(cls, values: Any) -> None:
        if values["nesterov"] and not values["momentum"]:
            raise InvalidValue(f"Nesterov momentum requires a momentum; received momentum={values['momentum']}.")
