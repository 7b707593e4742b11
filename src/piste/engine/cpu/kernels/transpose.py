"""Transpose a matrix of float32 in blocks of 8 x 8, whose rows are exchanged in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ...native.intrinsics import inline, intrinsic

__all__ = ["transpose"]

_SIDE = 8
_ROW = ir.VectorType(ir.FloatType(), _SIDE)


@inline
def transpose(source, source_stride, target, target_stride, rows, columns):
    """Set target[c, r] = source[r, c]; strides are the distances between rows."""
    if rows < 8 or columns < 8:
        for r in range(rows):
            for c in range(columns):
                target[c * target_stride + r] = source[r * source_stride + c]
    else:
        r = 0
        while r < rows:
            r = r if r + 8 < rows else rows - 8  # the last block overlaps the one before it
            c = 0
            while c < columns:
                c = c if c + 8 < columns else columns - 8
                _transpose_block(
                    source, r * source_stride + c, source_stride, target, c * target_stride + r, target_stride
                )
                c += 8
            r += 8


@intrinsic
def _transpose_block(
    typingctx: Any, source: Any, first: Any, source_stride: Any, target: Any, start: Any, target_stride: Any
) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source_, first_, source_stride_, target_, start_, target_stride_ = args

        def place(pointer: Any, at: Any, stride: Any, k: int) -> Any:
            offset = builder.add(at, builder.mul(stride, stride.type(k)))
            return builder.bitcast(builder.gep(pointer, [offset]), _ROW.as_pointer())

        rows = [builder.load(place(source_, first_, source_stride_, k), align=4) for k in range(_SIDE)]
        for step in (4, 2, 1):
            for k in range(_SIDE):
                if k & step == 0:
                    low = [lane if lane & step == 0 else _SIDE + lane - step for lane in range(_SIDE)]
                    high = [lane + step if lane & step == 0 else _SIDE + lane for lane in range(_SIDE)]
                    a, b = rows[k], rows[k + step]
                    rows[k], rows[k + step] = (
                        builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), _SIDE), mask))
                        for mask in (low, high)
                    )
        for k, row in enumerate(rows):
            builder.store(row, place(target_, start_, target_stride_, k), align=4)
        return context.get_dummy_value()

    return types.void(source, types.int64, types.int64, target, types.int64, types.int64), codegen
