from typing import Any

from ..formula.words import sqrt
from .optimizer import Optimizer
from .options import betas, eps, rate


class SparseAdam(Optimizer):
    """Adam of the entries that have a gradient, for sparse gradients as those of `nn.Embedding(sparse=True)`.

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;
    the step is m / (1 - beta1^t) * sqrt(1 - beta2^t) / (sqrt(v) + eps). Entries without a gradient keep their value and
    their state, where Adam would move them by their average. The cost is that of the entries that have one.

    Differs from PyTorch: the step count is a tensor, as in Adam; in checkpoints it is a number.

    Example:
        >>> import torch, piste
        >>> embedding = torch.nn.Embedding(3, 1, sparse=True, _weight=torch.ones(3, 1))
        >>> optimizer = piste.optim.SparseAdam(embedding.parameters(), lr=0.1)
        >>> embedding(torch.tensor([1])).sum().backward()
        >>> optimizer.step()
        >>> embedding.weight.flatten()
        tensor([1.0000, 0.9000, 1.0000], grad_fn=<ViewBackward0>)
    """

    options = {"lr": rate(1e-3), "betas": betas(), "eps": eps(1e-8)}
    buffers = {"exp_avg": "m", "exp_avg_sq": "v"}
    sparse_safe = sparse_only = True
    elementwise = False
    refused = {
        "differentiable": "autograd does not record changes of single rows",
        "cautious": "the elements that a sparse gradient lacks have no sign",
    }

    def update(g: Any, m: Any, v: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        return m * (sqrt(1 - beta2**t) / (1 - beta1**t)) / (sqrt(v) + eps), m, v

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the options of all groups, with step counts as numbers.

        torch.optim.SparseAdam computes with a tensor in float32, and would resume with other updates.
        """
        saved = super().state_dict()
        saved["state"] = {
            key: {**entry, "step": int(entry["step"])} if "step" in entry else entry
            for key, entry in saved["state"].items()
        }
        return saved
