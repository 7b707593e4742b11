"""Losses as torch operations: the reference, and the backend for calls without a kernel.

The gradient is computed by the stated derivatives, so that a clamped logarithm has the intended gradient. The
derivatives consist of torch operations, so that a second backward, forward-mode differentiation, `torch.func` and
`torch.compile` work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...formula.operations import in_dtype

__all__ = ["cast_result", "compute_dtype", "is_autocast", "rows_of_regions", "values"]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the computation: float32 for 16-bit floats, and otherwise the dtype itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def rows_of_regions(kinds: Sequence[str | None], operands: Sequence[Any]) -> tuple[Any, ...]:
    """Return operands with the rows that the formula takes: probabilities for logits, and labels for class indices.

    Args:
        kinds: The kind of each operand, as in `LossSpec`.
        operands: The operands: logits (..., C, places), and class indices (..., 1, places).
    """
    rows = list(operands)
    for i, kind in enumerate(kinds):
        if kind == "logits":
            rows[i] = operands[i].softmax(-2)
        elif kind == "classes":
            classes = torch.arange(operands[0].shape[-2], device=operands[i].device).unsqueeze(-1)
            rows[i] = (operands[i] == classes).to(operands[0].dtype)
    return tuple(rows)


def cast_result(result: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a result in the dtype of its operands; under autocast in that of the computation, as in torch."""
    if result.dtype == dtype or dtype.is_complex:
        return result
    return result if is_autocast(result.device.type) else result.to(dtype)


def is_autocast(device: str) -> bool:
    """Return whether autocast is on for a type of device."""
    if device in ("cpu", "cuda"):  # torch.compile of PyTorch 2.9 can't trace the other question
        return torch.is_autocast_enabled(device)
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def values(
    formula: Callable[..., Any],
    derivatives: Callable[..., Any] | None,
    operands: tuple[Any, ...],
    options: dict[str, Any],
) -> Tensor:
    """Return the loss of each element or row, with the stated derivatives, or else with autograd's."""
    if (
        derivatives is None or operands[0].is_complex()
    ):  # the derivatives are real, and abs of PyTorch is differentiable
        x = operands[0].real if operands[0].is_complex() else operands[0]
        return in_dtype(x.dtype, formula, *operands, **options)
    if not torch.compiler.is_compiling():
        return _Written.apply(formula, derivatives, options, *operands)
    # torch.compile can trace neither expressions nor a function of which no gradient is wanted.
    is_trained = torch.is_grad_enabled() and any([x.requires_grad for x in operands])
    if hasattr(derivatives, "is_derived") or not is_trained:
        return in_dtype(operands[0].dtype, formula, *operands, **options)
    return in_dtype(operands[0].dtype, _Compiled.apply, formula, derivatives, options, *operands)


def _evaluated(x: Tensor, formula: Callable[..., Any], *operands: Any, **options: Any) -> Any:
    """Return the result of a formula in the dtype of x.

    torch.compile has set that before, as a function of autograd may change nothing outside of itself there.
    """
    if torch.compiler.is_compiling():
        return formula(*operands, **options)
    return in_dtype(x.dtype, formula, *operands, **options)


class _Compiled(torch.autograd.Function):
    """The loss without a `jvp`, which torch.compile can't trace."""

    @staticmethod
    def forward(
        formula: Callable[..., Any], derivatives: Callable[..., Any], options: dict[str, Any], *operands: Tensor
    ) -> Tensor:
        return _evaluated(operands[0], formula, *operands, **options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.derivatives, ctx.options, *operands = inputs
        ctx.save_for_backward(*operands)
        ctx.save_for_forward(*operands)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        slopes = _evaluated(ctx.saved_tensors[0], ctx.derivatives, *ctx.saved_tensors, **ctx.options)
        wanted = ctx.needs_input_grad[3:]
        return (
            None,
            None,
            None,
            *(grad * s if w and s is not None else None for s, w in zip(slopes, wanted, strict=True)),
        )


class _Written(_Compiled):
    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, _formula: None, _derivatives: None, _options: None, *tangents: Tensor | None) -> Tensor:
        slopes = _evaluated(ctx.saved_tensors[0], ctx.derivatives, *ctx.saved_tensors, **ctx.options)
        parts = [s * t for s, t in zip(slopes, tangents, strict=True) if s is not None and t is not None]
        return sum(parts[1:], parts[0])
