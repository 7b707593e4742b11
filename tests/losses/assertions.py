"""Compare a loss with its oracle or with torch's loss, and describe the first mismatch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.losses.extremes import Extreme
from tests.losses.samples import Points
from tests.oracle import losses as oracle

Loss = Callable[..., Tensor]
NEAR = {0: (4e-16, 4e-16), 1: (1e-13, 1e-14), 2: (1e-11, 1e-12)}
"""The relative and absolute tolerance of a derivative of each order."""
ROW_NEAR = {0: (1e-13, 1e-15), 1: (1e-11, 1e-12)}

ROUGH = ("bce", "cosine_embedding")  # torch's 1e-12 is a float32, in float64 too


def find_elementwise_mismatch(loss: Loss, points: Points) -> str | None:
    """Return the first value, first or second derivative that differs from the oracle's, or None."""
    operands = _columns(points)
    found = _derivatives(_call(loss, operands, points), operands, points)
    for what, values in found.items():
        rel, absolute = NEAR[len(what)]
        for point, value in zip(points.operands, values.tolist(), strict=True):
            expected = _exact(points.name, point, what, tuple(points.options.items()))
            if not math.isclose(value, expected, rel_tol=rel, abs_tol=absolute):
                return f"{points} at {point}: {_describe(what)} is {value!r}, expected {expected!r}"
    return None


def find_rowwise_mismatch(loss: Loss, points: Points) -> str | None:
    """Return the first value or gradient of rows that differs from the oracle's, batched or alone, or None."""
    operands = _columns(points)
    values = _call(loss, operands, points)
    wanted = [i for i, o in enumerate(operands) if o.requires_grad]
    slopes = torch.autograd.grad(values.sum(), [operands[i] for i in wanted])
    for n, point in enumerate(points.operands):
        expected = _exact(points.name, _freeze(point), (), tuple(_freeze(points.options.items())))
        alone = _call(loss, [o[n] for o in operands], points)
        for value in (values[n].item(), alone.item()):
            if not math.isclose(value, expected, rel_tol=ROW_NEAR[0][0], abs_tol=ROW_NEAR[0][1]):
                return f"{points} of row {n}: the value is {value!r}, expected {expected!r}"
        for i, slope in zip(wanted, slopes, strict=True):
            exact = _exact(points.name, _freeze(point), (i,), tuple(_freeze(points.options.items())))
            for value, expected in zip(slope[n].tolist(), exact, strict=True):
                if not math.isclose(value, expected, rel_tol=ROW_NEAR[1][0], abs_tol=ROW_NEAR[1][1]):
                    return f"{points} of row {n}: {_describe((i,))} is {slope[n].tolist()}, expected {exact}"
    return None


def find_torch_mismatch(loss: Loss, torchs: Loss, points: Points) -> str | None:
    """Return the first value or derivative that differs from torch's, for points at corners of the formula, or None."""
    found = []
    for function in (loss, torchs):
        operands = _columns(points)
        result = _call(function, operands, points)
        found.append(_derivatives(result, operands, points))
    for (what, ours), theirs in zip(found[0].items(), found[1].values(), strict=True):
        if not torch.allclose(ours, theirs, rtol=1e-6 if points.name in ROUGH else 1e-13, atol=1e-15, equal_nan=True):
            return f"{points}: {_describe(what)} is {ours.tolist()}, torch's {theirs.tolist()}"
    return None


def find_extreme_mismatch(
    loss: Loss, extreme: Extreme, dtype: torch.dtype = torch.float64, reduction: str = "none"
) -> str | None:
    """Return the mismatch of a loss of one infinite or huge element (or row) with its exact value, or None."""
    columns = _columns(Points(extreme.name, [extreme.operands], by=(extreme.by,)))
    operands = [o[0].detach().to(dtype if o.is_floating_point() else o.dtype) for o in columns]
    operands[extreme.by].requires_grad_()
    last = {"bce_with_logits": "pos_weight", "sigmoid_focal": "alpha"}.get(extreme.name) if len(operands) == 3 else None
    result = _call(loss, operands, Points(extreme.name, [], extreme.options, last=last), reduction)
    (slope,) = torch.autograd.grad(result, operands[extreme.by])
    for found, expected in ((result.detach(), extreme.value), (slope, extreme.slope)):
        exact = torch.tensor(expected, dtype=torch.float64)
        if not torch.allclose(found.double(), exact, rtol=1e-6, atol=1e-300, equal_nan=True):
            return f"{extreme} in {dtype}: {found.tolist()}, expected {expected}"
    return None


def _columns(points: Points) -> list[Tensor]:
    """Return a tensor for each operand; those that the derivatives are by require a gradient."""
    by = range(len(points.operands[0])) if points.by is None else points.by
    columns = []
    for i, column in enumerate(zip(*points.operands, strict=True)):
        is_floating = torch.tensor(column).is_floating_point()
        tensor = torch.tensor(column, dtype=torch.float64 if is_floating else torch.int64)
        columns.append(tensor.requires_grad_(is_floating and i in by))
    return columns


def _call(loss: Loss, operands: list[Tensor], points: Points, reduction: str = "none") -> Tensor:
    given = {k: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for k, v in points.options.items()}
    if points.last is not None:
        *operands, given[points.last] = operands
    return loss(*operands, **given, reduction=reduction)


def _derivatives(result: Tensor, operands: list[Tensor], points: Points) -> dict[tuple[int, ...], Tensor]:
    """Return the value of each element and its derivatives, up to the order of the samples, by operand indices."""
    found = {(): result.detach()}
    wanted = [i for i, o in enumerate(operands) if o.requires_grad]
    slopes = _slopes(result, [operands[i] for i in wanted])
    for i, slope in zip(wanted, slopes, strict=True):
        found[(i,)] = slope.detach()
        if points.order == 2 and slope.dim() == 1:
            curvatures = _slopes(slope, [operands[j] for j in wanted])
            found |= {(i, j): c.detach() for j, c in zip(wanted, curvatures, strict=True)}
    return found


def _slopes(result: Tensor, operands: list[Tensor]) -> list[Tensor]:
    if not result.requires_grad:
        return [torch.zeros_like(o) for o in operands]
    slopes = torch.autograd.grad(result.sum(), operands, create_graph=True, allow_unused=True)
    return [torch.zeros_like(o) if s is None else s for o, s in zip(operands, slopes, strict=True)]


@functools.cache
def _exact(name: str, point: tuple[Any, ...], what: tuple[int, ...], options: tuple[tuple[str, Any], ...]) -> Any:
    """Return the oracle's value, first or second derivative, from mpmath's differences with 60 digits."""
    loss = functools.partial(getattr(oracle, name), **{k: _thaw(v) for k, v in options})
    operands = [_thaw(x) for x in point]
    if len(what) == 1:
        slope = oracle.gradient(loss, *operands, by=what[0])
        return [float(s) for s in slope] if isinstance(slope, list) else float(slope)
    if len(what) == 2:
        return float(oracle.curvature(loss, *operands, by=what))
    return float(loss(*operands))


def _freeze(value: Any) -> Any:
    """Return lists as tuples, which are hashable."""
    return tuple(map(_freeze, value)) if isinstance(value, (list, tuple)) or hasattr(value, "mapping") else value


def _thaw(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _describe(what: tuple[int, ...]) -> str:
    if not what:
        return "the value"
    return f"the derivative by operand{'s' * (len(what) > 1)} {' and '.join(map(str, what))}"
