"""Torch's loss of a name, or the composition of its operations for a loss that torch lacks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import composed, pairs, regions


def reference(name: str) -> Callable[..., Tensor]:
    """Return the function of a name, such as "mse_loss"."""
    modules = (torch.nn.functional, composed, regions, pairs)
    return next(getattr(module, name) for module in modules if hasattr(module, name))
