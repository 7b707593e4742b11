"""The losses whose formula takes a whole row: on the way to the kernel of rows, where that serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from ..engine import cpu_loss, eager_loss
from ..engine.cpu_rows import Letters, Rows
from .loss import Loss
from .reduction import Reduction

__all__ = ["RowwiseLoss", "Way"]


class Way(NamedTuple):
    """How a call goes to the kernel: a formula and its letters, and the conditions on a row that refuse it."""

    formula: Callable[..., Any]
    letters: Letters
    options: dict[str, Any]
    faults: tuple[Callable[..., Any], ...] = ()
    mean_by: str = "count"


class RowwiseLoss(Loss):
    """A loss of rows; `way` says how a call that needs no explanation goes to the kernel."""

    _ready: ClassVar[dict[tuple[Any, ...], Rows]] = {}

    @classmethod
    def way(cls, operands: tuple[Any, ...], **options: Any) -> Way | None:
        """The way of operands that are right as they are; None for all others, which `prepare` converts or refuses."""
        return None

    @classmethod
    def compute(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Tensor:
        """By the kernel where it serves."""
        way = cls.way(operands, **options) if check != "nan" else None
        served = None if way is None else cls._served(way, reduction, check)
        if served is None:
            return super().compute(operands, reduction, check, **options)
        return eager_loss.narrowed(served, operands[0].dtype)

    @classmethod
    def _served(cls, way: Way, reduction: Reduction, check: str) -> Tensor | None:
        letters, divisor = way.letters, "given"
        if reduction.mode == "mean":
            by = way.mean_by if reduction.normalizer is None else reduction.normalizer
            if isinstance(by, Tensor):
                by = cpu_loss.as_number(by)
            if by == "weights" and "shared" in letters.kinds:
                if "index" not in letters.kinds:
                    return None  # the weights of probabilities are a sum over all of them
                by = "count" if letters.tensors[-1] is None else by
            elif by == "weights":
                by = "count"
            if by == "count" and letters.ignored is None:
                by = letters.shape.numel()
            if not by:
                return None
            if isinstance(by, str):
                divisor = by
            else:
                letters = letters._replace(divisor=float(by))
        mode = "none" if reduction.mode == "none" else "sum"
        key = (way.formula, mode, divisor, reduction.empty, check, way.faults, *way.options.values())
        ready = cls._ready.get(key)
        if ready is None:
            faults = way.faults if check == "raise" else ()
            ready = Rows(way.formula, way.options, faults, mode, divisor, reduction.empty == "nan")
            if len(cls._ready) < 1000:
                cls._ready[key] = ready
        return ready(letters)
