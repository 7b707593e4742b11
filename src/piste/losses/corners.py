"""The slope of a hinge max(0, z) at its corner z = 0, where the installed torch decides.

PyTorch computes these losses with `torch.clamp`. Its gradient at the bound is 1 up to torch 2.13, and 0 from 2.14 on.
Both are subgradients. Piste follows the installed torch, so that a changed import changes no gradient.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["above", "below"]

CLAMP_IS_FLAT_AT_ITS_BOUND = torch.__version__ >= "2.14"  # a TorchVersion: compared as versions, not as text


def below(z: Any, bound: Any) -> Any:
    """Return whether `z` lies on the flat side of a hinge with its corner at `bound`."""
    return z <= bound if CLAMP_IS_FLAT_AT_ITS_BOUND else z < bound


def above(z: Any, bound: Any) -> Any:
    """Return whether `z` lies on the steep side of a hinge with its corner at `bound`."""
    return z > bound if CLAMP_IS_FLAT_AT_ITS_BOUND else z >= bound
