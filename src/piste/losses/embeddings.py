"""Losses of vectors that should be near or far: CosineEmbedding, TripletMargin, TripletMarginWithDistance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine import ValueCheck, compute_dtype
from ..errors import InvalidType, InvalidValue
from ..formula.row_functions import norm, total
from ..formula.words import minimum, sqrt, where
from ..options import Flag, Function, Number
from .corners import below
from .margins import SIGN
from .rowwise import Conditions, Rows, RowwiseLoss, rows_of_violation
from .value_checks import (
    check_same_device,
    check_same_shape,
    check_tensors,
    common_dtype,
    shape_of,
)

__all__ = ["CosineEmbeddingLoss", "TripletMarginLoss", "TripletMarginWithDistanceLoss", "check_vectors"]

TRIPLET_MARGIN = Number(1.0, "the difference between the distances that costs nothing", above=True)
SWAP = Flag(False, "whether the distance of positive and negative is taken where it is smaller")


def check_vectors(loss: str, names: tuple[str, ...], operands: tuple[Any, ...]) -> torch.dtype:
    """Return the dtype of the result; raise unless the operands are floating vectors of one shape and device.

    Args:
        loss: The name of the loss.
        names: The names of the operands.
        operands: The vectors.
    """
    check_tensors(loss, names, operands)
    check_same_shape(loss, names, operands)
    check_same_device(loss, names, operands)
    for argument, x in zip(names, operands, strict=True):
        if not x.is_floating_point():
            raise InvalidType(
                f"{loss}: `{argument}` must hold floating-point vectors; received {x.dtype}. Help: {argument}.float()."
            )
    return common_dtype([x.dtype for x in operands])


class VectorLoss(RowwiseLoss):
    """A loss of vectors of one shape, their components last."""

    formula: ClassVar[Any]

    @classmethod
    def check_vectors(cls, names: tuple[str, ...], operands: tuple[Any, ...]) -> tuple[torch.dtype, str | None]:
        """Return the dtype of the result, and why no kernel applies; raise unless the shapes are the same.

        Args:
            names: The names of the operands.
            operands: The vectors.
        """
        dtype = check_vectors(cls.__name__, names, operands)
        has_one_dtype = all(x.dtype == dtype for x in operands)
        return dtype, None if has_one_dtype else "the kernel takes vectors of one dtype"


def _neither_sign(a, b, y):
    return (y != 1) & (y != -1)


LABEL = replace(SIGN, fails=_neither_sign, exchanged=None)


class CosineEmbeddingLoss(VectorLoss):
    """With the cosine c of the angle between x1 and x2: 1 - c where y = 1, and max(0, c - margin) where y = -1.

    Shape:
        input1, input2: (N, D) or (D), floating. 16-bit floats are computed in float32 and rounded once.
        target: (N) or (), -1 or 1; integers are converted.
        Returns a 0-dimensional tensor, or (N) with reduction="none".

    Raises:
        InvalidValue: A target is neither -1 nor 1 (unless check="off"), or shapes or devices do not fit.

    Differs from torch: torch.nn.CosineEmbeddingLoss broadcasts, and counts other targets as 0.

    Example:
        >>> import torch, piste
        >>> x1, x2 = torch.tensor([[1., 0.], [1., 0.]]), torch.tensor([[1., 1.], [1., 1.]])
        >>> piste.losses.CosineEmbeddingLoss()(x1, x2, torch.tensor([1, -1]))
        tensor(0.5000)
    """

    name, functional_name = "cosine_embedding", "cosine_embedding_loss"
    arguments = ("input1", "input2", "target")
    options = {
        "margin": Number(0.0, "the cosine below which a dissimilar pair costs nothing", low=-1.0, high=1.0, closed=True)
    }
    signature = "margin, size_average, reduce, reduction"
    expects = "two sets of vectors (N, D) and labels (N), -1 or 1"
    example = "torch.randn(3, 4), torch.randn(3, 4), torch.tensor([1, -1, 1])"
    symbols = {"a": "a row of input1", "b": "a row of input2", "y": "its label"}

    def formula(a, b, y, *, margin):
        # torch's 1e-12 keeps the cosine of a vector of zeros, and its gradient, finite.
        c = total(a * b) / sqrt((total(a * a) + 1e-12) * (total(b * b) + 1e-12))
        far = where(below(c, margin), 0, c - margin)
        return where(y == 1, 1 - c, 0) + where(y == -1, far, 0)

    @classmethod
    def rows(cls, operands: tuple[Any, ...], check: str, **options: Any) -> Rows:
        """Return pairs of vectors, each with a label."""
        a, b, y = operands
        dtype, obstacle = cls.check_vectors(cls.arguments[:2], (a, b))
        check_tensors(cls.__name__, ("target",), (y,))
        check_same_device(cls.__name__, ("input1", "target"), (a, y))
        if a.dim() not in (1, 2) or y.shape != a.shape[:-1]:
            raise InvalidValue(
                "CosineEmbeddingLoss: `input1` and `input2` must be (N, D) with `target` (N), or (D) with (); "
                "received "
                f"{shape_of(a)} and {shape_of(y)}. Help: one label for each pair of vectors."
            )
        row = a, b, y.to(compute_dtype(dtype))
        return Rows(cls.formula, row, ("row", "row", "number"), options, dtype, obstacle=obstacle)

    @classmethod
    def conditions(cls, rows: Rows) -> Conditions:
        """Return the labels that are allowed."""
        return Conditions((_neither_sign,), checks=_SIGN_CHECKS)

    @classmethod
    def check_values(cls, rows: Rows, given: tuple[Tensor, ...]) -> None:
        """Raise for a label other than -1 and 1."""
        LABEL.raise_for(cls.__name__, given, 2)


_SIGN_CHECKS = (
    ValueCheck(
        _neither_sign,
        lambda a, b, y: y,
        lambda found: LABEL.error("CosineEmbeddingLoss", rows_of_violation(found)),
    ),
)


class TripletLoss(VectorLoss):
    """A loss of triplets of vectors."""

    arguments = ("anchor", "positive", "negative")
    expects = "three sets of vectors of the same shape, (N, D)"
    example = "torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 4)"
    symbols = {"a": "a row of anchor", "b": "a row of positive", "c": "a row of negative"}

    @classmethod
    def rows(cls, operands: tuple[Any, ...], check: str, **options: Any) -> Rows:
        """Return triplets of vectors."""
        dtype, obstacle = cls.check_vectors(cls.arguments, operands)
        if operands[0].dim() == 0:
            raise InvalidValue(f"{cls.__name__}: `anchor` must be (N, D) or (D); received a 0-dimensional tensor.")
        return Rows(cls.formula, operands, ("row", "row", "row"), options, dtype, obstacle=obstacle)


class TripletMarginLoss(TripletLoss):
    """max(0, |a - p| - |a - n| + margin): the anchor a should be nearer to p than to n by the margin.

    The distance is the `p`-norm of the difference plus `eps`. With `swap`, |p - n| replaces |a - n| where it is smaller
    (Balntas et al. 2016, http://www.bmva.org/bmvc/2016/papers/paper119/index.html).

    Shape:
        anchor, positive, negative: The same, (N, D) or (D), floating. 16-bit floats are computed in float32 and rounded
            once.
        Returns a 0-dimensional tensor, or (N) with reduction="none".

    Raises:
        InvalidValue: The shapes or the devices differ.
        InvalidType: An operand is no floating tensor.

    Differs from torch: torch.nn.TripletMarginLoss broadcasts.

    Example:
        >>> import torch, piste
        >>> anchor, positive, negative = torch.zeros(1, 2), torch.tensor([[3., 4.]]), torch.tensor([[0., 5.5]])
        >>> piste.losses.TripletMarginLoss()(anchor, positive, negative)
        tensor(0.5000)
    """

    name, functional_name = "triplet_margin", "triplet_margin_loss"
    options = {
        "margin": TRIPLET_MARGIN,
        "p": Number(2.0, "the order of the norm", above=True, closed=True),
        "eps": Number(1e-6, "added to each difference, against a norm of 0"),
        "swap": SWAP,
    }
    signature = "margin, p, eps, swap, size_average, reduce, reduction"

    def formula(a, b, c, *, margin, p, eps, swap):
        near = norm(a - b + eps, p)
        far = norm(a - c + eps, p)
        if swap:
            far = minimum(far, norm(b - c + eps, p))
        z = margin + near - far
        return where(below(z, 0), 0, z)


class TripletMarginWithDistanceLoss(TripletLoss):
    """max(0, d(a, p) - d(a, n) + margin) with a custom distance d.

    `distance_function` takes two tensors of vectors and returns a distance for each pair. It runs as torch operations.
    With `swap`, d(p, n) replaces d(a, n) where it is smaller.

    Shape:
        anchor, positive, negative: The same, (N, D) or (D), floating. 16-bit floats are computed in float32 and rounded
            once.
        Returns a 0-dimensional tensor, or (N) with reduction="none".

    Raises:
        InvalidValue: The shapes or the devices differ.
        InvalidType: An operand is no floating tensor, or the distance can't be called.

    Differs from torch: Under autocast the result is float32.

    Example:
        >>> import torch, piste
        >>> city = lambda a, b: (a - b).abs().sum(-1)
        >>> loss = piste.losses.TripletMarginWithDistanceLoss(distance_function=city)
        >>> loss(torch.zeros(1, 2), torch.tensor([[3., 4.]]), torch.tensor([[0., 7.5]]))
        tensor(0.5000)
    """

    name, functional_name = "triplet_margin_with_distance", "triplet_margin_with_distance_loss"
    options = {
        "distance_function": Function("the distance of each pair of vectors; None: torch.pairwise_distance"),
        "margin": TRIPLET_MARGIN,
        "swap": SWAP,
    }
    signature = "*, distance_function, margin, swap, reduction"

    def formula(a, b, c, *, distance_function, margin, swap):
        near = distance(distance_function, a, b)
        far = distance(distance_function, a, c)
        if swap:
            far = minimum(far, distance(distance_function, b, c))
        z = margin + near - far
        return where(below(z, 0), 0, z)


def distance(function: Callable[[Tensor, Tensor], Tensor] | None, a: Any, b: Any) -> Any:
    """Return a custom distance, as a word of the formula."""
    if isinstance(a, Tensor):
        return (function or torch.pairwise_distance)(a, b)
    return a.__words__.distance(a, b)
