"""The base of the losses over classes: the dimension of the classes, targets, class weights, ignored rows."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine import NEVER, Bound, ValueCheck, Violation, working_dtype
from ..errors import InvalidType, InvalidValue
from ..formula.row_functions import pick, total
from ..options import Integer, TensorOption
from .call import PreparedCall
from .loss import TorchWeightedLoss
from .rowwise import RowCall, RowwiseLoss
from .value_checks import (
    check_nan,
    check_same_device,
    check_tensors,
    describe_violation,
    find_violation,
    is_readable,
    shape_of,
    unravel_index,
)

__all__ = ["CLASS_DIM", "CLASS_WEIGHT", "IGNORE_INDEX", "ClassLoss", "rows_of_violation"]

CLASS_WEIGHT = TensorOption("a weight for each class, shape (C,)")
IGNORE_INDEX = Integer(-100, "the class index of rows that are left out")
_INDICES_HELP = "Help: class indices look like torch.tensor([0, 2, 1]), one whole number (int64) for each sample"
CLASS_DIM = Integer(None, "the dimension of the classes; None: dimension 1, as in torch")


class ClassLoss(RowwiseLoss, TorchWeightedLoss):
    """A loss of rows of classes: the dimension of the classes, targets, class weights, and ignored rows."""

    input_kind: ClassVar[str] = "logits"
    denominator: ClassVar[str] = "weights"  # for class indices
    supports_ignore_index: ClassVar[bool] = True
    symbols: ClassVar[dict[str, str]] = {
        "x": "a row of input",
        "k": "class index",
        "y": "a row of class probabilities",
        "w": "class weights",
    }
    formula: ClassVar[Any]  # of the logits x of a row, the class index k, the class weights w
    soft_formula: ClassVar[Any] = None  # of x, a row y of class probabilities, and w, if the target may be one

    @classmethod
    def faults(cls, is_soft: bool, dtype: torch.dtype) -> tuple[Callable[..., Any], ...]:
        """Conditions on a row, other than a class index out of range, that trigger the exact checks."""
        return (_not_probabilities(cls._slack(dtype)),) if is_soft else ()

    @classmethod
    def index_checks(cls) -> tuple[ValueCheck, ...]:
        """The value checks of a row with a class index, other than the range of the index."""
        return ()

    @classmethod
    def row_call(
        cls,
        operands: tuple[Any, ...],
        *,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        class_dim: int | None = None,
        **options: Any,
    ) -> RowCall | None:
        """Rows of classes, each with a class index or a row of probabilities."""
        x, y = operands
        if not (isinstance(x, Tensor) and isinstance(y, Tensor)) or not x.dim():
            return None
        dim = min(1, x.dim() - 1) if class_dim is None else class_dim
        if not -x.dim() <= dim < x.dim() or x.shape[dim] < 2:
            return None
        if weight is not None:
            if weight.shape != (x.shape[dim],):
                return None
            weight = weight.to(working_dtype(x.dtype))
        is_last = dim % x.dim() == x.dim() - 1
        is_soft = y.is_floating_point()
        shape = x.shape[:-1] if is_last else x.shape[:dim] + x.shape[dim:][1:]
        if is_soft:
            if cls.soft_formula is None or y.shape != x.shape or y.dtype != x.dtype or ignore_index >= 0:
                return None
            y = y if is_last else y.movedim(dim, -1)
        elif y.shape != shape or y.is_complex():
            return None
        x = x if is_last else x.movedim(dim, -1)
        return RowCall(
            cls.soft_formula if is_soft else cls.formula,
            (x, y if is_soft else y.long(), weight),
            ("row", "row" if is_soft else "index", "shared"),
            options,
            cls.faults(is_soft, x.dtype),
            (Bound(1, "from 0 to", math.inf),) if is_soft else (),
            "count" if is_soft else cls.denominator,
            ignore_index if cls.supports_ignore_index and not is_soft else NEVER,
            None if is_last else dim,
            _probability_checks(cls, cls._slack(x.dtype)) if is_soft else cls.index_checks(),  # type: ignore[arg-type]
            None if is_soft else _index_error(cls, ignore_index),  # type: ignore[arg-type]
        )

    @classmethod
    def prepare(
        cls,
        operands: tuple[Any, ...],
        check: str,
        *,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        class_dim: int | None = None,
        **options: Any,
    ) -> PreparedCall:
        """Rows of classes, each with a class index or a row of probabilities."""
        name = cls.__name__
        check_tensors(name, cls.arguments, operands)
        check_same_device(name, cls.arguments, operands)
        given, target = operands
        x, y, has_indices = cls._arranged(given, target, class_dim, check)
        dtype = x.dtype if has_indices else torch.promote_types(x.dtype, y.dtype)
        working = working_dtype(dtype)
        x = x.to(working)
        if weight is not None:
            cls._check_weight(weight, x)
            weight = weight.to(working)
        is_checked = check != "off" and is_readable((x, y))
        if check == "nan" and is_checked:
            for argument, operand in (("input", given), ("target", target), ("weight", weight)):
                if operand is not None:
                    check_nan(name, argument, operand)
        if not has_indices:
            return cls._soft_call(x, y.to(working), weight, ignore_index, is_checked, dtype, options)
        keep = y != ignore_index if cls.supports_ignore_index else torch.ones_like(y, dtype=torch.bool)
        if is_checked:
            cls._check_indices(y, keep, x.shape[-1], ignore_index)
        k = torch.where(keep, y, 0)
        if is_checked:
            cls._check_input(x, k, keep)
        if cls.supports_ignore_index:  # a row that is ignored has the gradient 0, also where it holds a NaN
            x = torch.where(keep.unsqueeze(-1), x, 0)
        return PreparedCall(
            cls.formula,
            (x, k, weight),
            options,
            dtype,
            keep=keep,
            count=keep.sum,
            weights=lambda: (keep if weight is None else torch.where(keep, pick(weight, k), 0)).sum(),
            denominator=cls.denominator,
        )

    @classmethod
    def _soft_call(
        cls,
        x: Tensor,
        y: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        is_checked: bool,
        dtype: torch.dtype,
        options: dict[str, Any],
    ) -> PreparedCall:
        if ignore_index >= 0:
            raise InvalidValue(
                f"{cls.__name__}: `ignore_index` goes with class indices; received ignore_index={ignore_index} and a "
                "target of class probabilities. Help: give the rows to be ignored a target of zeros."
            )
        if is_checked:
            cls._check_probabilities(y, dtype)
        return PreparedCall(
            cls.soft_formula,
            (x, y, weight),
            options,
            dtype,
            count=y[..., 0].numel,
            weights=lambda: (y if weight is None else y * weight).sum(),
            denominator="count",
        )

    @classmethod
    def _arranged(cls, x: Tensor, y: Tensor, class_dim: int | None, check: str) -> tuple[Tensor, Tensor, bool]:
        """Input and target with the classes last, and whether the target holds class indices."""
        name = cls.__name__
        if not x.is_floating_point():
            help = "input.real or input.abs()" if x.is_complex() else "input.float()"
            if y.is_floating_point() and y.dim() and y.shape[:1] + y.shape[2:] == x.shape:
                help = f"input and target look exchanged: the first argument holds the {cls.input_kind}"
            raise InvalidType(
                f"{name}: `input` must hold floating-point {cls.input_kind}; received {x.dtype}. Help: {help}."
            )
        if x.dim() == 0:
            raise InvalidValue(f"{name}: `input` must be (C) or (N, C, ...); received a 0-dimensional tensor.")
        dim = class_dim if class_dim is not None else min(1, x.dim() - 1)
        if not -x.dim() <= dim < x.dim():
            raise InvalidValue(
                f"{name}: `class_dim` must be in [{-x.dim()}, {x.dim() - 1}] for an input of {x.dim()} dimensions; "
                f"received class_dim={dim}."
            )
        dim %= x.dim()
        rows = x.shape[:dim] + x.shape[dim + 1 :]
        is_whole = not y.is_floating_point() and not y.is_complex()
        if x.shape[dim] == 0:
            raise InvalidValue(
                f"{name}: `input` must have at least 2 classes; received {shape_of(x)}, that is no class (dimension "
                f"{dim}). Help: the last layer of the model needs an output for each class."
            )
        if x.shape[dim] == 1 and check != "off" and (y.shape == rows or y.shape == x.shape):
            raise InvalidValue(
                f"{name}: `input` must have at least 2 classes; received {shape_of(x)}, that is one class (dimension "
                f"{dim}), which leaves nothing to learn: the loss is 0 whatever the input. "
                "Help: for a yes or no, BCEWithLogitsLoss with one logit and a 0/1 target of the same shape."
            )
        if y.shape == rows and is_whole:
            return x.movedim(dim, -1), y.long(), True
        if y.shape == x.shape and not is_whole and cls.soft_formula:
            return x.movedim(dim, -1), y.movedim(dim, -1), False
        raise cls._mismatch(x, y, dim, rows, is_whole)

    @classmethod
    def _mismatch(cls, x: Tensor, y: Tensor, dim: int, rows: torch.Size, is_whole: bool) -> InvalidValue | InvalidType:
        """Why a target fits neither as class indices nor as probabilities."""
        received = f"received {y.dtype} of shape {shape_of(y)} for an input {shape_of(x)}"
        wants = f"class indices of dtype int64 and shape {tuple(rows)}"
        if cls.soft_formula:
            wants += f", or class probabilities of a floating dtype and shape {shape_of(x)}"
        kind: type[InvalidValue] | type[InvalidType] = InvalidValue
        if y.is_complex():
            kind, how = InvalidType, "a class index is a whole number"
        elif y.shape == x.shape:
            kind = InvalidType
            if is_whole and cls.soft_formula:
                how = f"it looks one-hot: target.argmax({dim}) gives the indices, target.float() the probabilities"
            else:
                how = f"if it is one-hot or holds scores, target.argmax({dim}) gives the class indices"
        elif y.shape == rows:
            kind = InvalidType
            how = "target.long(), if it holds class indices; for 0/1 targets of single logits use BCEWithLogitsLoss"
        elif y.dim() == len(rows) + 1 and y.shape[dim] == 1 and y.squeeze(dim).shape == rows:
            how = f"target.squeeze({dim})" + ("" if is_whole else ".long()")
        elif x.dim() > 2 and y.shape == x.shape[:-1]:
            how = "if the classes are the last dimension of the input, say class_dim=-1"
        elif y.shape == (*rows, x.shape[dim]):
            how = f"target.argmax(-1), if it is one-hot in its last dimension; the classes are dimension {dim}"
        elif x.dim() == 1 and y.dim() == 1:
            how = "an input (C) is one sample; several samples have an input (N, C)"
        else:
            how = "one target for each sample (and place); the classes are dimension 1 of the input"
        return kind(f"{cls.__name__}: `target` must hold {wants}; {received}. Help: {how}. {cls._to_copy()}")

    @classmethod
    def _to_copy(cls) -> str:
        return f"It takes {cls.expects}. A line that works: {cls.line_that_works()}"

    @classmethod
    def _check_weight(cls, weight: Tensor, x: Tensor) -> None:
        classes = x.shape[-1]
        if weight.shape != (classes,):
            raise InvalidValue(
                f"{cls.__name__}: `weight` must have one number for each class, shape ({classes},); received "
                f"{shape_of(weight)}. Help: {cls._how_to_weigh(weight, x)}."
            )
        check_same_device(cls.__name__, ("input", "weight"), (x, weight))

    @staticmethod
    def _how_to_weigh(weight: Tensor, x: Tensor) -> str:
        if weight.numel() == x.shape[-1]:
            return "weight.flatten()"
        if weight.numel() == x.shape[:-1].numel():
            return 'for a weight of each sample, multiply the losses: loss with reduction="none", times weight, .mean()'
        return f"torch.ones({x.shape[-1]}) weighs all classes alike"

    @classmethod
    def _check_indices(cls, y: Tensor, keep: Tensor, classes: int, ignore_index: int) -> None:
        violation = find_violation(y, keep & ((y < 0) | (y >= classes)))
        if violation is not None:
            are_signs = violation.value == -1 and bool(((y == 1) | (y == -1)).all())
            help = "(target + 1) // 2 makes class indices of labels -1 and 1" if are_signs else None
            raise cls._index_error(violation, classes, ignore_index, help)

    @classmethod
    def _index_error(
        cls, violation: Violation, classes: int, ignore_index: int, help: str | None = None
    ) -> InvalidValue:
        index = int(violation.value)
        how = "numbered from 1? target - 1" if index == classes else "labels are numbered from 0"
        if index > classes:
            how = "the input must have as many classes as there are labels"
        elif cls.supports_ignore_index and index < 0:
            how = f"is it a mask? ignore_index={index}"
        others = f", or ignore_index={ignore_index}" if cls.supports_ignore_index else ""
        return InvalidValue(
            f"{cls.__name__}: `target` must hold class indices in [0, {classes - 1}] for {classes} classes{others}; "
            f"received {describe_violation(violation)}. Help: {help or how}."
        )

    @classmethod
    def _check_input(cls, x: Tensor, y: Tensor, keep: Tensor) -> None:
        """Refuse an input that shows, in the entries that are read, to be something else."""

    @staticmethod
    def _slack(dtype: torch.dtype) -> float:
        """How far from 1 the sum of probabilities may be."""
        return max(1e-3, 4 * torch.finfo(dtype).eps)

    @classmethod
    def _check_probabilities(cls, y: Tensor, dtype: torch.dtype) -> None:
        y = y.detach()
        violation = find_violation(y, y < 0)
        if violation is not None:
            is_log = bool((y <= 0).all())
            raise cls._probability_error(
                violation, "Help: target.exp() makes probabilities of log-probabilities" if is_log else _INDICES_HELP
            )
        sums = y.sum(-1)
        slack = cls._slack(dtype)
        violation = find_violation(sums, ((sums - 1).abs() > slack) & (sums != 0))
        if violation is not None:
            help = _INDICES_HELP
            if sums.dim() and bool(((y == 0) | (y == 1)).all()):
                help = "Help: for several classes in a row, BCEWithLogitsLoss takes a 0/1 label for each class"
            elif sums.dim() and bool((sums > 1 + slack).all()):
                help += "; counts / counts.sum(dim, keepdim=True) makes probabilities of counts, dim being the classes'"
            raise cls._sum_error(violation, help)

    @classmethod
    def _probability_error(cls, violation: Violation, help: str = _INDICES_HELP) -> InvalidValue:
        return InvalidValue(
            f"{cls.__name__}: `target` holds class probabilities, which must be at least 0; received "
            f"{describe_violation(violation)}. {help}."
        )

    @classmethod
    def _sum_error(cls, violation: Violation, help: str = _INDICES_HELP) -> InvalidValue:
        row = unravel_index(violation.first, violation.shape)
        index = row[0] if len(row) == 1 else row
        binary = "; one logit and one 0/1 target for each sample make a binary problem: BCEWithLogitsLoss"
        return InvalidValue(
            f"{cls.__name__}: `target` of a floating dtype and the shape of the input holds class "
            "probabilities, so each row must sum to 1 (or be all 0, to be left out); "
            f"{f'row {index}' if row else 'this one'} sums to {violation.value:g}. {help}"
            f"{'' if row else binary}."
        )


@functools.cache
def _index_error(cls: Any, ignore_index: int) -> Callable[[Violation], Exception]:
    """Return the error for class indices that a kernel reports; the same function for the same arguments."""
    return lambda found: cls._index_error(rows_of_violation(found), found.shape[-1], ignore_index)


@functools.cache
def _probability_checks(cls: Any, slack: float) -> tuple[ValueCheck, ...]:
    """Return the checks of a row of probabilities."""
    return (
        ValueCheck(lambda x, y, w: y < 0, lambda x, y, w: y, cls._probability_error),
        ValueCheck(
            _not_probabilities(slack), lambda x, y, w: total(y), lambda found: cls._sum_error(rows_of_violation(found))
        ),
    )


def rows_of_violation(found: Violation) -> Violation:
    """Return violations with the shape of the rows, without the classes."""
    return found._replace(shape=found.shape[:-1])


@functools.cache
def _not_probabilities(slack: float) -> Callable[..., Any]:
    def fault(x: Any, y: Any, w: Any) -> Any:
        s = total(y)
        return (s != 0) & (abs(s - 1) > slack)

    return fault
