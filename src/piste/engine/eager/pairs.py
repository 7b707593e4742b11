"""Reductions over the scores of all pairs of vectors, in chunks: the matrix of scores is never stored whole.

The scores of rows a and columns b are scale * (a b^T) + bias. The forward pass computes them for a few rows at a time,
and keeps the reductions; the backward pass computes the same chunks again and adds their gradients. Further
derivatives, `torch.func`, forward mode and `torch.compile` differentiate torch operations on the whole matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ...torch_internals import in_transform, is_batched, is_rewriting
from .loss import is_autocast

__all__ = ["LARGEST_CHUNK", "PairReduction", "full_precision", "reduce_pairs"]

LARGEST_CHUNK = 2**22
"""The number of scores that are computed together, unless a call states its number of rows."""


class PairReduction(NamedTuple):
    """The reduction of the scores of each row.

    Attributes:
        kind: The log-sum-exp of the scores, or the sum of their softplus.
        both: Whether the scores of each column are reduced too.
        chunk: The number of rows that are computed together; None for LARGEST_CHUNK scores.
    """

    kind: Literal["log_sum_exp", "softplus"] = "log_sum_exp"
    both: bool = False
    chunk: int | None = None

    def chunks(self, rows: int, columns: int) -> Iterator[slice]:
        """Yield the rows of each chunk; for sizes that stand for several, whose tensors have no values, all rows."""
        if not isinstance(rows, int):
            return iter([slice(0, rows)])
        size = self.chunk or max(1, LARGEST_CHUNK // max(columns, 1))
        return (slice(start, start + size) for start in range(0, rows, size))


def reduce_pairs(
    a: Tensor, b: Tensor, scale: Tensor, bias: Tensor | None, excluded: Tensor | None, how: PairReduction
) -> tuple[Tensor, ...]:
    """Return the reduction of the scores of each row, and with `how.both` also that of each column.

    Args:
        a: The vectors of the rows (N, D).
        b: The vectors of the columns (M, D), in the dtype of `a`.
        scale: A 0-dimensional tensor.
        bias: A 0-dimensional tensor, or None.
        excluded: The columns (N, K) that are left out of each row, or None.
        how: The reduction.

    Returns:
        Tensors (N,) and (M,). The log-sum-exp of no scores is -inf, and the sum of their softplus 0.

    Example:
        >>> import torch
        >>> a, b, one = torch.zeros(2, 3), torch.ones(4, 3), torch.tensor(1.0)
        >>> reduce_pairs(a, b, one, None, None, PairReduction())
        (tensor([1.3863, 1.3863]),)
    """
    with full_precision(a):
        if is_rewriting():
            return _reduce_whole(how, a, b, scale, bias, excluded)
        made: Any = _InChunks.apply(a, b, scale, bias, excluded, how)
    return made if how.both else (made,)


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which autocast narrows no product."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if is_autocast(device) else nullcontext()


def _reduce_whole(
    how: PairReduction, a: Tensor, b: Tensor, scale: Tensor, bias: Tensor | None, excluded: Tensor | None
) -> tuple[Tensor, ...]:
    s = scale * (a @ b.T)
    s = s if bias is None else s + bias
    s = s if excluded is None else s.scatter(1, excluded, -math.inf)
    dims = (1, 0) if how.both else (1,)
    if how.kind == "softplus":
        return tuple(_softplus(s).sum(dim) for dim in dims)
    return tuple(s.logsumexp(dim) for dim in dims)


def _softplus(s: Tensor) -> Tensor:
    return -torch.nn.functional.logsigmoid(-s)  # F.softplus rounds above 20


class _InChunks(torch.autograd.Function):
    """The reduction of one chunk of rows after the other."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        excluded: Tensor | None,
        how: PairReduction,
    ) -> Any:
        is_log = how.kind == "log_sum_exp"
        rows, columns = a.new_empty(a.shape[0]), a.new_full((b.shape[0],), -math.inf if is_log else 0.0)
        for chunk in how.chunks(a.shape[0], b.shape[0]):
            s = _scores(a, b, scale, bias, excluded, chunk)
            if is_log:
                rows[chunk] = s.logsumexp(1)
                columns = torch.logaddexp(columns, s.logsumexp(0)) if how.both else columns
            else:
                s = _softplus(s)
                rows[chunk] = s.sum(1)
                columns = columns + s.sum(0) if how.both else columns
        ctx.how = how
        ctx.save_for_backward(a, b, scale, bias, excluded, rows, columns)
        return (rows, columns) if how.both else rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        *operands, rows, columns = ctx.saved_tensors
        with full_precision(rows):
            if torch.is_grad_enabled() or in_transform() or any(map(is_batched, grads)):
                return (*_gradients_of_whole(operands, ctx.how, ctx.needs_input_grad, grads), None)
            return *_gradients(operands, ctx.how, rows, columns, grads, ctx.needs_input_grad[1]), None, None


def _scores(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor | None, excluded: Tensor | None, chunk: slice) -> Tensor:
    s = (a[chunk] @ b.T).mul_(scale)
    if bias is not None:
        s.add_(bias)
    return s if excluded is None else s.scatter_(1, excluded[chunk], -math.inf)


def _gradients(
    operands: list[Any], how: PairReduction, rows: Tensor, columns: Tensor, grads: tuple[Tensor, ...], wants_b: bool
) -> tuple[Any, ...]:
    """Return the gradients by a, b, scale and bias, chunk by chunk."""
    a, b, scale, bias, excluded = operands
    by_a, by_b = torch.empty_like(a), torch.zeros_like(b) if wants_b else None
    by_bias = None if bias is None else torch.zeros_like(bias)
    # Without scores the log-sum-exp is -inf, and each exp(score - log-sum-exp) is to be 0.
    rows, columns = (torch.where(x == -math.inf, 0, x) for x in (rows, columns))
    for chunk in how.chunks(a.shape[0], b.shape[0]):
        s = _scores(a, b, scale, bias, excluded, chunk)
        if how.kind == "log_sum_exp":
            w = (s - rows[chunk, None]).exp_().mul_(grads[0][chunk, None])
            if how.both:
                w += s.sub_(columns).exp_().mul_(grads[1])
        else:
            w = s.sigmoid_().mul_(grads[0][chunk, None] + grads[1] if how.both else grads[0][chunk, None])
        by_a[chunk] = w @ b
        if by_b is not None:
            by_b.addmm_(w.T, a[chunk])
        if by_bias is not None:
            by_bias += w.sum()
    by_scale = (by_a * a).sum().to(scale.dtype)
    return by_a.mul_(scale), None if by_b is None else by_b.mul_(scale), by_scale, by_bias


def _gradients_of_whole(
    operands: list[Any], how: PairReduction, wanted: tuple[bool, ...], grads: tuple[Tensor, ...]
) -> list[Tensor | None]:
    """Return the gradients as torch operations, which can be differentiated again."""
    with torch.enable_grad():
        operands = [None if x is None else x.view_as(x) for x in operands]  # rows and columns may be one tensor
        inputs = [x for x, is_wanted in zip(operands, wanted, strict=False) if is_wanted]
        outputs = _reduce_whole(how, *operands)
    found = iter(torch.autograd.grad(outputs, inputs, grads, create_graph=torch.is_grad_enabled()))
    return [next(found) if is_wanted else None for is_wanted in wanted[: len(operands)]]
