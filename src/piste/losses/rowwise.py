"""The losses of whole rows, such as cross entropy: the kernel of rows, where it applies."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..engine import (
    NO_IGNORE_INDEX,
    Bound,
    LossArguments,
    LossDispatcher,
    LossSpec,
    ValueCheck,
    Violation,
    as_divisor,
    compute_dtype,
    decline,
    dispatcher_of,
)
from .call import PreparedCall, ValidatedSettings
from .loss import Loss
from .reduction import Reduction
from .value_checks import check_class_weight, check_nan, is_readable

__all__ = ["Conditions", "Rows", "RowwiseLoss", "rows_of_violation"]


class Rows(NamedTuple):
    """A valid call as rows: the form that kernels take, and that the eager backend converts."""

    formula: Callable[..., Any]
    operands: tuple[Any, ...]  # tensors in the dtypes given, the classes or components last; None where left out
    kinds: tuple[str, ...]  # of the operands, as in `Column`
    options: dict[str, Any]
    dtype: torch.dtype  # of the result
    denominator: str = "count"
    ignored: int = NO_IGNORE_INDEX
    # Returns the rows of further operands of these dtypes and numbers of dimensions, and None where shapes don't fit.
    # Where it is None, the rows are the operands as given, or converted ones.
    arrange: Callable[..., Any] | None = None
    obstacle: str | None = None  # why no kernel takes these operands


class Conditions(NamedTuple):
    """The conditions on values that a kernel checks."""

    faults: tuple[Callable[..., Any], ...] = ()  # conditions on a row that trigger the exact checks
    bounds: tuple[Bound, ...] = ()  # ranges outside which the exact checks are triggered
    checks: tuple[ValueCheck, ...] = ()  # all conditions on which values are rejected
    index_error: Callable[[Violation], Exception] | None = None  # returns the error for class indices out of range


def rows_of_violation(found: Violation) -> Violation:
    """Return violations with the shape of the rows, without the classes."""
    return found._replace(shape=found.shape[:-1])


class RowwiseLoss(Loss):
    """A loss of rows: `rows` validates a call and `check_values` its values; kernel and eager backend compute both."""

    @classmethod
    def validate_all(cls, values: Mapping[str, Any]) -> Reduction:
        """Validate the settings and options of a call, and the values of class weights."""
        reduction = super().validate_all(values)
        weight = values.get("weight")
        if weight is not None and values["check"] != "off":
            check_class_weight(cls.__name__, weight)
        return reduction

    @classmethod
    def call(cls, operands: tuple[Any, ...], settings: ValidatedSettings, tensors: dict[str, Tensor]) -> Tensor:
        """Return the loss by the kernel at once where operands of this kind went there unconverted."""
        try:
            x = operands[0]
            kind = (x.ndim, x.shape[-1] > 1, *[o.dtype for o in operands])
        except (AttributeError, IndexError):  # no tensors
            return super().call(operands, settings, tensors)
        if tensors and settings.check != "off":
            check_class_weight(cls.__name__, tensors["weight"])
        hit = settings.kernels.get(kind)
        if hit:
            dispatcher, arguments, arrange = hit
            given = (*operands, *tensors.values()) if tensors else operands
            if arrange is not None:
                given = arrange(*given)
            result = None if given is None else dispatcher.loss(given, arguments)
            if result is not None:
                settings.last_hit = None if tensors or arrange is not None or settings.waits else hit
                return result
        result = super().call(operands, settings, tensors)
        if hit is None and isinstance(x, Tensor) and not torch.compiler.is_compiling():
            settings.kernels[kind] = cls._kernel_for(operands, settings, tensors)
        return result

    @classmethod
    def _kernel_for(
        cls, operands: tuple[Any, ...], settings: ValidatedSettings, tensors: dict[str, Tensor]
    ) -> tuple[Any, ...]:
        """Return the dispatcher for further calls of this kind, its arguments and `Rows.arrange`; or ()."""
        if settings.check == "nan" or isinstance(settings.reduction.normalizer, Tensor):
            return ()
        rows = cls.rows_for_kernel(operands, settings.reduction, settings.check, **settings.options, **tensors)
        given = (*operands, *tensors.values())
        if rows.arrange is not None:
            given = rows.arrange(*given)
        taken = [x for x in rows.operands if x is not None]
        if len(taken) != len(given) or any(
            x is not y and (rows.arrange is None or x.dtype is not y.dtype) for x, y in zip(taken, given, strict=True)
        ):
            return ()
        target = cls._dispatcher(rows, settings.reduction, settings.check, taken[0].dim())
        return () if target is None else (*target, rows.arrange)

    @classmethod
    @abstractmethod
    def rows(cls, operands: tuple[Any, ...], check: str, **options: Any) -> Rows:
        """Return the rows of a call; raise for operands whose types, shapes or devices do not fit."""

    @classmethod
    def rows_for_kernel(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Rows:
        """Return the rows of a call in the form that its kernel takes."""
        return cls.rows(operands, check, **options)

    @classmethod
    def why_no_operator(cls, operands: tuple[Any, ...], check: str, **options: Any) -> str | None:
        """Return why torch.compile traces these rows, or None."""
        return cls.rows(operands, check, **options).obstacle

    @classmethod
    def conditions(cls, rows: Rows) -> Conditions:
        """Return the conditions on values that a kernel checks."""
        return Conditions()

    @classmethod
    def check_values(cls, rows: Rows, given: tuple[Tensor, ...]) -> None:
        """Raise for values outside the domain of the loss.

        Args:
            rows: The rows of the call.
            given: Its operands.
        """

    @classmethod
    def prepare(cls, operands: tuple[Any, ...], check: str, **options: Any) -> PreparedCall:
        """Validate the operands of a call and convert them to the form of the formula."""
        rows = cls.rows(operands, check, **options)
        if check != "off" and is_readable(operands):
            cls.check_values(rows, operands)
            if check == "nan":
                for argument, operand in zip(cls.arguments, operands, strict=True):
                    check_nan(cls.__name__, argument, operand)
        return cls.prepared(rows)

    @classmethod
    def prepared(cls, rows: Rows) -> PreparedCall:
        """Return the rows for the eager backend: in the dtype of the computation, with the denominators."""
        working = compute_dtype(rows.dtype)
        operands = tuple(
            x if x is None or kind in ("index", "labels") else x.to(working)
            for x, kind in zip(rows.operands, rows.kinds, strict=True)
        )
        number = math.prod(rows.operands[0].shape[:-1])
        return PreparedCall(
            rows.formula, operands, rows.options, rows.dtype, lambda: number, lambda: number, rows.denominator
        )

    @classmethod
    def compute(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Tensor:
        """Return the loss by the kernel where it applies, and by the eager backend otherwise."""
        if cls.tries_kernel(check):
            rows = cls.rows_for_kernel(operands, reduction, check, **options)
            if rows.obstacle is not None:
                decline(rows.obstacle)
            elif (target := cls._dispatcher(rows, reduction, check)) is not None:
                result = target[0].loss(tuple([x for x in rows.operands if x is not None]), target[1])
                if result is not None:
                    return result
        return cls.eager_value(cls.prepare(operands, check, **options), reduction)

    @classmethod
    def _dispatcher(
        cls, rows: Rows, reduction: Reduction, check: str, dims: int = -1
    ) -> tuple[LossDispatcher, LossArguments] | None:
        """Return the dispatcher for a call and its launch arguments, or None."""
        if rows.obstacle is not None:
            return None
        how = "given"
        by: float | Tensor = 0.0 if reduction.mode == "mean" else 1.0
        if reduction.mode == "mean":
            name = rows.denominator if reduction.normalizer is None else reduction.normalizer
            if isinstance(name, Tensor):
                name = as_divisor(name, rows.operands[0])
                if name is None or (not isinstance(name, Tensor) and not name):
                    decline("the denominator is 0, or a tensor that can't be read here or needs a gradient")
                    return None
            if name == "weights" and "shared" in rows.kinds and "index" not in rows.kinds:
                decline("the weights of probabilities are a sum over all of them")
                return None
            has_weights = name == "weights" and "shared" in rows.kinds and rows.operands[-1] is not None
            if isinstance(name, Tensor):
                if reduction.empty == "raise":
                    decline("whether there is anything to take the mean of is known on the device alone")
                    return None
                how, by = "device", name if reduction.empty == "nan" else torch.where(name == 0, 1, name)
            elif not isinstance(name, str):
                by = float(name)
            elif has_weights:
                how = "weights"
            elif rows.ignored != NO_IGNORE_INDEX:
                how = "count"
        faults, bounds, checks, index_error = cls.conditions(rows)
        if check != "raise":
            faults, bounds, checks = (), (), ()
        spec = LossSpec(
            rows.formula,
            None,
            tuple(None if x is None else kind for x, kind in zip(rows.operands, rows.kinds, strict=True)),
            tuple(rows.options.items()),
            faults,
            bounds,
            "none" if reduction.mode == "none" else "sum",
            how,
            checks,
            index_error,
            reduction.empty == "raise" and how in ("count", "weights"),
        )
        return dispatcher_of(spec), LossArguments.of(by, rows.ignored, reduction.empty != "zero", dims)
