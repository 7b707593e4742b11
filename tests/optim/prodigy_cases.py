"""What the tests of Prodigy share: options, gradients, and the numbers of a group."""

from __future__ import annotations

import torch

EARLY = {"d0": 1e-2, "betas": (0.5, 0.75)}  # of which a few steps move weights and estimate


def names(d):
    """Return the numbers of a group that follow from sums, as floats."""
    return {name: float(d[name]) for name in ("d", "d_max", "d_numerator", "k")}


def gradient_of(t, shape):
    """Return gradients that mostly agree from step to step, so that the estimate grows."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(t), dtype=torch.float64) / 2 - 1
