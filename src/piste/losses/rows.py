"""The words of a formula over a row (all the classes of one sample), beside the words of `piste.formula`.

On tensors a row is the last dimension. Values of another kind bring their own words, as in `piste.formula`.
"""

from __future__ import annotations

from typing import Any

import torch

from ..formula import _words

__all__ = ["log_softmax", "pick", "size", "total"]


def log_softmax(x: Any) -> Any:
    """The row minus the logarithm of its summed exponentials: the log-probability of each class."""
    return torch.log_softmax(x, -1) if isinstance(x, torch.Tensor) else _words(x).log_softmax(x)


def total(x: Any) -> Any:
    """The sum over the row."""
    return x.sum(-1) if isinstance(x, torch.Tensor) else _words(x).total(x)


def size(x: Any) -> Any:
    """The number of classes."""
    return x.shape[-1] if isinstance(x, torch.Tensor) else _words(x).size(x)


def pick(x: Any, k: Any) -> Any:
    """The entry of class k; of a row that all samples share, one for each."""
    if not isinstance(x, torch.Tensor):
        return _words(x).pick(x, k)
    return x[k] if x.dim() == 1 and k.dim() else x.gather(-1, k.unsqueeze(-1)).squeeze(-1)
