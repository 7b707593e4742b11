"""The scores of a finished run by validation example: evidence for how a result varies over examples."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..metrics import Metric

MAX_SCORES = 10_000
"""Scores are kept for all examples of a validation set up to this size, and for a fixed sample of a larger one."""
JACKKNIFE_GROUPS = 50
"""The number of groups of examples that are left out in turn for a metric that is not a mean over examples."""

MIN_GROUP_SIZE = 4
"""The least mean size of a group where the groups are given by the numbers of the examples."""
HASH_FACTOR, HASH_RANGE = 2_654_435_769, 2**32
"""The multiplicative hash of a number (Knuth), which spreads neighbours evenly over the groups."""


def example_scores(
    metric: Metric, output: torch.Tensor, target: torch.Tensor, examples: torch.Tensor | None = None
) -> tuple[list[float], list[int]]:
    """Return the score of every validation example, rounded to float32, and the numbers of the examples.

    A metric that is a single number (AUC, F1) has no score for an example. Its place is taken by the pseudo-values of
    the delete-a-group jackknife (Kott 2001): with G groups of examples, metric m, and m_g without group g, they are
    G m - (G - 1) m_g. Their mean varies over examples as the metric does.

    Args:
        metric: The metric.
        output: The outputs for the validation set.
        target: Its targets.
        examples: The numbers of the examples, where seeds have splits of their own.

    Returns:
        At most MAX_SCORES scores, or one pseudo-value for each group; then the numbers of their examples, empty
        without `examples` and for pseudo-values. The sample and the groups depend on the size of the validation set,
        or on the numbers of its examples, alone, so that they are the same for every run with the same validation set,
        and an example belongs to the same group in every split. Empty if the metric can't be computed without a group.
    """
    scores = metric.scores(output, target)
    if scores.dim():
        return sampled_scores(scores, examples)
    count = len(target)
    if examples is None:
        groups = min(JACKKNIFE_GROUPS, count)
        group = torch.randperm(count, generator=torch.Generator().manual_seed(0)) % max(groups, 1)
    else:
        groups = min(JACKKNIFE_GROUPS, count // MIN_GROUP_SIZE)
        group = examples * HASH_FACTOR % HASH_RANGE * groups // HASH_RANGE
    if groups < 2:
        return [], []
    values = []
    for g in range(groups):
        kept = (group != g).nonzero().flatten()
        try:
            without = float(metric.scores(output[kept.to(output.device)], target[kept.to(target.device)]))
        except Exception:  # such as AUC of a single class
            return [], []
        values.append(groups * float(scores) - (groups - 1) * without)
    return (_rounded(values) if all(map(math.isfinite, values)) else []), []


def sampled_scores(scores: torch.Tensor, examples: torch.Tensor | None = None) -> tuple[list[float], list[int]]:
    """Return the scores of all examples, or of a fixed sample of more than MAX_SCORES, and the examples' numbers.

    There are none for a single number, nor where only some of numbered examples have a score.
    """
    if not scores.dim() or (examples is not None and len(examples) != len(scores)):
        return [], []
    if len(scores) > MAX_SCORES:
        order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))
        kept = order[:MAX_SCORES].sort().values
        scores, examples = scores[kept], None if examples is None else examples[kept]
    return _rounded(scores.tolist()), [] if examples is None else examples.tolist()


def _rounded(values: list[float]) -> list[float]:
    """Return the nearest float32 numbers, which storing keeps exactly."""
    rounded: list[float] = np.asarray(values, np.float32).tolist()
    return rounded
