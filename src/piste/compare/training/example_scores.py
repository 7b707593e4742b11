"""The scores of a finished run by validation example: evidence for how a result varies over examples."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch

from ..metrics import Metric

MAX_SCORES = 10_000
"""Scores are kept for all examples of a validation set up to this size, and for a fixed sample of a larger one."""
JACKKNIFE_GROUPS = 50
"""The number of groups of examples that are left out in turn for a metric that is not a mean over examples."""


def example_scores(metric: Metric, output: torch.Tensor, target: torch.Tensor) -> list[float]:
    """Return the score of every validation example, rounded to float32.

    A metric that is a single number (AUC, F1) has no score for an example. Its place is taken by the pseudo-values of
    the delete-a-group jackknife (Kott 2001): with G groups of examples, metric m, and m_g without group g, they are
    G m - (G - 1) m_g. Their mean varies over examples as the metric does.

    Args:
        metric: The metric.
        output: The outputs for the validation set.
        target: Its targets.

    Returns:
        At most MAX_SCORES scores, or one pseudo-value for each group. The examples and the groups depend on the size
        of the validation set alone, so that they are the same for every run. Empty if the metric can't be computed
        without a group.
    """
    scores = metric.scores(output, target)
    if scores.dim():
        return sampled_scores(scores)
    count = len(target)
    groups = min(JACKKNIFE_GROUPS, count)
    if groups < 2:
        return []
    generator = torch.Generator().manual_seed(0)
    group = torch.randperm(count, generator=generator) % groups
    values = []
    for g in range(groups):
        kept = (group != g).nonzero().flatten()
        try:
            without = float(metric.scores(output[kept.to(output.device)], target[kept.to(target.device)]))
        except Exception:  # such as AUC of a single class
            return []
        values.append(groups * float(scores) - (groups - 1) * without)
    return _rounded(values) if all(map(math.isfinite, values)) else []


def sampled_scores(scores: torch.Tensor) -> list[float]:
    """Return the scores of all examples, or of a fixed sample of more than MAX_SCORES; none for a single number."""
    if not scores.dim():
        return []
    if len(scores) > MAX_SCORES:
        order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))
        scores = scores[order[:MAX_SCORES].sort().values]
    return _rounded(scores.tolist())


def _rounded(values: list[float]) -> list[float]:
    """Return the nearest float32 numbers, which storing keeps exactly."""
    rounded: list[float] = np.asarray(values, np.float32).tolist()
    return rounded


def pack_scores(scores: Sequence[float]) -> str:
    """Scores as text: little-endian float32, compressed with zlib, in base64.

    >>> unpack_scores(pack_scores([1.0, 0.5]))
    [1.0, 0.5]
    """
    return base64.b64encode(zlib.compress(np.asarray(scores, "<f4").tobytes(), 9)).decode()


def unpack_scores(text: str) -> list[float]:
    """Return the scores that `pack_scores` packed."""
    scores: list[float] = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f4").tolist()
    return scores
