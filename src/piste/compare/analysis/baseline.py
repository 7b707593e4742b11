"""The baseline: the metric of the best constant prediction, which a candidate that learned something exceeds."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import torch

from ..metrics import METRICS, Metric, scaled

ROUNDING = 1e-12
"""Shares of a baseline nearer to 0 are 0, such as the R2 of the mean."""


def find_baseline(metric: Metric, targets: torch.Tensor) -> tuple[float, str]:
    """Return the best metric that a constant prediction reaches on the validation set.

    The constant is taken from the validation targets themselves, so no model that ignores its input exceeds it.

    Args:
        metric: The metric; a user's own has no known baseline.
        targets: The targets of the validation set.

    Returns:
        The metric and a description of the prediction; NaN and an empty string if there is none.
    """
    function = metric.function
    if isinstance(function, functools.partial) and function.func is scaled:
        function = function.keywords["error"]
    if function not in {known.function for known in METRICS.values()}:
        return math.nan, ""
    found = []
    for constant, meaning in _constants(targets):
        try:
            value = metric.value(constant.expand(len(targets), *constant.shape[1:]), targets)
        except Exception:  # the metric takes another form of output
            continue
        if math.isfinite(value):
            is_rounding = metric.higher_is_better and abs(value) < ROUNDING
            found.append((0.0 if is_rounding else value, meaning))
    best_of = max if metric.higher_is_better else min
    return best_of(found, key=lambda pair: pair[0]) if found else (math.nan, "")


def _constants(targets: torch.Tensor) -> Iterator[tuple[torch.Tensor, str]]:
    """Yield outputs (1, ...) that do not depend on the input, for every form of target that the metrics take."""
    if not targets.is_floating_point():
        known = targets[targets >= 0].long().flatten()
        if len(known):
            classes = max(int(known.max()), 1) + 1
            logits = torch.zeros(1, classes, *targets.shape[1:], dtype=torch.float64, device=targets.device)
            logits[:, int(known.bincount().argmax())] = 1.0
            yield logits, "the most frequent class"
            shares = known.bincount(minlength=classes).double() / len(known)
            shares = shares.clamp_min(torch.finfo(torch.float64).tiny).log().reshape(1, -1, *[1] * (targets.dim() - 1))
            yield shares.expand_as(logits), "the shares of the classes"
        if targets.dtype is not torch.bool:
            return
    values = targets.double()
    if bool(((values == 0) | (values == 1)).all()):  # one-hot classes, or labels
        yield values.mean(0, keepdim=True) - 0.5, "the most frequent label"
        yield values.mean(0, keepdim=True).logit(eps=1e-12), "the shares of the labels"
    yield values.mean(0, keepdim=True), "the mean of the targets"
    yield values.median(0, keepdim=True).values, "the median of the targets"
