"""Steps in double precision as the reference of a kernel, with a bound that follows their condition.

A step can amplify the rounding of its inputs: RMSprop divides `g + weight_decay * p` by its own size, so where the sum
nearly cancels, its last bit decides the step. No constant bounds the difference of two correct kernels there. The bound
here does: it is the change of the step in double precision where the gradient changes by a few units in the last place
of the numbers that meet it, plus the rounding of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import piste

WIDE = {torch.complex64: torch.complex128}
Gradients = Sequence[Sequence[Tensor | None]]
"""The gradient of each parameter at each step."""


def reals(x: Tensor) -> Tensor:
    """Return the numbers of a tensor in double precision."""
    x = x.detach()
    return (torch.view_as_real(x) if x.is_complex() else x).double()


def run(optimizer: torch.optim.Optimizer, gradients: Gradients) -> Any:
    """Step an optimizer with these gradients; return it."""
    for now in gradients:
        for p, g in zip(optimizer.param_groups[0]["params"], now, strict=True):
            p.grad = None if g is None else g.to(p.dtype)
        optimizer.step()
    return optimizer


def reference(
    name: str, options: dict[str, Any], starts: Sequence[Tensor], gradients: Gradients
) -> tuple[Any, list[Any]]:
    """Step in double precision; return the optimizer, and two with gradients that are shifted by a rounding error."""
    unit = 2.0**-53 if starts[0].dtype == torch.float64 else 2.0**-24  # 16-bit numbers are computed in float32
    wide = WIDE.get(starts[0].dtype, torch.float64)
    optimizers = []
    for _ in range(3):
        weights = [p.detach().to(wide, copy=True).requires_grad_() for p in starts]
        optimizers.append(getattr(piste.optim, name)(weights, **options, fused=False))
    exact = optimizers[0]
    for now in gradients:
        shifts = [
            None if g is None else 2 * unit * size_of_inputs(exact, p, g, options.get("weight_decay", 0.0))
            for p, g in zip(exact.param_groups[0]["params"], now, strict=True)
        ]
        for optimizer, sign in zip(optimizers, (0, 1, -1), strict=True):
            for p, g, shift in zip(optimizer.param_groups[0]["params"], now, shifts, strict=True):
                p.grad = None if g is None else g.to(p.dtype) + sign * shift
            optimizer.step()
    return exact, optimizers[1:]


def size_of_inputs(optimizer: Any, p: Tensor, g: Tensor, weight_decay: float) -> Tensor:
    """Return the sum of the sizes of the numbers that meet in the step of each element."""
    kept = [x for x in optimizer.state[p].values() if x.dim() or x.numel() != 1]
    parts = [reals(g).abs() + weight_decay * reals(p).abs(), *(reals(x).abs() for x in kept if x.shape == p.shape)]
    total = torch.stack(parts).sum(0)
    return torch.view_as_complex(total) if p.is_complex() else total


def excess(ours: Tensor, exact: Tensor, shifted: Sequence[Tensor], tolerance: float) -> Tensor:
    """Return the error of each element as a share of its bound."""
    wanted = reals(exact)
    spread = torch.stack([(reals(x) - wanted).abs() for x in shifted]).amax(0)
    return (reals(ours) - wanted).abs() / (tolerance * (1 + wanted.abs()) + 2 * spread)
