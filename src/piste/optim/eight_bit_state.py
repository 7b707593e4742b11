"""State in 8 bits, also of sharded parameters: a process holds the blocks of its part."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..engine import BLOCK, as_spread, blocks_of, decode_eight_bits, is_sharded, positions

__all__ = ["decode_codes", "first_codes", "lies_in_blocks"]


def lies_in_blocks(p: Any) -> bool:
    """Return whether the parts of a sharded parameter have whole blocks."""
    parts = 1
    for place, size in zip(p.placements, p.device_mesh.shape, strict=True):
        if place.is_replicate():
            continue
        if parts > 1 or not place.is_shard(0):
            return False
        parts = size
    return parts == 1 or (p.shape[0] % parts == 0 and p.numel() % (BLOCK * parts) == 0)


def first_codes(p: Any, start: float) -> tuple[Tensor, Tensor]:
    """Return the codes and scales of a buffer that holds one number everywhere, spread as the parameter is."""
    codes = torch.full_like(p, int(math.copysign(127, start)) if start else 0, dtype=torch.int8)
    blocks, scale = blocks_of(p.numel()), abs(start)
    if is_sharded(p):
        from torch.distributed.tensor import full

        spread = {"device_mesh": p.device_mesh, "placements": p.placements}
        return codes, full((blocks,), scale, dtype=torch.float32, **spread)
    return codes, torch.full((blocks,), scale, device=p.device, dtype=torch.float32)


def decode_codes(codes: Any, scales: Any) -> Tensor:
    """Return the numbers of a buffer in float32, spread as its codes are."""
    if not is_sharded(codes):
        return decode_eight_bits(codes, scales, positions([codes]))
    part = codes.to_local()
    return as_spread(decode_eight_bits(part, scales.to_local(), positions([part])), codes)  # type: ignore[no-any-return]
