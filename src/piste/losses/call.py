"""A call of a loss: its validated settings with their kernels, and its operands as the formula takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..engine import is_autocast
from ..torch_internals import PLAIN_TYPES
from .reduction import Reduction

__all__ = ["MAX_CACHED_SETTINGS", "PreparedCall", "ValidatedSettings", "validate_settings", "why_not_operator"]

MAX_CACHED_SETTINGS = 1000
_is_compiling = torch.compiler.is_compiling
_cached_settings: dict[tuple[Any, ...], ValidatedSettings] = {}


@dataclass(slots=True)
class PreparedCall:
    """The operands of a valid call, as the formula takes them, and the denominators of its mean."""

    formula: Callable[..., Any]
    operands: tuple[Any, ...]
    options: dict[str, Any]
    dtype: torch.dtype  # of the result
    count: Callable[[], Any]  # the number of elements (rows) that are not ignored
    weights: Callable[[], Any]  # the sum of their weights
    denominator: str  # "count" or "weights": PyTorch's denominator of a mean
    batch: int = 1  # the number of samples, for the reduction "batchmean"
    derivatives: Callable[..., Any] | None = None
    weight: Tensor | None = None  # of each element
    keep: Tensor | None = None  # False where a row is ignored
    inspect: Callable[[], None] | None = None  # raises for values outside their range, if that is still to be done


class ValidatedSettings:
    """Valid settings and options other than tensors, and the kernels of calls with them."""

    __slots__ = ("check", "kernels", "last_hit", "options", "reduction", "waits")

    def __init__(self, reduction: Reduction, check: str, options: dict[str, Any]) -> None:
        self.reduction, self.options = reduction, options
        self.waits = check == "sync"  # for the checks of a GPU
        self.check = "raise" if self.waits else check
        # Maps the signature of the operands to a dispatcher and its launch arguments, or to () if no kernel applies.
        self.kernels: dict[Any, tuple[Any, ...]] = {}
        self.last_hit: tuple[Any, ...] | None = None  # an entry of `kernels`, where no option is a tensor


def validate_settings(loss: Any, given: dict[str, Any]) -> tuple[ValidatedSettings, dict[str, Tensor]]:
    """Validate the settings and options of a call; those that were valid before are found in a cache.

    Args:
        loss: The class of the loss.
        given: The settings and options by name; the others have their defaults.

    Returns:
        The settings, and the options that are tensors.
    """
    tensors: dict[str, Tensor] = {}
    if _is_compiling():  # a compiled graph would depend on what the cache holds
        tensors = {n: v for n, v in given.items() if n in loss.options and isinstance(v, Tensor)}
        return _validated(loss, given, tensors), tensors
    key: tuple[Any, ...] = (loss, *given.items(), *map(type, given.values()))  # as True == 1
    is_hashable = True
    try:
        settings = _cached_settings.get(key)
        if settings is None:
            tensors = {n: v for n, v in given.items() if n in loss.options and isinstance(v, Tensor)}
        if tensors:  # the cache holds only their shape
            shapes = ((n, type(v), v.shape if isinstance(v, Tensor) else v) for n, v in given.items())
            key = (loss, *shapes)
            settings = _cached_settings.get(key)
    except TypeError:  # a value without a hash, which is rarely valid
        settings, is_hashable = None, False
        tensors = {n: v for n, v in given.items() if n in loss.options and isinstance(v, Tensor)}
    if settings is None:
        settings = _validated(loss, given, tensors)
        if is_hashable and not isinstance(settings.reduction.normalizer, Tensor):
            if len(_cached_settings) >= MAX_CACHED_SETTINGS:  # a normalizer may be another number in every step
                _cached_settings.clear()
            _cached_settings[key] = settings
    return settings, tensors


def _validated(loss: Any, given: dict[str, Any], tensors: dict[str, Tensor]) -> ValidatedSettings:
    values = loss.defaults | given
    reduction = loss.validate_all(values)
    options = {n: values[n] for n in loss.options if n not in tensors}
    return ValidatedSettings(reduction, values["check"], options)


def why_not_operator(given: Sequence[Any], settings: ValidatedSettings) -> str | None:
    """Return why torch.compile traces a call of a loss that has an operator, or None."""
    for x in given:
        if type(x) not in PLAIN_TYPES:
            return "an operand is a number, or a tensor subclass with operations of its own"
        if x.dtype in (torch.float16, torch.bfloat16) and is_autocast(x.device.type):
            return "autocast keeps results in float32"
    for value in settings.options.values():
        if not (value is None or isinstance(value, (bool, int, float, str))):
            return "an option is a function"
    if not (settings.reduction.normalizer is None or isinstance(settings.reduction.normalizer, str)):
        return "the normalizer is a number or a tensor, which may be another one in every step"
    return None
