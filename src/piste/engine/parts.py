"""Tensors of which each process holds a part: the whole of a part, and the part of a whole."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .layout import is_sharded

__all__ = ["as_spread", "own_part", "whole_of"]


def whole_of(x: Any, spread: Any) -> Tensor:
    """Return the whole tensor; the processes communicate.

    Args:
        x: A DTensor, a part of one, or a tensor that every process holds.
        spread: The DTensor that is divided as the one of which `x` is a part; None if it is not a part.
    """
    if not is_sharded(x):
        if spread is None:
            return x  # type: ignore[no-any-return]
        x = as_spread(x, spread)
    return x.full_tensor()  # type: ignore[no-any-return]


def own_part(x: Tensor, spread: Any) -> Tensor:
    """Return the part of a whole tensor that this process holds, where it is divided as `spread` (None: it is not)."""
    if spread is None:
        return x
    from torch.distributed.tensor import DTensor, Replicate

    mesh = spread.device_mesh
    whole = DTensor.from_local(x, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return whole.redistribute(placements=spread.placements).to_local()


def as_spread(part: Tensor, spread: Any) -> Any:
    """Return the DTensor of a part, with the shape and the placements of another one."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part, spread.device_mesh, spread.placements, run_check=False, shape=spread.shape, stride=spread.stride()
    )
