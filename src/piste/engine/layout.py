"""The memory layout of tensors: equal strides, dense or overlapping elements, complex numbers as pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_PARTS = {torch.complex64: torch.float32, torch.complex128: torch.float64}


def real_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of the real and imaginary parts, or of the tensor itself."""
    return _PARTS.get(x.dtype, x.dtype)


def real_size(x: Tensor) -> int:
    """Count the real numbers of a tensor."""
    return x.numel() * (1 + x.is_complex())


def strides(x: Tensor) -> tuple[int, ...]:
    """Return the strides, with 0 for dimensions of one element."""
    return tuple(stride if size > 1 else 0 for size, stride in zip(x.shape, x.stride(), strict=True))


def dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Return whether the elements fill a contiguous range of memory, in any order."""
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(shape, strides, strict=True) if size != 1):
        if stride != expected and size:
            return False
        expected *= size
    return True


def alike(tensors: Sequence[Tensor]) -> bool:
    """Return whether tensors of one shape are dense and have the same strides, or are empty."""
    first = tensors[0]
    if not first.numel():
        return True
    expected = strides(first)
    return dense(first.shape, expected) and all(strides(x) == expected for x in tensors)


def overlapping(x: Tensor) -> bool:
    """Return whether two elements may share memory."""
    reach = 0
    for stride, size in sorted((stride, size) for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1):
        if stride <= reach:
            return x.numel() > 0
        reach += stride * (size - 1)
    return False


def positions(tensors: Sequence[Tensor]) -> Tensor:
    """Return the place of each element: in memory if the tensors lie alike, and otherwise in row-major order."""
    first = tensors[0]
    places = torch.arange(first.numel(), device=first.device)
    return places.as_strided(first.shape, first.stride()) if alike(tensors) else places.view(first.shape)


def is_sharded(x: Any) -> bool:
    """Return whether a tensor is a DTensor, of which this process holds a part."""
    return hasattr(x, "to_local")
