"""The losses whose formula takes a whole row: on the way to the kernel of rows, where that serves."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..engine import loss_dispatch as cpu_loss
from ..engine.loss_dispatch import NEVER, Ready, Rest
from ..engine.range_guards import Bound
from .loss import Chosen, Loss
from .reduction import Reduction

__all__ = ["RowwiseLoss", "Way"]


class Way(NamedTuple):
    """How a call goes to the kernel: its formula and letters, what each letter is (as in `Column`), and the rest."""

    formula: Callable[..., Any]
    letters: tuple[Tensor | None, ...]
    kinds: tuple[str, ...]
    options: dict[str, Any]
    faults: tuple[Callable[..., Any], ...] = ()  # conditions on a row for which the call is looked at more closely
    bounds: tuple[Bound, ...] = ()  # beyond which it is looked at more closely too
    mean_by: str = "count"
    ignored: int = NEVER


class RowwiseLoss(Loss):
    """A loss of rows; `way` says how a call that needs no explanation goes to the kernel."""

    @classmethod
    def call(cls, operands: tuple[Any, ...], chosen: Chosen, tensors: dict[str, Tensor]) -> Tensor:
        """By the kernel at once where operands of this kind went there as they are; else step by step."""
        try:
            x = operands[0]
            kind = (x.ndim, x.shape[-1] > 1, *[o.dtype for o in operands])
        except (AttributeError, IndexError):  # no tensors
            return super().call(operands, chosen, tensors)
        found = chosen.at_once.get(kind)
        if found:
            result = found[0].loss((*operands, *tensors.values()) if tensors else operands, found[1])
            if result is not None:
                chosen.last = None if tensors else found
                return result
        result = super().call(operands, chosen, tensors)
        if found is None and not torch.compiler.is_compiling():
            chosen.at_once[kind] = cls._at_once(operands, chosen, tensors)
        return result

    @classmethod
    def _at_once(cls, operands: tuple[Any, ...], chosen: Chosen, tensors: dict[str, Tensor]) -> tuple[Any, ...]:
        """After a call with these settings: how the next of its kind goes to the kernel, if that is without detours."""
        is_plain = chosen.check != "nan" and not isinstance(chosen.reduction.normalizer, Tensor)
        way = cls.way(operands, **chosen.options, **tensors) if is_plain else None
        given = (*operands, *tensors.values())
        letters = () if way is None else tuple(x for x in way.letters if x is not None)
        if way is None or len(letters) != len(given) or not all(map(operator.is_, letters, given)):
            return ()
        return cls._served_by(way, chosen.reduction, chosen.check, operands[0].ndim) or ()

    @classmethod
    def way(cls, operands: tuple[Any, ...], **options: Any) -> Way | None:
        """The way of operands that are right as they are; None for all others, which `prepare` converts or refuses."""
        return None

    @classmethod
    def compute(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Tensor:
        """By the kernel where it serves."""
        is_tried = check != "nan" and not torch.compiler.is_compiling()  # torch.compile traces the formula instead
        way = cls.way(operands, **options) if is_tried else None
        served = None if way is None else cls._served_by(way, reduction, check)
        result = None
        if way is not None and served is not None:
            result = served[0].loss(tuple([x for x in way.letters if x is not None]), served[1])
        return super().compute(operands, reduction, check, **options) if result is None else result

    @classmethod
    def _served_by(cls, way: Way, reduction: Reduction, check: str, dims: int = -1) -> tuple[Ready, Rest] | None:
        """What computes such a call, and what it has to be told besides."""
        mode, by = "given", 0.0 if reduction.mode == "mean" else 1.0
        if reduction.mode == "mean":
            name = way.mean_by if reduction.normalizer is None else reduction.normalizer
            if isinstance(name, Tensor):
                name = cpu_loss.as_number(name)
                if not name:
                    return None
            if name == "weights" and "shared" in way.kinds and "index" not in way.kinds:
                return None  # the weights of probabilities are a sum over all of them
            has_weights = name == "weights" and "shared" in way.kinds and way.letters[-1] is not None
            if not isinstance(name, str):
                by = float(name)
            elif has_weights:
                mode = "weights"
            elif way.ignored != NEVER:
                mode = "count"
        ready = _ready(
            way.formula,
            tuple(None if x is None else kind for x, kind in zip(way.letters, way.kinds, strict=True)),
            tuple(way.options.items()),
            *((way.faults, way.bounds) if check == "raise" else ((), ())),
            "none" if reduction.mode == "none" else "sum",
            mode,
        )
        return ready, Rest.of(by, way.ignored, reduction.empty == "nan", dims)


@functools.lru_cache(maxsize=1000)
def _ready(
    formula: Callable[..., Any],
    kinds: tuple[str | None, ...],
    options: tuple[tuple[str, Any], ...],
    faults: tuple[Callable[..., Any], ...],
    bounds: tuple[Bound, ...],
    mode: str,
    divisor: str,
) -> Ready:
    return Ready(formula, None, kinds, dict(options), faults, mode, divisor, bounds)
