"""Rounding to 16-bit floats, to the nearest or at random, and the random numbers for it.

The numbers are a hash of a key, a step and a position: they depend on no thread, device or call before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["noise", "on_float", "to_nearest", "to_neighbour"]

_WORD = 0xFFFFFFFF
_SALT = 0x9E3779B9
_LOST_BITS = {torch.bfloat16: 16, torch.float16: 13}  # of a float32, where the result is a normal number
_FLOAT16_TINY, _FLOAT16_STEP = 2.0**-14, 2.0**-24  # the smallest normal number, and the distance of smaller ones
_FLOAT16_MAX = 65504.0


def to_nearest(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Return a function that rounds to the nearest number of a dtype, and keeps the dtype of its argument."""

    def rounded(x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() and x.dtype == torch.float32:
            return _nearest_by_bits(x, dtype)
        return x.to(dtype).to(x.dtype)

    return rounded


def _nearest_by_bits(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float32 to the nearest number of a dtype by its bits.

    The code of torch.compile leaves out a conversion to 16 bits and back.
    """
    lost = _LOST_BITS[dtype]
    bits = x.view(torch.int32)
    odd = (bits >> lost) & 1  # a number in the middle goes to the even neighbour
    result = ((bits + ((1 << (lost - 1)) - 1) + odd) & -(1 << lost)).view(torch.float32)
    if dtype == torch.float16:
        result = torch.where(result.abs() > _FLOAT16_MAX, torch.copysign(torch.full_like(x, torch.inf), x), result)
        steps = torch.round(x * (1 / _FLOAT16_STEP))  # which rounds to even
        result = torch.where(x.abs() < _FLOAT16_TINY, torch.copysign(steps * _FLOAT16_STEP, x), result)
    return torch.where(x != x, x, result)


def to_neighbour(dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function that rounds float32 to one of the two nearest numbers of a dtype.

    The second argument is a whole number in [0, 65536). If it is uniform, the mean of the result is the argument.
    """
    lost = _LOST_BITS[dtype]

    def rounded(x: Tensor, r: Tensor) -> Tensor:
        bits = x.view(torch.int32) + (r.to(torch.int32) >> (16 - lost))
        result = (bits & -(1 << lost)).view(torch.float32)
        if dtype == torch.float16:
            steps = torch.floor(x.abs() * (1 / _FLOAT16_STEP) + r * 2.0**-16)
            result = torch.where(x.abs() < _FLOAT16_TINY, torch.copysign(steps * _FLOAT16_STEP, x), result)
        return torch.where(x != x, x, result)

    return rounded


def noise(key: Any, step: Any, position: Any) -> Tensor:
    """Return whole numbers in [0, 65536) as float32: a hash of three whole numbers.

    Args:
        key: The key, in [0, 2^24).
        step: The step, in [0, 2^24).
        position: The places of the elements.
    """
    key, step, position = (
        torch.as_tensor(x, dtype=torch.int64, device=getattr(x, "device", "cpu")) for x in (key, step, position)
    )
    first = _mixed(_mixed(key + _SALT) ^ step)
    second = _mixed(first + _SALT)
    return (_mixed(_mixed(position ^ first) + second) >> 16).to(torch.float32)


def _mixed(x: Tensor) -> Tensor:
    """Return the finalizer of MurmurHash3 of the low 32 bits, a bijection of 32-bit words."""
    x = x & _WORD
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _WORD
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _WORD
    return _stored(x ^ (x >> 16))


def _stored(x: Tensor) -> Tensor:
    """Return a number that the code of torch.compile stores before it goes on.

    A compiler writes the expression of a number wherever it is used. A hash uses each of its numbers twice, and would
    be an expression of thousands of operations, which takes a minute for each parameter.
    """
    is_plain = torch.compiler.is_compiling() and type(x) is Tensor
    return x.as_strided(x.shape, x.stride()) if is_plain else x


def on_float(function: Callable[..., Tensor]) -> Callable[..., float]:
    """Return a function of tensors as one of Python's floats, which are rounded to float32 first."""
    return lambda *args: float(function(*(torch.tensor(x, dtype=torch.float32, device="cpu") for x in args)))
