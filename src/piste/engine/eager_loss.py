"""Losses as torch operations: the reference, and the engine for whatever no kernel serves.

The gradient is the formula's own, written down, so that a clamped logarithm gives the gradient it should; and it is
itself made of torch operations, so that a second backward, forward-mode differentiation, `torch.func` and
`torch.compile` go through it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["elementwise", "narrowed", "working_dtype"]


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype a loss is computed in: 16-bit numbers are widened to float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def narrowed(result: Tensor, dtype: torch.dtype) -> Tensor:
    """A result as the dtype of its operands, or as it was computed under autocast, as torch's losses are."""
    if result.dtype == dtype or dtype.is_complex:
        return result
    device = result.device.type
    is_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return result if is_autocast else result.to(dtype)


def elementwise(loss: Any, operands: tuple[Tensor, ...], options: dict[str, Any]) -> Tensor:
    """The loss of each element, by the formulas `loss.value` and `loss.derivatives`."""
    if operands[0].is_complex():  # |z| has a gradient that no formula of real letters states; torch's abs knows it
        return loss.value(*operands, **options)
    function = _Compiled if torch.compiler.is_compiling() else _Elementwise
    return function.apply(loss, options, *operands)


class _Compiled(torch.autograd.Function):
    """The loss as torch.compile can read it, which takes no function that has a `jvp`."""

    @staticmethod
    def forward(loss: Any, options: dict[str, Any], *operands: Tensor) -> Tensor:
        return loss.value(*operands, **options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.loss, ctx.options, *operands = inputs
        ctx.save_for_backward(*operands)
        ctx.save_for_forward(*operands)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        slopes = ctx.loss.derivatives(*ctx.saved_tensors, **ctx.options)
        wanted = ctx.needs_input_grad[2:]
        return None, None, *(grad * s if w else None for s, w in zip(slopes, wanted, strict=True))


class _Elementwise(_Compiled):
    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, _loss: None, _options: None, *tangents: Tensor | None) -> Tensor:
        slopes = ctx.loss.derivatives(*ctx.saved_tensors, **ctx.options)
        parts = [s * t for s, t in zip(slopes, tangents, strict=True) if t is not None]
        return sum(parts[1:], parts[0])
