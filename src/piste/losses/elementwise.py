"""The losses of single elements: validation of their operands, and the kernel of elements."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine import Bound, LossArguments, LossDispatcher, LossSpec, as_divisor, compute_dtype, decline, dispatcher_of
from ..errors import InvalidType
from ..formula.derive import derivatives_of
from ..options import TensorOption
from .call import MAX_CACHED_SETTINGS, PreparedCall, ValidatedSettings
from .loss import Loss
from .reduction import Reduction
from .value_checks import (
    Check,
    broadcast_weight,
    check_nan,
    check_same_device,
    check_same_shape,
    check_tensors,
    common_dtype,
    is_readable,
)

__all__ = ["WEIGHT", "ElementwiseLoss"]

WEIGHT = TensorOption("a factor for each element, broadcast to the shape of `input`")


class ElementwiseLoss(Loss):
    """A loss that is a formula of one element.

    `formula` is written in the operations of `piste.formula`, and knows no shape, reduction or backend. A loss states
    `derivatives`, by each operand, where a corner of the formula or an infinite value needs care; otherwise they are
    derived from the formula.
    """

    formula: ClassVar[Any]
    derivatives: ClassVar[Any]
    value_checks: ClassVar[tuple[Check, ...]] = ()  # on the operands, by formulas of the same symbols
    denominator: ClassVar[str] = "count"
    extras: ClassVar[tuple[str, ...]] = ()  # options that are operands too: tensors broadcast to the elements
    is_complex_allowed: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "formula" in vars(cls) and "derivatives" not in vars(cls):
            cls.derivatives = staticmethod(derivatives_of(cls.formula))

    @classmethod
    def call(cls, operands: tuple[Any, ...], settings: ValidatedSettings, tensors: dict[str, Tensor]) -> Tensor:
        """Compute by the kernel if no operand has to be converted or rejected, and otherwise step by step."""
        batch = cls._batch_size(operands) if settings.reduction.mode == "batchmean" else None
        hit = settings.kernels.get(batch)
        if hit:
            result = hit[0].loss(cls._with_tensors(operands, tensors) if tensors else operands, hit[1])
            if result is not None:
                settings.last_hit = None if tensors or batch is not None or settings.waits else hit
                return result
        result = super().call(operands, settings, tensors)
        if hit is None and not torch.compiler.is_compiling():
            if len(settings.kernels) >= MAX_CACHED_SETTINGS:
                settings.kernels.clear()
            settings.kernels[batch] = cls._kernel_for(settings, tensors, batch)
        return result

    @staticmethod
    def _batch_size(operands: tuple[Any, ...]) -> int | None:
        """Return the denominator of "batchmean"; None without tensors, or where torch.compile may make it a symbol."""
        first = operands[0]
        if not isinstance(first, Tensor) or torch.compiler.is_compiling():
            return None
        return first.shape[0] if first.dim() else 1

    @classmethod
    def _with_tensors(cls, operands: tuple[Any, ...], tensors: dict[str, Tensor]) -> tuple[Any, ...]:
        """Return the operands and the options that are operands too; no valid operands where those do not fit."""
        try:
            shape = operands[0].shape
            extras = [tensors[name].expand(shape).contiguous() for name in (*cls.extras, "weight") if name in tensors]
        except (AttributeError, RuntimeError, TypeError):
            return (None,)
        return (*operands, *extras)

    @classmethod
    def _kernel_for(cls, settings: ValidatedSettings, tensors: dict[str, Tensor], batch: int | None) -> tuple[Any, ...]:
        """Return the dispatcher for further calls with these settings and its launch arguments, or ()."""
        mode, normalizer, _ = settings.reduction
        is_weighted = "weight" in tensors
        if (mode == "batchmean" and not batch) or isinstance(normalizer, str | Tensor) or settings.check == "nan":
            return ()
        if mode == "mean" and normalizer is None and is_weighted and cls.denominator == "weights":
            return ()
        given = tuple((k, v) for k, v in settings.options.items() if v is not None)
        kinds = ("element",) * (len(cls.arguments) + len(tensors) - is_weighted) + ("weight",) * is_weighted
        dispatcher = cls._dispatcher(kinds, given, settings.check == "raise", mode)
        return dispatcher, LossArguments.of(float(normalizer or 0) if mode == "mean" else float(batch or 1))

    @classmethod
    def by_kernel(cls, call: PreparedCall, reduction: Reduction, check: str) -> Tensor | None:
        """Return the loss in one pass; operands that are broadcast or not contiguous are copied first."""
        denominator = reduction.denominator(call) if reduction.mode in ("mean", "batchmean") else 1.0
        divisor = as_divisor(denominator, call.operands[0]) if isinstance(denominator, Tensor) else float(denominator)
        is_on_device = isinstance(divisor, Tensor)
        if is_on_device and reduction.empty == "raise":
            return decline("whether there is anything to take the mean of is known on the device alone")
        if isinstance(divisor, Tensor) and reduction.empty == "zero":
            divisor = torch.where(divisor == 0, 1, divisor)
        if divisor is None or (not is_on_device and divisor == 0):
            return decline("the denominator is 0, or a tensor that can't be read here or needs a gradient")
        operands, kinds = call.operands, ("element",) * len(call.operands)
        if call.weight is not None:
            operands, kinds = (*operands, call.weight.expand(operands[0].shape)), (*kinds, "weight")
        dispatcher = cls._dispatcher(kinds, tuple(call.options.items()), check == "raise", reduction.mode, is_on_device)
        return dispatcher.loss(tuple(operands), LossArguments.of(divisor))

    @classmethod
    def _dispatcher(
        cls,
        kinds: tuple[str, ...],
        options: tuple[tuple[str, Any], ...],
        is_checked: bool,
        reduction: str,
        is_on_device: bool = False,
    ) -> LossDispatcher:
        mode, divisor = "none" if reduction == "none" else "sum", "device" if is_on_device else "given"
        return dispatcher_of(_spec(cls, kinds, options, is_checked, mode, divisor))  # type: ignore[arg-type]

    @classmethod
    def prepare(
        cls, operands: tuple[Any, ...], check: str, *, weight: Tensor | None = None, **options: Any
    ) -> PreparedCall:
        """Operands of one shape, device and dtype, with the weights broadcast to them."""
        name = cls.__name__
        check_tensors(name, cls.arguments, operands)
        check_same_shape(name, cls.arguments, operands, is_elementwise=True)
        check_same_device(name, cls.arguments, operands)
        dtype = cls._dtype(operands)
        working = compute_dtype(dtype)
        operands = tuple(o.to(working) for o in operands)
        first = operands[0]
        for extra in cls.extras:
            value = options.pop(extra, None)
            if isinstance(value, Tensor):
                operands += (broadcast_weight(name, extra, value, first).expand(first.shape),)
            elif value is not None:  # one number for all elements
                options[extra] = value
        if weight is not None:
            weight = broadcast_weight(name, "weight", weight, first)

        def inspect() -> None:
            if is_readable(operands):
                cls._inspect(operands, options, check)
                if check == "nan" and weight is not None and is_readable((weight,)):
                    check_nan(name, "weight", weight)

        return PreparedCall(
            cls.formula,
            operands,
            options,
            dtype,
            derivatives=cls.derivatives,
            weight=weight,
            count=first.numel,
            weights=lambda: first.numel() if weight is None else weight.expand(first.shape).sum(),
            denominator=cls.denominator,
            inspect=None if check == "off" else inspect,
            batch=first.shape[0] if first.dim() else 1,
        )

    @classmethod
    def checks_of(cls, options: Mapping[str, Any]) -> tuple[Check, ...]:
        """Return the value checks that apply under these options."""
        return tuple(check for check in cls.value_checks if check.applies(options))

    @classmethod
    def _dtype(cls, operands: tuple[Tensor, ...]) -> torch.dtype:
        dtypes = [o.dtype for o in operands if o.is_floating_point() or o.is_complex()]
        if not dtypes or (not cls.is_complex_allowed and any(t.is_complex for t in dtypes)):
            raise InvalidType(
                f"{cls.__name__}: `{cls.arguments[0]}` must hold floating-point numbers; received "
                f"{operands[0].dtype}. Help: {cls.arguments[0]}.float()."
            )
        return common_dtype(dtypes)

    @classmethod
    def _inspect(cls, operands: tuple[Tensor, ...], options: dict[str, Any], check: str) -> None:
        names = (*cls.arguments, *cls.extras)
        for rule in cls.checks_of(options):
            position = names.index(rule.argument)
            if position < len(operands):
                rule.raise_for(cls.__name__, operands, position)
        if check == "nan":
            for argument, operand in zip(names, operands, strict=False):
                check_nan(cls.__name__, argument, operand)


@functools.lru_cache(maxsize=1000)  # mypy takes a class of modules for something without a hash
def _spec(
    cls: Any, kinds: tuple[str, ...], options: tuple[tuple[str, Any], ...], is_checked: bool, mode: str, divisor: str
) -> LossSpec:
    names = (*cls.arguments, *cls.extras)[: kinds.count("element")]
    rules = [rule for rule in cls.checks_of(dict(options)) if is_checked and rule.argument in names]
    faults = tuple(rule.fails for rule in rules if rule.guard is None)
    bounds = tuple(Bound(names.index(rule.argument), *rule.guard) for rule in rules if rule.guard is not None)
    checks = tuple(rule.for_kernels(cls.__name__, names.index(rule.argument)) for rule in rules)
    return LossSpec(cls.formula, cls.derivatives, kinds, options, faults, bounds, mode, divisor, checks)
