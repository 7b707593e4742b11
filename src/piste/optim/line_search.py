"""A line search for the strong Wolfe conditions (Nocedal and Wright 2006, algorithms 3.5 and 3.6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

__all__ = ["Point", "find_wolfe_point"]

DECREASE, CURVATURE = 1e-4, 0.9
"""c1 and c2 of the conditions: how much of the predicted decrease, and of the slope at the start, is accepted."""


class Point(NamedTuple):
    """A point on the line.

    Attributes:
        t: the distance from the start, in units of the direction.
        loss: the loss there.
        gradient: the gradient there.
        slope: the derivative of the loss by t.
    """

    t: float
    loss: float
    gradient: Tensor
    slope: float


def find_wolfe_point(
    evaluate: Callable[[float], Point], start: Point, t: float, reach: float, tolerance: float, limit: int
) -> tuple[Point, int]:
    """Search a point that satisfies the strong Wolfe conditions.

    Args:
        evaluate: Returns the point at a distance.
        start: The point at distance 0.
        t: The first distance that is tried.
        reach: The largest change of a parameter for t = 1.
        tolerance: The search ends where no parameter would change by more.
        limit: The largest number of evaluations after the first.

    Returns:
        The point, or the lowest one found, and the number of evaluations.
    """
    before, trial, used = start, evaluate(t), 0

    def is_high(point: Point) -> bool:
        return point.loss > start.loss + DECREASE * point.t * start.slope

    def is_flat(point: Point) -> bool:
        return abs(point.slope) <= -CURVATURE * start.slope

    while used < limit:
        if is_high(trial) or (used > 1 and trial.loss >= before.loss):
            ends = [before, trial]
            break
        if is_flat(trial):
            return trial, used + 1
        if trial.slope >= 0:
            ends = [before, trial]
            break
        farther = _cubic_minimum(before, trial, trial.t + 0.01 * (trial.t - before.t), trial.t * 10)
        before, trial, used = trial, evaluate(farther), used + 1
    else:
        ends = [start, trial]
    low = _lower(ends)
    has_stalled = False
    while used < limit and not abs(ends[1].t - ends[0].t) * reach < tolerance:
        left, right = sorted((ends[0].t, ends[1].t))
        t, margin = _cubic_minimum(ends[0], ends[1], left, right), 0.1 * (right - left)
        is_near_an_end = min(right - t, t - left) < margin
        if is_near_an_end and (has_stalled or t >= right or t <= left):
            t = right - margin if abs(t - right) < abs(t - left) else left + margin
            has_stalled = False
        else:
            has_stalled = is_near_an_end
        trial, used = evaluate(t), used + 1
        if is_high(trial) or trial.loss >= ends[low].loss:
            ends[1 - low] = trial
            low = _lower(ends)
            continue
        if is_flat(trial):
            return trial, used + 1
        if trial.slope * (ends[1 - low].t - ends[low].t) >= 0:
            ends[1 - low] = ends[low]
        ends[low] = trial
    return ends[low], used + 1


def _lower(ends: list[Point]) -> int:
    return 0 if ends[0].loss <= ends[1].loss else 1


def _cubic_minimum(a: Point, b: Point, low: float, high: float) -> float:
    """Return the minimum of the cubic through two points with their slopes, within bounds; or the middle of these."""
    left, right = (a, b) if a.t <= b.t else (b, a)
    try:
        mean = left.slope + right.slope - 3 * (left.loss - right.loss) / (left.t - right.t)
        square = mean * mean - left.slope * right.slope
        root = math.sqrt(square) if square >= 0 else math.nan
        share = (right.slope + root - mean) / (right.slope - left.slope + 2 * root)
    except ZeroDivisionError:
        share = math.nan
    if math.isnan(share):
        return (low + high) / 2
    return min(max(right.t - (right.t - left.t) * share, low), high)
