"""The base of the losses over classes: the dimension of the classes, targets, class weights, ignored rows."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine import NO_IGNORE_INDEX, Bound, ValueCheck, Violation, compute_dtype
from ..errors import InvalidValue
from ..formula.expression import FormulaError
from ..formula.row_functions import pick, total
from ..options import Integer, TensorOption
from .arguments import COUNTED
from .call import PreparedCall
from .class_checks import (
    arrange,
    check_indices,
    check_probabilities,
    check_weight,
    index_error,
    probability_error,
    slack_of,
    sum_error,
)
from .loss import TorchWeightedLoss
from .reduction import nothing_error
from .rowwise import Conditions, Rows, RowwiseLoss, rows_of_violation
from .value_checks import check_same_device, check_tensors

__all__ = ["CLASS_DIM", "CLASS_WEIGHT", "IGNORE_INDEX", "ClassLoss"]

CLASS_WEIGHT = TensorOption("a weight for each class, shape (C,)")
IGNORE_INDEX = Integer(-100, "the class index of rows that are left out")
CLASS_DIM = Integer(None, "the dimension of the classes; None: dimension 1, as in torch", optional=True)


class ClassLoss(RowwiseLoss, TorchWeightedLoss):
    """A loss of rows of classes: the dimension of the classes, targets, class weights, and ignored rows."""

    input_kind: ClassVar[str] = "logits"
    elsewhere = COUNTED
    denominator: ClassVar[str] = "weights"  # for class indices
    supports_ignore_index: ClassVar[bool] = True
    expects = "logits (N, C), or (N, C, d1, ...), and class indices (N), or (N, d1, ...), of dtype int64"
    example = "torch.randn(3, 5), torch.tensor([1, 0, 4])"
    symbols: ClassVar[dict[str, str]] = {
        "x": "a row of input",
        "k": "class index",
        "y": "a row of class probabilities",
        "w": "class weights",
    }
    formula: ClassVar[Any]  # of the logits x of a row, the class index k, the class weights w
    soft_formula: ClassVar[Any] = None  # of x, a row y of class probabilities, and w, if the target may be one

    _operand_counts: ClassVar[tuple[int, int]] = (3, 3)  # of `soft_formula` and `formula`, which may have no w

    index_faults: ClassVar[tuple[Callable[..., Any], ...]] = ()  # of a row with a class index, other than its range

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._operand_counts = _operand_count(cls.soft_formula), _operand_count(getattr(cls, "formula", None))
        if "weight" in cls.options and 2 in cls._operand_counts:
            raise FormulaError(
                f"{cls.__name__} has the option `weight`, and its formula takes no class weights. Help: "
                "formula(x, k, w=None), with pick(w, k) for the weight of the class where w is not None."
            )

    @classmethod
    def index_checks(cls) -> tuple[ValueCheck, ...]:
        """Return the value checks of a row with a class index, other than the range of the index."""
        return ()

    @classmethod
    def check_shape(cls, x: Tensor, y: Tensor) -> None:
        """Raise for operands of other dimensions than the loss takes."""

    @classmethod
    def rows(
        cls,
        operands: tuple[Any, ...],
        check: str,
        *,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        class_dim: int | None = None,
        **options: Any,
    ) -> Rows:
        """Return rows of classes, each with a class index or a row of probabilities."""
        name = cls.__name__
        check_tensors(name, cls.arguments, operands)
        check_same_device(name, cls.arguments, operands)
        cls.check_shape(*operands)
        x, y, has_indices, moved_dim = arrange(cls, operands[0], operands[1], class_dim, check)
        dtype = x.dtype if has_indices else torch.promote_types(x.dtype, y.dtype)
        if weight is not None:
            check_weight(cls, weight, x)
            weight = weight.to(compute_dtype(dtype))
        if not has_indices and ignore_index >= 0:
            raise InvalidValue(
                f"{name}: `ignore_index` goes with class indices; received ignore_index={ignore_index} and a "
                "target of class probabilities. Help: give the rows to be ignored a target of zeros."
            )
        formula = cls.formula if has_indices else cls.soft_formula
        of_soft, of_index = cls._operand_counts
        count = of_index if has_indices else of_soft
        return Rows(
            formula,
            (x, y, weight)[:count],
            ("row", "index" if has_indices else "row", "shared")[:count],
            options,
            dtype,
            denominator=cls.denominator if has_indices else "count",
            ignored=ignore_index if cls.supports_ignore_index and has_indices else NO_IGNORE_INDEX,
            arrange=None if moved_dim is None or not has_indices else functools.partial(_move_classes, moved_dim),
            obstacle=_obstacle(x, y, has_indices),
        )

    @classmethod
    def conditions(cls, rows: Rows) -> Conditions:
        """Return what the kernel checks: the class indices, or the probabilities."""
        if rows.kinds[1] == "index":
            error = _index_error(cls, rows.ignored)  # type: ignore[arg-type]
            return Conditions(cls.index_faults, checks=cls.index_checks(), index_error=error)
        slack = slack_of(rows.dtype)
        checks = _probability_checks(cls, slack)  # type: ignore[arg-type]
        return Conditions((_not_probabilities(slack),), (Bound(1, "from 0 to", math.inf),), checks)

    @classmethod
    def check_values(cls, rows: Rows, given: tuple[Tensor, ...]) -> None:
        """Raise for a class index out of range, and for rows that are no probabilities."""
        x, y = rows.operands[:2]
        if rows.kinds[1] == "index":
            keep = y != rows.ignored
            check_indices(cls, y, keep, x.shape[-1], rows.ignored)
            cls.check_input(x.detach(), torch.where(keep, y, 0), keep)
        else:
            check_probabilities(cls, y, rows.dtype, x)

    @classmethod
    def check_input(cls, x: Tensor, k: Tensor, keep: Tensor) -> None:
        """Raise for an input whose values at the class indices show a mistake."""

    @classmethod
    def prepared(cls, rows: Rows) -> PreparedCall:
        """Return the rows for the eager backend; an ignored row has the gradient 0, even where it holds NaN."""
        call = super().prepared(rows)
        x, y, weight = (*call.operands, None)[:3]  # a formula may take no class weights
        if rows.kinds[1] != "index":
            call.weights = lambda: (y if weight is None else y * weight).sum()
            return call
        keep = y != rows.ignored
        k = torch.where(keep, y, 0)
        if rows.ignored != NO_IGNORE_INDEX:
            x = torch.where(keep.unsqueeze(-1), x, 0)
        call.operands, call.keep, call.count = (x, k, weight)[: len(call.operands)], keep, keep.sum
        call.weights = lambda: (keep if weight is None else torch.where(keep, pick(weight, k), 0)).sum()
        return call


def _move_classes(dim: int, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Return the operands with the classes of the input in its last dimension."""
    return (x.movedim(dim, -1), *others)


def _obstacle(x: Tensor, y: Tensor, has_indices: bool) -> str | None:
    """Return why no kernel takes the rows, or None."""
    if x.shape[-1] < 2:
        return "the kernel takes at least 2 classes"
    return None if has_indices or x.dtype == y.dtype else "the kernel takes input and target of one dtype"


@functools.cache
def _index_error(cls: Any, ignore_index: int) -> Callable[[Violation], Exception]:
    """Return the error for class indices that a kernel reports, or for no rows: the same for the same arguments."""

    def error(found: Violation) -> Exception:
        if not found.number:
            return nothing_error(cls.__name__)
        return index_error(cls, rows_of_violation(found), found.shape[-1], ignore_index)

    return error


@functools.cache
def _probability_checks(cls: Any, slack: float) -> tuple[ValueCheck, ...]:
    """Return the checks of a row of probabilities."""
    negative = ValueCheck(lambda x, y, w: y < 0, lambda x, y, w: y, functools.partial(probability_error, cls))
    off = ValueCheck(
        _not_probabilities(slack), lambda x, y, w: total(y), lambda found: sum_error(cls, rows_of_violation(found))
    )
    return negative, off


@functools.cache
def _not_probabilities(slack: float) -> Callable[..., Any]:
    def fault(x: Any, y: Any, w: Any) -> Any:
        s = total(y)
        return (s != 0) & (abs(s - 1) > slack)

    return fault


def _operand_count(formula: Callable[..., Any] | None) -> int:
    """Return the number of operands that a formula takes: 3, or 2 without class weights."""
    kinds = [] if formula is None else [x.kind for x in inspect.signature(formula).parameters.values()]
    return 2 if kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) == 2 else 3
