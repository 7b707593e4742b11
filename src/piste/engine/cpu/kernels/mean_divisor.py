"""The divisor of a mean over classified rows: the rows that are not ignored, or the sum of their class weights."""

from __future__ import annotations

from typing import Any

from numba import float32, float64, int64

from ...native.intrinsics import pointer, view
from ...native.kernels.math32 import fast_add
from ..tables import LossNumbers, LossTable

INDEX, WEIGHTS = 0, 0  # words of a LossTable: the columns of the class indices and of the weights; 0: no weights
WEIGHT: Any = float32  # the dtype of the weights


def prepare(block):
    """Store the divisor, and its reciprocal as the scale of the gradients."""
    table = view(block, LossTable)
    k, weights = pointer(block[INDEX], int64), pointer(block[WEIGHTS], WEIGHT)
    total, count = 0.0, 0
    for r in range(table.rows):  # without a branch, in any order: it vectorises
        j = k[r]
        is_counted = (j != table.ignored) & (j >= 0) & (j < table.classes)
        if WEIGHTS == 0:
            count += int64(is_counted)
        else:
            weight = float64(weights[j if is_counted else 0])
            total = fast_add(total, weight if is_counted else 0.0)
    total += float64(count)
    numbers = view(table.numbers, LossNumbers)
    numbers.divisor = total
    numbers.scale = 1.0 / total
