"""The losses whose formula takes one element: on the way to the kernel of elements, where that serves."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine import loss_dispatch as cpu_loss
from ..engine.eager import loss as eager_loss
from ..engine.range_guards import Bound
from ..errors import InvalidType, InvalidValue
from .loss import Call, Chosen, Loss
from .reduction import Reduction
from .value_checks import Check, first_offence, is_readable, refuse_nan, same_device, same_shape, spread, tensors

__all__ = ["ElementwiseLoss"]


class ElementwiseLoss(Loss):
    """A loss that is a formula of one element: `value`, and its `derivatives` by each operand.

    Both are written in the words of `piste.formula` and know nothing of shapes, reductions or engines.
    """

    value: ClassVar[Any]
    derivatives: ClassVar[Any]
    checks: ClassVar[tuple[Check, ...]] = ()  # on the operands, by formulas of the same letters
    mean_by: ClassVar[str] = "count"
    extras: ClassVar[tuple[str, ...]] = ()  # options that are operands too: tensors that spread over the elements
    is_complex_allowed: ClassVar[bool] = False

    @classmethod
    def call(cls, operands: tuple[Any, ...], chosen: Chosen, tensors: dict[str, Tensor]) -> Tensor:
        """By the kernel at once where nothing has to be converted or refused; else step by step."""
        found = chosen.at_once.get(None)
        if found:
            result = found[0].loss(cls._spread(operands, tensors) if tensors else operands, found[1])
            if result is not None:
                chosen.last = None if tensors else found
                return result
        result = super().call(operands, chosen, tensors)
        if found is None and not torch.compiler.is_compiling():
            chosen.at_once[None] = cls._at_once(chosen, tensors)
        return result

    @classmethod
    def _spread(cls, operands: tuple[Any, ...], tensors: dict[str, Tensor]) -> tuple[Any, ...]:
        """With the options that are operands too; nothing that a kernel takes, where they don't fit."""
        try:
            shape = operands[0].shape
            extras = [tensors[name].expand(shape).contiguous() for name in (*cls.extras, "weight") if name in tensors]
        except (AttributeError, RuntimeError):
            return (None,)
        return (*operands, *extras)

    @classmethod
    def _at_once(cls, chosen: Chosen, tensors: dict[str, Tensor]) -> tuple[Any, ...]:
        """After a call with these settings: the kernel that the next goes to, and what it has to be told besides."""
        mode, normalizer, _ = chosen.reduction
        is_weighted = "weight" in tensors
        if mode == "batchmean" or isinstance(normalizer, str | Tensor) or chosen.check == "nan":
            return ()
        if mode == "mean" and normalizer is None and is_weighted and cls.mean_by == "weights":
            return ()
        given = tuple((k, v) for k, v in chosen.options.items() if v is not None)
        kinds = ("element",) * (len(cls.arguments) + len(tensors) - is_weighted) + ("weight",) * is_weighted
        ready = _ready(cls, kinds, given, chosen.check == "raise", "none" if mode == "none" else "sum")  # type: ignore[arg-type]
        return ready, cpu_loss.Rest.of(float(normalizer or 0) if mode == "mean" else 1.0)

    @classmethod
    def by_kernel(cls, call: Call, reduction: Reduction, check: str) -> Tensor | None:
        """The loss in one pass; what is spread over the elements, or lies otherwise, is copied first."""
        divisor = reduction.divisor(call) if reduction.mode in ("mean", "batchmean") else 1.0
        if isinstance(divisor, Tensor):
            divisor = cpu_loss.as_number(divisor)
        if not divisor:
            return None
        given, kinds = call.letters, ("element",) * len(call.letters)
        if call.weight is not None:
            given, kinds = (*given, call.weight.expand(given[0].shape)), (*kinds, "weight")
        mode = "none" if reduction.mode == "none" else "sum"
        ready = _ready(cls, kinds, tuple(call.options.items()), check == "raise", mode)  # type: ignore[arg-type]
        return ready.loss(tuple(given), cpu_loss.Rest.of(float(divisor)))

    @classmethod
    def prepare(cls, operands: tuple[Any, ...], check: str, *, weight: Tensor | None = None, **options: Any) -> Call:
        """Operands of one shape, device and dtype, with the weights spread over them."""
        name = cls.__name__
        tensors(name, cls.arguments, operands)
        same_shape(name, cls.arguments, operands)
        same_device(name, cls.arguments, operands)
        dtype = cls._dtype(operands)
        working = eager_loss.working_dtype(dtype)
        operands = tuple(o.to(working) for o in operands)
        first = operands[0]
        for extra in cls.extras:
            tensor = options.pop(extra, None)
            if tensor is not None:
                operands += (spread(name, extra, tensor, first).expand(first.shape),)
        if weight is not None:
            weight = spread(name, "weight", weight, first)

        def inspect() -> None:
            if is_readable(operands):
                cls._inspect(operands, options, check)
                if check == "nan" and weight is not None and is_readable((weight,)):
                    refuse_nan(name, "weight", weight)

        return Call(
            cls.value,
            operands,
            options,
            dtype,
            derivatives=cls.derivatives,
            weight=weight,
            count=first.numel,
            weights=lambda: first.numel() if weight is None else weight.expand(first.shape).sum(),
            mean_by=cls.mean_by,
            inspect=None if check == "off" else inspect,
            batch=first.shape[0] if first.dim() else 1,
        )

    @classmethod
    def domains(cls, **options: Any) -> tuple[Check, ...]:
        """What values are allowed, under these options."""
        return cls.checks

    @classmethod
    def _dtype(cls, operands: tuple[Tensor, ...]) -> torch.dtype:
        dtypes = [o.dtype for o in operands if o.is_floating_point() or o.is_complex()]
        if not dtypes or (not cls.is_complex_allowed and any(t.is_complex for t in dtypes)):
            raise InvalidType(
                f"{cls.__name__}: `{cls.arguments[0]}` must hold floating-point numbers; received "
                f"{operands[0].dtype}. Help: {cls.arguments[0]}.float()."
            )
        return functools.reduce(torch.promote_types, dtypes)

    @classmethod
    def _inspect(cls, operands: tuple[Tensor, ...], options: dict[str, Any], check: str) -> None:
        names = (*cls.arguments, *cls.extras)
        for rule in cls.domains(**options):
            position = names.index(rule.argument)
            if position >= len(operands):
                continue
            offence = first_offence(operands[position].detach(), rule.bad(*(o.detach() for o in operands)))
            if offence:
                raise InvalidValue(
                    f"{cls.__name__}: `{rule.argument}` must be {rule.range}; received {offence}. Help: {rule.help}."
                )
        if check == "nan":
            for argument, operand in zip(names, operands, strict=False):
                refuse_nan(cls.__name__, argument, operand)


@functools.lru_cache(maxsize=1000)  # mypy takes a class of modules for something without a hash
def _ready(
    cls: Any, kinds: tuple[str, ...], options: tuple[tuple[str, Any], ...], is_checked: bool, mode: str
) -> cpu_loss.Ready:
    names = (*cls.arguments, *cls.extras)[: kinds.count("element")]
    rules = [rule for rule in cls.domains(**dict(options)) if is_checked and rule.argument in names]
    faults = tuple(rule.bad for rule in rules if rule.sure is None)
    bounds = tuple(Bound(names.index(rule.argument), *rule.sure) for rule in rules if rule.sure is not None)
    return cpu_loss.Ready(cls.value, cls.derivatives, kinds, dict(options), faults, mode, bounds=bounds)
