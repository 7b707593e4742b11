"""Margins between the classes of a row, and rows with several labels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from ..engine import Bound, Violation, compute_dtype
from ..errors import InvalidType, InvalidValue
from ..formula.row_functions import each, hinges, index, pick, size, total
from ..formula.words import exp, log1p, where
from ..options import Choice, Number
from .binary import GUARD, LABEL
from .call import ValidatedSettings
from .class_loss import CLASS_WEIGHT, ClassLoss
from .loss import TorchWeightedLoss
from .rowwise import Conditions, Rows, RowwiseLoss
from .value_checks import (
    broadcast_weight,
    check_same_device,
    check_same_shape,
    check_tensors,
    common_dtype,
    describe_violation,
    find_violation,
    is_readable,
    shape_of,
)

__all__ = ["MultiLabelMarginLoss", "MultiLabelSoftMarginLoss", "MultiMarginLoss"]


class MultiMarginLoss(ClassLoss):
    """The multi-class hinge loss: sum over the classes c != k of max(0, margin - x_k + x_c)^p, times w_k / C.

    A mean divides by the number of rows.

    Shape:
        input: (C) or (N, C), floating scores. 16-bit floats are computed in float32 and rounded once.
        target: () or (N), class indices k of any integer dtype.
        Returns a 0-dimensional tensor, or (N) with reduction="none".

    Raises:
        InvalidValue: A class index is outside [0, C - 1], or a class weight is negative or not finite (both unless
            check="off"); or shapes or devices do not fit.
        InvalidType: The input is not floating, or the target is no integer.

    Differs from torch: torch.nn.MultiMarginLoss reads out of bounds for a class index out of range. NaN is propagated.

    Example:
        >>> import torch, piste
        >>> piste.losses.MultiMarginLoss()(torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([3]))
        tensor(0.3250)
    """

    name, functional_name = "multi_margin", "multi_margin_loss"
    options = {
        "p": Choice(1, (1, 2), "the power of the margins"),
        "margin": Number(1.0, "the difference to the other scores that costs nothing", low=-math.inf),
        "weight": CLASS_WEIGHT,
    }
    signature = "p, margin, weight, size_average, reduce, reduction"
    input_kind = "scores"
    expects = "scores (N, C) and class indices (N) of dtype int64"
    example = "torch.randn(3, 5), torch.tensor([1, 0, 4])"
    denominator = "count"
    supports_ignore_index = False

    def formula(x, k, w=None, *, p, margin):
        z = margin - each(pick(x, k)) + x
        h = where((index(x) == each(k)) | (z <= 0), 0, z)
        loss = total(h if p == 1 else h * h) / size(x)
        return loss if w is None else pick(w, k) * loss

    @classmethod
    def check_shape(cls, x: Tensor, y: Tensor) -> None:
        """Raise for an input that is neither a row nor a set of rows."""
        if x.dim() not in (1, 2):
            raise InvalidValue(f"MultiMarginLoss: `input` must be (C) or (N, C); received {shape_of(x)}.")


class _RowPairLoss(RowwiseLoss):
    """A loss of rows with a row of targets each: any number of rows, the classes last."""

    formula: ClassVar[Any]

    @classmethod
    def check_operands(cls, x: Any, y: Any) -> None:
        """Raise unless input and target are rows of one shape, the input floating."""
        operands = x, y
        name = cls.__name__
        check_tensors(name, cls.arguments, operands)
        cls._check_shape(*operands)
        check_same_device(name, cls.arguments, operands)
        if not x.is_floating_point():
            help = "input.float()"
            if y.is_floating_point():
                help = "the arguments look exchanged: `target` comes last"
            raise InvalidType(f"{name}: `input` must hold floating-point scores; received {x.dtype}. Help: {help}.")
        if x.dim() == 0:
            raise InvalidValue(f"{name}: `input` must be (C) or (N, C); received a 0-dimensional tensor.")
        if x.shape[-1] == 0:
            raise InvalidValue(
                f"{name}: `input` must have at least one class; received {shape_of(x)}. Help: the last layer of the "
                "model needs an output for each class."
            )

    @classmethod
    def _check_shape(cls, x: Tensor, y: Tensor) -> None:
        """Raise for input and target of different shapes."""
        check_same_shape(cls.__name__, cls.arguments, (x, y))


class MultiLabelMarginLoss(_RowPairLoss):
    """The hinge loss of several labels: sum over labels j and other classes i of max(0, 1 - (x_j - x_i)), over C.

    A mean divides by the number of rows.

    Shape:
        input: (C), (N, C) or with more dimensions, the classes last; floating scores. 16-bit floats are computed in
            float32 and rounded once.
        target: That of `input`; the class indices of each row, of any integer dtype, ended by -1.
        Returns a 0-dimensional tensor, or one of the shape of `input` without C with reduction="none".

    Raises:
        InvalidValue: A class index is outside [-1, C - 1], or the target holds a 0/1 or -1/1 label for each class (both
            unless check="off"); or shapes or devices differ.
        InvalidType: The input is not floating, or the target is no integer.

    Differs from torch: torch.nn.MultiLabelMarginLoss reads out of bounds for a class index out of range, and takes (C)
    and (N, C) alone. NaN is propagated.

    Example:
        >>> import torch, piste
        >>> x, y = torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([[3, 0, -1, 1]])
        >>> piste.losses.MultiLabelMarginLoss()(x, y)
        tensor(0.8500)
    """

    name, functional_name = "multilabel_margin", "multilabel_margin_loss"
    expects = "scores (N, C) and (N, C) class indices of dtype int64, those of a row ended by -1"
    example = "torch.randn(2, 4), torch.tensor([[3, 0, -1, -1], [1, -1, -1, -1]])"
    symbols = {"x": "a row of input", "k": "its class indices"}

    def formula(x, k):
        return hinges(x, k) / size(x)

    @classmethod
    def call(cls, operands: tuple[Any, ...], settings: ValidatedSettings, tensors: dict[str, Tensor]) -> Tensor:
        """Prepare a call as every row-wise loss does, and check the encoding of the target."""
        result = super().call(operands, settings, tensors)
        if settings.last_hit is not None:  # a compiled graph would keep the change
            settings.last_hit = None  # the next call comes here too
        if settings.check != "off":
            cls._check_encoding(operands[1])
        return result

    @classmethod
    def _check_shape(cls, x: Tensor, y: Tensor) -> None:
        """Raise for input and target of different shapes, with the padding that lists need."""
        missing = x.shape[-1] - y.shape[-1] if x.dim() and y.dim() else 0
        if missing > 0 and x.shape[:-1] == y.shape[:-1]:
            raise InvalidValue(
                f"MultiLabelMarginLoss: `input` and `target` must have the same shape; received {shape_of(x)} and "
                f"{shape_of(y)}. Help: torch.nn.functional.pad(target, (0, {missing}), value=-1) ends the lists."
            )
        super()._check_shape(x, y)

    @classmethod
    def _check_encoding(cls, y: Any) -> None:
        """Raise for a label of each class, 0/1 or -1/1: read as lists, they would name the same classes repeatedly."""
        if not (isinstance(y, Tensor) and y.numel() and y.shape[-1] > 2 and is_readable((y,))):
            return
        low, high = (int(x) for x in y.aminmax())
        if low < -1 or high > 1:
            return
        if low < 0 and (bool((y == 0).any()) or not bool((y[..., 1:] == 1).any())):
            return
        raise InvalidValue(
            f"MultiLabelMarginLoss: `target` must list the class indices of each row, ended by -1; received {low} and "
            f"{high} alone, which look like a label for each class. Help: MultiLabelSoftMarginLoss takes a 0/1 label "
            f"for each class{': (target + 1) // 2' if low < 0 else ''}."
        )

    @classmethod
    def rows(cls, operands: tuple[Any, ...], check: str, **options: Any) -> Rows:
        """Return rows of scores, each with a list of class indices."""
        cls.check_operands(*operands)
        x, y = operands
        if y.is_floating_point() or y.is_complex():
            raise InvalidType(
                f"MultiLabelMarginLoss: `target` must hold class indices of dtype int64; received {y.dtype}. Help: "
                "MultiLabelSoftMarginLoss takes a 0/1 label for each class."
            )
        return Rows(cls.formula, (x, y.long()), ("row", "labels"), options, x.dtype)

    @classmethod
    def conditions(cls, rows: Rows) -> Conditions:
        """Return the error for a class index out of range."""
        return Conditions(index_error=_list_error)

    @classmethod
    def check_values(cls, rows: Rows, given: tuple[Tensor, ...]) -> None:
        """Raise for a class index out of range."""
        x, y = given
        violation = find_violation(y, (y < -1) | (y >= x.shape[-1]))
        if violation:
            raise _list_error(violation)


def _list_error(found: Violation) -> InvalidValue:
    """Return the error for class indices of a list that are out of range."""
    return InvalidValue(
        f"MultiLabelMarginLoss: `target` must hold class indices in [0, {found.shape[-1] - 1}], ended by -1; "
        f"received {describe_violation(found)}. Help: labels are numbered from 0."
    )


_LISTS = replace(LABEL, help="MultiLabelMarginLoss takes lists of class indices", help_for={})


class MultiLabelSoftMarginLoss(_RowPairLoss, TorchWeightedLoss):
    """Binary cross entropy of a row of logits with a 0/1 label for each class, averaged over the classes.

    y softplus(-x) + (1 - y) softplus(x), with softplus(z) = log(1 + e^z), each class times its weight. A mean divides
    by the number of rows.

    Shape:
        input: (C), (N, C) or with more dimensions, the classes last; floating logits. 16-bit floats are computed in
            float32 and rounded once.
        target: That of `input`, in [0, 1]; 0/1 labels of integers or bool are converted.
        Returns a 0-dimensional tensor, or one of the shape of `input` without C with reduction="none".

    Raises:
        InvalidValue: A target is outside [0, 1], or a class weight is negative or not finite (both unless check="off");
            or shapes or devices differ.

    Differs from torch: torch.nn.MultiLabelSoftMarginLoss takes any target. An infinite logit with its own label costs
    0. Under autocast the result is float32.

    Example:
        >>> import torch, piste
        >>> piste.losses.MultiLabelSoftMarginLoss()(torch.tensor([[0., 2.]]), torch.tensor([[1., 1.]]))
        tensor(0.4100)
    """

    name, functional_name = "multilabel_soft_margin", "multilabel_soft_margin_loss"
    options = {"weight": CLASS_WEIGHT}
    signature = "weight, size_average, reduce, reduction"
    expects = "logits (N, C) and 0/1 labels of the same shape"
    example = "torch.randn(2, 3), torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])"
    symbols = {"x": "a row of input", "y": "its labels", "w": "class weights"}

    def formula(x, y, w=None):
        s = log1p(exp(where(x > 0, -x, x)))
        # An infinite logit with its own label costs 0, and 0 * inf would be NaN.
        miss = y * where((y == 0) & (x == -math.inf), 0, s + where(x > 0, 0, -x))
        false_alarm = (1 - y) * where((y == 1) & (x == math.inf), 0, s + where(x > 0, x, 0))
        loss = miss + false_alarm
        return total(loss if w is None else w * loss) / size(x)

    @classmethod
    def rows(cls, operands: tuple[Any, ...], check: str, *, weight: Tensor | None = None, **options: Any) -> Rows:
        """Return rows of logits, each with a row of labels."""
        cls.check_operands(*operands)
        x, y = operands
        dtype = common_dtype(
            [z.dtype for z in operands if z.is_floating_point()]
        )  # labels are not rounded to fewer bits
        kinds, obstacle = ("row", "row", "shared"), None
        if weight is not None:
            has_classes = weight.shape == x.shape[-1:]
            broadcast_weight(cls.__name__, "weight", weight, x)
            weight = weight.to(compute_dtype(dtype))
            obstacle = None if has_classes else "the kernel takes a weight for each class alone"
        return Rows(cls.formula, (x.to(dtype), y.to(dtype), weight), kinds, options, dtype, obstacle=obstacle)

    @classmethod
    def conditions(cls, rows: Rows) -> Conditions:
        """Return the range of a label."""
        return Conditions(bounds=(Bound(1, *GUARD),), checks=_TARGET_CHECKS)

    @classmethod
    def check_values(cls, rows: Rows, given: tuple[Tensor, ...]) -> None:
        """Raise for a label outside [0, 1]."""
        x, y = given
        rule = _LISTS if not y.is_floating_point() and bool((y > 1).any()) else LABEL
        rule.raise_for(cls.__name__, (x, y), 1)


_TARGET_CHECKS = (LABEL.for_kernels("MultiLabelSoftMarginLoss", 1),)
