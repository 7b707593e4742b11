"""Losses of all pairs of a batch as compositions of torch operations, from the definitions of their papers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def _of_cosines(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a formula of vectors as a function with a reduction and lengths divided out; chunks change no value."""

    @wraps(formula)
    def function(
        *operands: Tensor,
        normalize: bool = True,
        chunk_size: int | None = None,
        reduction: str = "mean",
        **options: Any,
    ) -> Tensor:
        if normalize:
            operands = tuple(x / x.norm(dim=-1, keepdim=True) if x.dim() > 1 else x for x in operands)
            if options.get("negatives") is not None:
                options["negatives"] = options["negatives"] / options["negatives"].norm(dim=-1, keepdim=True)
        values = formula(*operands, **options)
        if reduction == "none":
            return values
        return values[~values.isnan()].mean() if reduction == "mean" else values.nansum()

    return function


def _softmax_loss(scores: Tensor, positive: Tensor) -> Tensor:
    """The cross entropy of the positive of each row."""
    return torch.nn.functional.cross_entropy(scores, positive, reduction="none")


@_of_cosines
def info_nce_loss(
    query: Tensor, key: Tensor, temperature: float = 0.1, negatives: Tensor | None = None, symmetric: bool = False
) -> Tensor:
    """Oord et al. 2018, eq. 4; the negatives are the other keys of the batch, or given."""
    if negatives is not None:
        others = torch.stack([negatives.expand(len(query), *negatives.shape[-2:])[i] @ q for i, q in enumerate(query)])
        scores = torch.cat([(query * key).sum(1, keepdim=True), others], 1)
        return _softmax_loss(scores / temperature, torch.zeros(len(query), dtype=torch.int64))
    scores, own = query @ key.T / temperature, torch.arange(len(query))
    loss = _softmax_loss(scores, own)
    return (loss + _softmax_loss(scores.T, own)) / 2 if symmetric else loss


@_of_cosines
def nt_xent_loss(input1: Tensor, input2: Tensor, temperature: float = 0.5) -> Tensor:
    """Chen et al. 2020, eq. 1: the sum of the denominator leaves out the view itself."""
    z = torch.cat([input1, input2])
    scores = (z @ z.T / temperature).exp()
    others = scores.sum(1) - scores.diagonal()
    partner = torch.arange(len(z)).roll(len(input1))
    return -(scores[torch.arange(len(z)), partner] / others).log()


@_of_cosines
def supcon_loss(input: Tensor, target: Tensor, temperature: float = 0.1) -> Tensor:
    """Khosla et al. 2020, eq. 2, of anchor after anchor; NaN where an anchor has no positive."""
    z = input.reshape(-1, input.shape[-1])
    y = target.repeat_interleave(len(z) // max(len(target), 1))
    values = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        scores = z[others] @ z[i] / temperature
        positives = y[others] == y[i]
        values.append(-torch.log_softmax(scores, 0)[positives].mean() if positives.any() else scores.sum() * math.nan)
    return torch.stack(values).reshape(input.shape[:-1])


@_of_cosines
def clip_loss(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """Radford et al. 2021, figure 3."""
    logits, labels = logit_scale * image @ text.T, torch.arange(len(image))
    return (_softmax_loss(logits, labels) + _softmax_loss(logits.T, labels)) / 2


@_of_cosines
def siglip_loss(image: Tensor, text: Tensor, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
    """Zhai et al. 2023, algorithm 1: labels are 2 on the diagonal less 1 everywhere."""
    logits = image @ text.T * logit_scale + logit_bias
    labels = 2 * torch.eye(len(image), dtype=logits.dtype) - 1
    return -torch.nn.functional.logsigmoid(labels * logits).sum(1)
