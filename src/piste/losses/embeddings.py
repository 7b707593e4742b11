"""Losses of vectors that should lie near or far: CosineEmbedding, TripletMargin, TripletMarginWithDistance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from ..engine.eager import loss as eager_loss
from ..errors import InvalidType, InvalidValue
from ..formula.expression import minimum, sqrt, where
from ..formula.row_functions import norm, total
from .loss import Call, explained
from .margins import SIGN
from .reduction import Settings
from .rowwise import RowwiseLoss, Way
from .value_checks import first_offence, is_readable, refuse_nan, same_device, same_shape, shape_of, tensors

__all__ = [
    "CosineEmbeddingLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
    "cosine_embedding_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


class VectorLoss(RowwiseLoss):
    """What losses of vectors share: vectors of one shape, their components last."""

    value: ClassVar[Any]

    @classmethod
    def vectors(
        cls, names: tuple[str, ...], operands: tuple[Any, ...], check: str
    ) -> tuple[tuple[Tensor, ...], torch.dtype]:
        """Vectors of one shape, device and dtype, and the dtype of the result."""
        name = cls.__name__
        tensors(name, names, operands)
        same_shape(name, names, operands)
        same_device(name, names, operands)
        for argument, x in zip(names, operands, strict=True):
            if not x.is_floating_point():
                raise InvalidType(
                    f"{name}: `{argument}` must hold floating-point vectors; received {x.dtype}. Help: "
                    f"{argument}.float()."
                )
            if check == "nan" and is_readable((x,)):
                refuse_nan(name, argument, x)
        dtype = operands[0].dtype
        for x in operands[1:]:
            dtype = torch.promote_types(dtype, x.dtype)
        return tuple(x.to(eager_loss.working_dtype(dtype)) for x in operands), dtype

    @classmethod
    def alike(cls, vectors: tuple[Any, ...]) -> bool:
        """Whether these are tensors of one shape and dtype, of at least one dimension."""
        first = vectors[0]
        return all(
            isinstance(x, Tensor) and x.dim() and x.shape == first.shape and x.dtype == first.dtype for x in vectors
        )


def _neither_sign(a, b, y):
    return (y != 1) & (y != -1)


class CosineEmbeddingLoss(VectorLoss):
    """With the cosine c of the angle between x1 and x2: 1 - c where y = 1, max(0, c - margin) where y = -1.

    Shapes: `input1` and `input2` (N, D), or (D); `target` (N), or (). `margin` is in [-1, 1].
    Dtypes: floating (16-bit floats are computed in float32); whole targets are converted.
    Raises: InvalidValue for a target other than -1 and 1 (unless check="off"), shapes or devices that differ.
    Settings: `piste.losses.reduction`.

    >>> import torch, piste
    >>> x1, x2 = torch.tensor([[1., 0.], [1., 0.]]), torch.tensor([[1., 1.], [1., 1.]])
    >>> piste.losses.CosineEmbeddingLoss()(x1, x2, torch.tensor([1, -1]))
    tensor(0.5000)
    """

    name, function = "cosine_embedding", "cosine_embedding_loss"
    arguments = ("input1", "input2", "target")
    ranges = {"margin": "[-1, 1]"}
    expects = "two sets of vectors (N, D) and labels (N), -1 or 1"
    example = "torch.randn(3, 4), torch.randn(3, 4), torch.tensor([1, -1, 1])"
    letters = {"a": "a row of input1", "b": "a row of input2", "y": "its label"}

    @staticmethod
    def value(a, b, y, *, margin):
        # torch's 1e-12 keeps the cosine of a vector of zeros, and its gradient, finite.
        c = total(a * b) / sqrt((total(a * a) + 1e-12) * (total(b * b) + 1e-12))
        far = where(c < margin, 0, c - margin)
        return where(y == 1, 1 - c, 0) + where(y == -1, far, 0)

    @classmethod
    def way(cls, operands: tuple[Any, ...], **options: Any) -> Way | None:
        """Pairs of vectors, each with a label."""
        a, b, y = operands
        if not cls.alike((a, b)) or a.dim() > 2 or not isinstance(y, Tensor) or y.shape != a.shape[:-1]:
            return None
        letters = a, b, y.to(eager_loss.working_dtype(a.dtype))
        return Way(cls.value, letters, ("row", "row", "number"), options, (_neither_sign,))

    @classmethod
    def prepare(cls, operands: tuple[Any, ...], check: str, **options: Any) -> Call:
        """Pairs of vectors, each with a label."""
        a, b, y = operands
        (a, b), dtype = cls.vectors(cls.arguments[:2], (a, b), check)
        tensors(cls.__name__, ("target",), (y,))
        same_device(cls.__name__, ("input1", "target"), (a, y))
        if a.dim() not in (1, 2) or y.shape != a.shape[:-1]:
            raise InvalidValue(
                "CosineEmbeddingLoss: `input1` and `input2` must be (N, D) with `target` (N), or (D) with (); "
                "received "
                f"{shape_of(a)} and {shape_of(y)}. Help: one label for each pair of vectors."
            )
        if check != "off" and is_readable((y,)):
            offence = first_offence(y, (y != 1) & (y != -1))
            if offence:
                raise InvalidValue(
                    f"CosineEmbeddingLoss: `target` must be {SIGN[0]}; received {offence}. Help: {SIGN[1]}."
                )
        return Call(cls.value, (a, b, y), options, dtype, y.numel, y.numel, "count")

    def __init__(
        self,
        margin: float = 0.0,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(size_average, reduce, reduction, margin=margin, **settings)


class TripletLoss(VectorLoss):
    """What the losses of triplets share."""

    arguments = ("anchor", "positive", "negative")
    expects = "three sets of vectors of the same shape, (N, D)"
    example = "torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 4)"
    letters = {"a": "a row of anchor", "b": "a row of positive", "c": "a row of negative"}

    @classmethod
    def way(cls, operands: tuple[Any, ...], **options: Any) -> Way | None:
        """Triplets of vectors."""
        if not cls.alike(operands):
            return None
        return Way(cls.value, operands, ("row", "row", "row"), options)

    @classmethod
    def prepare(cls, operands: tuple[Any, ...], check: str, **options: Any) -> Call:
        """Triplets of vectors."""
        vectors, dtype = cls.vectors(cls.arguments, operands, check)
        first = vectors[0]
        if first.dim() == 0:
            raise InvalidValue(f"{cls.__name__}: `anchor` must be (N, D) or (D); received a 0-dimensional tensor.")
        rows = first.shape[:-1].numel()
        return Call(cls.value, vectors, options, dtype, lambda: rows, lambda: rows, "count")


class TripletMarginLoss(TripletLoss):
    """max(0, |a - p| - |a - n| + margin): the anchor a should be nearer to p than to n by the margin.

    The distance is the `p`-norm of the difference plus `eps`, as in torch. With `swap`, |p - n| stands for |a - n|
    where it is smaller (Balntas et al. 2016).
    Shapes: `anchor`, `positive`, `negative` the same, (N, D) or (D). `margin` and `p` are above 0.
    Dtypes: floating (16-bit floats are computed in float32).
    Raises: InvalidValue for shapes or devices that differ. Settings: `piste.losses.reduction`.

    >>> import torch, piste
    >>> anchor, positive, negative = torch.zeros(1, 2), torch.tensor([[3., 4.]]), torch.tensor([[0., 5.5]])
    >>> piste.losses.TripletMarginLoss()(anchor, positive, negative)
    tensor(0.5000)
    """

    name, function = "triplet_margin", "triplet_margin_loss"
    ranges = {"margin": "(0, inf)", "p": "(0, inf]", "eps": "[0, inf)", "swap": "bool"}

    @staticmethod
    def value(a, b, c, *, margin, p, eps, swap):
        near = norm(a - b + eps, p)
        far = norm(a - c + eps, p)
        if swap:
            far = minimum(far, norm(b - c + eps, p))
        z = margin + near - far
        return where(z < 0, 0, z)

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(size_average, reduce, reduction, margin=margin, p=p, eps=eps, swap=swap, **settings)


class TripletMarginWithDistanceLoss(TripletLoss):
    """max(0, d(a, p) - d(a, n) + margin) with a distance d of one's own; `TripletMarginLoss` says the rest.

    `distance_function` takes two tensors of vectors and gives one distance for each pair; None is
    torch.pairwise_distance.

    >>> import torch, piste
    >>> city = lambda a, b: (a - b).abs().sum(-1)
    >>> loss = piste.losses.TripletMarginWithDistanceLoss(distance_function=city)
    >>> loss(torch.zeros(1, 2), torch.tensor([[3., 4.]]), torch.tensor([[0., 7.5]]))
    tensor(0.5000)
    """

    name, function = "triplet_margin_with_distance", "triplet_margin_with_distance_loss"
    ranges = {"margin": "(0, inf)", "swap": "bool"}

    @staticmethod
    def value(a, b, c, *, distance_function, margin, swap):
        near = distance(distance_function, a, b)
        far = distance(distance_function, a, c)
        if swap:
            far = minimum(far, distance(distance_function, b, c))
        z = margin + near - far
        return where(z < 0, 0, z)

    @classmethod
    def validate(cls, *, distance_function: Any = None, **options: Any) -> None:
        """Refuse what can't be called."""
        super().validate(**options)
        if distance_function is not None and not callable(distance_function):
            raise InvalidType(
                f"{cls.__name__}: `distance_function` must be a function of two tensors, or None; received "
                f"{distance_function!r}."
            )

    def __init__(
        self,
        *,
        distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(reduction=reduction, distance_function=distance_function, margin=margin, swap=swap, **settings)


def distance(function: Callable[[Tensor, Tensor], Tensor] | None, a: Any, b: Any) -> Any:
    """A distance of one's own, as a word of the formula."""
    if isinstance(a, Tensor):
        return (function or torch.pairwise_distance)(a, b)
    return a.__words__.distance(a, b)


@explained(CosineEmbeddingLoss)
def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `CosineEmbeddingLoss`."""
    return CosineEmbeddingLoss.run(
        input1,
        input2,
        target,
        size_average=size_average,
        reduce=reduce,
        reduction=reduction,
        margin=margin,
        **settings,
    )


@explained(TripletMarginLoss)
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `TripletMarginLoss`."""
    return TripletMarginLoss.run(
        anchor,
        positive,
        negative,
        size_average=size_average,
        reduce=reduce,
        reduction=reduction,
        margin=margin,
        p=p,
        eps=eps,
        swap=swap,
        **settings,
    )


@explained(TripletMarginWithDistanceLoss)
def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `TripletMarginWithDistanceLoss`."""
    return TripletMarginWithDistanceLoss.run(
        anchor,
        positive,
        negative,
        reduction=reduction,
        distance_function=distance_function,
        margin=margin,
        swap=swap,
        **settings,
    )
