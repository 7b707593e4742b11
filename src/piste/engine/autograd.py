"""The autograd function of losses: gradients that were computed with the loss, or by torch operations.

A kernel computes the gradients for an incoming gradient of 1, the usual one. Another incoming gradient takes a pass
over them. A second backward and transforms differentiate torch operations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import Unsupported
from ..formula.evaluate import evaluate_gradient
from ..formula.operations import in_dtype
from ..torch_internals import apply_of, direct_backward, in_transform, is_batched, is_compiler_on, outside_of_compiler
from ..translation import translate
from .backend import Computed, LossKernel
from .eager.loss import compute_dtype, rows_of_regions
from .loss_trace import trace_rows
from .specs import NO_IGNORE_INDEX, LossArguments, LossKernelSpec

__all__ = ["record"]

_is_grad_enabled = torch.is_grad_enabled

_traced = functools.lru_cache(maxsize=512)(trace_rows)


class _Loss(torch.autograd.Function):
    """A loss with its gradients; autograd keeps the operands for a repeated backward."""

    @staticmethod
    def forward(ctx: Any, call: tuple[LossKernel, LossArguments, Sequence[Tensor], Computed], *by: Tensor) -> Tensor:
        kernel, arguments, operands, (out, gradients) = call
        ctx.of = [kernel, arguments, gradients]
        if not arguments.in_place:
            divisor = arguments.divisor_tensor  # autograd notices where it changes before the backward pass
            ctx.save_for_backward(*operands, *(() if divisor is None else (divisor,)))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return (_backward_outside if is_compiler_on() else _backward)(ctx, grad)


def _backward(ctx: Any, grad: Tensor) -> Any:
    """Return the gradients of a call for an incoming gradient."""
    kernel, arguments, gradients = of = ctx.of
    of[2] = None
    if gradients is not None and not _is_grad_enabled() and kernel.is_one(grad):
        return None, *gradients
    if arguments.in_place:
        return None, *kernel.multiply(_once(gradients, grad), grad)
    # Under vmap or with `is_grads_batched`, one tensor holds several gradients.
    if _is_grad_enabled() or in_transform() or is_batched(grad):
        grad = grad if kernel.is_sum or kernel.spec.derivatives is not None else grad.unsqueeze(-1)
        return None, *[grad * slope for slope in gradients_eagerly(kernel.spec, _operands(ctx), arguments)]
    if gradients is None:  # `retain_graph` allows a second backward
        _, gradients = kernel.compute(_operands(ctx), arguments)
    return None, *kernel.scale(gradients, grad, lambda: _operands(ctx), arguments)


_backward_outside = outside_of_compiler(
    _backward, translate("The gradients of a loss are computed by its kernel, outside of the compiled backward pass.")
)
"""For compiled autograd, which would hand tensors without memory to a kernel."""


def _operands(ctx: Any) -> Sequence[Tensor]:
    """Return the operands of a call; raise where they or the denominator were changed in place since then."""
    saved: Sequence[Tensor] = ctx.saved_tensors
    return saved if ctx.of[1].divisor_tensor is None else saved[:-1]


def _once(gradients: tuple[Tensor, ...] | None, grad: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients that replaced an operand; raise where the operand is needed again."""
    if gradients is None or _is_grad_enabled() or in_transform() or is_batched(grad):
        raise Unsupported(
            "`inplace=True` allows one backward pass, of a single gradient and without create_graph=True, since the "
            "gradient has replaced `input`. Help: inplace=False."
        )
    return gradients


record = apply_of(direct_backward(_Loss))
"""Add a loss to the graph: `record((kernel, arguments, operands, computed), *operands_with_gradient)`."""


def gradients_eagerly(spec: LossKernelSpec, operands: Sequence[Tensor], arguments: LossArguments) -> list[Tensor]:
    """Return the gradients of a reduced loss as torch operations."""
    inputs = [x.to(compute_dtype(x.dtype)) for x in operands]
    if spec.derivatives is None:
        return _row_gradients(spec, inputs, arguments)
    elements = [x for x, c in zip(inputs, spec.operands, strict=True) if c.kind == "element"]
    found = in_dtype(inputs[0].dtype, spec.derivatives, *elements, **dict(spec.options))
    found = [s for s, is_wanted in zip(found, spec.wanted, strict=False) if is_wanted]
    if spec.operands[-1].kind == "weight":
        found = [s * inputs[-1] for s in found]
    return (
        [s / _given_divisor(arguments, inputs[0].numel(), inputs[0].device) for s in found]
        if spec.mode == "sum"
        else found
    )


def _row_gradients(spec: LossKernelSpec, inputs: list[Tensor], arguments: LossArguments) -> list[Tensor]:
    ignored = arguments.ignored
    divisor = _given_divisor(arguments, math.prod(inputs[0].shape[:-1]), inputs[0].device)
    named = dict(
        zip((c.name for c in spec.operands), rows_of_regions([c.kind for c in spec.operands], inputs), strict=True)
    )
    keep: Tensor | None = None
    for c in spec.operands:
        if c.kind == "index" and ignored != NO_IGNORE_INDEX:
            k = named[c.name]
            keep = k != ignored
            named[c.name] = k = torch.where(keep, k, 0)
            if spec.divisor == "count":
                divisor = keep.sum()
            elif spec.divisor == "weights":
                divisor = torch.where(keep, inputs[-1][k], 0).sum()
        elif c.kind == "index" and spec.divisor == "weights":
            divisor = inputs[-1][named[c.name]].sum()
    found = []
    for column, slope in zip(spec.grad_operands, _traced(spec)[1], strict=True):
        made = evaluate_gradient(slope, named, named[column.name])
        if column.kind == "logits":
            p = named[column.name]
            made = p * (made - (p * made).sum(-2, keepdim=True))
        made = made if keep is None else torch.where(keep.unsqueeze(-1), made, 0)
        found.append(made / divisor if spec.mode == "sum" else made)
    return found


def _given_divisor(arguments: LossArguments, count: int, device: torch.device) -> Any:
    """Return the denominator in the arguments of a call, or the number of elements or rows."""
    by = arguments.divisor_tensor
    return arguments.divisor or count if by is None else by.to(device, non_blocking=True)
