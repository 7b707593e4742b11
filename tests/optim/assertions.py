"""Steps an optimizer and its oracle, and describes the first difference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.oracle.optim import WHOLE_RULES, step_tensor
from tests.oracle.rounding import BRAIN, DOUBLE, HALF, SINGLE

# dtype -> unit roundoff of the arithmetic, further rounding of the store, half the smallest number
PRECISION: dict[torch.dtype, tuple[float, float, float]] = {
    torch.float64: (DOUBLE, 0.0, 0.0),
    torch.float32: (SINGLE, 0.0, 2.0**-150),
    torch.bfloat16: (SINGLE, BRAIN, 2.0**-134),
    torch.float16: (SINGLE, HALF, 2.0**-25),
}

# Zeros show the update itself, to its last bit; the others show weight decay and the own part of p.
START = [0.0, 0.0, 0.0, 0.0, -0.7, 1.5, 1e-3]
STEPS = 7

# Further starts of rules that reduce over the tensor: norms of 0, and below 1.
WHOLE_STARTS = [([0.0] * 7, 1.0), ([0.1, -0.05, 0.2, 0.0, 0.1, -0.2, 0.3], 0.01)]


def gradients(dtype: torch.dtype) -> Tensor:
    """Return gradients (STEPS, len(START)), exact in the dtype: large, small and zero, some changing sign."""
    make = torch.Generator().manual_seed(7)
    g = torch.randn(STEPS, len(START), generator=make, dtype=torch.float64)
    g *= torch.tensor([1, 0.01, 20, 0.5, 1, 3, 0.1], dtype=torch.float64)
    g[:, 3] = g[:, 3].abs()
    g[2, 0] = g[4, 4] = g[0, 5] = 0.0
    return g.to(dtype)


def find_fault(
    make: Callable[..., torch.optim.Optimizer], name: str, options: dict[str, Any], dtype: torch.dtype
) -> str | None:
    """Return the first difference from the oracle, or None if every step, parameter and state agrees.

    Each step starts from the same parameters and the optimizer's own state, so that no error is carried
    along.
    """
    for values, size in [(START, 1.0), *(WHOLE_STARTS if name in WHOLE_RULES else [])]:
        g = gradients(dtype) * size
        if size != 1:
            g[0] = 0
        fault = _fault_from(values, g, make, name, options, dtype)
        if fault is not None:
            return fault
    return None


def _fault_from(
    values: list[float],
    gradients: Tensor,
    make: Callable[..., torch.optim.Optimizer],
    name: str,
    options: dict[str, Any],
    dtype: torch.dtype,
) -> str | None:
    unit, storage, floor = PRECISION[dtype]
    start = torch.tensor(values, dtype=torch.float64).to(dtype)
    p = start.clone().requires_grad_()
    optimizer = make([p], **options)
    before: list[dict[str, float]] = [{} for _ in values]
    for t, g in enumerate(gradients, start=1):
        with torch.no_grad():
            p.copy_(start)
        p.grad = g.clone()
        optimizer.step()
        after, state = p.detach().double().tolist(), optimizer.state[p]
        now = [{k: _at(v, i) for k, v in state.items() if v is not None} for i in range(len(values))]
        new, states = step_tensor(name, start.tolist(), g.tolist(), before, t, options, unit)
        for i, (expected_p, expected) in enumerate(zip(new, states, strict=True)):
            if not expected_p.holds(after[i], storage, floor):
                return f"step {t}, element {i}: the parameter is {after[i]!r}, expected {expected_p}"
            if now[i].keys() != expected.keys():
                return f"step {t}: the state has {sorted(now[i])}, expected {sorted(expected)}"
            for key, value in expected.items():
                if not value.holds(now[i][key], storage, floor):
                    return f"step {t}, element {i}: {key} is {now[i][key]!r}, expected {value}"
        if not torch.equal(p.grad, g):
            return f"step {t}: the gradient was changed"
        before = now
    return None


def _at(value: Tensor, i: int) -> float:
    return float(value if value.dim() == 0 else value[i])
