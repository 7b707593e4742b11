"""State in 8 bits: blocks of 256 numbers, each with the largest magnitude of its block as a float32 scale.

A code c in [-127, 127] stands for scale * sign(c) * (|c| / 127)^4, so that small numbers keep their relative
precision: the smallest is 4e-9 of the scale. A number is rounded to one of the two next codes at random, and is right
in the mean; averages with decay rates near 1 change by less than the distance of two codes in a step. A number other
than 0 never becomes 0, since rules divide by state.

The CPU kernel has the same arithmetic in engine/native/intrinsics.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..formula.rounding import noise

__all__ = ["BLOCK", "NOISE_SEEDS", "SCALE", "blocks_of", "decode", "encode"]

BLOCK = 256
SCALE = "_scale"
"""The end of the checkpoint key of the scales."""
NOISE_SEEDS = ("n_rounding_key", "kept_rounding_step")
"""The inputs of a traced step that seed the noise."""


def blocks_of(size: int) -> int:
    """Return the number of blocks of a tensor."""
    return -(-size // BLOCK)


def decode(codes: Tensor, scales: Tensor, places: Tensor) -> Tensor:
    """Return the numbers that codes stand for, in float32.

    Args:
        codes: The codes, of any shape.
        scales: The scale of each block.
        places: The position of each code, of the same shape.
    """
    y = codes.to(torch.float32) * (1 / 127)
    return scales[places // BLOCK] * (y * y * y * y.abs())


def encode(x: Tensor, places: Tensor, key: Any, step: Any) -> tuple[Tensor, Tensor]:
    """Return the codes of numbers, and the scale of each block."""
    x = x.to(torch.float32)
    size = x.abs()
    scales = torch.zeros(blocks_of(x.numel()), dtype=torch.float32, device=x.device)
    scales.scatter_reduce_(0, (places // BLOCK).reshape(-1), size.reshape(-1), "amax")
    scale = scales[places // BLOCK]
    below = torch.floor(127 * torch.sqrt(torch.sqrt(size / scale)))
    low, high = _fourth(below) * scale, _fourth(below + 1) * scale
    up = (size - low) > noise(key, step, places) * 2.0**-16 * (high - low)
    code = torch.clamp(below + up.to(torch.float32), min=1)  # at most 127, the code of the scale
    return torch.where((size > 0) & (scale < torch.inf), torch.copysign(code, x), 0).to(torch.int8), scales


def _fourth(code: Tensor) -> Tensor:
    y = code * (1 / 127)
    return y * y * (y * y)
