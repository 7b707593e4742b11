"""The supervised contrastive loss: vectors of one class belong together among all of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..engine import PairReduction, reduce_pairs
from ..errors import InvalidType, InvalidValue
from ..formula.derive import derivatives_of
from .call import PreparedCall
from .pairs import PAIRS, SCALE, PairLoss, own_column, temperature
from .value_checks import check_same_device, check_tensors, shape_of

__all__ = ["SupConLoss"]


class SupConLoss(PairLoss):
    """-mean log(e^p / sum e^s) of each anchor: p scores the samples of its class, s all others (Khosla et al. 2020).

    The loss L_out of https://arxiv.org/abs/2004.11362. A score is the cosine of two vectors (their product with
    normalize=False) over `temperature`. An anchor without another sample of its class costs 0, and a mean divides by
    the number of anchors that have one; with normalizer="count", by that of all anchors.

    Scores are computed for `chunk_size` anchors at a time, and in the backward pass again. Second derivatives, forward
    mode and torch.func store all of them.

    Shape:
        input: (N, D), or (N, V, D) for V views of each sample, floating. 16-bit floats are computed in float32 and
            rounded once.
        target: (N), the class of each sample, of any integer dtype.
        Returns a 0-dimensional tensor, or with reduction="none" the shape of `input` without D.

    Raises:
        InvalidValue: The temperature is not above 0 (unless check="off"; a tensor on a GPU is not read), or the shapes
            or the devices do not fit.
        InvalidType: The input is not floating, or the target holds no integers.

    Differs from torch: torch has no such loss. pytorch_metric_learning's SupConLoss has the same values; that of the
    paper's authors has those of normalizer="count" and normalize=False.

    Example:
        >>> import torch, piste
        >>> input = torch.tensor([[1., 0.], [1., 1.], [0., 1.], [-1., 1.]])
        >>> piste.losses.SupConLoss(temperature=1.0)(input, torch.tensor([0, 0, 1, 2]))
        tensor(0.7326)
    """

    name, functional_name = "supcon", "supcon_loss"
    options = {"temperature": temperature(0.1), **PAIRS}
    signature = "temperature, reduction, normalize, chunk_size"
    elsewhere = {
        "base_temperature": "Multiply the loss by temperature / base_temperature where they differ.",
        "contrast_mode": 'Every view is an anchor, as with "all".',
    }
    expects = "vectors (N, D) or (N, V, D), and the classes (N) of the samples"
    example = "torch.randn(4, 8), torch.tensor([0, 1, 0, 1])"
    symbols = {
        "p": "the mean score of the anchor and the others of its class",
        "n": "the log-sum-exp of the scores of the anchor and all others",
    }

    def formula(p, n):
        return n - p

    derivatives = derivatives_of(formula)

    @classmethod
    def prepare(
        cls,
        operands: tuple[Any, ...],
        check: str,
        *,
        temperature: Any = 0.1,
        normalize: bool = True,
        chunk_size: int | None = None,
        **options: Any,
    ) -> PreparedCall:
        """Return the mean score of each anchor and its positives, and the log-sum-exp of the scores of all others."""
        x, y = operands
        check_tensors("SupConLoss", cls.arguments, operands)
        check_same_device("SupConLoss", cls.arguments, operands)
        views = x.shape[1] if x.dim() == 3 else 1
        if x.dim() not in (2, 3) or y.shape != x.shape[:1]:
            raise InvalidValue(
                f"SupConLoss: `input` must be (N, D) or (N, V, D) with `target` (N); received {shape_of(x)} and "
                f"{shape_of(y)}. Help: one class for each sample, which its views share."
            )
        if y.is_floating_point() or y.is_complex():
            raise InvalidType(
                f"SupConLoss: `target` must hold classes, of an integer dtype; received {y.dtype}. Help: target.long()."
            )
        (z,) = cls.vectors(("input",), (x.flatten(0, -2),), check, normalize)
        scale = 1 / cls.factor("temperature", SCALE, temperature, z, check)
        p, positives = _mean_score_of_class(z, y.repeat_interleave(views), scale)
        (n,) = reduce_pairs(z, z, scale, None, own_column(z), PairReduction(chunk=chunk_size))
        has_any = positives > 0
        n = torch.where(has_any, n, 0)  # of a batch of one anchor it is -inf
        call = cls.call_of(tuple(x.unflatten(0, operands[0].shape[:-1]) for x in (p, n)), (x,))
        call.weight = has_any.to(z.dtype).unflatten(0, x.shape[:-1])
        call.count, call.weights, call.denominator = has_any.numel, has_any.sum, "weights"
        return call


def _mean_score_of_class(z: Tensor, y: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean score of each vector and the others of its class, and their number, by sums over classes."""
    order = y.argsort()
    is_first = y[order] != y[order].roll(1)
    group = torch.zeros_like(y, dtype=torch.int64).scatter(0, order, is_first.cumsum(0) % y.shape[0])
    # index_select adds the gradients in order, as indexing by a tensor does not.
    sums = torch.zeros_like(z).index_add(0, group, z).index_select(0, group)
    ones = z.new_ones(z.shape[0])
    others = torch.zeros_like(ones).index_add(0, group, ones).index_select(0, group) - 1
    return scale * (z * (sums - z)).sum(-1) / others.clamp_min(1), others
