from typing import Any

import torch
from torch import Tensor

from .muon import Muon, orthogonalize
from .options import Choice, decay, rate, weight_decay
from .state import Buffer

LEAST = 1e-10
"""What is added to a denominator, as in the authors' implementation."""


class NorMuon(Muon):
    """NorMuon: Muon whose rows have steps of equal size (Li et al. 2025, https://arxiv.org/abs/2510.05491).

    b <- momentum b + (1 - momentum) g;  u is b, or with `nesterov` momentum b + (1 - momentum) g;  o = orthogonal(u) as
    in Muon;  for each row v <- beta2 v + (1 - beta2) mean of o^2;  n = o / (sqrt(v) + 1e-10). The step is n with the
    norm of o, times sqrt(max(1, rows / columns)), as in the authors' implementation. With
    `adjust_lr_fn="match_rms_adamw"` it is n with a root mean square of 0.2, as in the paper.

    Routing of other parameters to AdamW, fused matrices and precision are those of `Muon`. The parts of a fused matrix
    have norms of their own. torch.optim has no NorMuon; defaults are those of the authors' implementation.

    Example:
        >>> import torch, piste
        >>> w = torch.zeros(2, 2, requires_grad=True)
        >>> optimizer = piste.optim.NorMuon([w], lr=0.1)
        >>> (w * torch.tensor([[1.0, 0.0], [0.0, 3.0]])).sum().backward()
        >>> optimizer.step()
        >>> w.diagonal().abs().sum() < 0.24
        tensor(True)
    """

    options = {
        **Muon.options,
        "lr": rate(2e-2),
        "weight_decay": weight_decay(),
        "beta2": decay(0.95, "beta2", "the decay rate of the average of squares of each row"),
        "adjust_lr_fn": Choice(
            None,
            (None, "original", "match_rms_adamw"),
            "the scale: sqrt(max(1, rows / columns)) for None and original, a root mean square of 0.2 for the other",
        ),
    }
    buffers = {"momentum_buffer": "b", "second_momentum_buffer": Buffer("v", shape="first")}

    def matrix(  # type: ignore[misc, override]
        u: Tensor, v: Tensor, *, beta2: Any, ns_coefficients: Any, eps: float, ns_steps: int, adjust_lr_fn: Any,
        split: int, ns_dtype: str,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        u = u.unflatten(1, (split, -1)).flatten(0, 1)
        rows, columns = u.shape[1:]
        o = orthogonalize(u, ns_coefficients, ns_steps, eps, ns_dtype).to(torch.promote_types(u.dtype, torch.float32))
        v = beta2 * v + (1 - beta2) * o.square().mean(2).view(len(v), -1)
        n = o / (v.view(*o.shape[:2], 1).sqrt() + LEAST)
        norm_o, norm_n = (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) for x in (o, n))
        if adjust_lr_fn == "match_rms_adamw":
            norm = 0.2 * (rows * columns) ** 0.5
        else:
            norm = max(1, rows / columns) ** 0.5 * norm_o
        return norm / (norm_n + LEAST) * n, v
