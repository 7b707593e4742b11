"""Losses of images and their texts among all of a batch: CLIP and SigLIP."""

from __future__ import annotations

from typing import Any

from ..engine import PairReduction, reduce_pairs
from ..formula.words import sigmoid
from .call import PreparedCall
from .pairs import BIAS, PAIRS, SCALE, PairLoss, own_column
from .words import one_like, softplus

__all__ = ["CLIPLoss", "SigLIPLoss"]


class CLIPLoss(PairLoss):
    """The mean cross entropy of finding the text of an image in a batch, and the image of a text (Radford et al. 2021).

    From https://arxiv.org/abs/2103.00020. A score is the cosine of image and text (their product with normalize=False)
    times `logit_scale`; the loss of a pair is the mean of both cross entropies. A mean divides by the number of pairs.

    Scores are computed for `chunk_size` images at a time, once for both directions, and in the backward pass again.
    Second derivatives, forward mode and torch.func store all of them.

    Shape:
        image: (N, D), floating. 16-bit floats are computed in float32 and rounded once.
        text: That of `image`.
        logit_scale: A number, or a tensor of one number, which takes a gradient: the exponential of the parameter.
        Returns a 0-dimensional tensor, or (N) with reduction="none".

    Raises:
        InvalidValue: A batch of one pair has no negatives, the scale is not above 0 (both unless check="off"; a tensor
            on a GPU is not read), or the shapes or the devices do not fit.
        InvalidType: An operand is no floating tensor.

    Differs from torch: torch has no such loss. open_clip's ClipLoss has the same operands and values on one process,
    of vectors of length 1.

    Example:
        >>> import torch, piste
        >>> image, text = torch.tensor([[1., 0.], [0., 1.]]), torch.tensor([[1., 1.], [0., 2.]])
        >>> piste.losses.CLIPLoss()(image, text, torch.tensor(10.))
        tensor(0.1865)
    """

    name, functional_name = "clip", "clip_loss"
    arguments, argument_types = ("image", "text", "logit_scale"), {"logit_scale": "float | Tensor"}
    options = PAIRS
    signature = "reduction, normalize, chunk_size"
    expects = "vectors of images and of their texts, both (N, D), and the factor of their cosines"
    example = "torch.randn(4, 8), torch.randn(4, 8), torch.tensor(14.3)"
    symbols = {
        "p": "the score of image and text",
        "n": "the log-sum-exp of the scores of the image and the other texts",
        "m": "that of the text and the other images",
    }

    def formula(p, n, m):
        z, u = n - p, m - p
        return (softplus(z) + softplus(u)) / 2

    def derivatives(p, n, m):
        s, r = sigmoid(n - p), sigmoid(m - p)
        return -(s + r) / 2, s / 2, r / 2

    @classmethod
    def prepare(
        cls,
        operands: tuple[Any, ...],
        check: str,
        *,
        normalize: bool = True,
        chunk_size: int | None = None,
        **options: Any,
    ) -> PreparedCall:
        """Return the score of each pair, and the log-sum-exp of those of the other texts and of the other images."""
        *vectors, logit_scale = operands
        a, b = cls.vectors(cls.arguments[:2], tuple(vectors), check, normalize)
        cls.check_has_negatives(cls.arguments, a, check)
        scale = cls.factor("logit_scale", SCALE, logit_scale, a, check)
        how = PairReduction(both=True, chunk=chunk_size)
        p = scale * (a * b).sum(-1)
        return cls.call_of((p, *reduce_pairs(a, b, scale, None, own_column(a), how)), tuple(vectors))


class SigLIPLoss(PairLoss):
    """-log sigmoid(p) - sum log sigmoid(-s) of each image: p scores its text, s the other texts (Zhai et al. 2023).

    From https://arxiv.org/abs/2303.15343. A score is the cosine of image and text (their product with normalize=False)
    times `logit_scale`, plus `logit_bias`. A mean divides by the number of images, not of pairs.

    Scores are computed for `chunk_size` images at a time, and in the backward pass again. Second derivatives, forward
    mode and torch.func store all of them.

    Shape:
        image: (N, D), floating. 16-bit floats are computed in float32 and rounded once.
        text: That of `image`.
        logit_scale, logit_bias: Numbers, or tensors of one number, which take gradients. The scale is the exponential
            of the parameter.
        Returns a 0-dimensional tensor, or (N) with reduction="none".

    Raises:
        InvalidValue: The scale is not above 0 or the bias not finite (both unless check="off"; a tensor on a GPU is not
            read), or the shapes or the devices do not fit.
        InvalidType: An operand is no floating tensor.

    Differs from torch: torch has no such loss. open_clip's SigLipLoss has the same operands and values on one process,
    of vectors of length 1.

    Example:
        >>> import torch, piste
        >>> image, text = torch.tensor([[1., 0.], [0., 1.]]), torch.tensor([[1., 1.], [0., 2.]])
        >>> piste.losses.SigLIPLoss()(image, text, torch.tensor(10.), torch.tensor(-10.))
        tensor(1.8631)
    """

    name, functional_name = "siglip", "siglip_loss"
    arguments = ("image", "text", "logit_scale", "logit_bias")
    argument_types = {"logit_scale": "float | Tensor", "logit_bias": "float | Tensor"}
    options = PAIRS
    signature = "reduction, normalize, chunk_size"
    expects = "vectors of images and of their texts, both (N, D), and the factor and the bias of their cosines"
    example = "torch.randn(4, 8), torch.randn(4, 8), torch.tensor(10.0), torch.tensor(-10.0)"
    symbols = {"p": "the score of image and text", "n": "the sum of log(1 + e^s) over the other texts"}

    def formula(p, n):
        return n + softplus(-p)

    def derivatives(p, n):
        return -sigmoid(-p), one_like(n)

    @classmethod
    def prepare(
        cls,
        operands: tuple[Any, ...],
        check: str,
        *,
        normalize: bool = True,
        chunk_size: int | None = None,
        **options: Any,
    ) -> PreparedCall:
        """Return the score of each pair, and the sum of the losses of the other texts."""
        *vectors, logit_scale, logit_bias = operands
        a, b = cls.vectors(cls.arguments[:2], tuple(vectors), check, normalize)
        scale = cls.factor("logit_scale", SCALE, logit_scale, a, check)
        bias = cls.factor("logit_bias", BIAS, logit_bias, a, check)
        p = scale * (a * b).sum(-1) + bias
        (n,) = reduce_pairs(a, b, scale, bias, own_column(a), PairReduction("softplus", chunk=chunk_size))
        return cls.call_of((p, n), tuple(vectors))
