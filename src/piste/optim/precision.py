"""The precision of 16-bit parameters: how a step keeps what a 16-bit number loses.

A rule computes in float32. The step of a bfloat16 parameter of size 1 rounds an update of 0.001 away, because the next
number is 0.0078 further. Each mode composes the step of the rule with the rounding, so that kernels contain it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..engine import StepSpec, SumSpec
from ..formula.operations import apply
from ..formula.words import where

__all__ = [
    "NARROW",
    "RANDOM",
    "STATE_KEYS",
    "TENSORS",
    "first_count",
    "first_tensor",
    "is_narrow",
    "state_dtype",
    "tensors_of",
    "with_storage",
]

NARROW = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""The dtypes that `precision` is for, with the word that rounds to them."""

TENSORS = {"kahan": "compensation", "master": "master"}
"""The state tensor of a mode: its checkpoint key, which is its name in formulas too."""
RANDOM = ("rounding_key", "rounding_step")
"""The 0-d state tensors of a step with random numbers."""
STATE_KEYS = (*TENSORS.values(), *RANDOM)

_KEYS = 1 << 24  # counters are float32, which holds the whole numbers below this
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def is_narrow(p: Tensor, group: Mapping[str, Any]) -> bool:
    """Return whether the precision of a group changes the step of a parameter."""
    return group["precision"] != "plain" and p.dtype in NARROW


def with_storage(spec: StepSpec, precision: str, has_8_bits: bool) -> StepSpec:
    """Return a step with the steps of 16-bit parameters in a precision, and the random numbers of state in 8 bits."""
    plain = _with_random_numbers(spec) if has_8_bits else spec
    if precision == "plain":
        return plain
    sums = None if spec.sums is None else _sums_of(spec.sums, precision)
    by_dtype = {dtype: _composed(spec, precision, word, has_8_bits) for dtype, word in NARROW.items()}
    of_vectors = None if spec.of_vectors is None else with_storage(spec.of_vectors, precision, has_8_bits)
    return replace(plain, by_dtype=by_dtype, of_vectors=of_vectors, sums=sums)


def _sums_of(sums: SumSpec, precision: str) -> SumSpec:
    """Return sums that read 16-bit parameters as a step in a precision does."""

    def of(word: str) -> SumSpec:
        def element(p: Any, g: Any, buffers: list[Any], scalars: Mapping[str, Any]) -> tuple[Any, list[Any]]:
            *own, kept = buffers
            return sums.element(_wide(precision, word, p, kept), g, own, scalars)

        element.__qualname__ = sums.element.__qualname__
        return replace(sums, element=element, buffers=(*sums.buffers, *tensors_of(precision)))

    return replace(sums, by_dtype={dtype: of(word) for dtype, word in NARROW.items()} if tensors_of(precision) else {})


def _wide(precision: str, word: str, p: Any, kept: Any) -> Any:
    """Return a 16-bit parameter as `precision` keeps it."""
    # A parameter that was changed between steps takes precedence over its copy.
    return p + kept if precision == "kahan" else where(apply(word, kept) == p, kept, p)


def _composed(spec: StepSpec, precision: str, word: str, has_8_bits: bool) -> StepSpec:
    def element(p: Any, g: Any, buffers: list[Any], scalars: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        if precision == "stochastic":
            new, after = spec.element(p, g, buffers, scalars)
            bits = apply("noise", scalars["rounding_key"], scalars["rounding_step"], scalars["position"])
            return apply(f"{word}_at_random", new, bits), after
        *own, kept = buffers
        wide, after = spec.element(_wide(precision, word, p, kept), g, own, scalars)
        if precision == "master":
            return wide, [*after, wide]
        new = apply(word, wide)
        return new, [*after, wide - new]

    element.__qualname__ = spec.element.__qualname__
    is_random = precision == "stochastic"
    composed = replace(spec, element=element, buffers=(*spec.buffers, *tensors_of(precision)), uses_position=is_random)
    return _with_random_numbers(composed) if is_random or has_8_bits else composed


def _with_random_numbers(spec: StepSpec) -> StepSpec:
    key, step = RANDOM
    counters = (*spec.counters[:1], key, *spec.counters[1:], step)  # restated ones last
    return replace(spec, counters=counters, per_step={**spec.per_step, step: _counted})


def _counted(rounding_step: Any) -> Any:
    return rounding_step + 1


def tensors_of(precision: str) -> tuple[str, ...]:
    """Return the keys of the state tensors of a mode."""
    return (TENSORS[precision],) if precision in TENSORS else ()


def first_tensor(key: str, p: Tensor) -> Tensor:
    """Return the initial value of a state tensor: a float32 copy of the parameter, or no compensation."""
    if key == "master":
        return p.detach().to(torch.float32)
    return torch.zeros_like(p, memory_format=torch.preserve_format)


def first_count(key: str, optimizer: Any, p: Tensor, group: Mapping[str, Any]) -> float:
    """Return the initial value of a 0-d state tensor: step 0, or a key made of the seed and the parameter's place."""
    if key == "rounding_step":
        return 0.0
    params = chain.from_iterable(each["params"] for each in optimizer.param_groups)
    index = next(i for i, other in enumerate(params) if other is p)
    return float((group["rounding_seed"] * 0x9E3779B1 + index * 0x85EBCA77) % (1 << 32) * _KEYS >> 32)


def state_dtype(p: Tensor, group: Mapping[str, Any]) -> torch.dtype:
    """Return the dtype of the state of a parameter, other than state in 8 bits."""
    if group["state_dtype"] in _DTYPES:
        return _DTYPES[group["state_dtype"]]
    return torch.float32 if is_narrow(p, group) and group["precision"] == "master" else p.dtype
