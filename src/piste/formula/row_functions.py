"""The words of a formula over a row (all the classes of one sample), beside the words of `piste.formula`.

On tensors a row is the last dimension. Values of another kind bring their own words, as in `piste.formula`.
"""

from __future__ import annotations

from typing import Any

import torch

from .expression import _words

__all__ = ["each", "hinge_slopes", "hinges", "index", "log_softmax", "norm", "pick", "size", "total"]


def log_softmax(x: Any) -> Any:
    """The row minus the logarithm of its summed exponentials: the log-probability of each class."""
    return torch.log_softmax(x, -1) if isinstance(x, torch.Tensor) else _words(x).log_softmax(x)


def total(x: Any) -> Any:
    """The sum over the row."""
    return x.sum(-1) if isinstance(x, torch.Tensor) else _words(x).total(x)


def norm(x: Any, p: float) -> Any:
    """The p-norm of the row: (sum of |x|^p)^(1 / p)."""
    return torch.linalg.vector_norm(x, p, dim=-1) if isinstance(x, torch.Tensor) else _words(x).norm(x, p)


def size(x: Any) -> Any:
    """The number of classes."""
    return x.shape[-1] if isinstance(x, torch.Tensor) else _words(x).size(x)


def index(x: Any) -> Any:
    """The number of each class: 0, 1, ..., C - 1."""
    return torch.arange(x.shape[-1], device=x.device) if isinstance(x, torch.Tensor) else _words(x).index(x)


def each(v: Any) -> Any:
    """One number of the sample, beside every class of its row."""
    return v.unsqueeze(-1) if isinstance(v, torch.Tensor) else _words(v).each(v)


def pick(x: Any, k: Any) -> Any:
    """The entry of class k; of a row that all samples share, one for each."""
    if not isinstance(x, torch.Tensor):
        return _words(x).pick(x, k)
    return x[k] if x.dim() == 1 and k.dim() else x.gather(-1, k.unsqueeze(-1)).squeeze(-1)


def hinges(x: Any, k: Any) -> Any:
    """The sum of max(0, 1 - (x_j - x_i)) over the classes j that k lists (up to its first -1) and i it does not."""
    if not isinstance(x, torch.Tensor):
        return _words(x).hinges(x, k)
    z, counts, _ = _listed_against_others(x, k)
    return torch.where(counts, z, 0).sum((-1, -2))


def hinge_slopes(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The gradient of `hinges` by x: for a class that isn't listed, how many pairs with it count; less that, for j."""
    _, counts, j = _listed_against_others(x, k)
    counted = counts.to(x.dtype)
    return counted.sum(-2).scatter_add(-1, j, -counted.sum(-1))


def _listed_against_others(x: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """1 - (x_j - x_i) for each entry of k and each class i, whether it counts, and j (0 after the end of the list)."""
    is_listed = (k < 0).to(torch.int64).cumsum(-1) == 0
    j = torch.where(is_listed, k, 0)
    member = torch.zeros_like(x).scatter_add(-1, j, is_listed.to(x.dtype)) > 0
    z = 1 - x.gather(-1, j).unsqueeze(-1) + x.unsqueeze(-2)
    return z, is_listed.unsqueeze(-1) & ~member.unsqueeze(-2) & ~(z <= 0), j  # NaN counts
