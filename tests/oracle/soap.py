"""SOAP for one matrix, as algorithm 3 of Vyas et al. 2024 states it: Adam in the eigenbases of L and R."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["soap"]


def soap(
    start: Tensor,
    gradients: Sequence[Tensor],
    *,
    lr: float,
    beta1: float = 0.95,
    beta2: float = 0.95,
    beta: float = 0.95,
    eps: float = 1e-8,
    decay: float = 0.0,
    every: int = 10,
) -> list[Tensor]:
    """Return the matrix after each step, in float64.

    As in the authors' code, the first gradient gives the eigenbases and no step; the average of the gradients is kept
    in them, and the average of squares is sorted with the eigenvalues.
    """
    w, found = start.double().clone(), []
    first, *rest = (g.double() for g in gradients)
    left, right = (1 - beta) * first @ first.T, (1 - beta) * first.T @ first
    ql, qr = (torch.linalg.eigh(x)[1].flip(1) for x in (left, right))
    w = w * (1 - lr * decay)
    found.append(w)
    average, square = torch.zeros_like(w), torch.zeros_like(w)  # of gradients, and of squares in the eigenbases
    for t, g in enumerate(rest, start=1):
        average = beta1 * average + (1 - beta1) * g
        square = beta2 * square + (1 - beta2) * (ql.T @ g @ qr) ** 2
        turned = (ql.T @ average @ qr) / (square.sqrt() + eps)
        step = ql @ turned @ qr.T * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        w = w * (1 - lr * decay) - lr * step
        left, right = beta * left + (1 - beta) * g @ g.T, beta * right + (1 - beta) * g.T @ g
        if t % every == 0:
            for name in ("rows", "columns"):
                x, q = (left, ql) if name == "rows" else (right, qr)
                order = torch.tensor(sorted(range(len(q)), key=lambda i: -float(q[:, i] @ x @ q[:, i])))
                q = torch.linalg.qr(x @ q[:, order])[0]
                if name == "rows":
                    ql, square = q, square[order]
                else:
                    qr, square = q, square[:, order]
        found.append(w)
    return found
