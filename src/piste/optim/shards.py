"""Parameters spread over processes (DTensor, FSDP2): each process steps the part that it holds, by the usual kernels.

An elementwise rule takes the parts of parameter, gradient and state, which are spread alike, and so do the formulas of
a rule of matrices. A rule that reduces over the tensor takes the whole DTensors by torch operations, which communicate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..engine import MatrixSpec, ParamState, count_passes, is_sharded
from .composition import step_spec
from .state import existing_state, gradient, state_of

__all__ = ["address", "existing_part", "is_sharded", "local_parts", "part_of", "part_state", "takes_parts"]


def takes_parts(spec: Any) -> bool:
    """Return whether a step of the part of a tensor is that part of the step of the tensor."""
    return count_passes(spec.after if isinstance(spec, MatrixSpec) else spec) == 1  # a matrix stage gathers the parts


@contextmanager
def local_parts(params: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Give the parts of the parameters that this process holds, with the parts of their gradients as `grad`."""
    parts = [_part(p) if is_sharded(p) else p for p in params]
    borrowed = [(p, part) for p, part in zip(params, parts, strict=True) if part is not p]
    try:
        for p, part in borrowed:
            part.grad = _spread_like(p, p.grad)
        yield parts
    finally:
        for _, part in borrowed:
            part.grad = None


def part_state(optimizer: Any, part: Tensor, group: Mapping[str, Any], parts: Sequence[Tensor]) -> ParamState:
    """Return a part with its gradient and state; missing state is created, as a DTensor where the parameter is one."""
    p = next(p for p, other in zip(group["params"], parts, strict=True) if other is part)
    buffers, counters, scales = state_of(optimizer, p, group)
    whole = p if is_sharded(p) else None
    if whole is not None:
        buffers, scales = _parts_like(p, buffers), [_spread_like(p, x) for x in scales]
    return ParamState(part, gradient(optimizer.rule_of(group), part, group), buffers, counters, scales, whole)


def existing_part(optimizer: Any, p: Tensor, group: Mapping[str, Any]) -> ParamState:
    """Return the part of a parameter with its existing gradient and state; nothing is created."""
    state = existing_state(optimizer, p, group)
    if not is_sharded(p) or not takes_parts(step_spec(optimizer.rule_of(group), group)):
        return state
    return ParamState(
        _part(p), _part(p) if p.grad is None else _spread_like(p, p.grad), _parts_like(p, state.buffers),
        state.counters, [_spread_like(p, s) for s in state.scales], p,
    )  # fmt: skip


def address(x: Any) -> int:
    """Return the address of a tensor, or of the part of it that this process holds."""
    return part_of(x).data_ptr()


def part_of(x: Any) -> Tensor:
    """Return the part of a DTensor that this process holds; another tensor is returned as it is."""
    return _part(x) if is_sharded(x) else x


def _parts_like(p: Any, buffers: Sequence[Any]) -> list[Tensor]:
    """Return the parts of buffers that belong to the part of a parameter; those of other shapes stay whole."""
    return [_spread_like(p, x) if x.shape == p.shape else x for x in buffers]


def _spread_like(p: Any, x: Any) -> Tensor:
    """Return the part of a tensor that belongs to the part of a parameter; another tensor is returned as it is."""
    if not is_sharded(x):
        return x  # type: ignore[no-any-return]
    return _part(x if x.placements == p.placements else x.redistribute(placements=p.placements))


def _part(x: Any) -> Tensor:
    with torch.no_grad():
        part = x.to_local()
    return part.wait() if hasattr(part, "wait") else part  # type: ignore[no-any-return]
