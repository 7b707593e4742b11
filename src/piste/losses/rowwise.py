"""The losses of whole rows, such as cross entropy: the kernel of rows, where it applies."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..engine import (
    NEVER,
    Bound,
    LossArguments,
    LossDispatcher,
    LossSpec,
    ValueCheck,
    Violation,
    as_divisor,
    decline,
    dispatcher_of,
)
from .call import ValidatedSettings
from .loss import Loss
from .reduction import Reduction
from .value_checks import check_class_weight

__all__ = ["RowCall", "RowwiseLoss"]


class RowCall(NamedTuple):
    """A call for the kernel of rows: its formula, its operands, and the kind of each (as in `Column`)."""

    formula: Callable[..., Any]
    operands: tuple[Tensor | None, ...]
    kinds: tuple[str, ...]
    options: dict[str, Any]
    faults: tuple[Callable[..., Any], ...] = ()  # conditions on a row that trigger the exact checks
    bounds: tuple[Bound, ...] = ()  # ranges outside which the exact checks are triggered
    denominator: str = "count"
    ignored: int = NEVER
    class_dim: int | None = None  # the dimension of the given input whose classes were moved to the end
    checks: tuple[ValueCheck, ...] = ()  # all conditions on which values are rejected
    index_error: Callable[[Violation], Exception] | None = None  # returns the error for class indices out of range


class RowwiseLoss(Loss):
    """A loss of rows; `row_call` has the kernel's form of a valid call."""

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
        """By the kernel at once where operands of this kind went there unconverted; else step by step."""
        try:
            x = operands[0]
            kind = (x.ndim, x.shape[-1] > 1, *[o.dtype for o in operands])
        except (AttributeError, IndexError):  # no tensors
            return super().call(operands, settings, tensors)
        if tensors and settings.check != "off":
            check_class_weight(cls.__name__, tensors["weight"])
        hit = settings.kernels.get(kind)
        if hit:
            dispatcher, arguments, class_dim = hit
            given = (*operands, *tensors.values()) if tensors else operands
            if class_dim is not None:
                given = (x.movedim(class_dim, -1), *given[1:])
            result = dispatcher.loss(given, arguments)
            if result is not None:
                settings.last_hit = None if tensors or class_dim is not None or settings.waits else hit
                return result
        result = super().call(operands, settings, tensors)
        if hit is None and not torch.compiler.is_compiling():
            settings.kernels[kind] = cls._kernel_for(operands, settings, tensors)
        return result

    @classmethod
    def _kernel_for(
        cls, operands: tuple[Any, ...], settings: ValidatedSettings, tensors: dict[str, Tensor]
    ) -> tuple[Any, ...]:
        """The dispatcher for further calls of this kind and its launch arguments, or () if operands are converted."""
        is_plain = settings.check != "nan" and not isinstance(settings.reduction.normalizer, Tensor)
        call = cls.row_call(operands, **settings.options, **tensors) if is_plain else None
        if call is None:
            return ()
        given = (*operands, *tensors.values())
        unconverted = tuple(x for x in call.operands if x is not None)
        moved = 0 if call.class_dim is None else 1  # the input is a view then, whose dtype is that of the given one
        if len(unconverted) != len(given) or not all(map(operator.is_, unconverted[moved:], given[moved:])):
            return ()
        target = cls._dispatcher(call, settings.reduction, settings.check, operands[0].ndim)
        return () if target is None else (*target, call.class_dim)

    @classmethod
    def row_call(cls, operands: tuple[Any, ...], **options: Any) -> RowCall | None:
        """The kernel's form of valid operands, or None for others, which `prepare` converts or rejects."""
        return None

    @classmethod
    def compute(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Tensor:
        """By the kernel where it applies."""
        tries_kernel = check != "nan" and not torch.compiler.is_compiling()  # torch.compile traces the formula instead
        call = cls.row_call(operands, **options) if tries_kernel else None
        if tries_kernel and call is None:
            decline("the kernel takes no operands of these dtypes and shapes")
        target = None if call is None else cls._dispatcher(call, reduction, check)
        result = None
        if call is not None and target is not None:
            result = target[0].loss(tuple([x for x in call.operands if x is not None]), target[1])
        return super().compute(operands, reduction, check, **options) if result is None else result

    @classmethod
    def _dispatcher(
        cls, call: RowCall, reduction: Reduction, check: str, dims: int = -1
    ) -> tuple[LossDispatcher, LossArguments] | None:
        """The dispatcher for a call and its launch arguments, or None."""
        how = "given"
        by: float | Tensor = 0.0 if reduction.mode == "mean" else 1.0
        if reduction.mode == "mean":
            name = call.denominator if reduction.normalizer is None else reduction.normalizer
            if isinstance(name, Tensor):
                name = as_divisor(name)
                if name is None or (not isinstance(name, Tensor) and not name):
                    decline("the denominator is 0, or a tensor that can't be read here or needs a gradient")
                    return None
            if name == "weights" and "shared" in call.kinds and "index" not in call.kinds:
                decline("the weights of probabilities are a sum over all of them")
                return None
            has_weights = name == "weights" and "shared" in call.kinds and call.operands[-1] is not None
            if isinstance(name, Tensor):
                how, by = "device", name
            elif not isinstance(name, str):
                by = float(name)
            elif has_weights:
                how = "weights"
            elif call.ignored != NEVER:
                how = "count"
        faults, bounds, checks = (call.faults, call.bounds, call.checks) if check == "raise" else ((), (), ())
        spec = LossSpec(
            call.formula,
            None,
            tuple(None if x is None else kind for x, kind in zip(call.operands, call.kinds, strict=True)),
            tuple(call.options.items()),
            faults,
            bounds,
            "none" if reduction.mode == "none" else "sum",
            how,
            checks,
            call.index_error,
        )
        return dispatcher_of(spec), LossArguments.of(by, call.ignored, reduction.empty == "nan", dims)
