"""Margins between the classes of a row, and several labels a row."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from ..engine.eager import loss as eager_loss
from ..engine.range_guards import Bound
from ..errors import InvalidType, InvalidValue
from ..formula.expression import exp, log1p, where
from ..formula.row_functions import each, hinges, index, pick, size, total
from .binary import SLACK, SURE, TARGET_HELP
from .class_loss import ClassLoss
from .loss import Call, explained
from .reduction import Settings
from .rowwise import RowwiseLoss, Way
from .value_checks import first_offence, is_readable, refuse_nan, same_device, same_shape, shape_of, spread, tensors

__all__ = [
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
]


class MultiMarginLoss(ClassLoss):
    """The multi-class hinge loss: sum over the classes c != k of max(0, margin - x_k + x_c)^p, times w_k / C.

    Shapes: `input` (C) or (N, C); `target` the same without C; `weight` (C). `p` is 1 or 2.
    Dtypes: input floating (16-bit floats are computed in float32); target any integer.
    Raises: InvalidValue for a class index outside [0, C - 1], unless check="off" (torch reads out of bounds).
    Settings: `piste.losses.reduction`. A mean divides by the number of rows.

    >>> import torch, piste
    >>> piste.losses.MultiMarginLoss()(torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([3]))
    tensor(0.3250)
    """

    name, function = "multi_margin", "multi_margin_loss"
    input_kind = "scores"
    ranges = {"margin": "(-inf, inf)"}
    expects = "scores (N, C) and class indices (N) of dtype int64"
    example = "torch.randn(3, 5), torch.tensor([1, 0, 4])"
    mean_by = "count"
    may_ignore = False

    @staticmethod
    def value(x, k, w=None, *, p, margin):
        z = margin - each(pick(x, k)) + x
        h = where((index(x) == each(k)) | (z <= 0), 0, z)
        loss = total(h if p == 1 else h * h) / size(x)
        return loss if w is None else pick(w, k) * loss

    @classmethod
    def validate(cls, *, p: int = 1, **options: Any) -> None:
        """Refuse a power other than 1 and 2."""
        super().validate(**options)
        if p not in (1, 2):
            raise InvalidValue(f"MultiMarginLoss: `p` must be 1 or 2; received p={p!r}.")

    @classmethod
    def way(cls, operands: tuple[Any, ...], **options: Any) -> Way | None:
        """Single rows, or a set of them."""
        return super().way(operands, **options) if getattr(operands[0], "ndim", 0) in (1, 2) else None

    @classmethod
    def _arranged(cls, x: Tensor, y: Tensor, class_dim: int | None, check: str) -> tuple[Tensor, Tensor, bool]:
        if x.dim() not in (1, 2):
            raise InvalidValue(f"MultiMarginLoss: `input` must be (C) or (N, C); received {shape_of(x)}.")
        return super()._arranged(x, y, class_dim, check)

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: Tensor | None = None,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(size_average, reduce, reduction, p=p, margin=margin, weight=weight, **settings)


class RowLoss(RowwiseLoss):
    """What losses of whole rows share whose target has a row too: any number of rows, the classes last."""

    value: ClassVar[Any]

    @classmethod
    def rows(cls, operands: tuple[Any, ...], check: str) -> tuple[Tensor, Tensor, torch.dtype, bool]:
        """Input and target, checked but for the target's values, and whether these are to be checked."""
        name = cls.__name__
        tensors(name, cls.arguments, operands)
        same_shape(name, cls.arguments, operands)
        same_device(name, cls.arguments, operands)
        x, y = operands
        if not x.is_floating_point():
            raise InvalidType(
                f"{name}: `input` must hold floating-point scores; received {x.dtype}. Help: input.float()."
            )
        if x.dim() == 0:
            raise InvalidValue(f"{name}: `input` must be (C) or (N, C); received a 0-dimensional tensor.")
        is_checked = check != "off" and is_readable(operands)
        if check == "nan" and is_checked:
            refuse_nan(name, "input", x)
            refuse_nan(name, "target", y)
        return x.to(eager_loss.working_dtype(x.dtype)), y, x.dtype, is_checked

    @classmethod
    def alike(cls, operands: tuple[Any, ...]) -> bool:
        """Whether two tensors of one shape, of at least one dimension, were given."""
        x, y = operands
        return isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape == y.shape and x.dim() > 0


class MultiLabelMarginLoss(RowLoss):
    """Of a row with several labels: the sum over labels j and other classes i of max(0, 1 - (x_j - x_i)), over C.

    Shapes: `input` and `target` (C) or (N, C). `target` lists the class indices of each row, ended by -1.
    Dtypes: input floating (16-bit floats are computed in float32); target any integer.
    Raises: InvalidValue for a class index outside [-1, C - 1], unless check="off"; torch reads out of bounds.
    Settings: `piste.losses.reduction`.

    >>> import torch, piste
    >>> x, y = torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([[3, 0, -1, 1]])
    >>> piste.losses.MultiLabelMarginLoss()(x, y)
    tensor(0.8500)
    """

    name, function = "multilabel_margin", "multilabel_margin_loss"
    expects = "scores (N, C) and (N, C) class indices of dtype int64, those of a row ended by -1"
    example = "torch.randn(2, 4), torch.tensor([[3, 0, -1, -1], [1, -1, -1, -1]])"
    letters = {"x": "a row of input", "k": "its class indices"}

    @staticmethod
    def value(x, k):
        return hinges(x, k) / size(x)

    @classmethod
    def way(cls, operands: tuple[Any, ...], **options: Any) -> Way | None:
        """Rows of scores, each with a list of class indices."""
        x, y = operands
        if not cls.alike(operands) or y.is_floating_point() or y.is_complex():
            return None
        return Way(cls.value, (x, y.long()), ("row", "labels"), options)

    @classmethod
    def prepare(cls, operands: tuple[Any, ...], check: str, **options: Any) -> Call:
        """Rows of scores, each with a list of class indices."""
        x, y, dtype, is_checked = cls.rows(operands, check)
        if y.is_floating_point():
            raise InvalidType(
                f"MultiLabelMarginLoss: `target` must hold class indices of dtype int64; received {y.dtype}. Help: "
                "MultiLabelSoftMarginLoss takes a 0/1 label for each class."
            )
        if is_checked:
            classes = x.shape[-1]
            offence = first_offence(y, (y < -1) | (y >= classes))
            if offence:
                raise InvalidValue(
                    f"MultiLabelMarginLoss: `target` must hold class indices in [0, {classes - 1}], ended by -1; "
                    "received "
                    f"{offence}. Help: labels are numbered from 0."
                )
        rows = x.shape[:-1].numel()
        return Call(cls.value, (x, y.long()), options, dtype, lambda: rows, lambda: rows, "count")

    def __init__(
        self, size_average: Any = None, reduce: Any = None, reduction: str = "mean", **settings: Unpack[Settings]
    ) -> None:
        super().__init__(size_average, reduce, reduction, **settings)


class MultiLabelSoftMarginLoss(RowLoss):
    """Binary cross entropy of a row of logits with a 0/1 label for each class, averaged over the classes.

    y softplus(-x) + (1 - y) softplus(x), with softplus(z) = log(1 + e^z), each class times its weight.
    Shapes: `input` and `target` (C), (N, C) or with more dimensions, the classes last; `weight` (C).
    Dtypes: input floating (16-bit floats are computed in float32); whole and bool targets are converted.
    Raises: InvalidValue for a target outside [0, 1] (unless check="off"), shapes or devices that differ.
    Settings: `piste.losses.reduction`. A mean divides by the number of rows. Differs from
    torch.nn.MultiLabelSoftMarginLoss, which takes any target.

    >>> import torch, piste
    >>> piste.losses.MultiLabelSoftMarginLoss()(torch.tensor([[0., 2.]]), torch.tensor([[1., 1.]]))
    tensor(0.4100)
    """

    name, function = "multilabel_soft_margin", "multilabel_soft_margin_loss"
    expects = "logits (N, C) and 0/1 labels of the same shape"
    example = "torch.randn(2, 3), torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])"
    letters = {"x": "a row of input", "y": "its labels", "w": "class weights"}

    @staticmethod
    def value(x, y, w=None):
        s = log1p(exp(where(x > 0, -x, x)))
        # A logit of infinity with its own label is no loss at all, and 0 * inf would say NaN.
        miss = y * where((y == 0) & (x == -math.inf), 0, s + where(x > 0, 0, -x))
        false_alarm = (1 - y) * where((y == 1) & (x == math.inf), 0, s + where(x > 0, x, 0))
        loss = miss + false_alarm
        return total(loss if w is None else w * loss) / size(x)

    @classmethod
    def way(cls, operands: tuple[Any, ...], *, weight: Tensor | None = None, **options: Any) -> Way | None:
        """Rows of logits, each with a row of labels."""
        if not cls.alike(operands):
            return None
        x, y = operands
        if weight is not None:
            if weight.shape != x.shape[-1:]:
                return None
            weight = weight.to(eager_loss.working_dtype(x.dtype))
        letters = x, y.to(x.dtype), weight
        return Way(cls.value, letters, ("row", "row", "shared"), options, bounds=(Bound(1, *SURE),))

    @classmethod
    def prepare(cls, operands: tuple[Any, ...], check: str, *, weight: Tensor | None = None, **options: Any) -> Call:
        """Rows of logits, each with a row of labels."""
        x, y, dtype, is_checked = cls.rows(operands, check)
        if is_checked:
            offence = first_offence(y, (y < -SLACK) | (y > 1 + SLACK))
            if offence:
                raise InvalidValue(
                    f"MultiLabelSoftMarginLoss: `target` must be in [0, 1]; received {offence}. Help: {TARGET_HELP}."
                )
        if weight is not None:
            weight = spread(cls.__name__, "weight", weight, x)
            if check == "nan" and is_checked:
                refuse_nan(cls.__name__, "weight", weight)
        rows = x.shape[:-1].numel()
        return Call(cls.value, (x, y.to(x.dtype), weight), options, dtype, lambda: rows, lambda: rows, "count")

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(size_average, reduce, reduction, weight=weight, **settings)


@explained(MultiMarginLoss)
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `MultiMarginLoss`."""
    return MultiMarginLoss.run(
        input,
        target,
        size_average=size_average,
        reduce=reduce,
        reduction=reduction,
        p=p,
        margin=margin,
        weight=weight,
        **settings,
    )


@explained(MultiLabelMarginLoss)
def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `MultiLabelMarginLoss`."""
    return MultiLabelMarginLoss.run(
        input, target, size_average=size_average, reduce=reduce, reduction=reduction, **settings
    )


@explained(MultiLabelSoftMarginLoss)
def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `MultiLabelSoftMarginLoss`."""
    return MultiLabelSoftMarginLoss.run(
        input, target, size_average=size_average, reduce=reduce, reduction=reduction, weight=weight, **settings
    )
